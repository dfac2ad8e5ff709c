//! An outage of Entra, and the time after it, with the real pacing of requests in between.

use std::sync::atomic::AtomicBool;

use tokio::time::sleep;

use super::*;
use crate::entra::{budget, paced::Paced};

const KEYS: usize = 1000;
const LATENCY: Duration = Duration::from_millis(50);
const LIMITS: budget::Limits = budget::Limits {
    concurrent_max: 64,
    queued_max: 20_000,
};

/// An Entra that can be switched off. Lives of its tokens are of two kinds.
#[derive(Debug, Default)]
struct Switched {
    is_down: AtomicBool,
    calls: AtomicUsize,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl TokenEndpoint for Switched {
    async fn request_token(&self, _: TokenRequest<'_>) -> Result<Grant, entra::Error> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(under_way, Ordering::Relaxed);
        sleep(LATENCY).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        if self.is_down.load(Ordering::Relaxed) {
            return Err(unreachable());
        }
        Ok(Grant {
            access_token: AccessToken::new(format!("token {number}")),
            expires_in: if number % 10 == 0 { 24 * LIFE } else { LIFE },
            refresh_in: None,
        })
    }

    async fn sharepoint_root_host(
        &self,
        _: Principal,
        _: &AccessToken,
        _: &Urgency,
    ) -> Result<SharePointHost, entra::Error> {
        Err(unreachable())
    }

    async fn tenant_id(&self, _: Cloud, _: &TenantName) -> Result<TenantId, entra::Error> {
        Err(unreachable())
    }
}

fn tenant(number: usize) -> TenantId {
    TenantId::parse(&format!("8d7f1c1e-0c5e-4a5c-9d6a-{number:012x}")).expect("a GUID")
}

/// A cache of so many organizations, each with a tenant of its own, and the Entra that it asks.
async fn fleet(keys: usize) -> (Arc<Switched>, Fixture, Vec<TokenKey>) {
    let names: Vec<_> = (0..keys).map(|number| format!("org-{number}")).collect();
    let mut fixture = Fixture::new(2 * keys, &[]).await;
    for (number, name) in names.iter().enumerate() {
        let organization = NewOrganization {
            tenant_id: tenant(number + 1),
            ..new(name)
        };
        fixture.register(organization, secret()).await;
    }
    let switched = Arc::new(Switched::default());
    let outage = Outage::new();
    let paced = Paced::new(switched.clone(), LIMITS, outage.clone());
    let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + LIFE);
    let mint = Mint::new(fixture.vault.clone(), Arc::new(paced), clock, fastrand::f64);
    let (cache, renewals) =
        TokenCache::new(mint, outage, limits(2 * keys), fixture.flights.clone());
    fixture.cache = cache;
    fixture.renewals = Mutex::new(Some(renewals));
    let keys = names.iter().map(|name| graph(name)).collect();
    (switched, fixture, keys)
}

impl Fixture {
    /// How many keys have a token that is not expired, without asking for it.
    fn supplied(&self, keys: &[TokenKey]) -> usize {
        keys.iter()
            .filter(|key| self.cache.valid(key).is_some())
            .count()
    }

    async fn ask_all(&self, keys: &[TokenKey]) -> usize {
        let mut callers = JoinSet::new();
        for key in keys {
            let (cache, key) = (self.cache.clone(), key.clone());
            callers.spawn(async move { cache.token(&key, MARGIN, Lane::Caller).await.is_ok() });
        }
        let served = callers.join_all().await;
        served.into_iter().filter(|served| *served).count()
    }
}

#[tokio::test(start_paused = true)]
async fn after_two_hours_of_outage_all_keys_have_tokens_within_five_seconds() {
    let (entra, fixture, keys) = fleet(KEYS).await;
    fixture.renew();
    assert_eq!(fixture.ask_all(&keys).await, KEYS);
    entra.is_down.store(true, Ordering::Relaxed);
    // Workers keep asking; those whose tokens live for a day are served throughout.
    for minute in 0..120 {
        sleep(Duration::from_secs(60)).await;
        let served = fixture.ask_all(&keys).await;
        let long = KEYS / 10;
        if minute < 28 {
            assert_eq!(served, KEYS, "half of a life is left");
        } else if minute > 60 {
            assert_eq!(served, long, "minute {minute}");
        }
    }
    let in_outage = entra.calls.load(Ordering::Relaxed);
    assert!(fixture.supplied(&keys) <= KEYS / 10);
    entra.is_down.store(false, Ordering::Relaxed);
    let began = Instant::now();
    sleep(Duration::from_secs(5)).await;
    let supplied = fixture.supplied(&keys);
    assert!(supplied >= KEYS * 99 / 100, "{supplied} of {KEYS}");
    let after = entra.calls.load(Ordering::Relaxed) - in_outage;
    assert!(
        after <= KEYS + KEYS / 10,
        "{after} requests for {KEYS} keys"
    );
    let most = entra.most.load(Ordering::Relaxed);
    assert!(most <= LIMITS.concurrent_max, "{most} at once");
    println!(
        "{supplied} of {KEYS} keys after {:?}, {in_outage} requests in the outage",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_single_key_notices_the_end_of_an_outage_soon_without_being_asked_for() {
    let (entra, fixture, keys) = fleet(1).await;
    fixture.renew();
    entra.is_down.store(true, Ordering::Relaxed);
    assert_eq!(fixture.ask_all(&keys).await, 0);
    sleep(Duration::from_secs(600)).await;
    let calls = entra.calls.load(Ordering::Relaxed);
    assert!(calls < 620, "{calls}");
    entra.is_down.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.supplied(&keys), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_callers_of_one_key_cost_one_request() {
    let (entra, fixture, keys) = fleet(1).await;
    let many: Vec<_> = std::iter::repeat_n(keys[0].clone(), 10_000).collect();
    assert_eq!(fixture.ask_all(&many).await, 10_000);
    assert_eq!(entra.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_nobody_asks_about_is_not_probed_for_ever() {
    let (entra, fixture, keys) = fleet(10).await;
    fixture.renew();
    entra.is_down.store(true, Ordering::Relaxed);
    assert_eq!(fixture.ask_all(&keys).await, 0);
    sleep(Duration::from_secs(2 * 3600)).await;
    let calls = entra.calls.load(Ordering::Relaxed);
    sleep(Duration::from_secs(2 * 3600)).await;
    assert_eq!(entra.calls.load(Ordering::Relaxed), calls);
    fixture.cache.sweep();
    assert!(fixture.cache.is_empty());
}
