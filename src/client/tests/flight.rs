//! Who shares a call with whom.

use std::time::Duration;

use tokio::task::JoinSet;
use tonic::Code;

use super::broker::{Answer, Broker, number, number_of, refusal, settle};
use crate::{
    client::TokenOptions,
    pb::v1::{ErrorReason, Purpose, Resource},
};

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_share_one_call() {
    let (broker, client) = Broker::start().await;
    broker.shut();
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let client = client.clone();
        callers.spawn(async move { number(&client).await });
    }
    settle().await;
    broker.open();
    while let Some(number) = callers.join_next().await {
        assert_eq!(number.expect("no panic"), 1);
    }
    assert_eq!(broker.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_and_not_kept() {
    let (broker, client) = Broker::start().await;
    let refused = refusal(
        Code::FailedPrecondition,
        ErrorReason::CredentialExpired,
        None,
    );
    broker.answers([refused, Answer::Token(2)]);
    broker.shut();
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        let client = client.clone();
        callers.spawn(async move {
            let token = client.token("contoso", Resource::Graph, TokenOptions::default());
            token.await.expect_err("refused").reason()
        });
    }
    settle().await;
    broker.open();
    while let Some(reason) = callers.join_next().await {
        assert_eq!(
            reason.expect("no panic"),
            Some(ErrorReason::CredentialExpired)
        );
    }
    assert_eq!(broker.asked(), 1);
    assert_eq!(number(&client).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_takes_nobodys_answer_away() {
    let (broker, client) = Broker::start().await;
    broker.shut();
    let mut first = JoinSet::new();
    let leaving = client.clone();
    first.spawn(async move { number(&leaving).await });
    settle().await;
    let mut second = JoinSet::new();
    let staying = client.clone();
    second.spawn(async move { number(&staying).await });
    settle().await;
    first.shutdown().await;
    broker.open();
    assert_eq!(second.join_next().await.expect("one").expect("no panic"), 1);
    assert_eq!(broker.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_caller_waits_as_long_as_it_says() {
    let (broker, client) = Broker::start().await;
    broker.shut();
    let waiting = |seconds| {
        let client = client.clone();
        let options = TokenOptions {
            timeout: Some(Duration::from_secs(seconds)),
            ..Default::default()
        };
        async move {
            let start = tokio::time::Instant::now();
            let token = client.token("contoso", Resource::Graph, options).await;
            (
                start.elapsed().as_secs(),
                token.map_err(|error| error.code()).map(|_| ()),
            )
        }
    };
    let open = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        broker.open();
    };
    let (short, long, ()) = tokio::join!(waiting(5), waiting(50), open);
    assert_eq!(short, (5, Err(Code::DeadlineExceeded)));
    assert_eq!(long, (30, Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_job_does_not_wait_for_what_another_job_asked() {
    let (broker, client) = Broker::start().await;
    broker.answers([Answer::Token(1), Answer::Token(2)]);
    broker.shut();
    let mut callers = JoinSet::new();
    for job in ["nightly-7", "nightly-8", "nightly-8"] {
        let client = client.clone();
        let options = TokenOptions {
            job_id: Some(job.to_owned()),
            ..Default::default()
        };
        callers.spawn(async move { client.token("contoso", Resource::Graph, options).await });
        settle().await;
    }
    let asked = broker.requests.lock().expect("no panic").clone();
    let jobs: Vec<_> = asked.into_iter().map(|request| request.job_id).collect();
    assert_eq!(jobs, ["nightly-7", "nightly-8"]);
    broker.open();
    for got in callers.join_all().await {
        got.expect("a token");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_does_not_wait_for_what_a_backup_asked() {
    let (broker, client) = Broker::start().await;
    broker.answers([Answer::Token(1), Answer::Token(2)]);
    broker.shut();
    let mut callers = JoinSet::new();
    for purpose in [
        Purpose::Backup,
        Purpose::Restore,
        Purpose::Backup,
        Purpose::Restore,
    ] {
        let client = client.clone();
        let options = TokenOptions {
            purpose,
            ..Default::default()
        };
        callers.spawn(async move {
            let token = client.token("contoso", Resource::Graph, options).await;
            number_of(&token.expect("a token").fingerprint)
        });
        settle().await;
    }
    let asked = broker.requests.lock().expect("no panic").clone();
    let purposes: Vec<_> = asked.iter().map(|request| request.purpose()).collect();
    assert_eq!(purposes, [Purpose::Backup, Purpose::Restore]);
    broker.open();
    let mut numbers = Vec::new();
    while let Some(number) = callers.join_next().await {
        numbers.push(number.expect("no panic"));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 2, 2]);
}
