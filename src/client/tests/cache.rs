//! Tokens in memory: how long they are kept, and what is given when.

use std::time::Duration;

use tonic::Code;

use super::broker::{Answer, Broker, LIFE, number, number_of, pass, refusal, settle};
use crate::{
    client::TokenOptions,
    pb::v1::{ErrorReason, Purpose, Resource},
};

const MINUTE: Duration = Duration::from_secs(60);

fn at_least(min_remaining: Duration) -> TokenOptions {
    TokenOptions {
        min_remaining: Some(min_remaining),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_for_once_and_then_kept() {
    let (broker, client) = Broker::start().await;
    for _ in 0..3 {
        assert_eq!(number(&client).await, 1);
    }
    assert_eq!(broker.asked(), 1);
    let token = client.token("contoso", Resource::Graph, TokenOptions::default());
    let token = token.await.expect("a token");
    assert_eq!(
        (token.organization_id(), token.resource()),
        ("contoso", Resource::Graph)
    );
    // Less the second that the header may be late by.
    assert_eq!(token.remaining(), LIFE - Duration::from_secs(1));
    assert!(!format!("{client:?} {token:?}").contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn tokens_differ_by_organization_resource_and_host() {
    let (broker, client) = Broker::start().await;
    broker.answers((1..).take(4).map(Answer::Token));
    let host = TokenOptions {
        sharepoint_host: Some("contoso-my.sharepoint.com".into()),
        ..Default::default()
    };
    for _ in 0..2 {
        for (expected, organization, resource, options) in [
            (1, "contoso", Resource::Graph, TokenOptions::default()),
            (2, "fabrikam", Resource::Graph, TokenOptions::default()),
            (3, "contoso", Resource::Sharepoint, TokenOptions::default()),
            (4, "contoso", Resource::Sharepoint, host.clone()),
        ] {
            let token = client.token(organization, resource, options).await;
            assert_eq!(number_of(&token.expect("a token").fingerprint), expected);
        }
    }
    assert_eq!(broker.asked(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_due_is_replaced_while_nobody_waits() {
    let (broker, client) = Broker::start().await;
    broker.answers([Answer::Token(1), Answer::Token(2)]);
    assert_eq!(number(&client).await, 1);
    pass(LIFE / 2).await;
    broker.shut();
    for _ in 0..5 {
        assert_eq!(number(&client).await, 1);
        settle().await;
    }
    assert_eq!(broker.asked(), 2);
    broker.open();
    settle().await;
    assert_eq!(number(&client).await, 2);
    assert_eq!(broker.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_for_a_token_with_the_life_it_needs() {
    let (broker, client) = Broker::start().await;
    broker.answers([Answer::Living(1, 20 * MINUTE), Answer::Token(2)]);
    assert_eq!(number(&client).await, 1);
    let token = client.token("contoso", Resource::Graph, at_least(30 * MINUTE));
    assert_eq!(number_of(&token.await.expect("a token").fingerprint), 2);
    let asked = broker.requests.lock().expect("no panic")[1].clone();
    assert_eq!(asked.min_remaining.map(|life| life.seconds), Some(1800));
    assert_eq!(asked.purpose, i32::from(Purpose::Unspecified));
}

#[tokio::test(start_paused = true)]
async fn the_longest_life_there_is_is_not_asked_for_again_and_again() {
    let (broker, client) = Broker::start().await;
    for _ in 0..10 {
        let token = client.token("contoso", Resource::Graph, at_least(24 * LIFE));
        assert!(token.await.is_ok());
    }
    assert_eq!(broker.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_is_served_while_the_broker_is_gone_and_an_ended_one_never() {
    let (broker, client) = Broker::start().await;
    assert_eq!(number(&client).await, 1);
    broker.down().await;
    pass(LIFE - 3 * MINUTE).await;
    // Within the margin a call waits as long as it may, and the next ones not at all.
    assert_eq!(number(&client).await, 1);
    let before = tokio::time::Instant::now();
    assert_eq!(number(&client).await, 1);
    assert_eq!(before.elapsed(), Duration::ZERO);
    pass(3 * MINUTE).await;
    let ended = client.token("contoso", Resource::Graph, TokenOptions::default());
    assert!(ended.await.is_err());
    broker.up();
    broker.answers([Answer::Token(2)]);
    assert_eq!(number(&client).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ends_while_the_broker_hangs_is_not_served() {
    let (broker, client) = Broker::start().await;
    assert_eq!(number(&client).await, 1);
    pass(LIFE - 30 * Duration::from_secs(1)).await;
    broker.shut();
    let ended = client.token("contoso", Resource::Graph, TokenOptions::default());
    let error = ended.await.expect_err("no answer");
    assert_eq!(error.code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_token_is_forgotten_at_once() {
    for reason in [
        ErrorReason::OrganizationRevoked,
        ErrorReason::OrganizationSuspended,
        ErrorReason::CallerNotAuthorized,
    ] {
        let (broker, client) = Broker::start().await;
        assert_eq!(number(&client).await, 1);
        pass(LIFE / 2).await;
        broker.answers([refusal(Code::FailedPrecondition, reason, None)]);
        // This one starts the refresh.
        assert_eq!(number(&client).await, 1);
        settle().await;
        let refused = client.token("contoso", Resource::Graph, TokenOptions::default());
        assert_eq!(refused.await.expect_err("withdrawn").reason(), Some(reason));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_credential_is_told_when_the_margin_is_reached() {
    let (broker, client) = Broker::start().await;
    assert_eq!(number(&client).await, 1);
    let expired = ErrorReason::CredentialExpired;
    broker.answers([refusal(Code::FailedPrecondition, expired, None)]);
    pass(LIFE / 2).await;
    for _ in 0..20 {
        assert_eq!(number(&client).await, 1);
        pass(MINUTE).await;
    }
    // Not at every call.
    assert!((2..=21).contains(&broker.asked()), "{}", broker.asked());
    pass(6 * MINUTE).await;
    for _ in 0..3 {
        let refused = client.token("contoso", Resource::Graph, TokenOptions::default());
        assert_eq!(refused.await.expect_err("rejected").reason(), Some(expired));
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_tokens_are_held_than_may_be() {
    let (broker, client) = Broker::with_capacity(50).await;
    for index in 0..500 {
        let id = format!("org-{index}");
        let token = client.token(&id, Resource::Graph, TokenOptions::default());
        assert!(token.await.is_ok());
        assert!(client.shared.slots().count() <= 50);
    }
    // Those that were asked for last are there.
    let asked = broker.asked();
    let token = client.token("org-499", Resource::Graph, TokenOptions::default());
    assert!(token.await.is_ok());
    assert_eq!(broker.asked(), asked);
}
