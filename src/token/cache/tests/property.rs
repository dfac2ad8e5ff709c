//! No schedule of calls, answers, changes and time hands out a token that it should not.

use std::sync::atomic::{AtomicBool, AtomicU64};

use proptest::prelude::*;
use tokio::time::sleep;

use super::*;
use crate::token::report::Refused;

const ORGANIZATIONS: usize = 3;
const RESOURCES: [Resource; 2] = [Resource::Graph, Resource::Exchange];

/// One thing that happens. Organizations and resources are by number.
#[derive(Clone, Debug)]
enum Event {
    /// Somebody asks, and leaves again after a while.
    Call(usize, usize, Duration),
    Watch(usize, usize),
    Pass(Duration),
    /// What Entra answers next, and how long that takes.
    Answer(Reply, Duration),
    Rotate(usize),
    RotateLeaked(usize),
    Revoke(usize),
    Report(usize, usize),
    Sweep,
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Token(Duration),
    Fails(Answer),
}

/// An Entra whose tokens tell whose they are, of which credential, and when they end.
#[derive(Debug, Default)]
struct Telling {
    replies: Mutex<VecDeque<(Reply, Duration)>>,
    number: AtomicU64,
    began: Mutex<Option<Instant>>,
}

/// What nobody may be handed any more.
#[derive(Debug, Default)]
struct PutAway {
    revoked: AtomicBool,
    /// Versions up to this one.
    version: AtomicU64,
}

struct World {
    vault: Arc<Vault>,
    entra: Arc<Telling>,
    clock: Clock,
    cache: TokenCache,
    put_away: Arc<[PutAway; ORGANIZATIONS]>,
    versions: [u64; ORGANIZATIONS],
    callers: JoinSet<()>,
    handed_out: Arc<AtomicUsize>,
}

#[async_trait]
impl TokenEndpoint for Telling {
    async fn request_token(&self, request: TokenRequest<'_>) -> Result<Grant, entra::Error> {
        let asked_at = Instant::now();
        let next = self.replies.lock().expect("no panic").pop_front();
        let (reply, delay) = next.unwrap_or((Reply::Token(LIFE), Duration::from_millis(10)));
        let Credential::ClientSecret { value, .. } = request.credential else {
            panic!("only secrets are registered");
        };
        // Exposed: it is the version, nothing secret.
        let version = value.expose().to_owned();
        sleep(delay).await;
        let life = match reply {
            Reply::Token(life) => life,
            Reply::Fails(answer) => return Err(failure(answer)),
        };
        let began = self.began.lock().expect("no panic").expect("set at first");
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let ends = (asked_at + life - began).as_millis();
        let tenant = request.principal.tenant_id;
        let resource = request.audience.url();
        Ok(Grant {
            access_token: AccessToken::new(format!(
                "{tenant} {resource} {version} {ends} {number}"
            )),
            expires_in: life,
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

fn name(organization: usize) -> String {
    format!("org-{organization}")
}

fn tenant(organization: usize) -> TenantId {
    let text = format!("8d7f1c1e-0c5e-4a5c-9d6a-{:012x}", organization + 1);
    TenantId::parse(&text).expect("a GUID")
}

fn secret_of(version: u64) -> Credential {
    Credential::ClientSecret {
        value: ClientSecret::new(version.to_string()),
        expires: None,
    }
}

impl World {
    async fn new() -> Self {
        let kek = FileKey::new(SymmetricKey::new(vec![1; 32]).expect("32 bytes"));
        let vault = Vault::open(Arc::new(MemoryStore::default()), Arc::new(kek)).await;
        let vault = Arc::new(vault.expect("a new vault"));
        for organization in 0..ORGANIZATIONS {
            let new = NewOrganization {
                tenant_id: tenant(organization),
                ..new(&name(organization))
            };
            let mark = vault.mark("register", b"");
            let registered = new.registered(&secret_of(1), SystemTime::UNIX_EPOCH);
            let stored = vault.register(registered, secret_of(1), mark).await;
            stored.expect("registers");
        }
        let entra = Arc::new(Telling::default());
        *entra.began.lock().expect("no panic") = Some(Instant::now());
        let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + LIFE * 100);
        let cache = Self::start(&vault, &entra, clock);
        Self {
            vault,
            entra,
            clock,
            cache,
            put_away: Arc::default(),
            versions: [1; ORGANIZATIONS],
            callers: JoinSet::new(),
            handed_out: Arc::default(),
        }
    }

    fn start(vault: &Arc<Vault>, entra: &Arc<Telling>, clock: Clock) -> TokenCache {
        let mint = Mint::new(vault.clone(), entra.clone(), clock, fastrand::f64);
        let (cache, renewals) =
            TokenCache::new(mint, Outage::new(), limits(100), TaskTracker::new());
        cache.0.runtime.spawn(renewals.run());
        cache
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Call(organization, resource, needed) => {
                self.call(organization, resource, needed)
            }
            Event::Watch(organization, resource) => self.watch(organization, resource),
            Event::Pass(time) => sleep(time).await,
            Event::Answer(reply, delay) => {
                let mut replies = self.entra.replies.lock().expect("no panic");
                replies.push_back((reply, delay));
            }
            Event::Rotate(organization) => {
                if self.rotate(organization).await {
                    self.cache.supersede(&id(&name(organization)));
                }
            }
            Event::RotateLeaked(organization) => {
                let leaked = self.versions[organization];
                if self.rotate(organization).await {
                    self.cache.forget(&id(&name(organization)));
                    let put_away = &self.put_away[organization];
                    put_away.version.store(leaked, Ordering::Relaxed);
                }
            }
            Event::Revoke(organization) => self.revoke(organization).await,
            Event::Report(organization, resource) => {
                let key = key(&name(organization), RESOURCES[resource].clone());
                if let Some(token) = self.cache.valid(&key) {
                    let refused = Refused::Unauthorized(None);
                    let _ = self.cache.report(&key, &token.fingerprint, refused);
                }
            }
            Event::Sweep => self.cache.sweep(),
            // Callers of before ask the old one on: they stand for another replica that is slow to stop.
            Event::Restart => self.cache = Self::start(&self.vault, &self.entra, self.clock),
        }
    }

    fn call(&mut self, organization: usize, resource: usize, needed: Duration) {
        let key = key(&name(organization), RESOURCES[resource].clone());
        let check = self.check(organization, resource);
        let cache = self.cache.clone();
        self.callers.spawn(async move {
            if let Ok(token) = cache.token(&key, needed, Lane::Caller).await {
                check(&token);
            }
        });
    }

    fn watch(&mut self, organization: usize, resource: usize) {
        let key = key(&name(organization), RESOURCES[resource].clone());
        let check = self.check(organization, resource);
        let mut watch = self.cache.watch(key, MARGIN, Lane::Caller);
        self.callers.spawn(async move {
            while let Ok(token) = watch.next().await {
                check(&token);
            }
        });
    }

    /// What holds of every token at the moment that it is handed out.
    fn check(&self, organization: usize, resource: usize) -> impl Fn(&Token) + use<> {
        let (put_away, handed_out) = (self.put_away.clone(), self.handed_out.clone());
        let began = self
            .entra
            .began
            .lock()
            .expect("no panic")
            .expect("set at first");
        let url = [
            "https://graph.microsoft.com",
            "https://outlook.office365.com",
        ][resource];
        move |token| {
            // Exposed: it tells what it is.
            let parts: Vec<_> = token.access_token.expose().split(' ').collect();
            let version: u64 = parts[2].parse().expect("a number");
            let ends: u128 = parts[3].parse().expect("a number");
            assert_eq!(
                parts[0],
                tenant(organization).to_string(),
                "another organization's"
            );
            assert_eq!(parts[1], url, "another resource's");
            assert!(began.elapsed().as_millis() < ends, "expired");
            let put_away = &put_away[organization];
            assert!(!put_away.revoked.load(Ordering::Relaxed), "revoked");
            assert!(version > put_away.version.load(Ordering::Relaxed), "leaked");
            assert_eq!(token.credential_version, version);
            handed_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it could be: an organization that was revoked cannot.
    async fn rotate(&mut self, organization: usize) -> bool {
        let version = self.versions[organization];
        let mark = self.vault.mark(&format!("rotate {version}"), b"");
        let (next, now) = (secret_of(version + 1), SystemTime::UNIX_EPOCH);
        let id = id(&name(organization));
        let rotated = self.vault.rotate(&id, version, next, mark, now).await;
        self.versions[organization] += u64::from(rotated.is_ok());
        rotated.is_ok()
    }

    async fn revoke(&mut self, organization: usize) {
        let mark = self.vault.mark("revoke", b"");
        let id = id(&name(organization));
        let (version, now) = (self.versions[organization], SystemTime::UNIX_EPOCH);
        if self.vault.revoke(&id, version, mark, now).await.is_ok() {
            self.cache.forget(&id);
            let put_away = &self.put_away[organization];
            put_away.revoked.store(true, Ordering::Relaxed);
        }
    }
}

fn times() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => 0..3000_u64,
        4 => 0..120_000_u64,
        2 => 0..4_000_000_u64,
    ]
    .prop_map(Duration::from_millis)
}

fn events() -> impl Strategy<Value = Event> {
    let of = || 0..ORGANIZATIONS;
    let reply = prop_oneof![
        4 => (1..7200_u64).prop_map(|life| Reply::Token(Duration::from_secs(life))),
        1 => Just(Reply::Fails(Answer::Unreachable)),
        1 => Just(Reply::Fails(Answer::Throttled)),
        1 => Just(Reply::Fails(Answer::Rejected)),
        1 => Just(Reply::Fails(Answer::Propagating)),
    ];
    prop_oneof![
        12 => (of(), 0..2_usize, times()).prop_map(|(o, r, needed)| Event::Call(o, r, needed)),
        1 => (of(), 0..2_usize).prop_map(|(o, r)| Event::Watch(o, r)),
        8 => times().prop_map(Event::Pass),
        6 => (reply, times()).prop_map(|(reply, delay)| Event::Answer(reply, delay)),
        1 => of().prop_map(Event::Rotate),
        1 => of().prop_map(Event::RotateLeaked),
        1 => of().prop_map(Event::Revoke),
        2 => (of(), 0..2_usize).prop_map(|(o, r)| Event::Report(o, r)),
        1 => Just(Event::Sweep),
    ]
}

fn run(events: Vec<Event>, restarts: bool) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new().await;
        let count = events.len();
        for (at, event) in events.into_iter().enumerate() {
            if restarts && at == count / 2 {
                // Only what is kept in the vault goes over.
                sleep(Duration::from_secs(1)).await;
                world.callers.shutdown().await;
                world.happen(Event::Restart).await;
            }
            world.happen(event).await;
            while let Some(ended) = world.callers.try_join_next() {
                ended.expect("holds");
            }
        }
        sleep(Duration::from_secs(60)).await;
        while let Some(ended) = world.callers.try_join_next() {
            ended.expect("holds");
        }
        world.handed_out.load(Ordering::Relaxed)
    })
}

/// That the others check something at all.
#[test]
fn tokens_are_handed_out_in_such_schedules() {
    let call = Event::Call(0, 0, MARGIN);
    let pass = Event::Pass(Duration::from_secs(1));
    let events = vec![call.clone(), pass.clone(), call.clone(), pass.clone()];
    assert_eq!(run(events, false), 2);
    let leaked = vec![
        call.clone(),
        pass.clone(),
        Event::RotateLeaked(0),
        call,
        pass,
    ];
    assert_eq!(run(leaked, true), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_schedule_hands_out_a_token_that_it_should_not(
        events in prop::collection::vec(events(), 1..80),
        restarts: bool,
    ) {
        run(events, restarts);
    }
}
