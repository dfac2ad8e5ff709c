use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::broker::{Answer, Broker, LIFE, Sent, number, number_of, pass, refusal, settle};
use crate::{
    client::{Client, Error, Origin, TokenOptions, Watch},
    pb::v1::{ErrorReason, Resource},
};

fn watch(client: &Client) -> Watch {
    client.watch("contoso", Resource::Graph, TokenOptions::default())
}

async fn next(watch: &mut Watch) -> Result<u32, Error> {
    let next = watch.next().await.expect("the watch goes on");
    next.map(|token| number_of(&token.fingerprint))
}

/// As the broker ends a stream.
fn refused(code: Code, reason: ErrorReason, retry: Option<Duration>) -> Sent {
    let Answer::Refusal(status) = refusal(code, reason, retry) else {
        panic!("it is a refusal")
    };
    Err(status)
}

fn shutting_down() -> Sent {
    let soon = Some(Duration::from_secs(5));
    refused(Code::Unavailable, ErrorReason::ShuttingDown, soon)
}

#[tokio::test(start_paused = true)]
async fn tokens_come_one_after_the_other_and_are_there_for_others() {
    let (broker, client) = Broker::start().await;
    let mut watch = watch(&client);
    let serve = async {
        let stream = broker.stream().await;
        stream.send(broker.sent(7)).await.expect("open");
        stream
    };
    let (first, stream) = tokio::join!(next(&mut watch), serve);
    assert_eq!(first.expect("a token"), 7);
    assert_eq!(number(&client).await, 7);
    pass(LIFE - Duration::from_secs(600)).await;
    stream.send(broker.sent(8)).await.expect("open");
    assert_eq!(next(&mut watch).await.expect("a token"), 8);
    assert_eq!(number(&client).await, 8);
    assert_eq!(broker.asked(), 0);
    assert!(!format!("{watch:?}").contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stops_or_is_cut_off_is_asked_again_and_repeats_nothing() {
    let (broker, client) = Broker::start().await;
    let mut watch = watch(&client);
    let serve = async {
        for ending in [Some(shutting_down()), None] {
            let stream = broker.stream().await;
            stream.send(broker.sent(1)).await.expect("open");
            if let Some(ending) = ending {
                stream.send(ending).await.expect("open");
            }
        }
        let stream = broker.stream().await;
        stream.send(broker.sent(1)).await.expect("open");
        settle().await;
        broker.down().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        broker.up();
        let stream = broker.stream().await;
        stream.send(broker.sent(1)).await.expect("open");
        stream.send(broker.sent(2)).await.expect("open");
        stream
    };
    let wait = async { (next(&mut watch).await, next(&mut watch).await) };
    let ((first, second), _stream) = tokio::join!(wait, serve);
    assert_eq!(first.expect("a token"), 1);
    assert_eq!(second.expect("a token"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_final_refusal_ends_it_and_takes_the_token_back() {
    let (broker, client) = Broker::start().await;
    let mut watch = watch(&client);
    let revoked = ErrorReason::OrganizationRevoked;
    let serve = async {
        let stream = broker.stream().await;
        stream.send(broker.sent(1)).await.expect("open");
        let ending = refused(Code::FailedPrecondition, revoked, None);
        stream.send(ending).await.expect("open");
    };
    let wait = async { (next(&mut watch).await, next(&mut watch).await) };
    let ((first, second), ()) = tokio::join!(wait, serve);
    assert_eq!(first.expect("a token"), 1);
    assert_eq!(second.expect_err("revoked").reason(), Some(revoked));
    assert!(watch.next().await.is_none());
    assert!(watch.current().is_none());
    assert_eq!(broker.asked(), 0);
    number(&client).await;
    assert_eq!(broker.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_to_open_ends_it() {
    let (broker, client) = Broker::start().await;
    let denied = ErrorReason::CallerNotAuthorized;
    broker.answers([refusal(Code::PermissionDenied, denied, None)]);
    let mut watch = watch(&client);
    let error = next(&mut watch).await.expect_err("refused");
    assert_eq!(error.reason(), Some(denied));
    assert!(watch.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stays_away_is_borne_with_as_long_as_the_token_lives() {
    let (broker, client) = Broker::start().await;
    let mut watch = watch(&client);
    let serve = async {
        let stream = broker.stream().await;
        stream.send(broker.sent(1)).await.expect("open");
    };
    let (first, ()) = tokio::join!(next(&mut watch), serve);
    let start = Instant::now();
    assert_eq!(first.expect("a token"), 1);
    broker.down().await;
    let error = next(&mut watch).await.expect_err("the token has ended");
    assert_eq!(error.origin(), Origin::Connection);
    let waited = start.elapsed();
    assert!(LIFE - Duration::from_secs(1) <= waited, "{waited:?}");
    assert!(waited < LIFE + Duration::from_secs(60), "{waited:?}");
    // Not in a rush.
    assert!(broker.connections() < 1000, "{}", broker.connections());
    assert!(watch.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_hangs_is_opened_again_when_the_token_has_ended() {
    let (broker, client) = Broker::start().await;
    let mut watch = watch(&client);
    let serve = async {
        let silent = broker.stream().await;
        let stream = broker.stream().await;
        stream.send(broker.sent(1)).await.expect("open");
        let third = broker.stream().await;
        third.send(broker.sent(2)).await.expect("open");
        (silent, stream, third)
    };
    let wait = async { (next(&mut watch).await, next(&mut watch).await) };
    let ((first, second), _streams) = tokio::join!(wait, serve);
    assert_eq!(first.expect("a token"), 1);
    assert_eq!(second.expect("a token"), 2);
}

#[tokio::test(start_paused = true)]
async fn to_leave_the_wait_loses_nothing() {
    let (broker, client) = Broker::start().await;
    let mut watch = watch(&client);
    let serve = async {
        let stream = broker.stream().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        stream.send(broker.sent(1)).await.expect("open");
        stream
    };
    let wait = async {
        loop {
            let short = Duration::from_millis(10);
            if let Ok(next) = tokio::time::timeout(short, next(&mut watch)).await {
                return next;
            }
        }
    };
    let (first, _stream) = tokio::join!(wait, serve);
    assert_eq!(first.expect("a token"), 1);
}
