//! The way of a warm call without connection and TLS: the message is decoded, fields and policy are
//! checked, the token is found, the answer is encoded.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use kodo_broker::{
    audit::Audit,
    authz::{Caller, LivePolicy, Policy},
    clock::Clock,
    credential::Credential,
    entra::{Error, Grant, Principal, TokenEndpoint, TokenRequest, Urgency, outage::Outage},
    jobs::Jobs,
    kek::local::FileKey,
    metrics::Metrics,
    organization::{ClientId, Cloud, OrganizationId, SharePointHost, TenantId, TenantName},
    pb::v1::{
        GetTokenRequest, GetTokenResponse, Resource, token_service_server::TokenServiceServer,
    },
    rpc::{listener::Peer, records::Records, token_service::TokenService},
    secret::{AccessToken, ClientSecret, SymmetricKey},
    store::memory::MemoryStore,
    token::{
        cache::{Limits, TokenCache},
        delivery::Deliveries,
        mint::Mint,
    },
    vault::{NewOrganization, Vault},
};
use prost::{
    Message as _,
    bytes::{BufMut as _, Bytes, BytesMut},
};
use spiffe::{SpiffeId, TrustDomain};
use tokio::{runtime::Runtime, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, codegen::Service as _};
use uuid::Uuid;

use crate::Failure;

/// Asked in turn: enough for the map of tokens to be one.
const ORGANIZATIONS: u64 = 64;
const TOKEN_BYTES: usize = 1800;
const WORKER: &str = "spiffe://bench.test/worker";
const POLICY: &str = r#"
[[grant]]
callers = ["spiffe://bench.test/worker"]
actions = ["get_token"]
organizations = ["*"]
resources = ["graph"]
"#;

/// Gives every organization a token that lives as long as tokens may.
#[derive(Debug)]
struct Entra;

#[async_trait]
impl TokenEndpoint for Entra {
    async fn request_token(&self, _: TokenRequest<'_>) -> Result<Grant, Error> {
        Ok(Grant {
            access_token: AccessToken::new("t".repeat(TOKEN_BYTES)),
            expires_in: Duration::from_secs(24 * 3600),
            refresh_in: None,
        })
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

/// What calls are made of, with every token in the cache.
pub(crate) struct Path {
    runtime: Runtime,
    service: TokenServiceServer<TokenService>,
    peer: Peer,
    requests: Vec<Bytes>,
}

impl Path {
    pub(crate) fn new() -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let policy = Policy::parse(POLICY, &[TrustDomain::new("bench.test")?])?;
        let policy = LivePolicy::new(policy);
        let service = runtime.block_on(service(policy.clone()))?;
        let worker = Caller::new(SpiffeId::new(WORKER)?, &policy.current());
        let mut path = Self {
            runtime,
            service,
            peer: Peer::new(Ok(worker)),
            requests: (0..ORGANIZATIONS).map(request).collect(),
        };
        // The first call for an organization brings its token.
        let answer = GetTokenResponse::decode(path.walk(ORGANIZATIONS)?.slice(5..))?;
        if answer.access_token.len() != TOKEN_BYTES {
            return Err("the answer holds no token".into());
        }
        Ok(path)
    }

    /// Makes so many calls, for one organization after the other. Returns the body of the last answer.
    pub(crate) fn walk(&mut self, calls: u64) -> Result<Bytes, Failure> {
        let Self {
            runtime,
            service,
            peer,
            requests,
        } = self;
        runtime.block_on(async {
            let mut answer = Bytes::new();
            for body in requests.iter().cycle().take(usize::try_from(calls)?) {
                answer = call(service, peer, body).await?;
            }
            Ok(answer)
        })
    }
}

async fn service(policy: Arc<LivePolicy>) -> Result<TokenServiceServer<TokenService>, Failure> {
    let kek = FileKey::new(SymmetricKey::new(vec![1; 32]).ok_or("32 bytes are a key")?);
    let vault = Vault::open(Arc::new(MemoryStore::default()), Arc::new(kek)).await?;
    let clock = Clock::system();
    for number in 0..ORGANIZATIONS {
        let credential = Credential::ClientSecret {
            value: ClientSecret::new("a client secret of nobody".to_owned()),
            expires: None,
        };
        let organization = NewOrganization {
            id: OrganizationId::parse(&id(number)).map_err(|wrong| wrong.to_string())?,
            display_name: String::new(),
            tenant_id: TenantId::parse(&Uuid::new_v4().to_string())
                .map_err(|wrong| wrong.to_string())?,
            cloud: Cloud::Global,
            client_id: ClientId::parse(&Uuid::new_v4().to_string())
                .map_err(|wrong| wrong.to_string())?,
            sharepoint_root_host: None,
            sharepoint_hosts: Vec::new(),
            labels: Default::default(),
        };
        let organization = organization.registered(&credential, clock.now());
        let mark = vault.mark("register", b"");
        vault.register(organization, credential, mark).await?;
    }
    let labels = vault.labels().clone();
    let vault = Arc::new(vault);
    let jobs = Arc::new(Jobs::open(vault.clone(), clock).await?);
    let mint = Mint::new(vault, Arc::new(Entra), clock, || 0.5);
    let limits = Limits {
        slots_max: usize::MAX,
        propagation: Duration::ZERO,
    };
    // Nothing is due to be renewed.
    let (tokens, _) = TokenCache::new(mint, Outage::new(), limits, TaskTracker::new());
    Ok(TokenServiceServer::new(TokenService {
        policy,
        labels,
        jobs,
        tokens,
        deliveries: Deliveries::default(),
        clock,
        // What a record costs is a matter of the disk, too, and of digests, of which valgrind counts
        // more than a processor does.
        records: Arc::new(Records::new(Audit::off(), clock)),
        metrics: Arc::new(Metrics::new()),
        margin: Duration::from_secs(300),
        call_timeout: Duration::from_secs(60),
        waiting: Arc::new(Semaphore::new(1)),
        streams: Arc::new(Semaphore::new(1)),
        stop: CancellationToken::new(),
    }))
}

/// One call as the HTTP server hands it over. Returns the body of the answer.
async fn call(
    service: &mut TokenServiceServer<TokenService>,
    peer: &Peer,
    body: &Bytes,
) -> Result<Bytes, Failure> {
    let mut request = Request::post("https://localhost/kodo.broker.v1.TokenService/GetToken")
        .header("content-type", "application/grpc")
        .body(Body::new(Full::new(body.clone())))?;
    request.extensions_mut().insert(peer.clone());
    let answer = service.call(request).await?.into_body().collect().await?;
    let status = answer
        .trailers()
        .and_then(|trailers: &HeaderMap| trailers.get("grpc-status"));
    if status.is_none_or(|status| status != "0") {
        return Err(format!("grpc-status {status:?}").into());
    }
    Ok(answer.to_bytes())
}

fn id(number: u64) -> String {
    format!("organization-{number}")
}

/// The body of a request, as gRPC frames it.
fn request(number: u64) -> Bytes {
    let message = GetTokenRequest {
        organization_id: id(number),
        resource: Resource::Graph.into(),
        ..Default::default()
    };
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len()).expect("a small message"));
    message.encode(&mut body).expect("the buffer grows");
    body.freeze()
}
