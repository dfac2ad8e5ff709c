//! Following a key.

use super::*;
use crate::token::report::Refused;

fn watch(fixture: &Fixture) -> crate::token::watch::Watch {
    fixture.cache.watch(graph("contoso"), MARGIN, Lane::Caller)
}

#[tokio::test(start_paused = true)]
async fn the_current_token_comes_at_once_and_the_next_before_it_goes_stale() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.renew();
    fixture.entra.will(&[Answer::Early(LIFE); 100]);
    let mut watch = watch(&fixture);
    let mut before: Option<Arc<Token>> = None;
    for _ in 0..20 {
        let token = watch.next().await.expect("a token");
        if let Some(before) = before {
            assert_ne!(before.fingerprint, token.fingerprint);
            assert!(before.expires_at - Instant::now() >= MARGIN, "in time");
        }
        before = Some(token);
    }
    assert_eq!(
        fixture.entra.calls(),
        20,
        "none was missed and none was asked for twice"
    );
}

#[tokio::test(start_paused = true)]
async fn it_works_without_the_renewals_too() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let mut watch = watch(&fixture);
    let first = watch.next().await.expect("a token");
    let began = Instant::now();
    let second = watch.next().await.expect("a token");
    assert_ne!(first.fingerprint, second.fingerprint);
    let waited = began.elapsed();
    assert!(waited > LIFE / 2 && waited <= LIFE - MARGIN, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_reason_when_the_organization_is_revoked() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let mut watch = watch(&fixture);
    watch.next().await.expect("a token");
    let (ended, ()) = tokio::join!(watch.next(), async {
        yield_now().await;
        fixture.revoke("contoso").await;
    });
    assert!(matches!(ended, Err(Error::Revoked(_))), "{ended:?}");
    assert!(fixture.cache.is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_reason_when_the_credential_is_rejected_and_the_token_goes_stale() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.renew();
    let mut watch = watch(&fixture);
    watch.next().await.expect("a token");
    fixture.entra.will(&[Answer::Rejected; 100]);
    let began = Instant::now();
    let ended = watch.next().await;
    let rejected = matches!(ended, Err(Error::Entra(entra::Error::Rejected(_))));
    assert!(rejected, "{ended:?}");
    assert!(began.elapsed() <= LIFE - MARGIN);
}

#[tokio::test(start_paused = true)]
async fn it_waits_out_trouble_as_long_as_the_token_lives() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.renew();
    let mut watch = watch(&fixture);
    watch.next().await.expect("a token");
    fixture.entra.will(&[Answer::Unreachable; 10_000]);
    let began = Instant::now();
    let ended = watch.next().await;
    let unreachable = matches!(ended, Err(Error::Entra(entra::Error::Unreachable { .. })));
    assert!(unreachable, "{ended:?}");
    assert!(began.elapsed() >= LIFE, "{:?}", began.elapsed());
    assert!(began.elapsed() <= LIFE + Duration::from_secs(5));
    let calls = fixture.entra.calls();
    assert!(calls < 200, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_reported_is_followed_by_its_replacement() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let mut watch = watch(&fixture);
    let first = watch.next().await.expect("a token");
    let began = Instant::now();
    let (second, _) = tokio::join!(watch.next(), async {
        yield_now().await;
        let refused = Refused::Unauthorized(None);
        fixture
            .cache
            .report(&graph("contoso"), &first.fingerprint, refused)
    });
    assert_ne!(first.fingerprint, second.expect("a token").fingerprint);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn forgotten_tokens_are_followed_by_new_ones() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let mut watch = watch(&fixture);
    let first = watch.next().await.expect("a token");
    let (second, ()) = tokio::join!(watch.next(), async {
        yield_now().await;
        fixture.cache.forget(&id("contoso"));
    });
    assert_ne!(first.fingerprint, second.expect("a token").fingerprint);
}
