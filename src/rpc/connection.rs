//! Serves one connection: HTTP/2 by hyper, its calls by path.
//!
//! tonic's server is not used, its services are. What it would add on the way of each call (a router,
//! layers, an extension for the peer, a task) costs as much as the answer itself, and it can neither
//! gather writes at the end of a turn nor let a call run in the connection's own turn. What of it is
//! needed is here: the caller's deadline, the age of a connection, its end.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Waker},
    time::Duration,
};

use hyper::{
    Request, Response, body::Incoming, rt::Executor, server::conn::http2, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{codegen::Service as _, service::Routes};

use super::{
    HEADERS_BYTES_MAX, LOCAL_RESETS_MAX, Services, deadline,
    gather::{Gate, gather, turn},
    get_token,
    idle::{UnderWay, idle, is_of_operator},
    listener::{Peer, TlsConnection},
    routes,
    seal::Seal,
    status,
    token_service::TokenService,
    unary::Answer,
};
use crate::{audit::Audit, config::LimitsConfig, metrics::Metrics, pb::v1::ErrorReason};

/// How often a silent client is asked whether it is still there, and how long it has to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
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
    audit: Audit,
    metrics: Arc<Metrics>,
    http2: http2::Builder<InTurn>,
    connection_age_max: Duration,
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
        reflection: bool,
        limits: &LimitsConfig,
        audit: Audit,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut http2 = http2::Builder::new(InTurn);
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_per_connection_max.get())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX);
        Self(Arc::new(Inner {
            open: OnceLock::new(),
            sealed: routes(
                Arc::new(seal.clone()),
                seal.clone(),
                seal.clone(),
                seal,
                reflection,
            ),
            settled: CancellationToken::new(),
            reflection,
            audit,
            metrics,
            http2,
            connection_age_max: limits.connection_age_max(),
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
            services.jobs,
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

    /// Serves a connection until the client leaves, it is too old, it is an operator's and idle, or
    /// `stop`; then lets its calls finish.
    pub async fn serve(&self, connection: TlsConnection, stop: &CancellationToken) {
        let peer = connection.peer.clone();
        let inner = &self.0;
        inner.metrics.connections.inc();
        let _counted = Counted(&inner.metrics);
        let gate = Recorded {
            audit: inner.audit.clone(),
            peer: peer.clone(),
        };
        let (stream, release) = gather(connection, gate);
        let (calls, under_way) = watch::channel(0);
        let service = service_fn(|request: Request<Incoming>| {
            let of_operator = is_of_operator(request.uri().path());
            let under_way = of_operator.then(|| UnderWay::new(calls.clone()));
            let answering = self.clone().answer(peer.clone(), request);
            async move {
                let _under_way = under_way;
                answering.await
            }
        });
        let mut connection = pin!(inner.http2.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            biased;
            ended = poll_fn(|cx| turn(connection.as_mut(), &release, cx)) => Some(ended),
            () = stop.cancelled() => None,
            () = sleep(inner.connection_age_max) => None,
            () = idle(under_way) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                let finishing = poll_fn(|cx| turn(connection.as_mut(), &release, cx));
                timeout(inner.call_timeout, finishing)
                    .await
                    .unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }

    async fn answer(
        self,
        peer: Peer,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, Infallible> {
        let open = match self.0.open.get() {
            Some(open) => open,
            // Boxed, since nobody needs it later on.
            None => match Box::pin(self.0.settled()).await {
                Some(open) => open,
                None => return other(&self.0.sealed, peer, request).await,
            },
        };
        if request.uri().path() != get_token::PATH {
            return other(&open.routes, peer, request).await;
        }
        match get_token::answer(&open.tokens, &peer, request).await {
            Ok(response) => Ok(response),
            Err(unusual) => other(&open.routes, peer, unusual).await,
        }
    }
}

impl Inner {
    /// What answers calls, once that is known; at the latest when a call may take no longer.
    async fn settled(&self) -> Option<&Open> {
        let _ = timeout(self.call_timeout, self.settled.cancelled()).await;
        self.open.get()
    }
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
    Ok(response.map(Answer::Other))
}

/// Counts an open connection.
struct Counted<'a>(&'a Metrics);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// Lets bytes leave once what they answer is in the audit log.
struct Recorded {
    audit: Audit,
    peer: Peer,
}

impl Gate for Recorded {
    fn open(&self) -> io::Result<()> {
        self.audit.written_up_to(self.peer.recorded())
    }
}

/// Runs a call in the turn of its connection, as far as it comes without waiting; only one that waits
/// becomes a task. A token that is in memory is handed out so, with the request read and the answer
/// written in one turn.
///
/// A call that panics takes its connection along; there is none that should.
#[derive(Clone, Copy, Debug)]
struct InTurn;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for InTurn {
    #[expect(
        clippy::disallowed_methods,
        reason = "hyper ends the streams of a connection before the connection, which is tracked"
    )]
    fn execute(&self, call: F) {
        let mut call = Box::pin(call);
        // Its task polls it again and so leaves a waker that wakes something.
        let first = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if first.is_pending() {
            tokio::spawn(call);
        }
    }
}

#[cfg(test)]
mod tests;
