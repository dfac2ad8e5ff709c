//! Ids of callers: out of a URI, a Linkerd name and a certificate.
#![no_main]

use std::sync::LazyLock;

use kodo_broker::rpc::{forwarded::linkerd, peer};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use spiffe::TrustDomain;

static DOMAINS: LazyLock<[TrustDomain; 1]> =
    LazyLock::new(|| [TrustDomain::new("kodo.test").expect("a trust domain")]);

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(id) = peer::workload(text, &*DOMAINS)
    {
        assert_eq!(id.to_string(), text, "an id is read as it is written");
        is_of_workload(text);
    }
    if let Ok(id) = linkerd::client(bytes, "linkerd", &*DOMAINS) {
        let id = id.to_string();
        is_of_workload(&id);
        assert!(bytes.starts_with(b"spiffe://") || id.starts_with("spiffe://kodo.test/ns/"));
    }
    let chain = [CertificateDer::from(bytes)];
    if let Ok(id) = peer::identify(Some(&chain), &*DOMAINS) {
        is_of_workload(&id.to_string());
    }
});

/// The rules of the standard, on their own.
fn is_of_workload(id: &str) {
    let path = id
        .strip_prefix("spiffe://kodo.test/")
        .expect("of the trust domain");
    assert!(id.len() <= 2048);
    for segment in path.split('/') {
        assert!(!["", ".", ".."].contains(&segment), "{id}");
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        assert!(segment.chars().all(allowed), "{id}");
    }
}
