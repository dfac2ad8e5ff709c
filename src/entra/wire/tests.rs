use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::entra::RejectionKind;

const CANARY: &str = "canary-6f1d2a";

/// An answer as Entra gives it, with these fields in the place of its own; `null` takes one out.
fn answer(changed: Value) -> Vec<u8> {
    let mut body = json!({
        "token_type": "Bearer",
        "expires_in": 3599,
        "ext_expires_in": 3599,
        "access_token": "eyJ0eXAi.eyJhdWQi.c2lnbmVk",
    });
    for (name, value) in changed.as_object().expect("an object") {
        let fields = body.as_object_mut().expect("an object");
        match value {
            Value::Null => fields.remove(name),
            value => fields.insert(name.clone(), value.clone()),
        };
    }
    body.to_string().into_bytes()
}

fn life(changed: Value) -> Result<u64, &'static str> {
    grant(&answer(changed)).map(|grant| grant.expires_in.as_secs())
}

fn refresh(changed: Value) -> Option<u64> {
    let grant = grant(&answer(changed)).expect("an odd hint costs no token");
    grant.refresh_in.map(|refresh| refresh.as_secs())
}

/// A refusal as Entra gives it, with these fields in the place of its own.
fn refusal(changed: Value) -> Option<Rejection> {
    let mut body = json!({
        "error": "invalid_client",
        "error_description": "AADSTS7000215: Invalid client secret provided. Trace ID: 0a0b Correlation ID: 0c0d Timestamp: 2026-02-01 10:00:00Z",
        "error_codes": [7_000_215],
        "timestamp": "2026-02-01 10:00:00Z",
        "trace_id": "8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a",
        "correlation_id": "9d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a",
        "error_uri": "https://login.microsoftonline.com/error?code=7000215",
    });
    let fields = body.as_object_mut().expect("an object");
    fields.extend(changed.as_object().expect("an object").clone());
    rejection(body.to_string().as_bytes())
}

#[test]
fn an_answer_of_entra_gives_its_token_and_times() {
    let grant = grant(&answer(json!({"refresh_in": 1800}))).expect("a token");
    // Exposed: it is compared.
    assert_eq!(grant.access_token.expose(), "eyJ0eXAi.eyJhdWQi.c2lnbmVk");
    assert_eq!(grant.expires_in, Duration::from_secs(3599));
    assert_eq!(grant.refresh_in, Some(Duration::from_secs(1800)));
}

#[test]
fn the_type_must_be_bearer_in_any_case() {
    for good in ["Bearer", "bearer", "BEARER"] {
        assert!(life(json!({"token_type": good})).is_ok(), "{good}");
    }
    for bad in [
        json!("pop"),
        json!("mac"),
        json!(""),
        json!("Bearer "),
        json!("N_A"),
        json!(1),
        json!(["Bearer"]),
        Value::Null,
    ] {
        assert!(life(json!({"token_type": bad})).is_err(), "{bad}");
    }
}

#[test]
fn a_life_is_a_positive_number_of_seconds_or_a_text_of_one() {
    for (good, seconds) in [
        (json!(1), 1),
        (json!(3599), 3599),
        (json!("3599"), 3599),
        (json!("0003599"), 3599),
        (json!(86_399), 86_399),
    ] {
        assert_eq!(life(json!({"expires_in": good})), Ok(seconds), "{good}");
    }
    for bad in [
        json!(0),
        json!("0"),
        json!(-1),
        json!("-1"),
        json!("+3599"),
        json!(" 3599"),
        json!(""),
        json!("soon"),
        json!("3599.0"),
        json!("1e3"),
        json!("٣٥٩٩"),
        json!(3599.5),
        json!(3599.0),
        json!(1e18),
        json!(true),
        json!([3599]),
        json!({"seconds": 3599}),
        json!("99999999999999999999999"),
        Value::Null,
    ] {
        assert!(life(json!({"expires_in": bad})).is_err(), "{bad}");
    }
    let null = br#"{"token_type":"Bearer","access_token":"a.b.c","expires_in":null}"#;
    assert!(grant(null).is_err());
}

#[test]
fn no_token_is_believed_to_live_longer_than_28_hours() {
    for long in [
        json!(28 * 3600 + 1),
        json!(1_000_000_000_000_000_000_u64),
        json!(u64::MAX),
        json!("1000000000000000000"),
    ] {
        assert_eq!(life(json!({"expires_in": long})), Ok(28 * 3600), "{long}");
    }
}

#[test]
fn a_token_is_printable_and_at_most_16_kib() {
    let with = |token: String| life(json!({"access_token": token}));
    assert!(with("x".repeat(16 * 1024)).is_ok());
    for bad in [
        String::new(),
        "x".repeat(16 * 1024 + 1),
        "x".repeat(1024 * 1024),
        "a.b.c\n".into(),
        "a.b\r\nX-Injected: 1".into(),
        "a b".into(),
        " a.b.c".into(),
        "a\tb".into(),
        "a\0b".into(),
        "a.b.ć".into(),
        "\u{7f}".into(),
    ] {
        assert!(with(bad.clone()).is_err(), "{bad:.20}");
    }
    for bad in [json!(1), json!(["a.b.c"]), json!({}), Value::Null] {
        assert!(life(json!({"access_token": bad})).is_err(), "{bad}");
    }
}

#[test]
fn a_field_that_comes_twice_makes_the_answer_ambiguous() {
    for (name, value) in [
        ("access_token", json!("x.y.z")),
        ("token_type", json!("Bearer")),
        ("expires_in", json!(3599)),
        ("refresh_in", json!(100)),
    ] {
        let once = String::from_utf8(answer(json!({name: value}))).expect("JSON");
        assert!(grant(once.as_bytes()).is_ok(), "{name}");
        let twice = format!("{{\"{name}\":{value},{}", &once[1..]);
        assert!(grant(twice.as_bytes()).is_err(), "{name}");
    }
    let twice = br#"{"error":"invalid_client","error":"invalid_request"}"#;
    assert!(rejection(twice).is_none());
}

#[test]
fn an_odd_hint_when_to_renew_is_ignored() {
    assert_eq!(refresh(json!({"refresh_in": 1800})), Some(1800));
    assert_eq!(refresh(json!({"refresh_in": "1800"})), Some(1800));
    for odd in [
        json!(0),
        json!(-1),
        json!("soon"),
        json!(1.5),
        json!(3599),
        json!(4000),
        json!([1]),
        json!({"a": {"b": []}}),
        json!(true),
        Value::Null,
    ] {
        assert_eq!(refresh(json!({"refresh_in": odd})), None, "{odd}");
    }
    let clamped = json!({"refresh_in": 28 * 3600, "expires_in": 40 * 3600});
    assert_eq!(
        refresh(clamped),
        None,
        "not before the end that is believed"
    );
}

#[test]
fn what_is_no_object_is_neither_token_nor_refusal() {
    for body in [
        "",
        " ",
        "null",
        "[]",
        "1",
        "\"Bearer\"",
        "<html><body>502 Bad Gateway</body></html>",
        "{",
        "{}",
        "{} {}",
        "\u{feff}{}",
        "{\"error\": 1}",
        "{\"error\": null}",
        "{\"error\": [\"invalid_client\"]}",
        "{\"error\": {\"code\": \"InvalidAuthenticationToken\"}}",
    ] {
        assert!(grant(body.as_bytes()).is_err(), "{body}");
        assert!(rejection(body.as_bytes()).is_none(), "{body}");
    }
    assert!(grant(b"\xff\xfe{}").is_err());
    assert!(rejection(b"{\"error\":\"\xff\"}").is_none());
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    const DEPTH: usize = 100_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = format!("{}1{}", open.repeat(DEPTH), close.repeat(DEPTH));
        for name in [
            "unknown",
            "access_token",
            "expires_in",
            "refresh_in",
            "error",
            "error_codes",
        ] {
            let body = format!("{{\"{name}\":{nested}}}");
            assert!(grant(body.as_bytes()).is_err(), "{name}");
            assert!(rejection(body.as_bytes()).is_none(), "{name}");
        }
        assert!(grant(nested.as_bytes()).is_err());
        assert!(rejection(nested.as_bytes()).is_none());
    }
}

#[test]
fn a_refusal_of_entra_is_classified_and_keeps_what_support_asks_for() {
    let rejection = refusal(json!({})).expect("a refusal");
    assert_eq!(rejection.kind, RejectionKind::CredentialRejected);
    assert_eq!(rejection.code, Some(7_000_215));
    assert_eq!(rejection.error, "invalid_client");
    let support = Support {
        trace_id: Some("8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a".into()),
        correlation_id: Some("9d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a".into()),
        timestamp: Some("2026-02-01 10:00:00Z".into()),
    };
    assert_eq!(rejection.support, support);
}

#[test]
fn the_number_is_found_wherever_it_is() {
    let code = |codes: Value| refusal(json!({"error_codes": codes})).and_then(|r| r.code);
    assert_eq!(code(json!([700_016, 1])), Some(700_016));
    assert_eq!(code(json!(["700016"])), Some(700_016));
    // From the description then.
    for odd in [
        json!([]),
        json!(null),
        json!(1),
        json!("7000222"),
        json!([-1]),
        json!([1.5]),
        json!([4_294_967_296_u64]),
        json!(["AADSTS7000222"]),
        json!([[1]]),
        json!({"0": 1}),
    ] {
        assert_eq!(code(odd.clone()), Some(7_000_215), "{odd}");
    }
    let described = |description: Value| {
        let changed = json!({"error_codes": [], "error_description": description});
        refusal(changed).expect("a refusal").code
    };
    assert_eq!(
        described(json!("AADSTS90002: no such tenant")),
        Some(90_002)
    );
    assert_eq!(described(json!("AADSTS90002")), Some(90_002));
    for none in [
        json!("AADSTS"),
        json!("AADSTS: 90002"),
        json!("see AADSTS90002"),
        json!("AADSTS99999999999"),
        json!("aadsts90002"),
        json!(""),
        json!(90_002),
        json!(null),
    ] {
        assert_eq!(described(none.clone()), None, "{none}");
    }
}

#[test]
fn a_refusal_needs_an_error_that_is_a_word() {
    let longest = "e".repeat(64);
    for word in ["invalid_client", "urn:example:error-1", &longest] {
        let kept = refusal(json!({"error": word})).map(|rejection| rejection.error);
        assert_eq!(kept.as_deref(), Some(word));
    }
    for hostile in [
        "",
        "a\nb",
        "a\u{1b}[2Jb",
        "<script>",
        "a\"b",
        "a=b",
        "a/b",
        "a%00",
        "a\0",
        "ä",
        &"e".repeat(65),
    ] {
        assert!(refusal(json!({"error": hostile})).is_none(), "{hostile:?}");
    }
}

#[test]
fn hostile_texts_are_not_kept() {
    let hostile = [
        format!("{CANARY} ' OR 1=1"),
        format!("{CANARY}\n2026-02-01T10:00:00Z ERROR forged line"),
        format!("\u{1b}]0;{CANARY}\u{7}"),
        format!("https://evil.example/{CANARY}"),
        format!("{CANARY}{}", " ".repeat(100_000)),
        format!("AADSTS7000215: client_secret={CANARY}"),
    ];
    for text in hostile {
        let everywhere = json!({
            "error_description": text,
            "trace_id": text,
            "correlation_id": [text],
            "timestamp": {"at": text},
            "error_uri": text,
            "suberror": text,
            "claims": text,
            "error_codes": [text],
        });
        let rejection = refusal(everywhere).expect("a refusal");
        let shown = format!("{rejection:?} {rejection}");
        assert!(!shown.contains(CANARY), "{shown}");
        assert_eq!(rejection.support, Support::default());

        let reason = grant(&answer(json!({"token_type": text}))).expect_err("no token");
        assert!(!reason.contains(CANARY), "{reason}");
    }
    // A plain word in `error` is what the operator has to know.
    let word = refusal(json!({"error": CANARY, "error_codes": [], "error_description": ""}));
    assert!(format!("{word:?}").contains(CANARY));
}

#[test]
fn the_token_is_not_shown() {
    let grant = grant(&answer(json!({"access_token": CANARY}))).expect("a token");
    assert!(!format!("{grant:?}").contains(CANARY));
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in any::<Vec<u8>>()) {
        prop_assert!(grant(&bytes).is_err());
        prop_assert!(rejection(&bytes).is_none());
    }

    #[test]
    fn what_is_accepted_keeps_the_promises(
        token in "\\PC{0,20}",
        kind in "(Bearer|bearer|pop)",
        life in any::<i64>(),
        refresh in any::<i64>(),
    ) {
        let body = json!({
            "access_token": token, "token_type": kind, "expires_in": life, "refresh_in": refresh,
        });
        if let Ok(grant) = grant(body.to_string().as_bytes()) {
            prop_assert!(grant.access_token.expose().bytes().all(|b| b.is_ascii_graphic()));
            prop_assert!(!grant.expires_in.is_zero() && grant.expires_in <= LIFE_MAX);
            prop_assert!(grant.refresh_in.is_none_or(|r| !r.is_zero() && r < grant.expires_in));
        }
    }

    #[test]
    fn what_is_kept_of_a_refusal_is_words(
        error in "\\PC{1,70}", description in "\\PC*", trace in "\\PC{0,70}", code in any::<u64>(),
    ) {
        let body = json!({
            "error": error, "error_description": description, "trace_id": trace,
            "error_codes": [code],
        });
        if let Some(rejection) = rejection(body.to_string().as_bytes()) {
            prop_assert!(is_word(&rejection.error) && rejection.error == error);
            prop_assert!(rejection.support.trace_id.is_none_or(|id| is_word(&id) && id == trace));
        }
    }
}
