//! One request however many wait for it, and what happens to it on the way.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_thousand_cold_callers_cause_one_request() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.hold();
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let cache = fixture.cache.clone();
        callers.spawn(async move { cache.token(&graph("contoso"), MARGIN, Lane::Caller).await });
    }
    fixture.entra.called(1).await;
    // All others get their turn as well.
    for _ in 0..3 {
        yield_now().await;
    }
    fixture.entra.release();
    let tokens: Vec<_> = callers.join_all().await;
    assert_eq!(tokens.len(), 1000);
    let first = tokens[0].as_ref().expect("a token").fingerprint;
    for token in &tokens {
        assert_eq!(token.as_ref().expect("a token").fingerprint, first);
    }
    assert_eq!(fixture.entra.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_and_remembered_for_a_moment() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.will(&[Answer::Unreachable]);
    fixture.entra.hold();
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let cache = fixture.cache.clone();
        callers.spawn(async move { cache.token(&graph("contoso"), MARGIN, Lane::Caller).await });
    }
    fixture.entra.called(1).await;
    for _ in 0..3 {
        yield_now().await;
    }
    fixture.entra.release();
    for outcome in callers.join_all().await {
        let unreachable = matches!(outcome, Err(Error::Entra(entra::Error::Unreachable { .. })));
        assert!(unreachable, "{outcome:?}");
    }
    assert!(fixture.get("contoso").await.is_err());
    assert_eq!(fixture.entra.calls(), 1);
    advance(Duration::from_secs(2)).await;
    assert!(fixture.get("contoso").await.is_ok());
    assert_eq!(fixture.entra.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_flight_lands_although_its_caller_went_away() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.hold();
    let mut caller = fixture.flying("contoso").await;
    caller.shutdown().await;
    fixture.entra.release();
    fixture.landed().await;
    assert!(fixture.get("contoso").await.is_ok());
    assert_eq!(fixture.entra.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_on_its_way_is_not_delivered_after_a_revocation() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.hold();
    let caller = fixture.flying("contoso").await;
    fixture.revoke("contoso").await;
    fixture.entra.release();
    let outcome = outcome(caller).await;
    assert!(matches!(outcome, Err(Error::Revoked(_))), "{outcome:?}");
    fixture.landed().await;
    assert!(fixture.cache.is_empty());
    let again = fixture.get("contoso").await;
    assert!(matches!(again, Err(Error::Revoked(_))), "{again:?}");
    assert_eq!(fixture.entra.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cached_token_is_gone_after_a_revocation() {
    let fixture = Fixture::new(10, &["contoso", "fabrikam"]).await;
    fixture.get("contoso").await.expect("a token");
    fixture.get("fabrikam").await.expect("a token");
    fixture.revoke("contoso").await;
    let again = fixture.get("contoso").await;
    assert!(matches!(again, Err(Error::Revoked(_))), "{again:?}");
    assert!(fixture.get("fabrikam").await.is_ok());
    assert_eq!(fixture.entra.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_in_flight_is_asked_for_again() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.hold();
    let caller = fixture.flying("contoso").await;
    fixture.cache.forget(&id("contoso"));
    assert!(fixture.cache.is_empty());
    fixture.entra.release();
    let token = outcome(caller).await.expect("a token");
    let kept = fixture.get("contoso").await.expect("a token");
    assert_eq!(token.fingerprint, kept.fingerprint, "and is kept");
    assert_eq!(fixture.cache.len(), fixture.slots());
}

#[tokio::test(start_paused = true)]
async fn a_flight_of_the_previous_credential_is_flown_again() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.hold();
    let caller = fixture.flying("contoso").await;
    fixture.rotate("contoso", 1).await;
    fixture.entra.release();
    let token = outcome(caller).await.expect("a token");
    assert_eq!(token.credential_version, 2);
    assert_eq!(fixture.entra.calls(), 2);
    let kept = fixture.get("contoso").await.expect("a token");
    assert_eq!(kept.fingerprint, token.fingerprint);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_previous_credential_is_not_delivered_after_a_rotation() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.will(&[Answer::Rejected]);
    fixture.entra.hold();
    let caller = fixture.flying("contoso").await;
    fixture.rotate("contoso", 1).await;
    fixture.entra.release();
    let token = outcome(caller).await.expect("a token");
    assert_eq!(token.credential_version, 2);
}

#[tokio::test(start_paused = true)]
async fn a_rotation_leaves_tokens_that_are_there() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let before = fixture.get("contoso").await.expect("a token");
    fixture.rotate("contoso", 1).await;
    let after = fixture.get("contoso").await.expect("a token");
    assert_eq!(before.fingerprint, after.fingerprint);
    assert_eq!(fixture.entra.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_organization_that_changes_again_and_again_is_given_up_for_now() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.hold();
    let caller = fixture.flying("contoso").await;
    for flight in 1..=FLIGHTS_MAX {
        fixture.entra.called(flight).await;
        fixture.cache.supersede(&id("contoso"));
        fixture.entra.gate.add_permits(1);
    }
    let outcome = outcome(caller).await;
    assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
    assert_eq!(fixture.entra.calls(), FLIGHTS_MAX);
    fixture.entra.release();
    assert!(fixture.get("contoso").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_panics_blocks_nothing() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.entra.will(&[Answer::Panic]);
    let outcome = fixture.get("contoso").await;
    assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
    let token = fixture.get("contoso").await.expect("a token");
    assert_eq!((fixture.entra.calls(), fixture.cache.len()), (2, 1));
    // With a token that is still valid, that one is handed out.
    advance(LIFE - MARGIN / 2).await;
    fixture.entra.will(&[Answer::Panic]);
    let spared = fixture.get("contoso").await.expect("the valid token");
    assert_eq!(spared.fingerprint, token.fingerprint);
    assert_eq!(fixture.entra.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_organization_holds_up_nobody_else() {
    let fixture = Fixture::new(10, &["contoso", "fabrikam"]).await;
    fixture.entra.will(&[Answer::Never]);
    let mut stuck = fixture.flying("contoso").await;
    assert!(fixture.get("fabrikam").await.is_ok());
    // Nor another resource of its own.
    let exchange = key("contoso", Resource::Exchange);
    assert!(
        fixture
            .cache
            .token(&exchange, MARGIN, Lane::Caller)
            .await
            .is_ok()
    );
    fixture.cache.sweep();
    fixture.cache.supersede(&id("contoso"));
    assert!(stuck.try_join_next().is_none());
    stuck.shutdown().await;
}

/// A token that did not come from a flight.
async fn proof(fixture: &Fixture) -> Token {
    let organization = fixture.vault.organization(&id("contoso")).await;
    let organization = organization.expect("reads").expect("is there");
    let grant = Grant {
        access_token: AccessToken::new("proof".into()),
        expires_in: LIFE,
        refresh_in: None,
    };
    let audience = Audience::graph(Cloud::Global);
    Token::new(grant, Instant::now(), audience, &organization, 0.5)
}

#[tokio::test(start_paused = true)]
async fn a_published_token_is_used() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let landing = fixture.cache.landing(&id("contoso"));
    let proof = proof(&fixture).await;
    fixture.cache.publish(&landing, &graph("contoso"), proof);
    let token = fixture.get("contoso").await.expect("a token");
    // Exposed: it is compared.
    assert_eq!(token.access_token.expose(), "proof");
    assert_eq!(fixture.entra.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_from_before_a_change_is_not_published() {
    let changes = [TokenCache::forget, TokenCache::supersede];
    for change in changes {
        let fixture = Fixture::new(10, &["contoso"]).await;
        let landing = fixture.cache.landing(&id("contoso"));
        change(&fixture.cache, &id("contoso"));
        let proof = proof(&fixture).await;
        fixture.cache.publish(&landing, &graph("contoso"), proof);
        assert!(fixture.cache.is_empty());
    }
}

/// Another process over the same vault.
async fn restarted(fixture: &Fixture) -> Fixture {
    fixture.landed().await;
    Fixture::over(fixture.vault.clone(), 10, || 0.5)
}

#[tokio::test(start_paused = true)]
async fn a_restart_costs_no_request() {
    let before = Fixture::new(10, &["contoso"]).await;
    let first = before.get("contoso").await.expect("a token");
    let after = restarted(&before).await;
    let second = after.get("contoso").await.expect("the kept token");
    assert_eq!(first.fingerprint, second.fingerprint);
    assert_eq!(after.entra.calls(), 0);
    // One that was refused is not had again from the store.
    let refused = crate::token::report::Refused::Unauthorized(None);
    let _ = after
        .cache
        .report(&graph("contoso"), &second.fingerprint, refused);
    after.entra.will(&[Answer::Unreachable]);
    let still = after.get("contoso").await.expect("the best there is");
    assert_eq!(still.fingerprint, second.fingerprint);
    let again = restarted(&after).await;
    again.entra.will(&[Answer::Text("another token")]);
    let third = again.get("contoso").await.expect("a new token");
    assert_ne!(second.fingerprint, third.fingerprint);
}

#[tokio::test(start_paused = true)]
async fn a_kept_token_that_is_too_old_for_a_caller_is_replaced() {
    let before = Fixture::new(10, &["contoso"]).await;
    before.get("contoso").await.expect("a token");
    before.landed().await;
    advance(LIFE - MARGIN / 2).await;
    let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + LIFE * 2 - MARGIN / 2);
    let after = Fixture::over_at(before.vault.clone(), 10, || 0.5, clock);
    let token = after.get("contoso").await.expect("a token");
    assert!(token.expires_at - Instant::now() > MARGIN);
    assert_eq!(after.entra.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_token_is_kept_beyond_a_revocation_or_a_rotation() {
    let before = Fixture::new(10, &["contoso", "fabrikam"]).await;
    before.get("contoso").await.expect("a token");
    before.get("fabrikam").await.expect("a token");
    before.landed().await;
    before.revoke("contoso").await;
    before.rotate("fabrikam", 1).await;
    let after = restarted(&before).await;
    let revoked = after.get("contoso").await;
    assert!(matches!(revoked, Err(Error::Revoked(_))), "{revoked:?}");
    let token = after.get("fabrikam").await.expect("a token");
    assert_eq!((token.credential_version, after.entra.calls()), (2, 1));
}
