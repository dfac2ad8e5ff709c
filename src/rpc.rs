//! The gRPC edge: the only users of the generated code and of [`Status`], apart from the client.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use spiffe::SpiffeId;
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Status,
    transport::{Server, server::Router},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    authz::{Action, Denied},
    config::LimitsConfig,
    organization::OrganizationId,
    pb::{
        self,
        admin::v1::organization_service_server::OrganizationServiceServer,
        v1::{ErrorReason, token_service_server::TokenServiceServer},
    },
};

mod credential_message;
mod fields;
pub mod listener;
mod organization_message;
pub mod organization_service;
pub mod peer;
mod report;
mod status;
pub mod token_service;
mod watch;

use listener::{Peer, TlsConnection};
use organization_service::OrganizationService;
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
/// How often a silent client is asked whether it is still there, and how long it has to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to the health port, which anybody may open, and how long one may live.
const PROBES_MAX: usize = 64;
const PROBE_AGE_MAX: Duration = Duration::from_secs(60);
/// Names of the health service beside the empty one.
const LIVENESS: &str = "liveness";
const READINESS: &str = "readiness";

/// Everything that callers can call.
#[derive(Debug)]
pub struct Services {
    /// What workers call.
    pub tokens: TokenService,
    /// What operators call.
    pub organizations: OrganizationService,
    /// Whether gRPC reflection is answered.
    pub reflection: bool,
}

/// Serves callers until `stop`, then lets accepted calls finish.
///
/// # Errors
/// Those of the transport; single connections that break are none.
pub async fn serve(
    services: Services,
    limits: &LimitsConfig,
    connections: ReceiverStream<io::Result<TlsConnection>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let router = router(services, limits);
    router
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await
}

fn router(services: Services, limits: &LimitsConfig) -> Router {
    let mut server = Server::builder()
        .max_concurrent_streams(limits.streams_per_connection_max.get())
        .max_connection_age(limits.connection_age_max())
        .max_connection_age_grace(limits.call_timeout())
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_MAX));
    let tokens =
        TokenServiceServer::new(services.tokens).max_decoding_message_size(TOKEN_REQUEST_BYTES_MAX);
    let organizations = OrganizationServiceServer::new(services.organizations)
        .max_decoding_message_size(ADMIN_REQUEST_BYTES_MAX);
    let router = server.add_service(tokens).add_service(organizations);
    if !services.reflection {
        return router;
    }
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
    };
    // Both versions: some clients speak only the older one.
    let (v1, v1alpha) = (describe().build_v1(), describe().build_v1alpha());
    router
        .add_service(v1.expect("the descriptors were made by our own build"))
        .add_service(v1alpha.expect("the descriptors were made by our own build"))
}

/// Tells probes how the broker is, without TLS, on a port of its own.
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

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
        let health = Self(reporter);
        health
            .0
            .set_service_status(LIVENESS, ServingStatus::Serving)
            .await;
        health.set_ready(false).await;
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

    /// Says whether calls are served.
    pub async fn set_ready(&self, ready: bool) {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.0.set_service_status(READINESS, status).await;
        self.0.set_service_status("", status).await;
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

/// Who calls.
fn caller<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    match request
        .extensions()
        .get::<Peer>()
        .map(|Peer(identity)| Arc::as_ref(identity))
    {
        Some(Ok(id)) => Ok(id.clone()),
        Some(Err(error)) => Err((*error).into()),
        None => Err(peer::Unidentified::Unreadable.into()),
    }
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
