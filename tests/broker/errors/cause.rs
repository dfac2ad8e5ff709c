//! What can happen between callers, the broker and Entra.

use std::time::Duration;

use kodo_broker::{
    clock::Clock,
    pb::v1::{Access, Resource},
    simulator::{
        fault::{Endpoint, Fault},
        pki::Leaf,
    },
};
use tonic::Status;

use crate::support::{
    CONTOSO, Fixture, Organizations, SECOND_SECRET, SECRET, Setup, pki, request, token,
};

/// Asks for a token where nothing is registered.
pub(super) async fn call(resource: Resource) -> Status {
    let fixture = Fixture::start().await;
    refusal(&fixture, resource).await
}

pub(super) async fn refusal(fixture: &Fixture, resource: Resource) -> Status {
    let refused = token(&fixture.worker(), "contoso", resource).await;
    refused.expect_err("the call is refused")
}

pub(super) async fn with_secret(resource: Resource) -> Status {
    refusal(&Fixture::with_contoso().await, resource).await
}

pub(super) async fn without_identity() -> Status {
    let fixture = Fixture::start().await;
    let nobody = pki::issue(&Leaf::default());
    let mut caller = Organizations::new(fixture.connect(Some(&nobody)));
    caller
        .list_organizations(request::list())
        .await
        .expect_err("refused")
}

pub(super) async fn list_as_worker() -> Status {
    let fixture = Fixture::start().await;
    let listed = fixture
        .organizations("worker")
        .list_organizations(request::list())
        .await;
    listed.expect_err("refused")
}

/// With a grant for Graph only, that says this besides.
async fn granted(besides: &str) -> Fixture {
    let policy = r#"
        [[grant]]
        callers = ["spiffe://kodo.test/worker"]
        actions = ["get_token"]
        organizations = ["*"]
        resources = ["graph"]
    "#;
    Setup::new()
        .policy(format!("{policy}{besides}"))
        .start()
        .await
}

pub(super) async fn with_a_grant_for_graph_only() -> Status {
    let fixture = granted("").await;
    refusal(&fixture, Resource::Exchange).await
}

pub(super) async fn in_the_name_of_a_user() -> Status {
    let fixture = granted("access = [\"delegated\"]\n").await;
    let mut request = request::token("contoso", Resource::Graph);
    request.access = Access::Delegated.into();
    let refused = fixture.tokens("worker").get_token(request).await;
    refused.expect_err("there is none")
}

pub(super) async fn register_twice() -> Status {
    let request = request::register("contoso", CONTOSO, request::secret(SECRET));
    let fixture = Fixture::with_contoso().await;
    fixture
        .admin()
        .register_organization(request)
        .await
        .expect_err("refused")
}

pub(super) async fn after_revocation() -> Status {
    let fixture = Fixture::with_contoso().await;
    let revocation = request::revoke("contoso", 1);
    fixture
        .admin()
        .revoke_organization(revocation)
        .await
        .expect("revokes");
    refusal(&fixture, Resource::Graph).await
}

pub(super) async fn rotate_from(revision: u64) -> Status {
    let rotation = request::rotate("contoso", revision, request::secret(SECOND_SECRET));
    let fixture = Fixture::with_contoso().await;
    fixture
        .admin()
        .rotate_credential(rotation)
        .await
        .expect_err("refused")
}

pub(super) async fn reuse_request_id() -> Status {
    let fixture = Fixture::with_contoso().await;
    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    fixture
        .admin()
        .rotate_credential(rotation.clone())
        .await
        .expect("rotates");
    let mut revocation = request::revoke("contoso", 2);
    revocation.request_id = rotation.request_id;
    fixture
        .admin()
        .revoke_organization(revocation)
        .await
        .expect_err("refused")
}

pub(super) async fn while_suspended() -> Status {
    let fixture = Fixture::with_contoso().await;
    let suspension = request::suspend("contoso", 1);
    let suspended = fixture.admin().suspend_organization(suspension).await;
    suspended.expect("suspends");
    refusal(&fixture, Resource::Graph).await
}

pub(super) async fn resume_an_active_one() -> Status {
    let fixture = Fixture::with_contoso().await;
    let resumption = request::resume("contoso", 1);
    let resumed = fixture.admin().resume_organization(resumption).await;
    resumed.expect_err("refused")
}

pub(super) async fn register_with(secret: &str) -> Status {
    let fixture = Fixture::start().await;
    let request = request::register("contoso", CONTOSO, request::secret(secret));
    fixture
        .admin()
        .register_organization(request)
        .await
        .expect_err("refused")
}

/// Asks for a token, and Entra answers so.
pub(super) async fn answered(fault: Fault) -> Status {
    let fixture = Fixture::with_contoso().await;
    fixture
        .simulator
        .script(CONTOSO.tenant, Endpoint::Token, fault);
    refusal(&fixture, Resource::Exchange).await
}

pub(super) async fn refused_with(error: &str, aadsts: u32) -> Status {
    // For good: some refusals may only have to spread, and are tried again.
    answered(Fault::rejection(400, error, aadsts, "No.").always()).await
}

pub(super) async fn with_a_foreign_host() -> Status {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    let mut request = request::token("contoso", Resource::Sharepoint);
    request.sharepoint_host = "fabrikam.sharepoint.com".into();
    fixture
        .worker()
        .get_token(request)
        .await
        .expect_err("refused")
}

pub(super) async fn without_sharepoint() -> Status {
    let fixture = Fixture::start().await;
    let directory = fixture.simulator.directory();
    directory.change_tenant(CONTOSO.tenant, |tenant| tenant.sharepoint_hosts.clear());
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    refusal(&fixture, Resource::Sharepoint).await
}

pub(super) async fn half_an_hour_late() -> Status {
    let late = Clock::starting_at(Clock::system().now() - Duration::from_secs(1800));
    let fixture = Setup::new().clock(late).start().await;
    let request = request::register("contoso", CONTOSO, request::certificate());
    fixture
        .admin()
        .register_organization(request)
        .await
        .expect_err("refused")
}

pub(super) async fn with_one_slot() -> Status {
    let fixture = Setup::new().config("[tokens]\nslots_max = 1").start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    refusal(&fixture, Resource::Exchange).await
}

/// Nothing is done that cannot be recorded.
pub(super) async fn with_a_full_audit_device() -> Status {
    let setup = Setup::new().config("[audit]\nfile = \"/dev/full\"");
    let fixture = setup.start().await;
    refusal(&fixture, Resource::Graph).await
}

/// A flight whose organization changes whenever it is about to land. Its caller is told to try
/// another broker, as if this one were stopping.
pub(super) async fn changed_again_and_again() -> Status {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let mut held = fixture.hold(CONTOSO);
    let changing = async {
        for revision in 1.. {
            held.arrived(1).await;
            // A rotation passes, and the flight's next request is held again.
            fixture.hold(CONTOSO).release();
            let rotation = request::rotate("contoso", revision, request::secret(SECOND_SECRET));
            fixture
                .admin()
                .rotate_credential(rotation)
                .await
                .expect("rotates");
            held = fixture.hold(CONTOSO);
        }
    };
    tokio::select! {
        refused = token(&worker, "contoso", Resource::Exchange) => refused.expect_err("refused"),
        () = changing => unreachable!("it goes on for ever"),
    }
}
