//! Whatever Entra may answer: nothing odd becomes a token, nothing is remembered of it, nobody else
//! notices, and the caller is told what to do.

use std::{io, net::TcpListener, time::Duration};

use kodo_broker::{
    pb::v1::{ErrorReason, Resource},
    simulator::{
        Simulator,
        fault::{Endpoint, Fault},
    },
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt as _;
use url::Url;

use crate::support::{
    CONTOSO, Fixture, SECOND_SECRET, SECRET, Setup, assert_refused, pki, reason, request, token,
};

/// The proper answer with one member replaced, or removed by null.
fn altered(name: &str, value: Value) -> Fault {
    Fault::altered([(name.to_owned(), value)].into_iter().collect())
}

/// Answers that are no tokens.
fn unusable() -> Vec<Fault> {
    let mut answers = vec![
        Fault::answer(200, "access_token=a"),
        Fault::answer(200, ""),
        Fault::answer(200, vec![b'{', b'"', 0xff, b'"', b'}']),
        Fault::answer(200, "[".repeat(50_000)),
        Fault::json(200, &json!(["a"])),
        Fault::json(400, &json!({})),
        Fault::html(200),
        Fault::html(400),
        Fault::oversized(10 * 1024 * 1024),
        twice(),
    ];
    let odd = [
        (
            "expires_in",
            json!([
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
            ]),
        ),
        ("token_type", json!([null, "", "pop", "Bearer ", 1])),
        (
            "access_token",
            json!([
                null,
                "",
                "two words",
                "a\nb",
                "\u{fc}n\u{ef}",
                1,
                "a".repeat(20_000)
            ]),
        ),
    ];
    for (name, values) in odd {
        let values = values.as_array().expect("an array").iter();
        answers.extend(values.map(|value| altered(name, value.clone())));
    }
    answers
}

/// The same member twice, so that readers may differ in which they take.
fn twice() -> Fault {
    let body = r#"{"token_type":"Bearer","expires_in":3599,"access_token":"a","access_token":"b"}"#;
    Fault::answer(200, body)
}

/// What an operator and then a worker are told while Entra does wrong, and that nothing is left of
/// it when it does not.
async fn assert_passes_over(fixture: &Fixture, id: &str, fault: &Fault, told: (Code, ErrorReason)) {
    assert_passes_over_as(fixture, id, fault, told, Asks::Once).await;
}

/// How often one call asks while Entra does wrong.
#[derive(Clone, Copy, Debug)]
enum Asks {
    Once,
    /// After an error of the server, or no answer.
    Twice,
}

async fn assert_passes_over_as(
    fixture: &Fixture,
    id: &str,
    fault: &Fault,
    told: (Code, ErrorReason),
    asks: Asks,
) {
    let expected = (told.0, Some(told.1));
    let shown = format!("{fault:?}");
    let shown: String = shown.chars().take(300).collect();
    let asks = match asks {
        Asks::Once => 1,
        Asks::Twice => 2,
    };
    let script = || {
        let fault = fault.clone().times(asks);
        fixture
            .simulator
            .script(CONTOSO.tenant, Endpoint::Token, fault);
    };
    let mut admin = fixture.admin();
    let register = request::register(id, CONTOSO, request::secret(SECRET));
    script();
    let refused = admin.register_organization(register.clone()).await;
    let status = refused.expect_err(&shown);
    assert_eq!((status.code(), reason(&status)), expected, "{shown}");
    let absent = admin.get_organization(request::get(id)).await;
    assert_refused(absent, Code::NotFound, ErrorReason::OrganizationNotFound);
    admin
        .register_organization(register)
        .await
        .expect("registers");

    let worker = fixture.worker();
    let count = fixture.simulator.request_count();
    script();
    let refused = token(&worker, id, Resource::Exchange).await;
    let status = refused.expect_err(&shown);
    assert_eq!((status.code(), reason(&status)), expected, "{shown}");
    assert!(!status.message().contains(SECRET));
    token(&worker, id, Resource::Exchange)
        .await
        .expect("a token");
    assert_eq!(
        fixture.simulator.request_count(),
        count + u64::from(asks) + 1,
        "no call asked oftener than it may"
    );
}

#[tokio::test]
async fn an_answer_that_is_no_token_is_refused_and_not_kept() {
    let fixture = Fixture::start().await;
    for (number, fault) in unusable().iter().enumerate() {
        let id = format!("org-{number}");
        let told = (Code::Unavailable, ErrorReason::IdpAnswerInvalid);
        assert_passes_over(&fixture, &id, fault, told).await;
    }
}

#[tokio::test]
async fn trouble_on_the_way_is_unavailable_and_not_kept() {
    let fixture = Fixture::start().await;
    let faults = [
        ("500", Fault::html(500), Asks::Twice),
        (
            "503",
            Fault::json(503, &json!({"error": "temporarily_unavailable"})),
            Asks::Twice,
        ),
        ("504", Fault::answer(504, ""), Asks::Twice),
        ("reset", Fault::reset(), Asks::Once),
        (
            "transient",
            Fault::rejection(400, "invalid_request", 90_033, "A transient error."),
            Asks::Once,
        ),
    ];
    for (name, fault, asks) in faults {
        let id = format!("org-{name}");
        let told = (Code::Unavailable, ErrorReason::IdpUnreachable);
        assert_passes_over_as(&fixture, &id, &fault, told, asks).await;
    }
}

#[tokio::test]
async fn no_answer_is_unavailable_within_the_configured_time() {
    let setup = Setup::new().config("request_timeout_seconds = 1");
    let fixture = setup.start().await;
    let told = (Code::Unavailable, ErrorReason::IdpUnreachable);
    let began = Instant::now();
    assert_passes_over_as(&fixture, "contoso", &Fault::hang(), told, Asks::Twice).await;
    // Two calls hang, each twice. Far below the 15 s that one may take by default.
    let took = began.elapsed();
    assert!((4..15).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn odd_but_proper_answers_are_tokens() {
    let fixture = Fixture::start().await;
    let answers = [
        ("expires_in", json!("3599")),
        ("token_type", json!("bearer")),
        ("token_type", json!("BEARER")),
        ("expires_in", json!(1_000_000_000_000_u64)),
        ("refresh_in", json!("soon")),
        ("refresh_in", json!(-1)),
        ("scope", json!({"a": []})),
    ];
    for (number, (name, value)) in answers.into_iter().enumerate() {
        let id = format!("org-{number}");
        fixture
            .register(&id, CONTOSO, request::secret(SECRET))
            .await;
        fixture
            .simulator
            .script(CONTOSO.tenant, Endpoint::Token, altered(name, value));
        let token = token(&fixture.worker(), &id, Resource::Exchange)
            .await
            .expect(name);
        let (refresh, expire) = (token.refresh_time, token.expire_time);
        let seconds = |time: Option<prost_types::Timestamp>| time.expect("is told").seconds;
        let apart = seconds(expire) - seconds(refresh);
        // Nothing lives longer than a day and 4 hours.
        assert!((1..=28 * 3600).contains(&apart), "{name}: {apart}");
    }
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let fixture = Fixture::start().await;
    // Its queue takes connections although nobody accepts them.
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a free port");
    elsewhere.set_nonblocking(true).expect("is possible");
    let address = elsewhere.local_addr().expect("is bound");
    let to = Url::parse(&format!("https://{address}/")).expect("a URL");
    let any_port = ([127, 0, 0, 1], 0).into();
    let second = Simulator::start(any_port, pki::server())
        .await
        .expect("starts");
    let mut number = 0;
    for status in [301, 302, 303, 307, 308] {
        for to in [&to, &second.authority_url()] {
            let to = to
                .join(&format!("{}/oauth2/v2.0/token", CONTOSO.tenant))
                .expect("a URL");
            let id = format!("org-{number}");
            number += 1;
            let fault = Fault::redirect(status, &to);
            let told = (Code::Unavailable, ErrorReason::IdpAnswerInvalid);
            assert_passes_over(&fixture, &id, &fault, told).await;
        }
    }
    let accepted = elsewhere.accept().map(|(_, from)| from);
    let error = accepted.expect_err("nobody connected");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(second.request_count(), 0);
}

#[tokio::test]
async fn throttling_is_passed_on_with_its_time() {
    let fixture = Fixture::start().await;
    let code = Code::ResourceExhausted;
    let reason = ErrorReason::IdpThrottled;
    for (number, (seconds, expected)) in [
        (Some(7), 7),
        (None, 60),
        (Some(0), 1),
        (Some(1_000_000_000), 300),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("org-{number}");
        let application = fixture.add_tenant(&id);
        let fault = Fault::throttled(seconds);
        fixture
            .simulator
            .script(application.tenant, Endpoint::Token, fault);
        let register = request::register(&id, application, request::secret(SECRET));
        let count = fixture.simulator.request_count();
        // The second is told from memory.
        for _ in 0..2 {
            let refused = fixture
                .admin()
                .register_organization(register.clone())
                .await;
            let status = assert_refused(refused, code, reason);
            let info = status.get_details_retry_info().expect("waiting helps");
            let told = info.retry_delay.expect("is told");
            let expected = Duration::from_secs(expected);
            let slack = Duration::from_secs(1).min(expected);
            assert!((expected - slack..=expected).contains(&told), "{told:?}");
        }
        assert_eq!(fixture.simulator.request_count(), count + 1);
    }
}

#[tokio::test]
async fn a_hanging_tenant_holds_up_nobody_else() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    let other = fixture.add_tenant("fabrikam");
    fixture
        .register("fabrikam", other, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let held = fixture.hold(CONTOSO);
    let (exchange, sharepoint, ()) = tokio::join!(
        token(&worker, "contoso", Resource::Exchange),
        token(&worker, "contoso", Resource::Sharepoint),
        async {
            held.arrived(2).await;
            // On the same connection, while the others hang.
            token(&worker, "fabrikam", Resource::Exchange)
                .await
                .expect("a token");
            token(&worker, "contoso", Resource::Graph)
                .await
                .expect("the token in memory");
            fixture
                .register("fabrikam-2", other, request::secret(SECOND_SECRET))
                .await;
            held.release();
        },
    );
    exchange.expect("a token, late");
    sharepoint.expect("a token, late");
}

#[tokio::test]
async fn a_valid_token_is_served_while_entra_is_in_trouble() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let held = token(&fixture.worker(), "contoso", Resource::Graph)
        .await
        .expect("a token");
    let fault = Fault::html(503).times(100);
    fixture
        .simulator
        .script(CONTOSO.tenant, Endpoint::Token, fault);
    let mut request = request::token("contoso", Resource::Graph);
    request.min_remaining = Some(prost_types::Duration {
        seconds: 24 * 3600,
        nanos: 0,
    });
    let served = fixture.worker().get_token(request).await.expect("a token");
    assert_eq!(served.into_inner().fingerprint, held.fingerprint);
}
