use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use super::broker::{Answer, Broker, number, refusal};
use crate::{
    client::{Error, Origin, TokenOptions},
    pb::v1::{ErrorReason, Resource},
};

const THROTTLED: ErrorReason = ErrorReason::IdpThrottled;

async fn failed(client: &crate::client::Client, seconds: u64) -> Error {
    let options = TokenOptions {
        timeout: Some(Duration::from_secs(seconds)),
        ..Default::default()
    };
    let token = client.token("contoso", Resource::Graph, options).await;
    token.expect_err("no token")
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_says_to_wait_is_waited_and_a_little_more() {
    let (broker, client) = Broker::start().await;
    let wait = Duration::from_secs(7);
    let throttled = refusal(Code::ResourceExhausted, THROTTLED, Some(wait));
    broker.answers([throttled, Answer::Token(2)]);
    let start = Instant::now();
    assert_eq!(number(&client).await, 2);
    let waited = start.elapsed();
    assert!(wait < waited && waited < wait + wait / 4, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_comes_after_the_deadline() {
    let (broker, client) = Broker::start().await;
    let wait = Some(Duration::from_secs(7));
    broker.answers([refusal(Code::ResourceExhausted, THROTTLED, wait)]);
    let start = Instant::now();
    assert_eq!(failed(&client, 6).await.reason(), Some(THROTTLED));
    assert_eq!((start.elapsed(), broker.asked()), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn what_waiting_does_not_mend_is_not_tried_again() {
    let (broker, client) = Broker::start().await;
    let expired = ErrorReason::CredentialExpired;
    broker.answers([refusal(Code::FailedPrecondition, expired, None)]);
    assert_eq!(failed(&client, 60).await.reason(), Some(expired));
    assert_eq!(broker.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded() {
    let (broker, client) = Broker::start().await;
    let now = Some(Duration::ZERO);
    broker.answers([refusal(Code::ResourceExhausted, THROTTLED, now)]);
    failed(&client, 3600).await;
    assert_eq!(broker.asked(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_restarts_costs_nobody_a_call() {
    let (broker, client) = Broker::start().await;
    broker.shut();
    let restart = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.down().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        broker.open();
        broker.up();
    };
    let (number, ()) = tokio::join!(number(&client), restart);
    assert_eq!((number, broker.asked()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_gone_is_told_in_time() {
    let (broker, client) = Broker::start().await;
    broker.down().await;
    let start = Instant::now();
    assert_eq!(failed(&client, 5).await.origin(), Origin::Connection);
    assert!(start.elapsed() <= Duration::from_secs(5));
    assert_eq!(failed(&client, 3600).await.origin(), Origin::Connection);
    assert!(start.elapsed() < Duration::from_secs(120));
    assert!(broker.connections() < 25, "{}", broker.connections());
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_cannot_reach_the_broker_is_a_lost_connection() {
    let (broker, client) = Broker::start().await;
    let proxy = Status::unavailable("upstream connect error");
    broker.answers([Answer::Refusal(proxy), Answer::Token(2)]);
    assert_eq!(number(&client).await, 2);
}
