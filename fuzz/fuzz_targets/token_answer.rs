//! Answers of a token endpoint, or of whatever sits in its place.
#![no_main]

use std::time::Duration;

use kodo_broker::entra::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(grant) = wire::grant(body) {
        // It fits into a header, and its life is one that can be believed.
        let token = grant.access_token.expose();
        assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!grant.expires_in.is_zero() && grant.expires_in <= Duration::from_secs(28 * 3600));
        assert!(
            grant
                .refresh_in
                .is_none_or(|refresh| refresh < grant.expires_in)
        );
    }
    if let Some(rejection) = wire::rejection(body) {
        // Nothing in it can steer a terminal or break a line of the log.
        let support = &rejection.support;
        let texts = [
            &support.trace_id,
            &support.correlation_id,
            &support.timestamp,
        ];
        let texts = texts.into_iter().flatten().chain([&rejection.error]);
        for text in texts {
            assert!(text.len() <= 64 && text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        }
        assert!(!rejection.to_string().contains('\n'));
    }
});
