//! A broker without sockets: callers, operators, and an Entra and a store that take their time.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use spiffe::{SpiffeId, TrustDomain};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, yield_now},
    time::{Instant, sleep, timeout},
};
use tokio_stream::StreamExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Request;

use super::history::{Event, History};
use crate::{
    audit::Audit,
    authz::{Caller, LivePolicy, Policy},
    clock::Clock,
    credential::Credential,
    entra::{self, Grant, Principal, TokenEndpoint, TokenRequest, Urgency, outage::Outage},
    hex::Hex,
    jobs::Jobs,
    kek::local::FileKey,
    metrics::Metrics,
    organization::{
        ClientId, Cloud, OrganizationId, Resource, SharePointHost, TenantId, TenantName,
        label::Labels,
    },
    pb::v1::{self, GetTokenRequest, ReportTokenRequest, WatchTokenRequest},
    registration::{self, Mode, OldTokens, Proof, Registrar},
    rpc::{listener::Peer, records::Records, status, token_service::TokenService, unary::Handed},
    secret::{AccessToken, ClientSecret, SymmetricKey},
    store::{self, Entry, Key, Revision, Store, Transaction, memory::MemoryStore},
    token::{
        cache::{Limits, TokenCache},
        delivery::{Deliveries, Delivery, Open},
        mint::Mint,
    },
    vault::{NewOrganization, Vault, shred::OldCopies},
};

const ORGANIZATIONS: usize = 2;
const CALLERS: usize = 4;
const WATCHERS: usize = 2;
/// Changes of each organization.
const CHANGES: usize = 10;
const RESOURCES: [v1::Resource; 2] = [v1::Resource::Graph, v1::Resource::Exchange];
const POLICY: &str = r#"
    [[grant]]
    callers = ["spiffe://kodo.test/*"]
    actions = ["get_token"]
    organizations = ["*"]
    resources = ["graph", "exchange"]
"#;

/// The same random delays for the same seed. Cheap to clone.
#[derive(Clone, Debug)]
struct Chance(Arc<Mutex<fastrand::Rng>>);

#[derive(Debug)]
struct SlowStore(MemoryStore, Chance);

#[derive(Debug)]
struct SlowEntra {
    chance: Chance,
    number: AtomicU64,
}

/// A token that a caller has, or had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    organization: usize,
    caller: String,
    resource: Resource,
    fingerprint: String,
    ends_at: Instant,
}

/// Everything together.
#[derive(Clone)]
pub(super) struct World {
    chance: Chance,
    service: TokenService,
    registrar: Registrar,
    vault: Arc<Vault>,
    records: Arc<Records>,
    history: Arc<History>,
    held: Arc<Mutex<HashSet<Held>>>,
}

/// A connection of a caller.
struct Connection {
    peer: Peer,
    _open: Open,
}

/// How an organization is, to its operator.
struct Managed {
    organization: usize,
    revision: u64,
    version: u64,
    suspended: bool,
    revoked: bool,
}

impl Chance {
    fn below(&self, end: u64) -> u64 {
        self.0.lock().expect("no panic").u64(0..end)
    }

    /// Once in so many times.
    fn once_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Nothing, a moment, or up to so many milliseconds.
    async fn pause(&self, most: u64) {
        match self.below(3) {
            0 => {}
            1 => yield_now().await,
            _ => sleep(Duration::from_millis(self.below(most))).await,
        }
    }
}

#[async_trait]
impl Store for SlowStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, store::Error> {
        self.1.pause(4).await;
        let got = self.0.get(key).await;
        self.1.pause(4).await;
        got
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, store::Error> {
        self.1.pause(4).await;
        self.0.scan(prefix, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, store::Error> {
        self.1.pause(10).await;
        let committed = self.0.commit(transaction).await;
        self.1.pause(10).await;
        committed
    }
}

#[async_trait]
impl TokenEndpoint for SlowEntra {
    async fn request_token(&self, _: TokenRequest<'_>) -> Result<Grant, entra::Error> {
        self.chance.pause(60).await;
        if self.chance.once_in(20) {
            return Err(entra::Error::Unreachable {
                host: "login.example".into(),
                trouble: entra::Trouble::Connection,
                reason: "no connection".into(),
                retry_after: None,
            });
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        Ok(Grant {
            access_token: AccessToken::new(format!("token {number}")),
            expires_in: Duration::from_millis(50 + self.chance.below(1000)),
            refresh_in: None,
        })
    }

    async fn sharepoint_root_host(
        &self,
        _: Principal,
        _: &AccessToken,
        _: &Urgency,
    ) -> Result<SharePointHost, entra::Error> {
        Err(entra::Error::Busy)
    }

    async fn tenant_id(&self, _: Cloud, _: &TenantName) -> Result<TenantId, entra::Error> {
        Err(entra::Error::Busy)
    }
}

fn name(organization: usize) -> String {
    format!("org-{organization}")
}

fn id(organization: usize) -> OrganizationId {
    OrganizationId::parse(&name(organization)).expect("an id")
}

fn secret() -> Credential {
    Credential::ClientSecret {
        value: ClientSecret::new("a secret".into()),
        expires: None,
    }
}

async fn registered(vault: &Vault, organization: usize) {
    let new = NewOrganization {
        id: id(organization),
        display_name: String::new(),
        tenant_id: TenantId::parse("8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a").expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse("0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9").expect("a GUID"),
        sharepoint_root_host: None,
        sharepoint_hosts: vec![],
        labels: Labels::NONE,
    };
    let mark = vault.mark("register", b"");
    let new = new.registered(&secret(), SystemTime::UNIX_EPOCH);
    let stored = vault.register(new, secret(), mark).await;
    stored.expect("registers");
}

impl World {
    pub(super) async fn new(seed: u64) -> Self {
        let chance = Chance(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))));
        let kek = FileKey::new(SymmetricKey::new(vec![1; 32]).expect("32 bytes"));
        let store = SlowStore(MemoryStore::default(), chance.clone());
        let vault = Vault::open(Arc::new(store), Arc::new(kek)).await;
        let vault = Arc::new(vault.expect("a new vault"));
        for organization in 0..ORGANIZATIONS {
            registered(&vault, organization).await;
        }
        let entra = Arc::new(SlowEntra {
            chance: chance.clone(),
            number: AtomicU64::new(0),
        });
        let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let mint = Mint::new(vault.clone(), entra.clone(), clock, || 0.5);
        let limits = Limits {
            slots_max: 100,
            propagation: Duration::from_secs(90),
        };
        let tasks = TaskTracker::new();
        let (tokens, renewals) = TokenCache::new(mint, Outage::new(), limits, tasks.clone());
        tasks.spawn(renewals.run());
        let deliveries = Deliveries::default();
        let jobs = Jobs::open(vault.clone(), clock).await;
        let records = Arc::new(Records::new(Audit::off(), clock));
        let trust_domain = TrustDomain::new("kodo.test").expect("a trust domain");
        let service = TokenService {
            policy: LivePolicy::new(Policy::parse(POLICY, &[trust_domain]).expect("a policy")),
            labels: vault.labels().clone(),
            jobs: Arc::new(jobs.expect("none are kept")),
            tokens: tokens.clone(),
            deliveries: deliveries.clone(),
            clock,
            records: records.clone(),
            metrics: Arc::new(Metrics::new()),
            margin: Duration::ZERO,
            call_timeout: Duration::from_secs(60),
            streams: Arc::new(Semaphore::new(100)),
            waiting: Arc::new(Semaphore::new(100)),
            stop: CancellationToken::new(),
        };
        Self {
            registrar: Registrar::new(vault.clone(), entra, tokens, deliveries, clock, tasks),
            chance,
            service,
            vault,
            records,
            history: Arc::default(),
            held: Arc::default(),
        }
    }

    /// Lets callers call until all changes are made, and a moment longer.
    pub(super) async fn live(&self) -> Vec<(usize, Event)> {
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let world = self.clone();
            callers.spawn(async move { world.call_for_ever(number).await });
        }
        for number in 0..WATCHERS {
            let world = self.clone();
            callers.spawn(async move { world.watch_for_ever(CALLERS + number).await });
        }
        let mut operators = JoinSet::new();
        for organization in 0..ORGANIZATIONS {
            let world = self.clone();
            operators.spawn(async move { world.operate(organization).await });
        }
        while let Some(ended) = operators.join_next().await {
            ended.expect("no panic");
        }
        sleep(Duration::from_millis(200)).await;
        callers.shutdown().await;
        self.history.events()
    }

    fn connect(&self, number: usize) -> Connection {
        let caller = SpiffeId::new(format!("spiffe://kodo.test/worker/{number}"));
        let caller = Caller::new(caller.expect("an id"), &self.service.policy.current());
        let peer = Peer::new(Ok(caller));
        Connection {
            _open: self.service.deliveries.open(peer.route().clone()),
            peer,
        }
    }

    /// What happens to an answer with tokens after it was made: it waits to be written, it is, and it
    /// leaves, unless the connection was broken.
    async fn send(&self, connection: &Connection, tokens: Vec<Delivery>, arrived: impl FnOnce()) {
        self.chance
            .pause(if self.chance.once_in(15) { 3000 } else { 20 })
            .await;
        tokens.into_iter().for_each(Delivery::written);
        self.chance.pause(5).await;
        if !connection.peer.route().is_broken() {
            arrived();
            connection.peer.route().flushed();
        }
    }

    fn arrived(
        &self,
        number: usize,
        organization: usize,
        resource: v1::Resource,
        token: &v1::GetTokenResponse,
    ) {
        let version = token.credential_version;
        self.history.note(Event::Given {
            organization,
            version,
        });
        let end = token
            .expire_time
            .and_then(|end| SystemTime::try_from(end).ok());
        let left = end
            .expect("always set")
            .duration_since(self.service.clock.now());
        self.held.lock().expect("no panic").insert(Held {
            organization,
            caller: format!("spiffe://kodo.test/worker/{number}"),
            resource: match resource {
                v1::Resource::Exchange => Resource::Exchange,
                _ => Resource::Graph,
            },
            fingerprint: token.fingerprint.clone(),
            // At the earliest: times are cut off to milliseconds on their way.
            ends_at: Instant::now() + left.unwrap_or_default() - Duration::from_millis(2),
        });
    }

    async fn call_for_ever(&self, number: usize) {
        let mut connection = self.connect(number);
        loop {
            sleep(Duration::from_millis(self.chance.below(40))).await;
            if connection.peer.route().is_broken() {
                connection = self.connect(number);
            }
            let organization = self.chance.below(ORGANIZATIONS as u64) as usize;
            let resource = RESOURCES[self.chance.below(2) as usize];
            let request = GetTokenRequest {
                organization_id: name(organization),
                resource: resource.into(),
                ..Default::default()
            };
            let begun = self.history.now();
            let answer = self.service.hand_out(&connection.peer, request, None).await;
            match answer {
                Ok((token, delivery)) => {
                    let message = crate::rpc::get_token::message(&token, self.service.clock);
                    self.send(&connection, vec![delivery], || {
                        self.arrived(number, organization, resource, &message);
                    })
                    .await;
                    if self.chance.once_in(10) {
                        self.report(&connection, organization, resource, &token.fingerprint);
                    }
                }
                Err(status) => self.refused(organization, begun, &status),
            }
        }
    }

    fn refused(&self, organization: usize, begun: usize, status: &tonic::Status) {
        if status::reason(status) == "ORGANIZATION_SUSPENDED" {
            self.history.note(Event::RefusedSuspended {
                organization,
                begun,
            });
        }
    }

    fn report(
        &self,
        connection: &Connection,
        organization: usize,
        resource: v1::Resource,
        fingerprint: &[u8],
    ) {
        let mut request = Request::new(ReportTokenRequest {
            organization_id: name(organization),
            resource: resource.into(),
            fingerprint: Hex(fingerprint).to_string(),
            http_status: 401,
            ..Default::default()
        });
        request.extensions_mut().insert(connection.peer.clone());
        self.service.judge(request).expect("a verdict");
    }

    async fn watch_for_ever(&self, number: usize) {
        loop {
            sleep(Duration::from_millis(self.chance.below(60))).await;
            let connection = self.connect(number);
            let organization = self.chance.below(ORGANIZATIONS as u64) as usize;
            let resource = RESOURCES[self.chance.below(2) as usize];
            let mut request = Request::new(WatchTokenRequest {
                organization_id: name(organization),
                resource: resource.into(),
                ..Default::default()
            });
            request.extensions_mut().insert(connection.peer.clone());
            let response = self.service.follow(request).expect("there is room");
            let handed = response.extensions().get::<Handed>().cloned();
            let handed = handed.expect("goes with every stream");
            let mut stream = response.into_inner();
            let patience = Duration::from_millis(self.chance.below(4000));
            let began = Instant::now();
            while began.elapsed() < patience && !connection.peer.route().is_broken() {
                let begun = self.history.now();
                match timeout(patience, stream.next()).await {
                    Ok(Some(Ok(item))) => {
                        let token = item.token.expect("always set");
                        let tokens = handed.take().into_iter().collect();
                        self.send(&connection, tokens, || {
                            self.arrived(number, organization, resource, &token);
                        })
                        .await;
                    }
                    Ok(Some(Err(status))) => self.refused(organization, begun, &status),
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }

    async fn operate(&self, organization: usize) {
        let mut managed = Managed {
            organization,
            revision: 1,
            version: 1,
            suspended: false,
            revoked: false,
        };
        for number in 0..CHANGES {
            sleep(Duration::from_millis(self.chance.below(150))).await;
            let request = registration::Request {
                caller: SpiffeId::new("spiffe://kodo.test/admin").expect("an id"),
                mark: self.vault.mark(&format!("change-{number}"), b""),
                mode: Mode::Store,
            };
            match (managed.suspended, self.chance.below(20)) {
                (_, 0) => self.revoke(&mut managed, request).await,
                (_, 1..5) => self.rotate(&mut managed, request).await,
                (false, _) => self.suspend(&mut managed, request).await,
                (true, _) => self.resume(&mut managed, request).await,
            }
            if managed.revoked {
                break;
            }
        }
    }

    /// Sometimes the same request is sent twice, and both answers are a promise.
    async fn suspend(&self, managed: &mut Managed, request: registration::Request) {
        let organization = managed.organization;
        self.history.note(Event::Stopping { organization });
        let once = async |request| {
            let reason = "a reason".to_owned();
            let work = self
                .registrar
                .suspend(id(organization), managed.revision, reason, request);
            work.await.expect("suspends");
            self.history.note(Event::Suspended { organization });
            self.check_exposure(organization);
        };
        if self.chance.once_in(4) {
            let later = async {
                self.chance.pause(20).await;
                once(request.clone()).await;
            };
            tokio::join!(once(request.clone()), later);
        } else {
            once(request).await;
        }
        managed.revision += 1;
        managed.suspended = true;
    }

    async fn resume(&self, managed: &mut Managed, request: registration::Request) {
        let organization = managed.organization;
        self.history.note(Event::Resuming { organization });
        let proof = match self.chance.once_in(3) {
            true => Proof::Required,
            false => Proof::Waived,
        };
        let work = self
            .registrar
            .resume(id(organization), managed.revision, proof, request);
        if work.await.is_ok() {
            self.history.note(Event::Resumed { organization });
            managed.revision += 1;
            managed.suspended = false;
        } else {
            // It is as it was.
            self.history.note(Event::Suspended { organization });
        }
    }

    async fn rotate(&self, managed: &mut Managed, request: registration::Request) {
        let (organization, leaked) = (managed.organization, self.chance.once_in(2));
        let old_tokens = if leaked {
            OldTokens::Forget
        } else {
            OldTokens::Serve
        };
        let work = self.registrar.rotate(
            id(organization),
            managed.revision,
            secret(),
            old_tokens,
            request,
        );
        if work.await.is_ok() {
            managed.revision += 1;
            managed.version += 1;
            if leaked {
                self.history.note(Event::RotatedLeaked {
                    organization,
                    version: managed.version,
                });
            }
        }
    }

    async fn revoke(&self, managed: &mut Managed, request: registration::Request) {
        let organization = managed.organization;
        self.history.note(Event::Stopping { organization });
        let work = self.registrar.revoke(
            id(organization),
            managed.revision,
            OldCopies::Leave,
            request,
        );
        work.await.expect("revokes");
        self.history.note(Event::Revoked { organization });
        self.check_exposure(organization);
        managed.revoked = true;
    }

    /// Everything that a caller has and that has not ended is told of.
    fn check_exposure(&self, organization: usize) {
        let exposure = self.records.hand_outs().of(&id(organization));
        let now = Instant::now();
        let held = self.held.lock().expect("no panic");
        let of_it = |held: &&Held| held.organization == organization && held.ends_at > now;
        let held: Vec<_> = held.iter().filter(of_it).collect();
        for one in &held {
            let same =
                |other: &&&Held| other.caller == one.caller && other.resource == one.resource;
            let count = held.iter().filter(same).count() as u64;
            let told = exposure
                .holders
                .iter()
                .find(|holder| *holder.caller == *one.caller && holder.resource == one.resource);
            let told = told.map_or(0, |holder| holder.count);
            assert!(told >= count, "{told} of {count} are told of {one:?}");
        }
        let last = held.iter().map(|held| held.ends_at).max();
        assert!(exposure.ends_at >= last, "{exposure:?}");
    }
}
