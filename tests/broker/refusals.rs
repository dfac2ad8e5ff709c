//! What is wrong at the tenant is told to the caller with the remedy, and without Entra's own text.

use std::time::SystemTime;

use kodo_broker::{
    pb::v1::{ErrorReason, Resource},
    simulator::{
        directory::{Secret, Standing},
        fault::{Endpoint, Fault},
        resource,
    },
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{CONTOSO, Fixture, SECOND_SECRET, SECRET, assert_refused, request, token};

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
    // One for each refusal: they are remembered.
    let mut ids = Vec::new();
    for number in 0..7 {
        let id = format!("org-{number}");
        fixture
            .register(&id, CONTOSO, request::secret(SECRET))
            .await;
        ids.push(id);
    }
    let worker = fixture.worker();
    let mut expect = async |expected| {
        let id = ids.pop().expect("one for each");
        let refused = token(&worker, &id, Resource::Exchange).await;
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
        application.secrets = vec![Secret::new(SECRET).expiring_at(SystemTime::UNIX_EPOCH)];
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
    token(&worker, "org-0", Resource::Graph)
        .await
        .expect("a token");
    directory.change_tenant(CONTOSO.tenant, |tenant| {
        tenant.remove_application(CONTOSO.client)
    });
    expect(R::ApplicationNotFound).await;
    directory.remove_tenant(CONTOSO.tenant);
    expect(R::TenantUnavailable).await;
}
