//! Every way in which Entra may do wrong, with what callers are told.

use std::time::Duration;

use kodo_broker::{clock::Clock, simulator::fault::Fault};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

/// One fault.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) fault: Fault,
    pub(super) told: Told,
    /// Most requests that one call makes while the fault lasts.
    pub(super) asks: u64,
}

/// What callers are told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    /// To come back in so many seconds, from memory until these are over.
    Throttled(u64),
    /// The same, of a server in trouble that says how long.
    ComeBack(u64),
    Unreachable,
    AnswerInvalid,
    /// Nothing: it is a token, of at most this life in seconds.
    Token(i64),
}

fn row(name: impl Into<String>, fault: Fault, told: Told, asks: u64) -> Row {
    Row {
        name: name.into(),
        fault,
        told,
        asks,
    }
}

/// Throttling, with every kind of `Retry-After`.
pub(super) fn throttling() -> Vec<Row> {
    let in_half_a_minute = Clock::system().now() + SECOND * 30;
    let yesterday = Clock::system().now() - SECOND * 24 * 3600;
    let with = |value| Fault::throttled(None).header("retry-after", value);
    let throttled = [
        ("seconds", Fault::throttled(Some(7)), 7),
        ("date", Fault::throttled_until(in_half_a_minute), 30),
        ("past", Fault::throttled_until(yesterday), 1),
        ("zero", Fault::throttled(Some(0)), 1),
        ("long", Fault::throttled(Some(1_000_000_000)), 300),
        ("endless", with("99999999999999999999999999"), 300),
        ("negative", with("-1"), 60),
        ("garbage", with("soon"), 60),
        ("none", Fault::throttled(None), 60),
    ];
    let throttled = throttled.map(|(name, fault, seconds)| {
        row(
            format!("throttled-{name}"),
            fault,
            Told::Throttled(seconds),
            1,
        )
    });
    let busy = Fault::html(503).header("retry-after", "9");
    let mut rows = vec![row("trouble-seconds", busy, Told::ComeBack(9), 1)];
    rows.extend(throttled);
    rows
}

/// Servers in trouble and answers that do not come.
pub(super) fn trouble() -> Vec<Row> {
    let temporary = json!({"error": "temporarily_unavailable"});
    let transient = Fault::rejection(400, "invalid_request", 90_033, "A transient error.");
    let faults = [
        ("500", Fault::json(500, &json!({})), 2),
        ("502", Fault::html(502), 2),
        ("503", Fault::json(503, &temporary), 2),
        (
            "503-garbage",
            Fault::html(503).header("retry-after", "-1"),
            2,
        ),
        ("504", Fault::answer(504, ""), 2),
        ("transient", transient, 1),
        ("hang", Fault::hang(), 2),
        ("hang-in-the-body", Fault::proper().stalled_after(20), 2),
        ("drip", Fault::proper().dripping(SECOND), 2),
        ("drip-trouble", Fault::html(500).dripping(SECOND), 2),
    ];
    let faults = faults.into_iter();
    faults
        .map(|(name, fault, asks)| row(name, fault, Told::Unreachable, asks))
        .collect()
}

/// Connections that break, and with them whatever else goes on over them.
pub(super) fn breaks() -> Vec<Row> {
    let faults = [
        ("reset-unread", Fault::reset_unread(), 0),
        ("reset", Fault::reset(), 1),
        ("reset-in-the-body", Fault::proper().cut_after(20), 1),
        ("reset-after-the-head", Fault::proper().cut_after(0), 1),
    ];
    faults
        .map(|(name, fault, asks)| row(name, fault, Told::Unreachable, asks))
        .into()
}

/// Answers that are no tokens.
pub(super) fn unusable() -> Vec<Row> {
    let mebibyte = 1024 * 1024;
    let mut rows: Vec<_> = [
        ("form", Fault::answer(200, "access_token=a")),
        ("empty", Fault::answer(200, "")),
        ("utf8", Fault::invalid_utf8()),
        ("deep", Fault::deep_json(30_000)),
        ("too-deep", Fault::deep_json(mebibyte)),
        ("array", Fault::json(200, &json!(["a"]))),
        ("no-error", Fault::json(400, &json!({}))),
        ("page", Fault::html(200)),
        ("refusing-page", Fault::html(400)),
        ("oversized", Fault::oversized(10 * mebibyte)),
        (
            "oversized-trouble",
            Fault::answer(400, "a".repeat(10 * mebibyte)),
        ),
        ("gzip-bomb", Fault::gzip_bomb(32 * mebibyte)),
        ("twice", Fault::duplicate_keys()),
    ]
    .into_iter()
    .map(|(name, fault)| row(name, fault, Told::AnswerInvalid, 1))
    .collect();
    let lives = json!([
        null,
        0,
        -1,
        "",
        "-1",
        "1h",
        3599.5,
        true,
        1e30,
        "99999999999999999999"
    ]);
    let tokens = json!([
        null,
        "",
        "two words",
        "a\nb",
        "a\r\nb",
        "\u{fc}n\u{ef}",
        1,
        "a".repeat(20_000),
        "a".repeat(mebibyte)
    ]);
    let odd = [
        ("expires_in", lives),
        ("token_type", json!([null, "", "pop", "Bearer ", 1])),
        ("access_token", tokens),
    ];
    for (member, values) in odd {
        rows.extend(members(member, &values, Told::AnswerInvalid));
    }
    rows
}

/// Answers that are odd, and tokens all the same.
pub(super) fn odd_tokens() -> Vec<Row> {
    let life = json!([1_000_000_000_000_000_000_u64]);
    let mut rows = members("expires_in", &life, Told::Token(28 * 3600));
    rows.extend(members("expires_in", &json!(["3599"]), Told::Token(3599)));
    let any = Told::Token(90 * 60);
    rows.extend(members("token_type", &json!(["bearer", "BEARER"]), any));
    let renewals = json!(["soon", -1, 0, 3599.5, 1e30, {"a": []}]);
    rows.extend(members("refresh_in", &renewals, any));
    rows.extend(members("scope", &json!([{"a": []}]), any));
    for (number, row) in rows.iter_mut().enumerate() {
        row.name = format!("odd-{number}");
    }
    rows
}

fn members(name: &str, values: &Value, told: Told) -> Vec<Row> {
    let values = values.as_array().expect("an array").iter().enumerate();
    let named = name.replace('_', "-");
    values
        .map(|(number, value)| {
            let fault = Fault::member(name, value.clone());
            row(format!("{named}-{number}"), fault, told, 1)
        })
        .collect()
}
