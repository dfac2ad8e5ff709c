//! The gRPC edge: the only users of the generated code and of [`Status`], apart from the client.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::HeaderMap;
use spiffe::SpiffeId;
use tokio::{net::TcpListener, sync::Mutex, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status, service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    authz::{Action, Denied},
    organization::OrganizationId,
    pb::{
        self,
        admin::v1::{
            audit_service_server::{self, AuditServiceServer},
            job_grant_service_server::{self, JobGrantServiceServer},
            organization_service_server::{self, OrganizationServiceServer},
            store_service_server::{self, StoreServiceServer},
        },
        v1::{
            ErrorReason,
            identity_service_server::IdentityServiceServer,
            token_service_server::{self, TokenServiceServer},
        },
    },
};

mod admission;
pub mod audit_service;
pub mod callers;
pub mod connection;
pub mod cores;
mod credential_message;
mod fields;
pub mod forwarded;
mod gather;
mod get_token;
mod handshakes;
pub mod identity_service;
mod idle;
mod in_turn;
pub mod job_grant_service;
pub mod listener;
mod meter;
pub mod metrics_endpoint;
mod organization_message;
pub mod organization_service;
pub mod peer;
pub mod probes;
pub mod records;
mod report;
mod request_body;
pub mod seal;
mod shares;
pub mod socket;
mod status;
pub mod store_service;
pub mod surface;
pub mod token_service;
mod unary;
mod usage;
mod watch;

use audit_service::AuditService;
use identity_service::IdentityService;
use job_grant_service::JobGrantService;
use listener::Peer;
use organization_service::OrganizationService;
use store_service::StoreService;
use token_service::TokenService;

/// Longest request of a worker, in bytes.
const TOKEN_REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Longest request of an operator, in bytes: a certificate and key of 64 KiB in base64, and names.
const ADMIN_REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Longest header list of a request, in bytes.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Streams that the server itself may have to reset on one connection before it closes it. Without
/// a limit a client can have it reset for ever (RUSTSEC-2024-0003, "MadeYouReset").
const LOCAL_RESETS_MAX: usize = 100;
/// Calls of one connection that the client has taken back before the server has looked at them: beyond,
/// it is closed ("rapid reset", CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Connections to the health port, which anybody may open, and how long one may live.
const PROBES_MAX: usize = 64;
const PROBE_AGE_MAX: Duration = Duration::from_secs(60);
/// Names of the health service beside the empty one.
const LIVENESS: &str = "liveness";
const READINESS: &str = "readiness";
/// Another one: whether the broker has opened what it guards, if it is not ready.
pub const UNSEALED: &str = "unsealed";

/// Everything that callers can call.
#[derive(Debug)]
pub struct Services {
    /// What workers call.
    pub tokens: TokenService,
    /// What operators call.
    pub organizations: OrganizationService,
    /// What operators call for the store as a whole.
    pub store: StoreService,
    /// What operators ask the audit log.
    pub audit: AuditService,
    /// What schedulers call.
    pub jobs: JobGrantService,
}

/// Everything, by path, and gRPC reflection if it is wanted.
fn routes(
    tokens: Arc<impl token_service_server::TokenService>,
    organizations: impl organization_service_server::OrganizationService,
    store: impl store_service_server::StoreService,
    audit: impl audit_service_server::AuditService,
    jobs: impl job_grant_service_server::JobGrantService,
    identity: IdentityService,
    reflection: bool,
) -> Routes {
    let tokens =
        TokenServiceServer::from_arc(tokens).max_decoding_message_size(TOKEN_REQUEST_BYTES_MAX);
    let organizations = OrganizationServiceServer::new(organizations)
        .max_decoding_message_size(ADMIN_REQUEST_BYTES_MAX);
    let store = StoreServiceServer::new(store).max_decoding_message_size(ADMIN_REQUEST_BYTES_MAX);
    let audit = AuditServiceServer::new(audit).max_decoding_message_size(ADMIN_REQUEST_BYTES_MAX);
    let identity =
        IdentityServiceServer::new(identity).max_decoding_message_size(TOKEN_REQUEST_BYTES_MAX);
    let jobs = JobGrantServiceServer::new(jobs).max_decoding_message_size(TOKEN_REQUEST_BYTES_MAX);
    let routes = Routes::new(tokens)
        .add_service(identity)
        .add_service(organizations)
        .add_service(store)
        .add_service(audit)
        .add_service(jobs);
    if !reflection {
        return routes.prepare();
    }
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
    };
    // Both versions: some clients speak only the older one.
    let (v1, v1alpha) = (describe().build_v1(), describe().build_v1alpha());
    routes
        .add_service(v1.expect("the descriptors were made by our own build"))
        .add_service(v1alpha.expect("the descriptors were made by our own build"))
        .prepare()
}

/// Tells probes how the broker is, without TLS, on a port of its own.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    /// Held while it is told, so that what is told last is how it is.
    state: Arc<Mutex<State>>,
}

/// What readiness takes.
#[derive(Debug)]
struct State {
    unsealed: bool,
    /// Whether the audit log can be written.
    recording: bool,
    /// Whether the broker's own certificate has not ended.
    certified: bool,
    stopping: bool,
}

impl Health {
    /// Serves `grpc.health.v1` until `stop`, and nothing else. Alive, but not ready yet.
    ///
    /// # Errors
    /// Those of the address.
    pub async fn serve(
        listener: TcpListener,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> io::Result<(
        Self,
        impl Future<Output = Result<(), tonic::transport::Error>> + use<>,
    )> {
        let (reporter, service) = tonic_health::server::health_reporter();
        let health = Self {
            reporter,
            state: Arc::new(Mutex::new(State {
                unsealed: false,
                recording: true,
                certified: true,
                stopping: false,
            })),
        };
        health.tell(LIVENESS, true).await;
        health.change(|_| {}).await;
        let connections = listener::accept_plain(listener, PROBES_MAX, tasks, stop.clone());
        let serving = Server::builder()
            .max_concurrent_streams(16)
            .max_connection_age(PROBE_AGE_MAX)
            .http2_max_header_list_size(HEADERS_BYTES_MAX)
            .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
            .add_service(service)
            .serve_with_incoming_shutdown(connections, stop.cancelled_owned());
        Ok((health, serving))
    }

    /// Says that the broker is sealed no more.
    pub async fn set_unsealed(&self) {
        self.change(|state| state.unsealed = true).await;
    }

    /// Says whether the audit log can be written.
    pub async fn set_recording(&self, recording: bool) {
        self.change(|state| state.recording = recording).await;
    }

    /// Says whether the broker's own certificate has not ended.
    pub async fn set_certified(&self, certified: bool) {
        self.change(|state| state.certified = certified).await;
    }

    /// Says that the broker stops.
    pub async fn set_stopping(&self) {
        self.change(|state| state.stopping = true).await;
    }

    async fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().await;
        change(&mut state);
        let works = state.unsealed && state.recording && state.certified;
        let ready = works && !state.stopping;
        self.tell(UNSEALED, state.unsealed).await;
        self.tell(READINESS, ready).await;
        self.tell("", ready).await;
    }

    async fn tell(&self, service: &str, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.reporter.set_service_status(service, status).await;
    }
}

/// Binds an address.
///
/// # Errors
/// Those of the system, with the address.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

/// Who is at the other end of a call's connection.
fn peer_of<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>().cloned();
    peer.ok_or_else(|| peer::Unidentified::Unreadable.into())
}

/// How long the caller waits, if it says: the header `grpc-timeout`, at most eight digits and a unit.
/// One that cannot be read is none, as for tonic.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let readable = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| readable)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Bounds the time of a call. `reason` is what it waits for.
async fn within<T>(
    limit: Duration,
    reason: ErrorReason,
    work: impl Future<Output = T>,
) -> Result<T, Status> {
    let outcome = timeout(limit, work).await;
    outcome.map_err(|_| status::deadline_exceeded(reason))
}

/// The answer to a caller who may not do something; the log says who wanted what.
fn deny(
    caller: &SpiffeId,
    action: Action,
    organization: Option<&OrganizationId>,
    denied: Denied,
) -> Status {
    let organization = organization.map(OrganizationId::as_str);
    tracing::warn!(%caller, ?action, organization, %denied, "call denied");
    denied.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().expect("a header"));
        deadline(&headers)
    }

    #[test]
    fn the_callers_deadline_is_read_in_every_unit() {
        let units = [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("42S", Duration::from_secs(42)),
            ("13m", Duration::from_millis(13)),
            ("2u", Duration::from_micros(2)),
            ("82n", Duration::from_nanos(82)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ];
        for (text, expected) in units {
            assert_eq!(of(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "1",
            "H",
            "-1S",
            "+1S",
            "1.5S",
            "123456789S",
            "1s",
            "1\u{e9}",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }
}
