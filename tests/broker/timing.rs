//! An organization that a caller may not know of is refused in the time that one takes which does not
//! exist: over the services as they are, without the noise of a network, by Welch's t-test.
//!
//! As in Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?" (2017): both kinds in random
//! turns, the slowest samples left out, and |t| below 4.5.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full};
use kodo_broker::{
    audit::Audit,
    authz::{Caller, LivePolicy, Policy},
    clock::Clock,
    entra::{Error, Grant, Principal, TokenEndpoint, TokenRequest, Urgency, outage::Outage},
    jobs::Jobs,
    kek::local::FileKey,
    metrics::Metrics,
    organization::{
        Cloud, OrganizationId, SharePointHost, TenantId, TenantName,
        label::{Label, Labels},
    },
    pb::v1::{GetTokenRequest, Resource, token_service_server::TokenServiceServer},
    rpc::{listener::Peer, records::Records, token_service::TokenService},
    secret::{AccessToken, SymmetricKey},
    store::memory::MemoryStore,
    token::{
        cache::{Limits, TokenCache},
        delivery::Deliveries,
        mint::Mint,
    },
    vault::Vault,
};
use prost::Message as _;
use spiffe::{SpiffeId, TrustDomain};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, codegen::Service as _};

/// The caller has grants of every kind, none of which is about any organization that is asked for.
const POLICY: &str = r#"
    [[grant]]
    callers = ["spiffe://kodo.test/worker"]
    actions = ["get_token"]
    organizations = ["mine-*", "own"]
    resources = ["graph"]
    [[grant]]
    callers = ["spiffe://kodo.test/worker"]
    actions = ["get_token"]
    organizations = ["*"]
    labels = ["msp=mine", "msp=own"]
    resources = ["graph"]
"#;
/// Ids of each kind: so many that no one of them counts.
const IDS: u64 = 2000;
const SAMPLES: usize = 30_000;
/// Of all samples, the slowest of which were interrupted.
const KEPT: f64 = 0.9;
const T_MAX: f64 = 4.5;
/// So often the machine may be too restless.
const TRIES: usize = 4;

/// Is never asked.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl TokenEndpoint for Nobody {
    async fn request_token(&self, _: TokenRequest<'_>) -> Result<Grant, Error> {
        Err(Error::Assertion)
    }

    async fn sharepoint_root_host(
        &self,
        _: Principal,
        _: &AccessToken,
        _: &Urgency,
    ) -> Result<SharePointHost, Error> {
        Err(Error::Assertion)
    }

    async fn tenant_id(&self, _: Cloud, _: &TenantName) -> Result<TenantId, Error> {
        Err(Error::Assertion)
    }
}

/// Ids of one form, of which nobody can tell whether there are such.
fn id(number: u64) -> OrganizationId {
    let scrambled = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    OrganizationId::parse(&format!("organization-{scrambled:016x}")).expect("an id")
}

/// The services over a vault in which the organizations with even numbers have labels of somebody else,
/// one of which the caller has, too, on others.
async fn service() -> (TokenServiceServer<TokenService>, Peer) {
    let key = SymmetricKey::new(vec![1; 32]).expect("32 bytes");
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::open(store, Arc::new(FileKey::new(key))).await;
    let vault = Arc::new(vault.expect("a new vault"));
    let labels = vault.labels().clone();
    let label = |text: &str| Labels::new([Label::parse(text).expect("a label")]).expect("one");
    for number in 0..IDS {
        labels.set(&id(2 * number), 1, &label("msp=theirs"));
        let mine = OrganizationId::parse(&format!("mine-{number}")).expect("an id");
        labels.set(&mine, 1, &label("msp=mine"));
    }
    let domain = TrustDomain::new("kodo.test").expect("a domain");
    let policy = LivePolicy::new(Policy::parse(POLICY, &[domain]).expect("parses"));
    let worker = SpiffeId::new("spiffe://kodo.test/worker").expect("an id");
    let peer = Peer::new(Ok(Caller::new(worker, &policy.current())));
    let clock = Clock::system();
    let jobs = Jobs::open(vault.clone(), clock).await;
    let jobs = Arc::new(jobs.expect("none are kept"));
    let mint = Mint::new(vault, Arc::new(Nobody), clock, || 0.5);
    let limits = Limits {
        slots_max: usize::MAX,
        propagation: Duration::ZERO,
    };
    let (tokens, _) = TokenCache::new(mint, Outage::new(), limits, TaskTracker::new());
    let service = TokenServiceServer::new(TokenService {
        policy,
        labels,
        jobs,
        tokens,
        clock,
        records: Arc::new(Records::new(Audit::off(), clock)),
        metrics: Arc::new(Metrics::new()),
        margin: Duration::from_secs(300),
        call_timeout: Duration::from_secs(60),
        streams: Arc::new(Semaphore::new(1)),
        waiting: Arc::new(Semaphore::new(1)),
        deliveries: Deliveries::default(),
        stop: CancellationToken::new(),
    });
    (service, peer)
}

/// How long the answer takes, and what it is.
async fn call(
    service: &mut TokenServiceServer<TokenService>,
    peer: &Peer,
    organization: &OrganizationId,
) -> (f64, Vec<String>) {
    let message = GetTokenRequest {
        organization_id: organization.as_str().to_owned(),
        resource: Resource::Graph.into(),
        ..Default::default()
    };
    let text = message.encode_to_vec();
    let length = u32::try_from(text.len()).expect("a small message");
    let body = [&[0][..], &length.to_be_bytes(), &text].concat();
    let mut request = http::Request::post("https://localhost/kodo.broker.v1.TokenService/GetToken")
        .header("content-type", "application/grpc")
        .body(Body::new(Full::new(body.into())))
        .expect("a request");
    request.extensions_mut().insert(peer.clone());
    let began = Instant::now();
    let answer = service.call(request).await.expect("is answered");
    let (head, body) = answer.into_parts();
    let body = body.collect().await.expect("is whole").to_bytes();
    let took = began.elapsed().as_secs_f64();
    let headers = head.headers.iter();
    let mut seen: Vec<_> = headers.map(|header| format!("{header:?}")).collect();
    seen.push(format!("{body:?}"));
    (took, seen)
}

/// Welch's t of two kinds of samples, without the slowest of both together.
fn welch(kinds: [&[f64]; 2]) -> f64 {
    let mut all = kinds.concat();
    all.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a number of samples"
    )]
    let limit = all[(all.len() as f64 * KEPT) as usize];
    let [(mean, of), (other_mean, other_of)] = kinds.map(|samples| {
        let kept: Vec<_> = samples.iter().filter(|sample| **sample < limit).collect();
        let count = kept.len() as f64;
        let mean = kept.iter().copied().sum::<f64>() / count;
        let squares = kept.iter().map(|sample| (*sample - mean).powi(2));
        (mean, squares.sum::<f64>() / (count - 1.0) / count)
    });
    (mean - other_mean) / (of + other_of).sqrt()
}

/// Asks about organizations of both kinds by chance. Welch's t between them, and what it would be if a
/// forbidden one took two per cent longer: that is less than any look into a map on the way would take.
async fn compare(service: &mut TokenServiceServer<TokenService>, peer: &Peer) -> (f64, f64) {
    let mut random = fastrand::Rng::new();
    let mut samples = [Vec::new(), Vec::new()];
    let (_, expected) = call(service, peer, &id(1)).await;
    assert!(
        expected.iter().any(|line| line.contains("grpc-status")),
        "{expected:?}"
    );
    while samples.iter().any(|kind| kind.len() < SAMPLES) {
        let number = random.u64(..2 * IDS);
        let (took, seen) = call(service, peer, &id(number)).await;
        assert_eq!(seen, expected, "organization {number}");
        samples[usize::from(number.is_multiple_of(2))].push(took);
    }
    let [unknown, forbidden] = &samples;
    let slower: Vec<_> = forbidden.iter().map(|took| took * 1.02).collect();
    (welch([unknown, forbidden]), welch([unknown, &slower]))
}

/// What is there to be seen is seen each time; what the machine does meanwhile is not.
#[tokio::test]
async fn a_forbidden_organization_takes_the_time_of_one_that_does_not_exist() {
    let (mut service, peer) = service().await;
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let (t, slower) = compare(&mut service, &peer).await;
        if t.abs() < T_MAX && slower < -T_MAX {
            return;
        }
        seen.push((t, slower));
    }
    panic!("t, and t with two per cent more: {seen:?}");
}
