//! What a proxy says of the caller: bytes that a client may have a say in.
#![no_main]

use kodo_broker::rpc::forwarded::xfcc::{BYTES_MAX, client};
use libfuzzer_sys::fuzz_target;

const PROXY: &str = "spiffe://kodo.test/broker";
const WORKER: &str = "spiffe://kodo.test/worker";

fuzz_target!(|sent: &[u8]| {
    if let Ok(uri) = client(sent, None) {
        assert!(sent.len() <= BYTES_MAX && sent.is_ascii() && !uri.is_empty());
        // One element, so nothing but the one URI that it has.
        let text = str::from_utf8(sent).expect("it is ASCII");
        let lower = text.to_ascii_lowercase();
        assert!(lower.contains("uri="), "{text}");
        assert!(text.contains(uri), "{text}");
    }
    // Whatever is in front of it, and whatever the certificate's subject is, the proxy has the last word.
    for own in [
        format!("By={PROXY};Hash=00;URI={WORKER}"),
        format!("By={PROXY};Hash=00;Subject=\"\";URI={WORKER}"),
        format!("By={PROXY};Hash=00;Subject=\"CN=a\\,b\";URI={WORKER};DNS=a"),
    ] {
        let mut header = sent.to_vec();
        header.push(b',');
        header.extend_from_slice(own.as_bytes());
        if let Ok(uri) = client(&header, Some(PROXY)) {
            assert_eq!(uri, WORKER);
        }
    }
    // Nor has an id that is written as it is more to say than itself.
    let mut injected = format!("By={PROXY};Hash=00;URI=spiffe://kodo.test/guest/").into_bytes();
    injected.extend_from_slice(sent);
    if let Ok(uri) = client(&injected, Some(PROXY)) {
        assert!(uri.starts_with("spiffe://kodo.test/guest/"), "{uri}");
    }
});
