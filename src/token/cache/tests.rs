use std::{collections::VecDeque, time::SystemTime};

use async_trait::async_trait;
use tokio::{
    sync::Semaphore,
    task::{JoinSet, yield_now},
    time::advance,
};

use super::*;
use crate::{
    clock::Clock,
    credential::{Certificate, Credential},
    entra::{
        self, Grant, Principal, Rejection, TokenEndpoint, TokenRequest, Urgency, cloud::Audience,
    },
    kek::local::FileKey,
    organization::{ClientId, Cloud, SharePointHost, TenantId, TenantName},
    secret::{AccessToken, ClientSecret, PrivateKey, SymmetricKey},
    store::memory::MemoryStore,
    vault::{NewOrganization, Vault},
};

mod flight;
mod life;
mod memory;
mod outage;
mod property;
mod renewal;
mod report;
mod sharepoint;
mod slot;
mod watch;

const MARGIN: Duration = Duration::from_secs(300);
const LIFE: Duration = Duration::from_secs(3600);
/// More requests than any test makes.
const OPEN: usize = 1_000_000;

/// What the token endpoint answers next.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Token(Duration),
    /// A token that is renewed at half of its life.
    Early(Duration),
    Unreachable,
    Throttled,
    Rejected,
    /// A refusal that may be over in a moment.
    Propagating,
    /// This token.
    Text(&'static str),
    Never,
    Panic,
}

/// A token endpoint that does as it is told, and a token for each call without orders.
#[derive(Debug)]
struct Entra {
    /// URLs that tokens were asked for, in order.
    asked: Mutex<Vec<String>>,
    /// Claims that went with them.
    claims: Mutex<Vec<Option<String>>>,
    script: Mutex<VecDeque<Answer>>,
    root_host: Mutex<Option<Answer>>,
    /// A permit lets one request go on.
    gate: Semaphore,
}

impl Entra {
    fn calls(&self) -> usize {
        self.asked.lock().expect("no panic").len()
    }

    fn will(&self, answers: &[Answer]) {
        self.script.lock().expect("no panic").extend(answers);
    }

    /// Keeps requests in flight until [`Self::release`].
    fn hold(&self) {
        self.gate.forget_permits(usize::MAX);
    }

    fn release(&self) {
        self.gate.add_permits(OPEN);
    }

    async fn called(&self, times: usize) {
        while self.calls() < times {
            yield_now().await;
        }
    }
}

fn unreachable() -> entra::Error {
    entra::Error::Unreachable {
        host: "login.example".into(),
        trouble: entra::Trouble::Connection,
        reason: "no connection".into(),
        retry_after: None,
    }
}

fn failure(answer: Answer) -> entra::Error {
    match answer {
        Answer::Throttled => entra::Error::Throttled {
            retry_after: MARGIN,
        },
        Answer::Rejected => {
            let rejection = Rejection::new("invalid_client", None, "", Default::default());
            entra::Error::Rejected(rejection.into())
        }
        Answer::Propagating => {
            let code = Some(7_000_215);
            let rejection = Rejection::new("invalid_client", code, "", Default::default());
            entra::Error::Rejected(rejection.into())
        }
        _ => unreachable(),
    }
}

#[async_trait]
impl TokenEndpoint for Entra {
    async fn request_token(&self, request: TokenRequest<'_>) -> Result<Grant, entra::Error> {
        let number = {
            let mut asked = self.asked.lock().expect("no panic");
            asked.push(request.audience.url().to_owned());
            asked.len()
        };
        let claims = request.claims.map(|claims| claims.as_json().to_owned());
        self.claims.lock().expect("no panic").push(claims);
        let answer = self.script.lock().expect("no panic").pop_front();
        self.gate.acquire().await.expect("open").forget();
        match answer.unwrap_or(Answer::Token(LIFE)) {
            Answer::Token(life) => Ok(Grant {
                access_token: AccessToken::new(format!("token {number}")),
                expires_in: life,
                // As late as can be: most tests count requests that somebody waits for.
                refresh_in: Some(life - Duration::from_nanos(1)),
            }),
            Answer::Early(life) => Ok(Grant {
                access_token: AccessToken::new(format!("token {number}")),
                expires_in: life,
                refresh_in: None,
            }),
            Answer::Text(text) => Ok(Grant {
                access_token: AccessToken::new(text.to_owned()),
                expires_in: LIFE,
                refresh_in: None,
            }),
            Answer::Never => std::future::pending().await,
            Answer::Panic => panic!("as the test wants it"),
            other => Err(failure(other)),
        }
    }

    async fn sharepoint_root_host(
        &self,
        principal: Principal,
        _: &AccessToken,
        _: &Urgency,
    ) -> Result<SharePointHost, entra::Error> {
        let host = SharePointHost::parse("found.sharepoint.com", principal.cloud);
        match *self.root_host.lock().expect("no panic") {
            None => Ok(host.expect("a host")),
            Some(answer) => Err(failure(answer)),
        }
    }

    async fn tenant_id(&self, _: Cloud, _: &TenantName) -> Result<TenantId, entra::Error> {
        unreachable!("no test of the cache registers by a domain")
    }
}

struct Fixture {
    entra: Arc<Entra>,
    vault: Arc<Vault>,
    flights: TaskTracker,
    cache: TokenCache,
    /// Until they are set to work.
    renewals: Mutex<Option<Renewals>>,
}

impl Fixture {
    /// With room for so many tokens, and organizations of these ids, which have client secrets.
    async fn new(slots_max: usize, ids: &[&str]) -> Self {
        // Tokens are renewed right when it is advised.
        Self::with_jitter(slots_max, ids, || 0.5).await
    }

    async fn with_jitter(slots_max: usize, ids: &[&str], jitter: fn() -> f64) -> Self {
        let kek = FileKey::new(SymmetricKey::new(vec![1; 32]).expect("32 bytes"));
        let vault = Vault::open(Arc::new(MemoryStore::default()), Arc::new(kek)).await;
        let fixture = Self::over(Arc::new(vault.expect("a new vault")), slots_max, jitter);
        for id in ids {
            fixture.register(new(id), secret()).await;
        }
        fixture
    }

    fn over(vault: Arc<Vault>, slots_max: usize, jitter: fn() -> f64) -> Self {
        let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + LIFE);
        Self::over_at(vault, slots_max, jitter, clock)
    }

    fn over_at(vault: Arc<Vault>, slots_max: usize, jitter: fn() -> f64, clock: Clock) -> Self {
        let entra = Arc::new(Entra {
            asked: Mutex::default(),
            claims: Mutex::default(),
            script: Mutex::default(),
            root_host: Mutex::default(),
            gate: Semaphore::new(OPEN),
        });
        let flights = TaskTracker::new();
        let mint = Mint::new(vault.clone(), entra.clone(), clock, jitter);
        let outage = Outage::default();
        let (cache, renewals) = TokenCache::new(mint, outage, limits(slots_max), flights.clone());
        Self {
            entra,
            vault,
            flights,
            cache,
            renewals: Mutex::new(Some(renewals)),
        }
    }

    async fn register(&self, organization: NewOrganization, credential: Credential) {
        let mark = self.vault.mark("register", b"");
        let organization = organization.registered(&credential, SystemTime::UNIX_EPOCH);
        let registered = self.vault.register(organization, credential, mark).await;
        registered.expect("registers");
    }

    async fn rotate(&self, id: &str, revision: u64) {
        let mark = self.vault.mark(&format!("rotate {revision}"), b"");
        let now = SystemTime::UNIX_EPOCH;
        let rotated = self
            .vault
            .rotate(&self::id(id), revision, secret(), mark, now)
            .await;
        rotated.expect("rotates");
        self.cache.supersede(&self::id(id));
    }

    async fn revoke(&self, id: &str) {
        let mark = self.vault.mark("revoke", b"");
        let now = SystemTime::UNIX_EPOCH;
        let revoked = self.vault.revoke(&self::id(id), 1, mark, now).await;
        revoked.expect("revokes");
        self.cache.forget(&self::id(id));
    }

    /// A Graph token with the usual margin.
    async fn get(&self, id: &str) -> Outcome {
        self.cache.token(&graph(id), MARGIN, Lane::Caller).await
    }

    /// From here on, tokens are renewed without being asked for.
    fn renew(&self) {
        let renewals = self.renewals.lock().expect("no panic").take();
        let work = renewals.expect("set to work once").run();
        self.cache.0.runtime.spawn(work);
    }

    /// Asks in a task of its own, and returns once the request is under way.
    async fn flying(&self, id: &str) -> JoinSet<Outcome> {
        let before = self.entra.calls();
        let mut caller = JoinSet::new();
        let (cache, key) = (self.cache.clone(), graph(id));
        caller.spawn(async move { cache.token(&key, MARGIN, Lane::Caller).await });
        self.entra.called(before + 1).await;
        caller
    }

    /// Until no request is under way any more.
    async fn landed(&self) {
        self.flights.close();
        self.flights.wait().await;
        self.flights.reopen();
    }

    /// What the counter of slots should be.
    fn slots(&self) -> usize {
        let organizations = self.cache.0.organizations.pin();
        organizations
            .values()
            .map(|organization| organization.lock().slots.len())
            .sum()
    }
}

fn limits(slots_max: usize) -> Limits {
    Limits {
        slots_max,
        propagation: Duration::from_secs(90),
    }
}

async fn outcome(mut caller: JoinSet<Outcome>) -> Outcome {
    let joined = caller.join_next().await.expect("one caller");
    joined.expect("no panic")
}

fn id(text: &str) -> OrganizationId {
    OrganizationId::parse(text).expect("an id")
}

fn key(id: &str, resource: Resource) -> TokenKey {
    TokenKey {
        organization: self::id(id),
        resource,
    }
}

fn graph(id: &str) -> TokenKey {
    key(id, Resource::Graph)
}

fn new(id: &str) -> NewOrganization {
    NewOrganization {
        id: self::id(id),
        display_name: String::new(),
        tenant_id: TenantId::parse("8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a").expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse("0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9").expect("a GUID"),
        sharepoint_root_host: None,
        sharepoint_hosts: vec![],
        labels: Default::default(),
    }
}

fn secret() -> Credential {
    Credential::ClientSecret {
        value: ClientSecret::new("a secret".into()),
        expires: None,
    }
}

fn certificate() -> Credential {
    Credential::Certificate(Certificate {
        key: PrivateKey::new("never used: the endpoint signs nothing".into()),
        der: vec![],
        expires: SystemTime::UNIX_EPOCH,
        key_bits: 2048,
    })
}
