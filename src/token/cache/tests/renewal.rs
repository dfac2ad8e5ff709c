//! Renewing tokens before anybody asks, and trying again what failed.

use super::*;

/// Lets tasks run until nothing happens any more without time passing.
async fn settle() {
    for _ in 0..200 {
        yield_now().await;
    }
}

impl Fixture {
    /// Lets time pass in steps, so that what is due in between happens.
    async fn pass(&self, time: Duration) {
        let step = Duration::from_secs(1);
        let end = Instant::now() + time;
        while Instant::now() < end {
            advance(step.min(end - Instant::now())).await;
            settle().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_at_half_of_its_life_without_being_asked_for() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.renew();
    fixture.entra.will(&[Answer::Early(LIFE); 10]);
    let first = fixture.get("contoso").await.expect("a token");
    fixture.pass(LIFE / 2 - Duration::from_secs(2)).await;
    assert_eq!(fixture.entra.calls(), 1);
    fixture.pass(Duration::from_secs(4)).await;
    assert_eq!(fixture.entra.calls(), 2);
    let second = fixture.get("contoso").await.expect("a token");
    assert_ne!(first.fingerprint, second.fingerprint);
    assert_eq!(fixture.entra.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_in_two_lives_is_not_renewed_and_then_dropped() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.renew();
    fixture.entra.will(&[Answer::Early(LIFE); 100]);
    fixture.get("contoso").await.expect("a token");
    fixture.pass(LIFE * 4).await;
    let calls = fixture.entra.calls();
    assert!((4..=6).contains(&calls), "{calls}");
    fixture.cache.sweep();
    assert!(fixture.cache.is_empty());
    fixture
        .get("contoso")
        .await
        .expect("a token for whoever comes back");
}

#[tokio::test(start_paused = true)]
async fn renewals_of_a_day_long_token_follow_the_advice_of_entra() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.renew();
    let day = Duration::from_secs(24 * 3600);
    fixture.entra.will(&[Answer::Early(day); 10]);
    fixture.get("contoso").await.expect("a token");
    for _ in 0..11 {
        fixture.get("contoso").await.expect("a token");
        advance(Duration::from_secs(3600)).await;
        settle().await;
    }
    assert_eq!(fixture.entra.calls(), 1);
    advance(Duration::from_secs(3700)).await;
    settle().await;
    assert_eq!(fixture.entra.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_is_served_while_its_renewal_fails_or_hangs() {
    for trouble in [
        Answer::Unreachable,
        Answer::Throttled,
        Answer::Rejected,
        Answer::Panic,
        Answer::Never,
    ] {
        let fixture = Fixture::new(10, &["contoso"]).await;
        fixture.renew();
        fixture.entra.will(&[Answer::Early(LIFE)]);
        let first = fixture.get("contoso").await.expect("a token");
        fixture.entra.will(&[trouble; 1000]);
        fixture.pass(LIFE / 2 + Duration::from_secs(60)).await;
        assert!(fixture.entra.calls() >= 2, "{trouble:?}");
        let served = fixture.get("contoso").await.expect("the valid token");
        assert_eq!(served.fingerprint, first.fingerprint, "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_renewal_never_makes_an_expired_token_be_served() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.renew();
    fixture.entra.will(&[Answer::Early(LIFE), Answer::Never]);
    fixture.get("contoso").await.expect("a token");
    fixture.pass(LIFE / 2 + Duration::from_secs(1)).await;
    advance(LIFE / 2).await;
    let (cache, key) = (fixture.cache.clone(), graph("contoso"));
    let mut caller = JoinSet::new();
    caller.spawn(async move { cache.token(&key, MARGIN, Lane::Caller).await });
    settle().await;
    assert!(caller.try_join_next().is_none(), "it waits");
}

/// 15,000 tokens that came at one instant, as after a cold start.
#[tokio::test(start_paused = true)]
async fn renewals_of_a_fleet_that_started_at_once_are_flat() {
    let ids: Vec<_> = (0..15_000).map(|number| format!("org-{number}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let fixture = Fixture::with_jitter(20_000, &ids, fastrand::f64).await;
    fixture.renew();
    fixture.entra.will(&vec![Answer::Early(LIFE); 100_000]);
    for id in &ids {
        fixture.get(id).await.expect("a token");
    }
    let mut minted = vec![fixture.entra.calls()];
    // Minute by minute for two lives.
    for _ in 0..120 {
        for _ in 0..4 {
            advance(Duration::from_secs(15)).await;
            fixture.landed().await;
            settle().await;
            fixture.landed().await;
        }
        minted.push(fixture.entra.calls());
    }
    let rates: Vec<_> = minted.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let after_one_life = &rates[60..];
    let mean = after_one_life.iter().sum::<usize>() / after_one_life.len();
    let peak = after_one_life.iter().max().copied().unwrap_or_default();
    assert!(
        mean > 0 && peak <= 2 * mean,
        "peak {peak}, mean {mean}: {rates:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_refuses_for_a_while_is_served_from_memory_and_recovers_by_itself() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.renew();
    fixture.entra.will(&[Answer::Early(LIFE)]);
    let first = fixture.get("contoso").await.expect("a token");
    fixture.pass(LIFE / 2 - Duration::from_secs(1)).await;
    // A wrong secret for ten minutes, then the right one again.
    fixture.entra.will(&[Answer::Propagating; 4]);
    for _ in 0..LIFE.as_secs() / 2 - MARGIN.as_secs() {
        fixture.get("contoso").await.expect("a token throughout");
        fixture.pass(Duration::from_secs(1)).await;
    }
    let next = fixture.get("contoso").await.expect("a token");
    assert_ne!(first.fingerprint, next.fingerprint);
    assert_eq!(fixture.entra.calls(), 6, "four refusals in between");
}

#[tokio::test(start_paused = true)]
async fn a_token_without_any_role_is_renewed_soon() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.renew();
    // {} and {"roles":["Mail.ReadWrite"]}
    fixture.entra.will(&[
        Answer::Text("e30.e30.sig"),
        Answer::Text("e30.eyJyb2xlcyI6WyJNYWlsLlJlYWRXcml0ZSJdfQ.sig"),
    ]);
    let poor = fixture.get("contoso").await.expect("a token");
    fixture.pass(Duration::from_secs(302)).await;
    let rich = fixture.get("contoso").await.expect("a token");
    assert_ne!(poor.fingerprint, rich.fingerprint);
    fixture.pass(Duration::from_secs(600)).await;
    assert_eq!(fixture.entra.calls(), 2, "that one has a role");
}
