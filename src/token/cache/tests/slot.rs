//! How much is kept in memory, and for how long.

use super::*;

#[tokio::test(start_paused = true)]
async fn there_are_as_many_tokens_as_there_may_be_and_no_more() {
    let fixture = Fixture::new(2, &["a", "b", "c"]).await;
    fixture.get("a").await.expect("a token");
    fixture.get("b").await.expect("a token");
    for _ in 0..3 {
        let full = fixture.get("c").await;
        assert!(matches!(full, Err(Error::Full)), "{full:?}");
    }
    let exchange = key("a", Resource::Exchange);
    let full = fixture.cache.token(&exchange, MARGIN, Lane::Caller).await;
    assert!(matches!(full, Err(Error::Full)), "{full:?}");
    assert!(fixture.get("a").await.is_ok(), "what is there stays");
    assert_eq!((fixture.cache.len(), fixture.entra.calls()), (2, 2));
    // Renewing needs no further room.
    advance(LIFE).await;
    assert!(fixture.get("a").await.is_ok());
    fixture.cache.forget(&id("b"));
    assert!(fixture.get("c").await.is_ok());
    assert_eq!((fixture.cache.len(), fixture.slots()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn whoever_gets_no_token_takes_no_memory() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    for number in 0..100 {
        let unknown = fixture.get(&format!("unknown-{number}")).await;
        assert!(matches!(unknown, Err(Error::NotFound)), "{unknown:?}");
    }
    assert_eq!(fixture.cache.0.organizations.pin().len(), 0);
    // What Entra says of an organization that there is, is remembered while somebody is interested.
    fixture.entra.will(&[Answer::Rejected]);
    assert!(fixture.get("contoso").await.is_err());
    assert_eq!((fixture.cache.len(), fixture.slots()), (1, 1));
    advance(LIFE * 2).await;
    fixture.cache.sweep();
    assert!(fixture.cache.is_empty());
    assert_eq!(fixture.cache.0.organizations.pin().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_the_cache_full_takes_no_memory() {
    let fixture = Fixture::new(1, &["contoso"]).await;
    fixture.get("contoso").await.expect("a token");
    for number in 0..100 {
        let full = fixture.get(&format!("other-{number}")).await;
        assert!(matches!(full, Err(Error::Full)), "{full:?}");
    }
    assert_eq!(fixture.cache.0.organizations.pin().len(), 1);
    assert_eq!(fixture.cache.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_slot_of_a_token() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    fixture.get("contoso").await.expect("a token");
    advance(LIFE - MARGIN / 2).await;
    fixture.entra.will(&[Answer::Rejected]);
    assert!(fixture.get("contoso").await.is_err());
    assert_eq!((fixture.cache.len(), fixture.slots()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_sweep_drops_what_has_expired_and_nothing_else() {
    let fixture = Fixture::new(10, &["short", "long", "flying", "dead"]).await;
    fixture
        .entra
        .will(&[Answer::Token(LIFE), Answer::Token(3 * LIFE)]);
    fixture.get("short").await.expect("a token");
    fixture.get("long").await.expect("a token");
    fixture.entra.will(&[Answer::Panic]);
    assert!(fixture.get("dead").await.is_err());
    advance(LIFE - Duration::from_millis(1)).await;
    fixture.cache.sweep();
    assert_eq!(fixture.cache.len(), 2, "all but the one that panicked");
    advance(Duration::from_millis(1)).await;
    fixture.entra.hold();
    let caller = fixture.flying("flying").await;
    fixture.cache.sweep();
    assert_eq!((fixture.cache.len(), fixture.slots()), (2, 2));
    fixture.entra.release();
    assert!(outcome(caller).await.is_ok(), "the flight was left alone");
    assert!(fixture.get("long").await.is_ok());
    assert!(fixture.get("flying").await.is_ok());
    assert_eq!(fixture.entra.calls(), 4);
    fixture.get("short").await.expect("a new token");
    assert_eq!(fixture.entra.calls(), 5);
    advance(3 * LIFE).await;
    fixture.cache.sweep();
    assert!(fixture.cache.is_empty());
    assert_eq!(fixture.cache.0.organizations.pin().len(), 0);
}

/// Everything at once, from several threads, with a cache that is too small.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_count_of_slots_stays_right_under_load() {
    let ids = ["a", "b", "c", "d"];
    let fixture = Arc::new(Fixture::new(5, &ids).await);
    let mut workers = JoinSet::new();
    for worker in 0..4_usize {
        let fixture = fixture.clone();
        workers.spawn(async move {
            for step in 0..2000_usize {
                let name = ids[(step * 7 + worker) % ids.len()];
                let resource = match (step + worker) % 3 {
                    0 => Resource::Graph,
                    1 => Resource::Exchange,
                    _ => Resource::AzureAdGraph,
                };
                match step % 11 {
                    0 => fixture.cache.forget(&id(name)),
                    1 => fixture.cache.supersede(&id(name)),
                    2 => fixture.cache.sweep(),
                    3 => fixture.entra.will(&[Answer::Rejected]),
                    4 => drop(fixture.get("unknown").await),
                    _ => drop(
                        fixture
                            .cache
                            .token(&key(name, resource), MARGIN, Lane::Caller)
                            .await,
                    ),
                }
                assert!(
                    fixture.cache.len() <= 5 + 4,
                    "the limit, and those who look"
                );
            }
        });
    }
    workers.join_all().await;
    fixture.landed().await;
    assert_eq!(fixture.cache.len(), fixture.slots());
    for name in ids {
        fixture.cache.forget(&id(name));
    }
    fixture.cache.sweep();
    assert!(fixture.cache.is_empty());
    assert_eq!(fixture.cache.0.organizations.pin().len(), 0);
}
