//! Who gets what: the policy's grants and nothing else, and no word about what exists.

use std::fmt::Write as _;

use kodo_broker::pb::{
    admin::v1 as admin,
    v1::{Access, ErrorReason, Purpose, Resource},
};
use tonic::{Code, Status};

use crate::support::{
    CONTOSO, Fixture, Organizations, RESOURCES, SECOND_SECRET, SECRET, Setup, Tokens,
    assert_refused, claims, reason, request, token,
};

const WORKERS: usize = 12;
const ORGANIZATIONS: usize = 20;
const NAMES: [&str; 4] = ["graph", "exchange", "sharepoint", "azure_ad_graph"];

/// Whether the matrix grants a worker a resource of an organization: about one cell of four.
fn granted(worker: usize, organization: usize, resource: usize) -> bool {
    (worker * 31 + organization * 17 + resource * 7 + worker * organization).is_multiple_of(4)
}

/// One grant for each worker, organization and resource that go together.
fn matrix() -> String {
    let mut policy = String::from(
        "[[grant]]\ncallers = [\"spiffe://kodo.test/admin\"]\nactions = [\"register\"]\norganizations = [\"*\"]\n",
    );
    for worker in 0..WORKERS {
        for organization in 0..ORGANIZATIONS {
            let names = (0..NAMES.len()).filter(|at| granted(worker, organization, *at));
            let names: Vec<_> = names.map(|at| NAMES[at]).collect();
            if !names.is_empty() {
                write!(
                    policy,
                    "[[grant]]\ncallers = [\"spiffe://kodo.test/worker/{worker}\"]\nactions = [\"get_token\"]\norganizations = [\"org-{organization}\"]\nresources = {names:?}\n",
                )
                .expect("a string takes everything");
            }
        }
    }
    policy
}

#[tokio::test]
async fn exactly_the_granted_cells_of_a_matrix_succeed() {
    let fixture = Setup::new().policy(matrix()).start().await;
    let mut applications = Vec::new();
    for organization in 0..ORGANIZATIONS {
        let application = fixture.add_tenant(&format!("tenant{organization}"));
        let id = format!("org-{organization}");
        fixture
            .register(&id, application, request::certificate())
            .await;
        applications.push(application);
    }
    let mut served = 0;
    for worker in 0..WORKERS {
        let tokens = fixture.tokens(&format!("worker/{worker}"));
        for (organization, application) in applications.iter().enumerate() {
            let id = format!("org-{organization}");
            let any = (0..RESOURCES.len()).any(|at| granted(worker, organization, at));
            for (at, resource) in RESOURCES.into_iter().enumerate() {
                let outcome = token(&tokens, &id, resource).await;
                if granted(worker, organization, at) {
                    let token = outcome.expect("it is granted");
                    assert_eq!(token.client_id, application.client.to_string());
                    let claims = claims(&token);
                    assert_eq!(claims["tid"], application.tenant.to_string());
                    assert_eq!(claims["appid"], application.client.to_string());
                    served += 1;
                } else if any {
                    assert_refused(
                        outcome,
                        Code::PermissionDenied,
                        ErrorReason::ResourceNotAllowed,
                    );
                } else {
                    assert_refused(outcome, Code::NotFound, ErrorReason::OrganizationNotFound);
                }
            }
        }
    }
    assert!(
        served > WORKERS * ORGANIZATIONS / 2,
        "{served} cells are granted"
    );
    // What is refused costs no request, and what is served one for all workers.
    let bound = u64::try_from(ORGANIZATIONS * RESOURCES.len()).expect("a few");
    assert!(fixture.simulator.request_count() <= bound);
}

/// Everything of an answer that a caller can see.
fn visible(status: &Status) -> (Code, String, Vec<u8>, Vec<String>) {
    let names = status.metadata().keys().map(|key| format!("{key:?}"));
    (
        status.code(),
        status.message().to_owned(),
        status.details().to_vec(),
        names.collect(),
    )
}

/// What each RPC about one organization answers.
async fn refusals(tokens: &mut Tokens, admin: &mut Organizations, id: &str) -> Vec<Status> {
    let mut refusals = Vec::new();
    for resource in RESOURCES {
        refusals.push(token(tokens, id, resource).await.expect_err(id));
    }
    refusals.push(
        admin
            .get_organization(request::get(id))
            .await
            .expect_err(id),
    );
    for revision in [1, 2] {
        let rotation = request::rotate(id, revision, request::secret(SECOND_SECRET));
        refusals.push(
            admin
                .rotate_credential(rotation.clone())
                .await
                .expect_err(id),
        );
        let validation = admin::RotateCredentialRequest {
            validate_only: true,
            ..rotation
        };
        refusals.push(admin.rotate_credential(validation).await.expect_err(id));
        let revocation = request::revoke(id, revision);
        refusals.push(admin.revoke_organization(revocation).await.expect_err(id));
        let suspension = request::suspend(id, revision);
        refusals.push(admin.suspend_organization(suspension).await.expect_err(id));
        let resumption = request::resume(id, revision);
        refusals.push(admin.resume_organization(resumption).await.expect_err(id));
    }
    refusals
}

#[tokio::test]
async fn a_forbidden_organization_looks_like_one_that_does_not_exist() {
    let scoped = r#"
        [[grant]]
        callers = ["spiffe://kodo.test/eu/worker"]
        actions = ["get_token"]
        organizations = ["eu-*"]
        resources = ["graph"]
        [[grant]]
        callers = ["spiffe://kodo.test/eu/admin"]
        actions = ["get", "rotate", "revoke", "suspend", "resume"]
        organizations = ["eu-*"]
        [[grant]]
        callers = ["spiffe://kodo.test/admin"]
        actions = ["register", "revoke"]
        organizations = ["*"]
    "#;
    let fixture = Setup::new().policy(scoped.into()).start().await;
    fixture
        .register("us-active", CONTOSO, request::certificate())
        .await;
    fixture
        .register("us-revoked", CONTOSO, request::certificate())
        .await;
    let revocation = request::revoke("us-revoked", 1);
    fixture
        .admin()
        .revoke_organization(revocation)
        .await
        .expect("revokes");
    let count = fixture.simulator.request_count();
    let (mut tokens, mut admin) = (
        fixture.tokens("eu/worker"),
        fixture.organizations("eu/admin"),
    );
    let unknown = refusals(&mut tokens, &mut admin, "us-unknown").await;
    for status in &unknown {
        assert_eq!(
            (status.code(), reason(status)),
            (Code::NotFound, Some(ErrorReason::OrganizationNotFound))
        );
    }
    let unknown: Vec<_> = unknown.iter().map(visible).collect();
    for id in ["us-active", "us-revoked"] {
        let forbidden = refusals(&mut tokens, &mut admin, id).await;
        let forbidden: Vec<_> = forbidden.iter().map(visible).collect();
        assert_eq!(forbidden, unknown, "{id}");
    }
    // And so does one that the caller might see, if there were one.
    let allowed = admin.get_organization(request::get("eu-unknown")).await;
    assert_eq!(visible(&allowed.expect_err("unknown")), unknown[0]);
    assert_eq!(fixture.simulator.request_count(), count);
}

#[tokio::test]
async fn an_id_outside_the_grant_cannot_be_registered_whether_taken_or_not() {
    let fixture = Fixture::start().await;
    fixture
        .register("us-taken", CONTOSO, request::secret(SECRET))
        .await;
    let count = fixture.simulator.request_count();
    let mut admin = fixture.organizations("eu/admin");
    let mut seen = Vec::new();
    for id in ["us-taken", "us-free", ""] {
        let request = request::register(id, CONTOSO, request::secret(SECRET));
        let refused = admin.register_organization(request).await;
        let refused = assert_refused(
            refused,
            Code::PermissionDenied,
            ErrorReason::CallerNotAuthorized,
        );
        seen.push(visible(&refused));
    }
    assert!(seen.iter().all(|refused| *refused == seen[0]), "{seen:?}");
    assert_eq!(fixture.simulator.request_count(), count);
    let request = request::register("eu-own", CONTOSO, request::secret(SECRET));
    admin
        .register_organization(request)
        .await
        .expect("registers");
}

#[tokio::test]
async fn a_scoped_operator_lists_only_its_own() {
    let fixture = Fixture::start().await;
    for id in ["eu-one", "us-one", "eu-two", "europe"] {
        fixture.register(id, CONTOSO, request::secret(SECRET)).await;
    }
    for page_size in [0, 1] {
        let mut ids = Vec::new();
        let mut request = admin::ListOrganizationsRequest {
            page_size,
            ..request::list()
        };
        loop {
            let page = fixture
                .organizations("eu/admin")
                .list_organizations(request.clone())
                .await;
            let page = page.expect("lists").into_inner();
            ids.extend(
                page.organizations
                    .into_iter()
                    .map(|found| found.organization_id),
            );
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        ids.sort();
        assert_eq!(ids, ["eu-one", "eu-two"]);
    }
}

#[tokio::test]
async fn workers_and_strangers_cannot_call_what_is_for_operators() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let before = fixture.organization("contoso").await;
    for (path, code, expected) in [
        (
            "worker",
            Code::PermissionDenied,
            ErrorReason::CallerNotAuthorized,
        ),
        (
            "stranger",
            Code::NotFound,
            ErrorReason::OrganizationNotFound,
        ),
        (
            "admin/below",
            Code::NotFound,
            ErrorReason::OrganizationNotFound,
        ),
        ("workers", Code::NotFound, ErrorReason::OrganizationNotFound),
    ] {
        let mut caller = fixture.organizations(path);
        let denied = (Code::PermissionDenied, ErrorReason::CallerNotAuthorized);
        let register = request::register("another", CONTOSO, request::secret(SECRET));
        let outcome = caller.register_organization(register).await;
        assert_refused(outcome, denied.0, denied.1);
        let outcome = caller.list_organizations(request::list()).await;
        assert_refused(outcome, denied.0, denied.1);
        let outcome = caller.get_organization(request::get("contoso")).await;
        assert_refused(outcome, code, expected);
        // Before its key is looked at, and so whether the organization is known or not.
        for id in ["contoso", "unknown"] {
            let rotation = request::rotate(id, 1, request::secret(SECOND_SECRET));
            let outcome = caller.rotate_credential(rotation).await;
            assert_refused(outcome, denied.0, denied.1);
        }
        let outcome = caller
            .revoke_organization(request::revoke("contoso", 1))
            .await;
        assert_refused(outcome, code, expected);
    }
    let operator = token(&fixture.tokens("admin"), "contoso", Resource::Graph).await;
    assert_refused(
        operator,
        Code::PermissionDenied,
        ErrorReason::CallerNotAuthorized,
    );
    assert_eq!(fixture.organization("contoso").await, before);
}

#[tokio::test]
async fn a_worker_gets_tokens_for_the_purposes_of_its_grant_only() {
    let policy = r#"
        [[grant]]
        callers = ["spiffe://kodo.test/admin"]
        actions = ["register"]
        organizations = ["*"]
        [[grant]]
        callers = ["spiffe://kodo.test/backup"]
        actions = ["get_token"]
        organizations = ["*"]
        resources = ["graph"]
        purposes = ["backup"]
    "#;
    let fixture = Setup::new().policy(policy.into()).start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let mut tokens = fixture.tokens("backup");
    for purpose in [Purpose::Unspecified, Purpose::Backup] {
        let mut request = request::token("contoso", Resource::Graph);
        request.purpose = purpose.into();
        tokens.get_token(request).await.expect("is granted");
    }
    let denied = (Code::PermissionDenied, ErrorReason::CallerNotAuthorized);
    let mut restore = request::token("contoso", Resource::Graph);
    restore.purpose = Purpose::Restore.into();
    // Also where the token is in memory.
    let refused = assert_refused(tokens.get_token(restore).await, denied.0, denied.1);
    assert!(refused.message().contains("purpose"), "{refused:?}");
    let mut watch = request::watch("contoso", Resource::Graph);
    watch.purpose = Purpose::Restore.into();
    assert_refused(tokens.watch_token(watch).await, denied.0, denied.1);
    // Nobody said that it may have tokens of users.
    for (access, granted) in [
        (Access::Unspecified, true),
        (Access::Application, true),
        (Access::Delegated, false),
    ] {
        let mut request = request::token("contoso", Resource::Graph);
        request.access = access.into();
        let answer = tokens.get_token(request).await;
        assert_eq!(answer.is_ok(), granted, "{answer:?}");
        if let Err(refused) = answer {
            let refused = assert_refused::<()>(Err(refused), denied.0, denied.1);
            assert!(refused.message().contains("access"), "{refused:?}");
        }
    }
}
