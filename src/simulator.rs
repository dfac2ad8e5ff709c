//! A stand-in for Entra on loopback, for `kodo-broker dev` and the tests: the token endpoint of
//! the client credentials grant, discovery, and the one Graph call that the broker makes.
//!
//! It decides like Entra and says so in Entra's words: secrets and certificates are really
//! checked, tokens are really signed, and every refusal has an AADSTS number with its `error` and
//! HTTP status. It was modelled on documents and recordings and never compared with a live tenant,
//! so the rarer refusals may differ from Entra's in `error` or status. It hands out tokens that no real
//! service accepts, and listens on loopback only.
//!
//! # For authors of workers
//!
//! Start one in a test, point a broker at it (`[entra.loopback_authority.global]` of its configuration;
//! [`Simulator::authority_url`], [`Simulator::graph_url`]), and let things go wrong. Whatever is switched
//! holds for one tenant and one of its endpoints, and the next request sees it. Nothing is left to chance
//! but ids and, within [`directory::Tenant::token_lifetime`], the life of a token: set a range of one
//! value where that matters.
//!
//! ```
//! use kodo_broker::simulator::{
//!     Simulator,
//!     directory::{Application, Tenant},
//!     fault::{Endpoint, Fault},
//!     pki::{CertificateAuthority, Leaf},
//! };
//! use serde_json::json;
//! use uuid::Uuid;
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! // The broker trusts this CA by `entra.extra_ca_file`.
//! let ca = CertificateAuthority::new("test")?;
//! let simulator = Simulator::start(([127, 0, 0, 1], 0).into(), &ca.issue(&Leaf::loopback("entra"))?).await?;
//! let (tenant, client_id) = (Uuid::new_v4(), Uuid::new_v4());
//! let application = Application::new(client_id).with_secret("a~client.secret");
//! simulator.directory().add_tenant(Tenant::new(tenant, "contoso").with(application));
//!
//! // The next two requests are throttled, the third gets an odd answer, and from then on none is answered…
//! simulator.script(tenant, Endpoint::Token, Fault::throttled(Some(7)).times(2));
//! simulator.script(tenant, Endpoint::Token, Fault::member("expires_in", json!("3599")));
//! simulator.script(tenant, Endpoint::Token, Fault::hang().always());
//! // …until it is over.
//! assert_eq!(simulator.unscript(tenant, Endpoint::Token), 3);
//!
//! // The application loses its permissions; tokens go on being issued.
//! simulator.directory().change_application(tenant, client_id, |application| {
//!     application.roles.insert(kodo_broker::simulator::resource::Resource::Graph, vec![]);
//! });
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! | to see how you do with | switch |
//! |---|---|
//! | throttling | [`Fault::throttled`], [`Fault::throttled_until`]; odd values with [`Fault::header`] on `throttled(None)` |
//! | errors of the server | [`Fault::html`] with 500 or 502, [`Fault::rejection`] or [`Fault::json`] with 503 |
//! | a refusal | [`Fault::rejection`] with any AADSTS number, [`directory::Application::standing`], a [`directory::Secret`] that has ended or is not known yet, [`directory::Tenant::remove_application`], [`directory::Tenant::missing_resources`] |
//! | no answer, or a late one | [`Fault::hang`], [`Fault::delayed`], [`Fault::after`], [`Simulator::set_latency`]; under a test's control [`Simulator::hold`] |
//! | an answer that does not end | [`Fault::stalled_after`], [`Fault::dripping`], on [`Fault::proper`] or any other answer |
//! | a connection that breaks | [`Fault::reset_unread`], [`Fault::reset`], [`Fault::cut_after`]; for all tenants [`Simulator::shutdown`] |
//! | bodies that are too much | [`Fault::oversized`], [`Fault::gzip_bomb`], [`Fault::deep_json`] |
//! | bodies that are no answer | [`Fault::answer`], [`Fault::invalid_utf8`], [`Fault::duplicate_keys`], [`Fault::json`] |
//! | odd members | [`Fault::member`], [`Fault::altered`]: `expires_in`, `access_token`, `token_type`… |
//! | a redirect | [`Fault::redirect`] |
//! | how often | once, [`Fault::times`], [`Fault::always`] |
//! | renewal ahead | [`directory::Tenant::refresh_after`] |
//! | 401 with a claims challenge | [`directory::Tenant::tokens_valid_from`]; [`journal::Request::claims`] shows that it was passed on |
//! | 403 | [`roles`](field@directory::Application::roles) of an application |
//!
//! What came in is in [`Simulator::requests`] and [`Simulator::request_count`].

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use url::Url;
use uuid::Uuid;

use self::{
    access_token::SigningKey,
    directory::Directory,
    fault::{Endpoint, Fault, Faults, Hold},
    journal::{Journal, Request},
    pki::Identity,
};

mod access_token;
mod assertion;
pub mod certificate;
pub mod directory;
mod discovery;
mod error_response;
pub mod fault;
mod graph;
pub mod journal;
pub mod pki;
pub mod resource;
mod server;
#[cfg(test)]
mod tests;
mod token_endpoint;
mod token_request;

/// A running simulator. It stops when dropped.
#[derive(Debug)]
pub struct Simulator {
    shared: Arc<Shared>,
    graph: Url,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// Why the simulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address can be reached from elsewhere, and this is no server for others.
    #[error("{0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// The address is taken, for instance.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Certificate or key of the identity cannot be read.
    #[error("the server identity is not readable PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Certificate and key of the identity do not serve TLS.
    #[error("the server identity does not serve TLS")]
    Tls(#[from] rustls::Error),
    /// No key for tokens could be made.
    #[error("cannot generate the signing key")]
    SigningKey(#[from] aws_lc_rs::error::Unspecified),
}

/// What all requests share.
struct Shared {
    /// `https://127.0.0.1:PORT/`
    authority: Url,
    directory: Directory,
    faults: Faults,
    journal: Journal,
    signing_key: SigningKey,
}

// === impl Simulator ===

impl Simulator {
    /// Starts on a loopback address, on any free port if its port is 0.
    ///
    /// # Errors
    ///
    /// Fails if the address is not loopback or not free, or if the identity does not serve TLS.
    pub async fn start(listen: SocketAddr, identity: &Identity) -> Result<Self, Error> {
        if !listen.ip().is_loopback() {
            return Err(Error::NotLoopback(listen));
        }
        let cannot_listen = |source| Error::Listen {
            address: listen,
            source,
        };
        let tls = server::tls_config(identity)?;
        let listener = TcpListener::bind(listen).await.map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let authority = Url::parse(&format!("https://{address}/"))
            .expect("a socket address is a host and a port");
        let graph = authority
            .join("graph")
            .expect("a plain word can be joined to a URL with a path");
        let shared = Arc::new(Shared {
            authority,
            directory: Directory::default(),
            faults: Faults::default(),
            journal: Journal::default(),
            signing_key: SigningKey::generate()?,
        });
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let router = routes(shared.clone());
        server::serve(listener, tls, router, &stop, &tasks).map_err(cannot_listen)?;
        tasks.close();
        Ok(Self {
            shared,
            graph,
            tasks,
            stop: stop.drop_guard(),
        })
    }

    /// Where tenants are found: `https://127.0.0.1:PORT/`.
    #[must_use]
    pub fn authority_url(&self) -> Url {
        self.shared.authority.clone()
    }

    /// Where Microsoft Graph is: `https://127.0.0.1:PORT/graph`, with `/v1.0/…` below it.
    #[must_use]
    pub fn graph_url(&self) -> Url {
        self.graph.clone()
    }

    /// The tenants, to be changed at will.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    /// The latest requests to the token endpoint, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.journal.requests()
    }

    /// How many requests the token endpoint has had in all.
    #[must_use]
    pub fn request_count(&self) -> u64 {
        self.shared.journal.count()
    }

    /// Waits until the token endpoint has had `count` requests in all.
    pub async fn requests_reached(&self, count: u64) {
        self.shared.journal.reached(count).await;
    }

    /// Lets something go wrong at an endpoint, after what has been scripted there before. The
    /// tenant need not exist.
    pub fn script(&self, tenant: Uuid, endpoint: Endpoint, fault: Fault) {
        self.shared.faults.script(tenant, endpoint, fault);
    }

    /// Forgets what is left of an endpoint's script, what stands from now on included, and says how
    /// many faults those were.
    pub fn unscript(&self, tenant: Uuid, endpoint: Endpoint) -> usize {
        self.shared.faults.unscript(tenant, endpoint)
    }

    /// Delays every request to an endpoint from now on, beside what its script says.
    pub fn set_latency(&self, tenant: Uuid, endpoint: Endpoint, latency: Duration) {
        self.shared.faults.set_latency(tenant, endpoint, latency);
    }

    /// Holds back the requests to an endpoint, so that a test can have some under way for as long
    /// as it likes.
    #[must_use = "dropping it releases the requests"]
    pub fn hold(&self, tenant: Uuid, endpoint: Endpoint) -> Hold {
        self.shared.faults.hold(tenant, endpoint)
    }

    /// Stops, resets the connections that are left, and waits until the port is free.
    pub async fn shutdown(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}

// === impl Shared ===

impl Shared {
    /// The tenant under whose scripts a request falls. A GUID without a tenant has scripts too.
    fn script_key(&self, tenant_name: &str) -> Option<Uuid> {
        let known = self.directory.resolve(tenant_name);
        known.or_else(|| Uuid::try_parse(tenant_name).ok())
    }

    /// Every URL of a tenant's token endpoint that a client may have posted to.
    fn token_endpoints(&self, tenant_names: &[&str]) -> Vec<String> {
        let mut by_name = self.authority.clone();
        // A URL with an address for a host takes a name as well.
        let _ = by_name.set_host(Some("localhost"));
        let paths = tenant_names.iter();
        paths
            .flat_map(|name| {
                [&self.authority, &by_name].map(|url| format!("{url}{name}/oauth2/v2.0/token"))
            })
            .collect()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("authority", &self.authority.as_str())
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/{tenant}/oauth2/v2.0/token", post(token_endpoint::answer))
        .route(
            "/{tenant}/v2.0/.well-known/openid-configuration",
            get(discovery::document),
        )
        .route("/{tenant}/discovery/v2.0/keys", get(discovery::keys))
        .route("/graph/v1.0/sites/root", get(graph::root_site))
        .with_state(shared)
}

/// Takes a lock. What it guards is sound between any two statements, so that a panic elsewhere,
/// in a failing test for instance, is no reason to panic here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
