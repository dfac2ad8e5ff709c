//! When a token is used again, when it is renewed, and when it is handed out no more.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_token_is_used_until_the_margin_and_renewed_after() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let first = fixture.get("contoso").await.expect("a token");
    advance(LIFE - MARGIN).await;
    let last = fixture.get("contoso").await.expect("a token");
    assert_eq!(first.fingerprint, last.fingerprint, "to the last second");
    assert_eq!(fixture.entra.calls(), 1);
    advance(Duration::from_millis(1)).await;
    let renewed = fixture.get("contoso").await.expect("a token");
    assert_ne!(first.fingerprint, renewed.fingerprint);
    assert_eq!(fixture.entra.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_in_the_background_before_anybody_has_to_wait() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture
        .entra
        .will(&[Answer::Early(LIFE), Answer::Unreachable]);
    let first = fixture.get("contoso").await.expect("a token");
    advance(LIFE / 2).await;
    // The first attempt fails, which nobody notices, and is not repeated at once.
    for _ in 0..10 {
        let served = fixture.get("contoso").await.expect("a token");
        assert_eq!(first.fingerprint, served.fingerprint);
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.entra.calls(), 2);
    advance(Duration::from_secs(61)).await;
    let served = fixture.get("contoso").await.expect("a token");
    assert_eq!(first.fingerprint, served.fingerprint);
    while fixture.entra.calls() < 3 {
        tokio::task::yield_now().await;
    }
    let renewed = fixture.get("contoso").await.expect("a token");
    assert_ne!(first.fingerprint, renewed.fingerprint);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_needs_more_life_than_is_left_gets_a_new_token() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let first = fixture.get("contoso").await.expect("a token");
    advance(LIFE / 4).await;
    let needed = LIFE / 4 * 3 + Duration::from_secs(1);
    let renewed = fixture
        .cache
        .token(&graph("contoso"), needed, Lane::Caller)
        .await;
    let renewed = renewed.expect("a token");
    assert_ne!(first.fingerprint, renewed.fingerprint);
    assert!(renewed.expires_at - Instant::now() >= needed);
    // The new one is everybody's.
    let shared = fixture.get("contoso").await.expect("a token");
    assert_eq!(shared.fingerprint, renewed.fingerprint);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_needs_more_life_than_entra_gives_does_not_cause_a_request_each() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let day = Duration::from_secs(24 * 3600);
    // Every ten seconds for two lives.
    for _ in 0..720 {
        let token = fixture
            .cache
            .token(&graph("contoso"), day, Lane::Caller)
            .await;
        let left = token.expect("a token").expires_at - Instant::now();
        assert!(left >= LIFE / 2, "half of its life at least");
        advance(Duration::from_secs(10)).await;
    }
    let calls = fixture.entra.calls();
    assert!((2..=4).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn tokens_that_live_shorter_than_the_margin_do_not_cause_a_request_each() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let short = Answer::Token(Duration::from_secs(60));
    fixture.entra.will(&[short; 100]);
    for _ in 0..60 {
        fixture.get("contoso").await.expect("a token");
        advance(Duration::from_secs(1)).await;
    }
    let calls = fixture.entra.calls();
    assert!(calls <= 3, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_handed_out() {
    for trouble in [
        Answer::Unreachable,
        Answer::Throttled,
        Answer::Rejected,
        Answer::Panic,
    ] {
        let fixture = Fixture::new(10, &["contoso"]).await;
        fixture.get("contoso").await.expect("a token");
        fixture.entra.will(&[trouble]);
        advance(LIFE).await;
        let outcome = fixture.get("contoso").await;
        assert!(outcome.is_err(), "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_while_its_successor_is_awaited_is_not_handed_out() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.get("contoso").await.expect("a token");
    advance(LIFE - MARGIN / 2).await;
    fixture.entra.will(&[Answer::Unreachable]);
    fixture.entra.hold();
    let caller = fixture.flying("contoso").await;
    advance(MARGIN / 2).await;
    fixture.entra.release();
    assert!(outcome(caller).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_bridges_trouble_on_the_way_but_no_refusal() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let token = fixture.get("contoso").await.expect("a token");
    advance(LIFE - MARGIN / 2).await;
    for trouble in [Answer::Unreachable, Answer::Throttled] {
        fixture.entra.will(&[trouble]);
        let spared = fixture.get("contoso").await.expect("the valid token");
        assert_eq!(spared.fingerprint, token.fingerprint, "{trouble:?}");
        advance(Duration::from_secs(20)).await;
    }
    assert_eq!(fixture.entra.calls(), 3);
    // As long as Entra said: for the rest of its life it is handed out.
    let spared = fixture.get("contoso").await.expect("the valid token");
    assert_eq!(spared.fingerprint, token.fingerprint);
    assert_eq!(fixture.entra.calls(), 3);
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.get("contoso").await.expect("a token");
    advance(LIFE - MARGIN / 2).await;
    fixture.entra.will(&[Answer::Rejected]);
    let refused = fixture.get("contoso").await;
    let rejected = matches!(refused, Err(Error::Entra(entra::Error::Rejected(_))));
    assert!(rejected, "{refused:?}");
}
