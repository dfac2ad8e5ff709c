//! Memory of failure: who is answered without a request to Entra, and until when.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_refusal_is_answered_from_memory_by_a_thousand_callers() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.will(&[Answer::Rejected]);
    for _ in 0..1000 {
        let refused = fixture.get("contoso").await;
        let rejected = matches!(refused, Err(Error::Entra(entra::Error::Rejected(_))));
        assert!(rejected, "{refused:?}");
        advance(Duration::from_millis(40)).await;
    }
    assert_eq!(fixture.entra.calls(), 1);
    // Not for ever: somebody may have mended it at Entra.
    advance(Duration::from_secs(60)).await;
    assert!(fixture.get("contoso").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_longer_each_time_but_never_for_long() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.will(&[Answer::Rejected; 1000]);
    for _ in 0..8 * 3600 {
        assert!(fixture.get("contoso").await.is_err());
        advance(Duration::from_secs(1)).await;
    }
    // Every 200 to 400 seconds in the end.
    let calls = fixture.entra.calls();
    assert!((72..150).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_new_credential_ends_the_memory_of_a_refusal() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.will(&[Answer::Rejected]);
    assert!(fixture.get("contoso").await.is_err());
    fixture.rotate("contoso", 1).await;
    let token = fixture.get("contoso").await.expect("a token");
    assert_eq!(token.credential_version, 2);
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_memory() {
    let fixture = Fixture::new(10, &["contoso", "fabrikam"]).await;
    fixture.entra.will(&[Answer::Rejected]);
    assert!(fixture.get("contoso").await.is_err());
    assert!(fixture.get("fabrikam").await.is_ok());
    let exchange = key("contoso", Resource::Exchange);
    let token = fixture.cache.token(&exchange, MARGIN, Lane::Caller).await;
    assert!(token.is_ok());
}

#[tokio::test(start_paused = true)]
async fn trouble_is_asked_about_less_and_less_often() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.will(&[Answer::Unreachable; 1000]);
    let mut calls = Vec::new();
    for _ in 0..10 {
        for _ in 0..600 {
            let failed = fixture.get("contoso").await;
            let Err(Error::Entra(entra::Error::Unreachable { retry_after, .. })) = failed else {
                panic!("{failed:?}");
            };
            // What callers are told is never longer than this, and after the first failure there.
            assert!(retry_after.is_none_or(|wait| wait <= Duration::from_secs(5)));
            advance(Duration::from_millis(100)).await;
        }
        calls.push(fixture.entra.calls());
    }
    assert!(calls[0] <= 7, "{calls:?}");
    let last = calls[9] - calls[8];
    assert!((1..=2).contains(&last), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_throttled_waits_as_long_as_entra_says() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.will(&[Answer::Throttled]);
    assert!(fixture.get("contoso").await.is_err());
    advance(MARGIN / 3).await;
    let waiting = fixture.get("contoso").await;
    let Err(Error::Entra(entra::Error::Throttled { retry_after })) = waiting else {
        panic!("{waiting:?}");
    };
    assert_eq!(retry_after, MARGIN / 3 * 2, "what is left");
    advance(MARGIN / 3 * 2 - Duration::from_millis(1)).await;
    assert!(fixture.get("contoso").await.is_err());
    assert_eq!(fixture.entra.calls(), 1);
    advance(Duration::from_millis(1)).await;
    assert!(fixture.get("contoso").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_may_be_propagation_is_tried_again_after_a_change_and_only_then() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.get("contoso").await.expect("a token");
    advance(LIFE).await;
    fixture.entra.will(&[Answer::Propagating]);
    assert!(fixture.get("contoso").await.is_err(), "nothing was changed");
    assert_eq!(fixture.entra.calls(), 2);
    fixture.rotate("contoso", 1).await;
    fixture
        .entra
        .will(&[Answer::Propagating, Answer::Propagating]);
    let began = Instant::now();
    fixture
        .get("contoso")
        .await
        .expect("a token, after a while");
    assert_eq!(fixture.entra.calls(), 5);
    assert!(began.elapsed() <= Duration::from_secs(10));
    // What is no propagation is told at once.
    fixture.rotate("contoso", 2).await;
    advance(LIFE).await;
    fixture.entra.will(&[Answer::Rejected]);
    assert!(fixture.get("contoso").await.is_err());
    assert_eq!(fixture.entra.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn propagation_that_never_ends_is_a_refusal_in_time() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.get("contoso").await.expect("a token");
    advance(LIFE).await;
    fixture.rotate("contoso", 1).await;
    fixture.entra.will(&[Answer::Propagating; 1000]);
    let began = Instant::now();
    assert!(fixture.get("contoso").await.is_err());
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "who waits has a minute"
    );
    let calls = fixture.entra.calls();
    assert!(calls < 10, "{calls}");
}
