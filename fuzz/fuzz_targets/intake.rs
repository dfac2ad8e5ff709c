//! Credentials on their way in: PEM and PKCS#12 of whoever may register an organization.
#![no_main]

use std::time::{Duration, SystemTime};

use kodo_broker::credential::{Credential, intake};
use libfuzzer_sys::fuzz_target;

/// When the certificates of the corpus are valid: 2027-06-01.
const NOW: Duration = Duration::from_secs(1_811_808_000);

fuzz_target!(|content: &[u8]| {
    let now = SystemTime::UNIX_EPOCH + NOW;
    if let Ok(text) = str::from_utf8(content) {
        check(intake::pem(text, now));
        let _ = intake::client_secret(text.to_owned(), None, now);
    }
    // The password of the corpus.
    check(intake::pkcs12(content, "fuzz", now));
});

/// What is taken is usable.
fn check(taken: Result<Credential, kodo_broker::malformed::Malformed>) {
    if let Ok(Credential::Certificate(certificate)) = taken {
        assert!((intake::KEY_BITS_MIN..=8192).contains(&certificate.key_bits));
        assert!(certificate.expires > SystemTime::UNIX_EPOCH + NOW);
        assert!(!certificate.der.is_empty());
    }
}
