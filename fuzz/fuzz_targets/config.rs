//! The configuration and the policy: files of the operator's, but a panic is no way to refuse one.
#![no_main]

use std::sync::LazyLock;

use kodo_broker::{authz::Policy, config::Config};
use libfuzzer_sys::fuzz_target;

static EXAMPLE: LazyLock<Config> = LazyLock::new(|| {
    Config::parse(include_str!("../../deploy/broker.toml")).expect("the example is valid")
});

fuzz_target!(|text: &str| {
    match Config::parse(text) {
        Ok(config) => {
            let _ = config.entra.authorities();
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
    if let Err(reason) = Policy::parse(text, std::slice::from_ref(&EXAMPLE.identity.trust_domain)) {
        assert!(reason.contains("line"), "no place is told: {reason}");
    }
});
