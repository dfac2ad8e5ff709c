//! What lies in the store: records, kept tokens, their envelopes and wrapped keys, and sealed texts.
#![no_main]

use std::sync::LazyLock;

use kodo_broker::{sealed, secret::SymmetricKey, vault};
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<SymmetricKey> =
    LazyLock::new(|| SymmetricKey::new(vec![7; 32]).expect("32 bytes"));

fuzz_target!(|bytes: &[u8]| {
    vault::fuzz_record(bytes);
    assert!(sealed::open(&KEY, b"place", bytes).is_err(), "forged");
});
