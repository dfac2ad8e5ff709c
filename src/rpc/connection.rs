//! Serves one connection: HTTP/2 by hyper, its calls by path.
//!
//! tonic's server is not used, its services are. What it would add on the way of each call (a router,
//! layers, an extension for the peer, a task) costs as much as the answer itself, and it can neither
//! gather writes at the end of a turn nor let a call run in the connection's own turn. What of it is
//! needed is here: the caller's deadline, the age of a connection, its end.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{codegen::Service as _, service::Routes};

use super::{
    HEADERS_BYTES_MAX, LOCAL_RESETS_MAX, PENDING_RESETS_MAX, Services,
    callers::Callers,
    deadline,
    gather::{Gate, gather, turn},
    get_token,
    identity_service::IdentityService,
    idle::{UnderWay, idle, is_of_operator, is_stream},
    in_turn::InTurn,
    listener::{CallersConnection, Outgoing, Peer},
    request_body::RequestBody,
    routes,
    seal::Seal,
    status,
    surface::Surface,
    token_service::TokenService,
    unary::{Answer, answer},
};
use crate::{
    audit::{Audit, Place, Watcher},
    authz::Caller,
    config::LimitsConfig,
    metrics::Metrics,
    pb::v1::ErrorReason,
    token::delivery::Deliveries,
};

/// How often a silent client is asked whether it is still there, and how long it has to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client may send before it is read, in bytes, for one call and for all of a connection.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// What is held of an answer that the client has not taken, in bytes.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Over how long connections are spread that must all be made anew since a CA is trusted no more.
const REAUTHENTICATION: Duration = Duration::from_secs(10);

/// Lets callers in to what they can call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Empty while the broker is sealed, then set for good. Looking costs a call one load.
    open: OnceLock<Open>,
    /// What answers as long as it is empty.
    sealed: Routes,
    /// Cancelled once the first attempt to open has ended. Calls wait for that: those that come while a
    /// broker starts are served a moment later, and not sent away for seconds.
    settled: CancellationToken,
    reflection: bool,
    /// Answers, too, as long as the broker is sealed.
    identity: IdentityService,
    audit: Audit,
    deliveries: Deliveries,
    metrics: Arc<Metrics>,
    streams_max: u32,
    connection_age_max: Duration,
    connection_idle_max: Duration,
    /// How long a request may take to come, and an answer to be taken.
    transfer_timeout: Duration,
    /// How long a client may take for the first frame after its handshake.
    mute_max: Duration,
    /// The same where nobody calls who could be answered.
    nobody_age_max: Duration,
    call_timeout: Duration,
}

/// What answers calls.
#[derive(Debug)]
struct Open {
    tokens: Arc<TokenService>,
    /// Everything, `GetToken` included: for requests that are not as they usually are.
    routes: Routes,
}

impl Door {
    /// A door that is sealed: callers are let in, and told so.
    #[must_use]
    pub fn new(
        seal: Seal,
        identity: IdentityService,
        reflection: bool,
        limits: &LimitsConfig,
        audit: Audit,
        deliveries: Deliveries,
    ) -> Self {
        let metrics = identity.metrics.clone();
        let sealed = routes(
            Arc::new(seal.clone()),
            seal.clone(),
            seal.clone(),
            seal.clone(),
            seal,
            identity.clone(),
            reflection,
        );
        Self(Arc::new(Inner {
            open: OnceLock::new(),
            sealed,
            settled: CancellationToken::new(),
            reflection,
            identity,
            audit,
            deliveries,
            metrics,
            streams_max: limits.streams_per_connection_max.get(),
            connection_idle_max: limits.connection_idle_max(),
            transfer_timeout: limits.transfer_timeout(),
            connection_age_max: limits.connection_age_max(),
            mute_max: limits.handshake_timeout(),
            nobody_age_max: limits.handshake_timeout(),
            call_timeout: limits.call_timeout(),
        }))
    }

    /// Has services answer from now on, on open connections, too. Those that were given first stay.
    pub fn open(&self, services: Services) {
        let tokens = Arc::new(services.tokens);
        let routes = routes(
            tokens.clone(),
            services.organizations,
            services.store,
            services.audit,
            services.jobs,
            self.0.identity.clone(),
            self.0.reflection,
        );
        let _ = self.0.open.set(Open { tokens, routes });
        self.0.settled.cancel();
    }

    /// Has calls refused as long as it is sealed; until this is said, they wait.
    pub fn refuse(&self) {
        self.0.settled.cancel();
    }

    /// Tells whether nothing but refusals is to be had. For the figures, which the door holds: so what
    /// is returned does not hold the door.
    pub fn is_sealed(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let inner = Arc::downgrade(&self.0);
        move || {
            inner
                .upgrade()
                .is_none_or(|inner| inner.open.get().is_none())
        }
    }

    /// Serves a connection until the client leaves, it is too old or idle, its client's certificate has
    /// ended or a CA of it is trusted no more, or `stop`; then lets its calls finish. One that begins with
    /// nothing, or floods, ends at once.
    pub async fn serve(
        &self,
        connection: CallersConnection,
        surface: Surface,
        stop: &CancellationToken,
    ) {
        let callers = connection.peer.clone();
        let outgoing = callers.outgoing();
        let inner = &self.0;
        let (age_max, finish_max) = inner.ages(&callers);
        inner.metrics.connections.inc();
        let _counted = Counted(&inner.metrics);
        // Until the stream, which is dropped before, is closed.
        let _open = inner.deliveries.open(outgoing.route().clone());
        let gate = Written {
            audit: inner.audit.clone(),
            outgoing: outgoing.clone(),
            watcher: Watcher::default(),
        };
        let (stream, release) = gather(connection, gate);
        let (calls, under_way) = watch::channel(0);
        let turns = InTurn::new(
            2 * (inner.call_timeout + inner.transfer_timeout),
            inner.transfer_timeout,
        );
        let http2 = inner.http2(turns.clone());
        let service = service_fn(|request: Request<Incoming>| {
            let path = request.uri().path();
            let under_way = is_of_operator(path).then(|| UnderWay::new(calls.clone()));
            turns.calls().begin(is_stream(path));
            let calls = turns.calls().clone();
            let peer = callers.of(request.headers());
            let request = request.map(|body| RequestBody::new(body, calls));
            let answering = self.clone().answer(surface, peer, request);
            async move {
                let _under_way = under_way;
                answering.await
            }
        });
        let mut connection = pin!(http2.serve_connection(TokioIo::new(stream), service));
        let mute = async {
            sleep(inner.mute_max).await;
            if release.heard() {
                pending().await
            }
        };
        let ended = tokio::select! {
            biased;
            ended = poll_fn(|cx| turn(connection.as_mut(), &release, cx)) => Some(ended),
            () = mute => return tracing::info!("closed a connection: no frame came"),
            () = stop.cancelled() => None,
            () = sleep(age_max) => None,
            () = idle(under_way) => None,
            () = turns.calls().idle(inner.connection_idle_max) => None,
            () = turns.calls().stuck.cancelled() => {
                tracing::info!("closes a connection: the client does not take its answers");
                None
            }
            () = outgoing.route().broken() => return,
            () = reauthentication(callers.distrusted()) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                let finishing = poll_fn(|cx| turn(connection.as_mut(), &release, cx));
                tokio::select! {
                    ended = timeout(finish_max, finishing) => ended.unwrap_or(Ok(())),
                    () = outgoing.route().broken() => return,
                }
            }
        };
        inner.tell_end(&callers, release.flooded(), ended);
    }

    async fn answer(
        self,
        surface: Surface,
        peer: Peer,
        request: Request<RequestBody>,
    ) -> Result<Response<Answer>, Infallible> {
        if let Err(elsewhere) = surface.check(request.uri().path()) {
            return Ok(answer(elsewhere.into_http()));
        }
        let open = match self.0.open.get() {
            Some(open) => open,
            // Boxed, since nobody needs it later on.
            None => match Box::pin(self.0.settled()).await {
                Some(open) => open,
                None => return other(&self.0.sealed, peer, request.map(Box::new)).await,
            },
        };
        if request.uri().path() != get_token::PATH {
            // Boxed: a stream keeps its request as long as it lasts.
            return other(&open.routes, peer, request.map(Box::new)).await;
        }
        match get_token::answer(&open.tokens, &peer, request).await {
            Ok(response) => Ok(response),
            Err(unusual) => other(&open.routes, peer, unusual).await,
        }
    }
}

impl Inner {
    /// HTTP/2 with its limits.
    fn http2(&self, turns: InTurn) -> http2::Builder<InTurn> {
        let mut http2 = http2::Builder::new(turns);
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams_max)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX);
        http2
    }

    /// How long a connection of these callers may live, and how long its calls may then take.
    fn ages(&self, callers: &Callers) -> (Duration, Duration) {
        if callers.are_nobody() {
            // Told so, and then they are not to take a place from those who are somebody.
            (self.nobody_age_max, self.nobody_age_max)
        } else {
            let age_max = self.connection_age_max.min(callers.good_for());
            (age_max, self.call_timeout)
        }
    }

    /// Counts and tells how a connection has ended.
    fn tell_end(&self, callers: &Callers, flooded: bool, ended: io::Result<()>) {
        if flooded {
            self.metrics.floods.inc();
            let caller = callers.one().map(Caller::name);
            tracing::warn!(caller, "closed a connection: more frames than calls");
        } else if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }

    /// What answers calls, once that is known; at the latest when a call may take no longer.
    async fn settled(&self) -> Option<&Open> {
        let _ = timeout(self.call_timeout, self.settled.cancelled()).await;
        self.open.get()
    }
}

/// Waits until a connection must be made anew since a CA is trusted no more: each at a time of its own,
/// so that they do not all shake hands at once.
async fn reauthentication(distrusted: &CancellationToken) {
    distrusted.cancelled().await;
    sleep(REAUTHENTICATION.mul_f64(fastrand::f64())).await;
}

/// What tonic's services answer.
async fn other<B>(
    routes: &Routes,
    peer: Peer,
    mut request: Request<B>,
) -> Result<Response<Answer>, Infallible>
where
    B: hyper::body::Body<Data = hyper::body::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let deadline = deadline(request.headers());
    request.extensions_mut().insert(peer);
    let answering = routes.clone().call(request);
    // Boxed: it is larger than what most calls need.
    let answering = Box::pin(async move {
        match deadline {
            Some(limit) => timeout(limit, answering).await,
            None => Ok(answering.await),
        }
    });
    let response = match answering.await {
        Ok(Ok(response)) => response,
        Err(_) => status::deadline_exceeded(ErrorReason::IdpUnreachable).into_http(),
    };
    Ok(answer(response))
}

/// Counts an open connection.
struct Counted<'a>(&'a Metrics);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// Lets bytes leave once what they answer is in the audit log.
struct Written {
    audit: Audit,
    outgoing: Outgoing,
    watcher: Watcher,
}

impl Gate for Written {
    fn mark(&self) -> u64 {
        self.outgoing.recorded().get()
    }

    fn poll_open(&self, mark: u64, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let durable = self.audit.poll_durable(Place::new(mark), &self.watcher, cx);
        ready!(durable).map_err(io::Error::other)?;
        // Asked last: the log may take a while.
        if self.outgoing.route().is_broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }

    fn flushed(&self) {
        self.outgoing.route().flushed();
    }
}

#[cfg(test)]
mod tests;
