//! A suspended organization gets no token until it is resumed, and keeps its credential.

use kodo_broker::pb::{
    admin::v1::{Organization, OrganizationState, OutstandingTokens, TokenHolder},
    v1::{ErrorReason, Resource},
};
use tonic::{Code, Status};

use crate::support::{
    CONTOSO, Fixture, RESOURCES, SECOND_SECRET, SECRET, Setup, assert_refused, request, token,
};

async fn suspend(fixture: &Fixture, id: &str, revision: u64) -> Result<Organization, Status> {
    let suspension = request::suspend(id, revision);
    let answer = fixture.admin().suspend_organization(suspension).await?;
    let organization = answer.into_inner().organization;
    Ok(organization.expect("the answer has the organization"))
}

async fn resume(fixture: &Fixture, id: &str, revision: u64) -> Result<Organization, Status> {
    let resumption = request::resume(id, revision);
    let answer = fixture.admin().resume_organization(resumption).await?;
    let organization = answer.into_inner().organization;
    Ok(organization.expect("the answer has the organization"))
}

/// Fails unless the organization `contoso` gets no token of any kind, and Entra hears of none.
async fn assert_gets_nothing(fixture: &Fixture) {
    let count = fixture.simulator.request_count();
    for resource in RESOURCES {
        let refused = token(&fixture.worker(), "contoso", resource).await;
        assert_refused(
            refused,
            Code::FailedPrecondition,
            ErrorReason::OrganizationSuspended,
        );
    }
    assert_eq!(fixture.simulator.request_count(), count);
}

async fn assert_gets_everything(fixture: &Fixture) {
    for resource in RESOURCES {
        let served = token(&fixture.worker(), "contoso", resource).await;
        served.expect("a token");
    }
}

#[tokio::test]
async fn a_suspended_organization_gets_nothing_until_it_is_resumed() {
    let audit = "[audit]\nfile = \"{folder}/audit.log\"\n";
    let fixture = Setup::new().config(audit).start().await;
    let before = fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    fixture
        .register("another", CONTOSO, request::certificate())
        .await;
    assert_gets_everything(&fixture).await;
    let suspended = suspend(&fixture, "contoso", 1).await.expect("suspends");
    assert_eq!(suspended.state(), OrganizationState::Suspended);
    let audit = std::fs::read_to_string(fixture.path("audit.log")).expect("an audit log");
    let intent = audit.lines().find(|line| {
        line.contains("\"rpc\":\"SuspendOrganization\"") && line.contains("\"kind\":\"intent\"")
    });
    let intent = intent.expect("it is on record");
    assert!(
        intent.contains("\"reason\":\"the customer asked for it\""),
        "{intent}"
    );
    assert_eq!(suspended.suspend_reason, "the customer asked for it");
    assert!(suspended.suspend_time.is_some());
    assert_eq!(suspended.credential, before.credential);
    assert_eq!(fixture.organization("contoso").await, suspended);
    assert_gets_nothing(&fixture).await;
    // One with the same application is none of its business.
    token(&fixture.worker(), "another", Resource::Graph)
        .await
        .expect("a token");
    let resumed = resume(&fixture, "contoso", 2).await.expect("resumes");
    assert_eq!(resumed.state(), OrganizationState::Active);
    assert_eq!(
        (resumed.suspend_time, resumed.suspend_reason.as_str()),
        (None, "")
    );
    assert_eq!(
        (resumed.credential, resumed.revision),
        (before.credential, 3)
    );
    assert_gets_everything(&fixture).await;
}

#[tokio::test]
async fn it_stays_suspended_over_a_restart_and_no_kept_token_comes_back() {
    let mut fixture = Setup::new().sled().start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    assert_gets_everything(&fixture).await;
    let suspended = suspend(&fixture, "contoso", 1).await.expect("suspends");
    fixture.restart().await;
    assert_eq!(fixture.organization("contoso").await, suspended);
    assert_gets_nothing(&fixture).await;
    resume(&fixture, "contoso", 2).await.expect("resumes");
    let count = fixture.simulator.request_count();
    assert_gets_everything(&fixture).await;
    // None of those from before was left for it.
    let asked = fixture.simulator.request_count() - count;
    assert_eq!(asked, u64::try_from(RESOURCES.len()).expect("few"));
}

#[tokio::test]
async fn a_flight_under_way_brings_no_token() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let held = fixture.hold(CONTOSO);
    let asking = token(&worker, "contoso", Resource::Exchange);
    let suspending = async {
        held.arrived(1).await;
        let suspended = suspend(&fixture, "contoso", 1).await;
        held.release();
        suspended
    };
    let (asked, suspended) = tokio::join!(asking, suspending);
    suspended.expect("suspends");
    assert_refused(
        asked,
        Code::FailedPrecondition,
        ErrorReason::OrganizationSuspended,
    );
}

#[tokio::test]
async fn streams_end_with_the_reason_at_once() {
    let fixture = Fixture::with_contoso().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let watch = request::watch("contoso", Resource::Graph);
        let stream = fixture.worker().watch_token(watch).await;
        let mut stream = stream.expect("a stream").into_inner();
        stream.message().await.expect("a token").expect("a token");
        streams.push(stream);
    }
    suspend(&fixture, "contoso", 1).await.expect("suspends");
    for mut stream in streams {
        assert_refused(
            stream.message().await,
            Code::FailedPrecondition,
            ErrorReason::OrganizationSuspended,
        );
    }
}

#[tokio::test]
async fn a_report_brings_no_token_of_a_suspended_one() {
    let fixture = Fixture::with_contoso().await;
    let given = token(&fixture.worker(), "contoso", Resource::Graph).await;
    let fingerprint = given.expect("a token").fingerprint;
    suspend(&fixture, "contoso", 1).await.expect("suspends");
    let count = fixture.simulator.request_count();
    let report = request::report("contoso", Resource::Graph, &fingerprint, 401);
    let reported = fixture.worker().report_token(report).await;
    reported.expect("a verdict");
    assert_gets_nothing(&fixture).await;
    assert_eq!(fixture.simulator.request_count(), count);
}

#[tokio::test]
async fn its_credential_may_be_rotated_and_that_does_not_resume_it() {
    let fixture = Fixture::with_contoso().await;
    suspend(&fixture, "contoso", 1).await.expect("suspends");
    let rotation = request::rotate("contoso", 2, request::certificate());
    let rotated = fixture.admin().rotate_credential(rotation).await;
    let rotated = rotated.expect("rotates").into_inner().organization;
    let rotated = rotated.expect("the answer has the organization");
    assert_eq!(rotated.state(), OrganizationState::Suspended);
    assert_gets_nothing(&fixture).await;
    resume(&fixture, "contoso", 3).await.expect("resumes");
    let given = token(&fixture.worker(), "contoso", Resource::Graph).await;
    assert_eq!(given.expect("a token").credential_version, 2);
}

#[tokio::test]
async fn a_credential_that_is_to_be_verified_must_get_a_token_first() {
    let fixture = Fixture::with_contoso().await;
    suspend(&fixture, "contoso", 1).await.expect("suspends");
    fixture.change(CONTOSO, |application| application.secrets.clear());
    let mut resumption = request::resume("contoso", 2);
    resumption.verify_credential = true;
    let refused = fixture.admin().resume_organization(resumption).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorReason::CredentialRejected,
    );
    assert_gets_nothing(&fixture).await;
    let rotation = request::rotate("contoso", 2, request::certificate());
    let rotated = fixture.admin().rotate_credential(rotation).await;
    rotated.expect("rotates");
    let mut resumption = request::resume("contoso", 3);
    resumption.verify_credential = true;
    let resumed = fixture.admin().resume_organization(resumption).await;
    resumed.expect("resumes");
    // The proof is the first token.
    let count = fixture.simulator.request_count();
    let given = token(&fixture.worker(), "contoso", Resource::Graph).await;
    given.expect("a token");
    assert_eq!(fixture.simulator.request_count(), count);
}

#[tokio::test]
async fn what_cannot_be_suspended_or_resumed_is_told_so() {
    let fixture = Fixture::with_contoso().await;
    let precondition = Code::FailedPrecondition;
    let resumed = resume(&fixture, "contoso", 1).await;
    assert_refused(resumed, precondition, ErrorReason::OrganizationNotSuspended);
    let stale = suspend(&fixture, "contoso", 7).await;
    assert_refused(stale, Code::Aborted, ErrorReason::RevisionConflict);
    suspend(&fixture, "contoso", 1).await.expect("suspends");
    let again = suspend(&fixture, "contoso", 2).await;
    assert_refused(again, precondition, ErrorReason::OrganizationSuspended);
    let stale = resume(&fixture, "contoso", 1).await;
    assert_refused(stale, Code::Aborted, ErrorReason::RevisionConflict);
    let revocation = request::revoke("contoso", 2);
    let revoked = fixture.admin().revoke_organization(revocation).await;
    let revoked = revoked.expect("revokes").into_inner().organization;
    let revoked = revoked.expect("the answer has the organization");
    assert_eq!(revoked.state(), OrganizationState::Revoked);
    assert_eq!(revoked.suspend_time, None);
    for refused in [
        suspend(&fixture, "contoso", 3).await,
        resume(&fixture, "contoso", 3).await,
    ] {
        assert_refused(refused, precondition, ErrorReason::OrganizationRevoked);
    }
    for refused in [
        suspend(&fixture, "unknown", 1).await,
        resume(&fixture, "unknown", 1).await,
    ] {
        assert_refused(refused, Code::NotFound, ErrorReason::OrganizationNotFound);
    }
}

#[tokio::test]
async fn a_repeated_request_is_answered_again_and_not_done_again() {
    let fixture = Fixture::with_contoso().await;
    let mut admin = fixture.admin();
    let suspension = request::suspend("contoso", 1);
    let answer = admin.suspend_organization(suspension.clone()).await;
    let suspended = answer.expect("suspends").into_inner().organization;
    let again = admin.suspend_organization(suspension.clone()).await;
    let again = again.expect("is answered").into_inner().organization;
    assert_eq!(again, suspended);
    let resumption = request::resume("contoso", 2);
    let answer = admin.resume_organization(resumption.clone()).await;
    let resumed = answer.expect("resumes").into_inner();
    let again = admin.resume_organization(resumption).await;
    assert_eq!(again.expect("is answered").into_inner(), resumed);
    // It was suspended once by it, and is not again.
    let again = admin.suspend_organization(suspension.clone()).await;
    let told = again.expect("is answered").into_inner().organization;
    assert_eq!(told, resumed.organization);
    token(&fixture.worker(), "contoso", Resource::Graph)
        .await
        .expect("a token");
    let mut other = suspension;
    other.reason = "another reason".into();
    let reused = admin.suspend_organization(other).await;
    assert_refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
}

#[tokio::test]
async fn whoever_may_suspend_need_not_be_able_to_resume() {
    let policy = r#"
        [[grant]]
        callers = ["spiffe://kodo.test/admin"]
        actions = ["register", "get", "resume"]
        organizations = ["*"]
        [[grant]]
        callers = ["spiffe://kodo.test/alarm"]
        actions = ["suspend"]
        organizations = ["*"]
    "#;
    let fixture = Setup::new().policy(policy.into()).start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let (denied, reason) = (Code::PermissionDenied, ErrorReason::CallerNotAuthorized);
    assert_refused(suspend(&fixture, "contoso", 1).await, denied, reason);
    let mut alarm = fixture.organizations("alarm");
    let suspension = request::suspend("contoso", 1);
    let suspended = alarm.suspend_organization(suspension).await;
    suspended.expect("suspends");
    let resumed = alarm
        .resume_organization(request::resume("contoso", 2))
        .await;
    assert_refused(resumed, denied, reason);
    resume(&fixture, "contoso", 2).await.expect("resumes");
}

#[tokio::test]
async fn a_rotation_under_way_does_not_resume_it() {
    let fixture = Fixture::with_contoso().await;
    let held = fixture.hold(CONTOSO);
    let mut rotator = fixture.admin();
    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    let suspending = async {
        held.arrived(1).await;
        let suspended = suspend(&fixture, "contoso", 1).await;
        held.release();
        suspended
    };
    let (rotated, suspended) = tokio::join!(rotator.rotate_credential(rotation), suspending);
    suspended.expect("suspends");
    assert_refused(rotated, Code::Aborted, ErrorReason::RevisionConflict);
    assert_gets_nothing(&fixture).await;
}

/// Each holder as the last word of its id, resource, host and count.
fn holders(outstanding: &OutstandingTokens) -> Vec<(String, Resource, String, u64)> {
    let row = |holder: &TokenHolder| {
        let name = holder.caller.trim_start_matches("spiffe://kodo.test/");
        let host = holder.sharepoint_host.clone();
        (name.to_owned(), holder.resource(), host, holder.count)
    };
    let mut rows: Vec<_> = outstanding.holders.iter().map(row).collect();
    rows.sort_by_key(|(name, resource, ..)| (name.clone(), *resource as i32));
    rows
}

#[tokio::test]
async fn the_answer_tells_who_holds_what_until_when() {
    let fixture = Setup::new().policy(many_workers()).start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    fixture
        .register("another", CONTOSO, request::certificate())
        .await;
    let (one, two) = (fixture.tokens("worker/one"), fixture.tokens("worker/two"));
    let mut last = None;
    for worker in [&one, &two, &one] {
        let given = token(worker, "contoso", Resource::Graph).await;
        let given = given.expect("a token");
        last = last.max(given.expire_time.map(|end| end.seconds));
        // Its successor is one more.
        let report = request::report("contoso", Resource::Graph, &given.fingerprint, 401);
        let reported = worker.clone().report_token(report).await;
        reported.expect("a verdict");
    }
    let mut request = request::token("contoso", Resource::Sharepoint);
    request.sharepoint_host = "contoso.sharepoint.com".into();
    for _ in 0..5 {
        let given = two.clone().get_token(request.clone()).await;
        let given = given.expect("a token").into_inner();
        last = last.max(given.expire_time.map(|end| end.seconds));
    }
    let watch = request::watch("contoso", Resource::Exchange);
    let stream = one.clone().watch_token(watch).await;
    let mut stream = stream.expect("a stream").into_inner();
    let given = stream.message().await.expect("a token").expect("a token");
    let end = given.token.and_then(|token| token.expire_time);
    last = last.max(end.map(|end| end.seconds));
    token(&one, "another", Resource::Graph)
        .await
        .expect("a token");
    let suspension = request::suspend("contoso", 1);
    let answer = fixture.admin().suspend_organization(suspension).await;
    let told = answer.expect("suspends").into_inner().outstanding_tokens;
    let told = told.expect("always set");
    let sharepoint = "contoso.sharepoint.com".to_owned();
    let none = String::new;
    // The first token was reported, and the second a moment later, too early to be replaced.
    assert_eq!(
        holders(&told),
        [
            ("worker/one".into(), Resource::Graph, none(), 2),
            ("worker/one".into(), Resource::Exchange, none(), 1),
            ("worker/two".into(), Resource::Graph, none(), 1),
            ("worker/two".into(), Resource::Sharepoint, sharepoint, 1),
        ]
    );
    assert_eq!((told.count, told.truncated), (5, false));
    let end = told.last_expire_time.expect("some are out there").seconds;
    let last = last.expect("always set");
    assert!((last..=last + 2).contains(&end), "{end} {last}");
    assert!(told.since.is_some());
    // A revocation tells the same, also of one that is suspended.
    let revocation = request::revoke("contoso", 2);
    let answer = fixture.admin().revoke_organization(revocation).await;
    let again = answer.expect("revokes").into_inner().outstanding_tokens;
    assert_eq!(holders(&again.expect("always set")), holders(&told));
}

/// A worker who is no more than one of very many.
fn many_workers() -> String {
    r#"
        [[grant]]
        callers = ["spiffe://kodo.test/worker/*"]
        actions = ["get_token"]
        organizations = ["*"]
        resources = ["graph", "exchange", "sharepoint"]
        [[grant]]
        callers = ["spiffe://kodo.test/admin"]
        actions = ["register", "get", "suspend", "revoke"]
        organizations = ["*"]
    "#
    .into()
}

#[tokio::test]
async fn of_very_many_holders_some_are_told_and_all_are_counted() {
    const WORKERS: u64 = 220;
    let fixture = Setup::new().policy(many_workers()).start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    for number in 0..WORKERS {
        let worker = fixture.tokens(&format!("worker/{number}"));
        let given = token(&worker, "contoso", Resource::Graph).await;
        given.expect("a token");
    }
    let suspension = request::suspend("contoso", 1);
    let answer = fixture.admin().suspend_organization(suspension).await;
    let told = answer.expect("suspends").into_inner().outstanding_tokens;
    let told = told.expect("always set");
    assert_eq!((told.holders.len(), told.count), (200, WORKERS));
    assert!(told.truncated);
}
