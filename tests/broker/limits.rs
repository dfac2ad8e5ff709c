//! What one caller may take, whatever it is granted: so that none takes what is there for others.

use std::time::Duration;

use kodo_broker::pb::v1::{ErrorReason, Resource};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{CONTOSO, Fixture, SECRET, Setup, assert_refused, request, token};

const REACHED: (Code, ErrorReason) = (Code::ResourceExhausted, ErrorReason::LimitReached);

/// Workers of different limits.
fn policy() -> String {
    r#"
        [limits]
        calls_per_second = 5
        [[caller_limits]]
        callers = ["spiffe://kodo.test/admin"]
        calls_per_second = 100000
        [[caller_limits]]
        callers = ["spiffe://kodo.test/worker/streams"]
        calls_per_second = 1000
        calls_under_way = 2
        [[caller_limits]]
        callers = ["spiffe://kodo.test/worker/walker"]
        calls_per_second = 1000
        organizations_per_hour = 20
        [[grant]]
        callers = ["spiffe://kodo.test/admin"]
        actions = ["register", "get"]
        organizations = ["*"]
        [[grant]]
        callers = ["spiffe://kodo.test/worker/*"]
        actions = ["get_token"]
        organizations = ["*"]
        resources = ["graph"]
    "#
    .to_owned()
}

async fn fixture() -> Fixture {
    let setup = Setup::new().policy(policy());
    let audit = "[audit]\nfile = \"{folder}/audit.log\"\n";
    let fixture = setup.config(audit).start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    fixture
}

#[tokio::test]
async fn a_caller_over_its_rate_is_told_when_to_call_again_and_others_are_served() {
    let fixture = fixture().await;
    // Two connections of one caller: what they take counts together.
    let flood = [
        fixture.tokens("worker/flood"),
        fixture.tokens("worker/flood"),
    ];
    let (mut served, mut refused) = (0, 0);
    for at in 0..200 {
        match token(&flood[at % 2], "contoso", Resource::Graph).await {
            Ok(_) => served += 1,
            Err(status) => {
                let status = assert_refused::<()>(Err(status), REACHED.0, REACHED.1);
                let info = status.get_details_retry_info().expect("it says when");
                let wait = info.retry_delay.expect("it says when");
                assert!(wait <= Duration::from_millis(200), "{wait:?}");
                refused += 1;
            }
        }
    }
    assert!(
        served >= 5 && refused >= 100,
        "{served} served, {refused} refused"
    );
    let other = fixture.tokens("worker/other");
    token(&other, "contoso", Resource::Graph)
        .await
        .expect("is served");
    // Not a line for each.
    let audit = std::fs::read_to_string(fixture.path("audit.log")).expect("an audit log");
    let lines = audit
        .lines()
        .filter(|line| line.contains("LIMIT_REACHED"))
        .count();
    assert!(
        (1..refused / 4).contains(&lines),
        "{lines} lines of {refused}"
    );
}

#[tokio::test]
async fn streams_of_a_caller_take_its_places_and_give_them_back() {
    let fixture = fixture().await;
    let mut worker = fixture.tokens("worker/streams");
    let mut open = Vec::new();
    for _ in 0..2 {
        let watch = request::watch("contoso", Resource::Graph);
        let mut stream = worker
            .watch_token(watch)
            .await
            .expect("begins")
            .into_inner();
        stream.message().await.expect("a token");
        open.push(stream);
    }
    let third = worker
        .watch_token(request::watch("contoso", Resource::Graph))
        .await;
    assert_refused(third, REACHED.0, REACHED.1);
    // A token that is there takes no place.
    token(&worker, "contoso", Resource::Graph)
        .await
        .expect("is served");
    open.pop();
    loop {
        let watch = request::watch("contoso", Resource::Graph);
        match worker.watch_token(watch).await {
            Ok(_) => break,
            Err(status) => {
                assert_refused::<()>(Err(status), REACHED.0, REACHED.1);
                // The broker learns of the end of a stream a moment later.
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn a_caller_who_walks_many_organizations_raises_one_alarm_and_is_answered() {
    let setup = Setup::new().policy(policy());
    let fixture = setup
        .server("metrics_listen = \"127.0.0.1:0\"")
        .start()
        .await;
    let worker = fixture.tokens("worker/walker");
    let has_alarms = async |count: u32| {
        let figures = fixture.ask_metrics("GET /metrics").await;
        let line = format!("kodo_broker_organization_walks_total {count}\n");
        assert!(figures.contains(&line), "{figures}");
    };
    for number in 0..20 {
        let unknown = token(&worker, &format!("organization-{number}"), Resource::Graph).await;
        assert_refused(unknown, Code::NotFound, ErrorReason::OrganizationNotFound);
    }
    has_alarms(0).await;
    for number in 0..60 {
        let unknown = token(&worker, &format!("organization-{number}"), Resource::Graph).await;
        assert_refused(unknown, Code::NotFound, ErrorReason::OrganizationNotFound);
    }
    has_alarms(1).await;
}
