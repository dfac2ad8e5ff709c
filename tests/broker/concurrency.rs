//! Many callers at once, callers that leave, and an end under load.

use std::collections::HashSet;

use kodo_broker::{
    pb::v1::{ErrorReason, Resource},
    simulator::directory::Standing,
};
use tokio::{task::JoinSet, time::Instant};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{CONTOSO, Fixture, SECRET, Setup, assert_refused, request, token};

#[tokio::test]
async fn a_thousand_cold_callers_cost_one_request() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let count = fixture.simulator.request_count();
    let connections: Vec<_> = (0..8).map(|_| fixture.worker()).collect();
    let held = fixture.hold(CONTOSO);
    let mut callers = JoinSet::new();
    for number in 0..1000 {
        let worker = connections[number % connections.len()].clone();
        callers.spawn(async move { token(&worker, "contoso", Resource::Exchange).await });
    }
    held.arrived(1).await;
    held.release();
    let mut fingerprints = Vec::new();
    while let Some(called) = callers.join_next().await {
        let token = called.expect("no panic").expect("a token");
        fingerprints.push(token.fingerprint);
    }
    assert_eq!(fingerprints.len(), 1000);
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 1);
    assert_eq!(fixture.simulator.request_count(), count + 1);
}

#[tokio::test]
async fn as_many_calls_wait_as_may_and_a_token_in_memory_is_had_all_the_same() {
    let setup = Setup::new().server("limits = { waiting_calls_max = 2 }");
    let fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let graph = token(&worker, "contoso", Resource::Graph).await;
    graph.expect("a token");
    let held = fixture.hold(CONTOSO);
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        let worker = worker.clone();
        callers.spawn(async move { token(&worker, "contoso", Resource::Exchange).await });
    }
    let first = callers.join_next().await.expect("three");
    assert_refused(
        first.expect("no panic"),
        Code::ResourceExhausted,
        ErrorReason::LimitReached,
    );
    let graph = token(&worker, "contoso", Resource::Graph).await;
    graph.expect("it is in memory");
    held.release();
    for called in callers.join_all().await {
        called.expect("it has waited");
    }
    let exchange = token(&worker, "contoso", Resource::Exchange).await;
    exchange.expect("the places are free again");
}

#[tokio::test]
async fn callers_who_wait_for_one_request_share_its_failure() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    // Final, unlike a wrong secret, which may have to spread.
    fixture.change(CONTOSO, |application| {
        application.standing = Standing::Disabled;
    });
    let count = fixture.simulator.request_count();
    let worker = fixture.worker();
    let held = fixture.hold(CONTOSO);
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let worker = worker.clone();
        callers.spawn(async move { token(&worker, "contoso", Resource::Exchange).await });
    }
    held.arrived(1).await;
    // Calls of one connection are taken up in their order: once this one is answered, all wait.
    token(&worker, "unknown", Resource::Exchange)
        .await
        .expect_err("unknown");
    held.release();
    let outcomes = callers.join_all().await.into_iter();
    let traces: HashSet<_> = outcomes
        .map(|outcome| {
            let status = outcome.expect_err("it is disabled");
            let info = status.get_details_error_info().expect("every error has it");
            info.metadata["traceId"].clone()
        })
        .collect();
    assert_eq!(traces.len(), 1, "all are of one answer");
    assert_eq!(fixture.simulator.request_count(), count + 1);
}

#[tokio::test]
async fn a_caller_who_leaves_takes_nothing_along() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let count = fixture.simulator.request_count();
    let worker = fixture.worker();
    let held = fixture.hold(CONTOSO);
    tokio::select! {
        _ = token(&worker, "contoso", Resource::Exchange) => panic!("the answer is held back"),
        () = held.arrived(1) => {}
    }
    held.release();
    let next = token(&worker, "contoso", Resource::Exchange).await;
    next.expect("a token");
    assert_eq!(fixture.simulator.request_count(), count + 1);
}

#[tokio::test]
async fn calls_under_way_finish_when_the_broker_stops() {
    let mut fixture = Fixture::start().await;
    const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    const COLD: [Resource; 3] = [
        Resource::Exchange,
        Resource::Sharepoint,
        Resource::AzureAdGraph,
    ];
    // Tenants of their own, since each may have only so many requests under way.
    let mut held = Vec::new();
    for id in IDS {
        let application = fixture.add_tenant(id);
        fixture
            .register(id, application, request::certificate())
            .await;
        held.push(fixture.hold(application));
    }
    let worker = fixture.worker();
    let mut callers = JoinSet::new();
    for (id, resource) in IDS
        .into_iter()
        .flat_map(|id| COLD.map(|resource| (id, resource)))
    {
        let worker = worker.clone();
        callers.spawn(async move { token(&worker, id, resource).await });
    }
    // Each is a request of its own, so that all of them have been accepted.
    for held in &held {
        held.arrived(COLD.len()).await;
    }
    let stopping = fixture.take_broker().stop();
    // Polled in this order: the broker is stopping before the answers come.
    let (stopped, ()) = tokio::join!(stopping, async { drop(held) });
    stopped.expect("nothing had ended by itself");
    for outcome in callers.join_all().await {
        outcome.expect("an accepted call is answered");
    }
    token(&worker, "a", Resource::Graph)
        .await
        .expect_err("nobody serves any more");
}

#[tokio::test]
async fn a_call_that_does_not_finish_does_not_keep_the_broker() {
    let setup = Setup::new().config("[server.limits]\ndrain_seconds = 1");
    let mut fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let held = fixture.hold(CONTOSO);
    let stopping = async {
        held.arrived(1).await;
        let began = Instant::now();
        fixture.stop_broker().await;
        began.elapsed()
    };
    let (outcome, took) = tokio::join!(token(&worker, "contoso", Resource::Exchange), stopping);
    outcome.expect_err("it is cut off");
    assert!((1..10).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn what_was_registered_is_served_after_a_restart() {
    let mut fixture = Setup::new().sled().start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    let before = fixture.organization("contoso").await;
    for _ in 0..3 {
        fixture.restart().await;
        assert_eq!(fixture.organization("contoso").await, before);
        let served = token(&fixture.worker(), "contoso", Resource::Sharepoint).await;
        served.expect("a token");
    }
}
