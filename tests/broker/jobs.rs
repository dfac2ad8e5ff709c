//! Job grants: a worker of which the policy wants a job reaches no organization without one.

use kodo_broker::pb::{
    admin::v1::{self as admin, job_grant_service_client::JobGrantServiceClient},
    v1::{ErrorReason, Purpose, Resource},
};
use tonic::{Code, transport::Channel};

use crate::support::{CONTOSO, Fixture, SECRET, Setup, assert_refused, pki, request, token};

const POLICY: &str = r#"
    [[grant]]
    callers = ["spiffe://kodo.test/admin"]
    actions = ["register"]
    organizations = ["*"]
    [[grant]]
    callers = ["spiffe://kodo.test/scheduler"]
    actions = ["manage_jobs"]
    organizations = ["eu-*"]
    [[grant]]
    callers = ["spiffe://kodo.test/worker/*"]
    actions = ["get_token"]
    organizations = ["*"]
    resources = ["graph", "exchange"]
    job_grant = "required"
"#;
const DENIED: (Code, ErrorReason) = (Code::PermissionDenied, ErrorReason::CallerNotAuthorized);
const UNKNOWN: (Code, ErrorReason) = (Code::NotFound, ErrorReason::OrganizationNotFound);

async fn fixture() -> Fixture {
    let setup = Setup::new().policy(POLICY.into()).sled();
    let fixture = setup
        .config("[audit]\nfile = \"{folder}/audit.log\"\n")
        .start()
        .await;
    for id in ["eu-one", "eu-two", "us-one"] {
        fixture.register(id, CONTOSO, request::secret(SECRET)).await;
    }
    fixture
}

fn scheduler(fixture: &Fixture) -> JobGrantServiceClient<Channel> {
    JobGrantServiceClient::new(fixture.connect(Some(&pki::caller("scheduler"))))
}

async fn create(fixture: &Fixture, request: admin::CreateJobGrantRequest) -> admin::JobGrant {
    let answer = scheduler(fixture).create_job_grant(request).await;
    let grant = answer.expect("is taken down").into_inner().job_grant;
    grant.expect("the answer has it")
}

#[tokio::test]
async fn a_worker_reaches_only_organizations_that_a_job_runs_for_also_after_a_restart() {
    let mut fixture = fixture().await;
    let worker = fixture.tokens("worker/1");
    // Whether there is such an organization or not.
    for id in ["eu-one", "eu-two", "us-one", "unknown"] {
        let refused = token(&worker, id, Resource::Graph).await;
        let refused = assert_refused(refused, DENIED.0, DENIED.1);
        assert!(refused.message().contains("job grant"), "{refused:?}");
    }
    let grant = create(&fixture, request::job("eu-one", "job-1", "worker/*")).await;
    assert_eq!(
        (grant.job_id.as_str(), grant.job_grant_id.len()),
        ("job-1", 32)
    );
    for restarted in [false, true] {
        if restarted {
            fixture.restart().await;
        }
        let mut worker = fixture.tokens("worker/1");
        token(&worker, "eu-one", Resource::Graph)
            .await
            .expect("a job runs");
        for (id, resource) in [("eu-two", Resource::Graph), ("eu-one", Resource::Exchange)] {
            assert_refused(token(&worker, id, resource).await, DENIED.0, DENIED.1);
        }
        let mut restore = request::token("eu-one", Resource::Graph);
        restore.purpose = Purpose::Restore.into();
        assert_refused(worker.get_token(restore).await, DENIED.0, DENIED.1);
        for (job_id, allowed) in [("job-1", true), ("job-2", false)] {
            let mut request = request::token("eu-one", Resource::Graph);
            request.job_id = job_id.into();
            assert_eq!(worker.get_token(request).await.is_ok(), allowed, "{job_id}");
        }
    }
    let revoke = admin::RevokeJobGrantRequest {
        organization_id: "eu-one".into(),
        job_grant_id: grant.job_grant_id,
    };
    for ran in [true, false] {
        let answer = scheduler(&fixture).revoke_job_grant(revoke.clone()).await;
        assert_eq!(answer.expect("ends").into_inner().ran, ran);
        // Also the token that is in memory.
        let refused = token(&fixture.tokens("worker/1"), "eu-one", Resource::Graph).await;
        assert_refused(refused, DENIED.0, DENIED.1);
    }
    let audit = std::fs::read_to_string(fixture.path("audit.log")).expect("an audit log");
    for (rpc, job, outcome) in [
        ("CreateJobGrant", "job-1", "OK"),
        ("GetToken", "job-1", "OK"),
        ("GetToken", "job-2", "CALLER_NOT_AUTHORIZED"),
        ("RevokeJobGrant", "job-1", "OK"),
    ] {
        let words = [
            format!("\"rpc\":\"{rpc}\""),
            format!("\"job_id\":\"{job}\""),
            format!("\"outcome\":\"{outcome}\""),
        ];
        let mut lines = audit.lines();
        assert!(
            lines.any(|line| words.iter().all(|word| line.contains(word))),
            "{words:?}"
        );
    }
}

#[tokio::test]
async fn jobs_are_told_of_once_and_only_by_whoever_may() {
    let fixture = fixture().await;
    let request = request::job("eu-one", "job-1", "worker/1");
    let grant = create(&fixture, request.clone()).await;
    assert_eq!(create(&fixture, request.clone()).await, grant);
    let mut reused = request;
    reused.job_id = "job-2".into();
    let reused = scheduler(&fixture).create_job_grant(reused).await;
    assert_refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
    let list = admin::ListJobGrantsRequest {
        organization_id: "eu-one".into(),
    };
    let listed = scheduler(&fixture).list_job_grants(list.clone()).await;
    assert_eq!(listed.expect("lists").into_inner().job_grants, [grant]);
    // Not the scheduler's, and one that does not exist.
    for id in ["us-one", "us-none", "eu-none"] {
        let job = request::job(id, "j", "worker/1");
        let refused = scheduler(&fixture).create_job_grant(job).await;
        assert_refused(refused, UNKNOWN.0, UNKNOWN.1);
    }
    let worker = fixture.connect(Some(&pki::caller("worker/1")));
    let mut worker = JobGrantServiceClient::new(worker);
    let job = request::job("eu-one", "job-3", "worker/1");
    assert_refused(worker.create_job_grant(job).await, DENIED.0, DENIED.1);
    assert_refused(worker.list_job_grants(list).await, DENIED.0, DENIED.1);
    // As many as there may be.
    for number in 1..64 {
        create(
            &fixture,
            request::job("eu-one", &format!("job-{number}"), "worker/1"),
        )
        .await;
    }
    let more = request::job("eu-one", "more", "worker/1");
    let more = scheduler(&fixture).create_job_grant(more).await;
    assert_refused(more, Code::ResourceExhausted, ErrorReason::LimitReached);
}
