//! Whatever Entra may answer: nothing odd becomes a token, nothing is remembered of it, nobody else
//! notices, and the caller is told what to do.

use std::{io, net::TcpListener, time::Duration};

use kodo_broker::{
    pb::v1::{ErrorReason, Resource},
    simulator::{
        Simulator,
        directory::{Secret, Standing},
        fault::{Endpoint, Fault},
        resource,
    },
};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;
use url::Url;

use crate::support::{
    CONTOSO, Fixture, SECOND_SECRET, SECRET, Setup, assert_refused, pki, request, token,
};

/// The proper answer with one member replaced, or removed by null.
fn altered(name: &str, value: Value) -> Fault {
    Fault::altered([(name.to_owned(), value)].into_iter().collect())
}

/// Answers that are no tokens, with a name each.
fn unusable() -> Vec<(String, Fault)> {
    let mut answers = vec![
        ("no JSON".to_owned(), Fault::answer(200, "access_token=a")),
        ("nothing".to_owned(), Fault::answer(200, "")),
        ("an array".to_owned(), Fault::json(200, &json!(["a"]))),
        ("HTML".to_owned(), Fault::html(200)),
        ("a refusal in HTML".to_owned(), Fault::html(400)),
        (
            "a refusal in JSON that says nothing".to_owned(),
            Fault::json(400, &json!({})),
        ),
        (
            "ten megabytes".to_owned(),
            Fault::oversized(10 * 1024 * 1024),
        ),
        (
            "deep nesting".to_owned(),
            Fault::answer(200, "[".repeat(50_000)),
        ),
        ("a name twice".to_owned(), twice()),
        (
            "no UTF-8".to_owned(),
            Fault::answer(200, vec![b'{', b'"', 0xff, b'"', b'}']),
        ),
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
            json!([null, "", "two words", "a\nb", "ünï", 1, "a".repeat(20_000)]),
        ),
    ];
    for (name, values) in odd {
        for value in values.as_array().expect("an array") {
            let shown: String = value.to_string().chars().take(30).collect();
            answers.push((format!("{name}: {shown}"), altered(name, value.clone())));
        }
    }
    answers
}

fn twice() -> Fault {
    let body = r#"{"token_type":"Bearer","expires_in":3599,"access_token":"a","access_token":"b"}"#;
    Fault::answer(200, body)
}

/// Registers an organization while Entra does wrong, then while it does not, and the same for a
/// token. Nothing may be left of the wrong answers.
async fn assert_passes_over(
    fixture: &Fixture,
    id: &str,
    fault: &Fault,
    code: Code,
    reason: ErrorReason,
) {
    let script = || {
        fixture
            .simulator
            .script(CONTOSO.tenant, Endpoint::Token, fault.clone())
    };
    let mut admin = fixture.admin();
    let register = request::register(id, CONTOSO, request::secret(SECRET));
    script();
    let refused = admin.register_organization(register.clone()).await;
    assert_refused(refused, code, reason);
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
    let status = assert_refused(refused, code, reason);
    assert!(!status.message().contains(SECRET));
    token(&worker, id, Resource::Exchange)
        .await
        .expect("a token");
    assert_eq!(
        fixture.simulator.request_count(),
        count + 2,
        "each call asked once"
    );
}

#[tokio::test]
async fn an_answer_that_is_no_token_is_refused_and_not_kept() {
    let fixture = Fixture::start().await;
    for (number, (name, fault)) in unusable().into_iter().enumerate() {
        println!("{name}");
        let id = format!("org-{number}");
        let reason = ErrorReason::IdpAnswerInvalid;
        assert_passes_over(&fixture, &id, &fault, Code::Unavailable, reason).await;
    }
}

#[tokio::test]
async fn trouble_on_the_way_is_unavailable_and_not_kept() {
    let fixture = Fixture::start().await;
    let faults = [
        ("500", Fault::html(500)),
        (
            "503",
            Fault::json(503, &json!({"error": "temporarily_unavailable"})),
        ),
        ("504", Fault::answer(504, "")),
        ("reset", Fault::reset()),
        (
            "transient",
            Fault::rejection(400, "invalid_request", 90_033, "A transient error."),
        ),
    ];
    for (name, fault) in faults {
        println!("{name}");
        let id = format!("org-{name}");
        let reason = ErrorReason::IdpUnreachable;
        assert_passes_over(&fixture, &id, &fault, Code::Unavailable, reason).await;
    }
}

#[tokio::test]
async fn no_answer_is_unavailable_within_the_configured_time() {
    let setup = Setup::new().config("request_timeout_seconds = 1");
    let fixture = setup.start().await;
    let reason = ErrorReason::IdpUnreachable;
    assert_passes_over(
        &fixture,
        "contoso",
        &Fault::hang(),
        Code::Unavailable,
        reason,
    )
    .await;
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
            let reason = ErrorReason::IdpAnswerInvalid;
            assert_passes_over(&fixture, &id, &fault, Code::Unavailable, reason).await;
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
        let fault = Fault::throttled(seconds);
        fixture
            .simulator
            .script(CONTOSO.tenant, Endpoint::Token, fault.clone());
        let register = request::register(&id, CONTOSO, request::secret(SECRET));
        let refused = fixture.admin().register_organization(register).await;
        let status = assert_refused(refused, code, reason);
        let info = status.get_details_retry_info().expect("waiting helps");
        assert_eq!(info.retry_delay, Some(Duration::from_secs(expected)));
        assert_passes_over(&fixture, &id, &fault, code, reason).await;
    }
}

/// Lets the first application that is asked for be refused so, and looks at what callers are told.
async fn assert_explained(fixture: &Fixture, fault: Fault, aadsts: u32, expected: ErrorReason) {
    let id = format!("org-{aadsts}");
    fixture
        .simulator
        .script(CONTOSO.tenant, Endpoint::Token, fault.clone());
    let register = request::register(&id, CONTOSO, request::secret(SECRET));
    let refused = fixture.admin().register_organization(register).await;
    let told = assert_refused(refused, Code::FailedPrecondition, expected);
    fixture
        .register(&id, CONTOSO, request::secret(SECRET))
        .await;
    fixture
        .simulator
        .script(CONTOSO.tenant, Endpoint::Token, fault);
    let refused = token(&fixture.worker(), &id, Resource::Exchange).await;
    let status = assert_refused(refused, Code::FailedPrecondition, expected);
    assert_eq!(status.message(), told.message(), "{aadsts}");

    let info = status.get_details_error_info().expect("every error has it");
    assert_eq!(info.metadata["aadstsCode"], aadsts.to_string());
    for key in ["traceId", "correlationId", "timestamp"] {
        assert!(info.metadata.contains_key(key), "{aadsts}: {key}");
    }
    let help = status
        .get_details_help()
        .expect("somebody can do something");
    let remedy = &help.links[0].description;
    assert!(
        remedy.len() > 20 && status.message().ends_with(remedy.as_str()),
        "{status:?}"
    );
    assert!(
        help.links[0].url.ends_with(&format!("={aadsts}")),
        "{:?}",
        help.links
    );
    assert!(
        status.get_details_retry_info().is_none(),
        "waiting does not help"
    );
    let details = String::from_utf8_lossy(status.details()).into_owned();
    for hidden in [SECRET, "canary", "client_assertion"] {
        assert!(
            !status.message().contains(hidden) && !details.contains(hidden),
            "{hidden}"
        );
    }
}

#[tokio::test]
async fn refusals_of_a_tenant_are_explained_with_a_remedy_and_without_entras_text() {
    use ErrorReason as R;
    let fixture = Fixture::start().await;
    let refusals = [
        (401, "invalid_client", 7_000_215, R::CredentialRejected),
        (401, "invalid_client", 700_027, R::CredentialRejected),
        (401, "invalid_client", 7_000_222, R::CredentialExpired),
        (401, "invalid_client", 1_000_502, R::CredentialExpired),
        (401, "invalid_client", 7_000_214, R::CredentialRevoked),
        (400, "unauthorized_client", 700_016, R::ApplicationNotFound),
        (
            400,
            "unauthorized_client",
            7_000_112,
            R::ApplicationDisabled,
        ),
        (400, "invalid_request", 90_002, R::TenantUnavailable),
        (400, "invalid_request", 900_382, R::WrongCloud),
        (400, "invalid_resource", 500_011, R::ResourceUnavailable),
        (400, "invalid_grant", 65_001, R::ConsentRequired),
        (400, "interaction_required", 53_003, R::BlockedByPolicy),
        (401, "invalid_client", 700_024, R::ClockSkew),
        (400, "invalid_request", 900_144, R::IdpRejected),
        (400, "something_new", 123_456, R::IdpRejected),
    ];
    for (status, error, aadsts, expected) in refusals {
        let text = format!("canary {SECRET} <b>canary</b>");
        let fault = Fault::rejection(status, error, aadsts, &text);
        assert_explained(&fixture, fault, aadsts, expected).await;
    }
}

#[tokio::test]
async fn what_the_simulator_refuses_by_itself_is_explained_alike() {
    use ErrorReason as R;
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let expect = async |expected| {
        let refused = token(&worker, "contoso", Resource::Exchange).await;
        assert_refused(refused, Code::FailedPrecondition, expected)
    };
    fixture.change(CONTOSO, |application| {
        application.standing = Standing::Disabled
    });
    expect(R::ApplicationDisabled).await;
    fixture.change(CONTOSO, |application| {
        application.standing = Standing::Blocked
    });
    expect(R::BlockedByPolicy).await;
    fixture.change(CONTOSO, |application| {
        application.standing = Standing::Active
    });
    fixture.change(CONTOSO, |application| {
        application.secrets =
            vec![Secret::new(SECRET).expiring_at(std::time::SystemTime::UNIX_EPOCH)];
    });
    expect(R::CredentialExpired).await;
    fixture.change(CONTOSO, |application| {
        application.secrets = vec![Secret::new(SECOND_SECRET)]
    });
    expect(R::CredentialRejected).await;
    fixture.change(CONTOSO, |application| {
        application.secrets = vec![Secret::new(SECRET)]
    });
    let directory = fixture.simulator.directory();
    directory.change_tenant(CONTOSO.tenant, |tenant| {
        tenant
            .missing_resources
            .insert(resource::Resource::Exchange);
    });
    expect(R::ResourceUnavailable).await;
    // Graph's token is still the one of the registration.
    token(&worker, "contoso", Resource::Graph)
        .await
        .expect("a token");
    directory.change_tenant(CONTOSO.tenant, |tenant| {
        tenant.remove_application(CONTOSO.client)
    });
    expect(R::ApplicationNotFound).await;
    directory.remove_tenant(CONTOSO.tenant);
    expect(R::TenantUnavailable).await;
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
