//! Accepts connections: bounded in number, in handshakes under way and in the time that one takes.
//!
//! tonic's own acceptor has no such bounds, spins when file descriptors run out, and cannot tell who
//! the peer is; hence this one.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::server::Connected;

use super::{
    callers::{Callers, Identification},
    handshakes::Handshakes,
    peer::Unidentified,
    shares::{Share, Shares},
    socket::{Listener, Socket, Stream},
    usage::Usage,
};
use crate::{
    audit::Place, authz::Caller, config::LimitsConfig, tls::LiveTls, token::delivery::Route,
};

/// Pause after a failed accept: there are no file descriptors left, and asking again at once would
/// only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection, with what is known of its peer.
#[derive(Debug)]
pub struct Connection<S, P> {
    stream: S,
    /// Who is at the other end.
    pub peer: P,
    /// Gives the place back when the connection ends.
    _place: OwnedSemaphorePermit,
    _share: Option<Share>,
}

/// A connection of callers.
pub type CallersConnection = Connection<Stream, Callers>;
/// A connection of anybody.
pub type PlainConnection = Connection<Stream, ()>;

/// Who calls, and on which connection. Cheap to clone; found in the extensions of a request.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Known>);

#[derive(Debug)]
struct Known {
    identity: Result<Caller, Unidentified>,
    /// The mode of the proxy that says so.
    proxy: Option<&'static str>,
    usage: Arc<Usage>,
    outgoing: Outgoing,
}

/// What leaves on a connection, whoever of those that call on it is told. Clones are of the same
/// connection.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// Up to where the audit log must be written before anything more leaves.
    recorded: Arc<AtomicU64>,
    /// Tokens on their way out.
    route: Arc<Route>,
}

/// What the listener needs to know.
pub struct Acceptor {
    tls: Arc<LiveTls>,
    identification: Arc<Identification>,
    handshake_timeout: Duration,
    connections: Arc<Semaphore>,
    handshakes: Handshakes,
    shares: Shares,
}

impl Acceptor {
    /// An acceptor with its limits.
    #[must_use]
    pub fn new(
        tls: Arc<LiveTls>,
        identification: Arc<Identification>,
        limits: &LimitsConfig,
    ) -> Arc<Self> {
        let places = |max: std::num::NonZeroU32| {
            let max = usize::try_from(max.get()).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))
        };
        Arc::new(Self {
            tls,
            identification,
            handshake_timeout: limits.handshake_timeout(),
            connections: places(limits.connections_max),
            handshakes: Handshakes::new(limits.handshakes_max),
            shares: Shares::new(limits.connections_per_caller_max),
        })
    }

    /// Accepts for ever, and has every connection served whose handshake succeeds.
    ///
    /// Several listeners may accept at once; the bounds are for all of them together. A place is
    /// taken after a connection was accepted, not before, or listeners that nobody connects to would
    /// keep places from those that callers wait at. So one connection more for each listener may be
    /// open, and waits.
    pub async fn accept_all<F>(
        self: Arc<Self>,
        listener: Listener,
        tasks: &TaskTracker,
        serve: impl Fn(CallersConnection) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            let Some(socket) = accept_one(&listener).await else {
                continue;
            };
            let Ok(place) = self.connections.clone().acquire_owned().await else {
                return;
            };
            let shaking = self.handshakes.place().await;
            let (acceptor, serve) = (self.clone(), serve.clone());
            tasks.spawn(async move {
                let handshake = acceptor.handshake(socket, place);
                let finished = shaking.give_way.run_until_cancelled(handshake).await;
                drop(shaking);
                if let Some(connection) = finished.flatten() {
                    serve(connection).await;
                }
            });
        }
    }

    async fn handshake(
        &self,
        socket: Socket,
        place: OwnedSemaphorePermit,
    ) -> Option<CallersConnection> {
        let from = socket.origin();
        if self.tls.has_ended() {
            tracing::info!(%from, "refused a connection: the SVID has expired");
            return None;
        }
        let material = self.tls.current();
        let (socket, tls) = match (socket, &material.shown) {
            (Socket::Tcp(socket), Some(shown)) => (socket, TlsAcceptor::from(shown.config.clone())),
            (socket, _) => {
                return Some(Connection {
                    peer: self.identification.callers(from, None, &material),
                    stream: socket.plain(),
                    _place: place,
                    _share: None,
                });
            }
        };
        let stream = match timeout(self.handshake_timeout, tls.accept(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::info!(%from, %error, "refused a connection");
                return None;
            }
            Err(_) => {
                tracing::info!(%from, "refused a connection: the handshake took too long");
                return None;
            }
        };
        let chain = stream.get_ref().1.peer_certificates();
        let callers = self.identification.callers(from, chain, &material);
        let share = match callers.owner() {
            Some(owner) => {
                let share = self.shares.take(owner.cloned());
                if share.is_none() {
                    let owner = owner.map(tracing::field::display);
                    tracing::warn!(%from, owner, "refused a connection: its caller has as many as it may");
                    return None;
                }
                share
            }
            None => None,
        };
        Some(Connection {
            peer: callers,
            stream: Stream::Tls(Box::new(stream)),
            _place: place,
            _share: share,
        })
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("identification", &self.identification)
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// Somebody, or nobody, on a connection of its own and without others.
    #[must_use]
    pub fn new(identity: Result<Caller, Unidentified>) -> Self {
        Self::on(identity, None, Arc::new(Usage::new()), Outgoing::default())
    }

    /// The same by the word of a proxy, on a connection that others may call on, too, with what it takes
    /// over all connections.
    pub(super) fn on(
        identity: Result<Caller, Unidentified>,
        proxy: Option<&'static str>,
        usage: Arc<Usage>,
        outgoing: Outgoing,
    ) -> Self {
        Self(Arc::new(Known {
            identity,
            proxy,
            usage,
            outgoing,
        }))
    }

    /// On which proxy's word it is who it is, by the mode; on none where its certificate says so.
    pub(super) fn on_word_of(&self) -> Option<&'static str> {
        self.0.proxy
    }

    /// Who it is.
    ///
    /// # Errors
    /// Why nobody knows.
    pub fn caller(&self) -> Result<&Caller, Unidentified> {
        self.0.identity.as_ref().map_err(|error| *error)
    }

    /// Tokens on their way out of the connection.
    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        self.0.outgoing.route()
    }

    /// What it takes, over all of its connections.
    pub(super) fn usage(&self) -> &Arc<Usage> {
        &self.0.usage
    }

    /// Has everything that is written to the connection from now on wait for the audit log.
    pub fn answers_after(&self, place: Place) {
        let recorded = &self.0.outgoing.recorded;
        recorded.fetch_max(place.get(), Ordering::AcqRel);
    }

    /// Up to where the audit log must be written before anything more leaves.
    #[must_use]
    pub fn recorded(&self) -> Place {
        self.0.outgoing.recorded()
    }
}

impl Outgoing {
    /// Up to where the audit log must be written before anything more leaves.
    pub(super) fn recorded(&self) -> Place {
        Place::new(self.recorded.load(Ordering::Acquire))
    }

    /// Tokens on their way out.
    pub(super) fn route(&self) -> &Arc<Route> {
        &self.route
    }
}

/// Accepts connections without TLS, at most `max` at a time.
pub fn accept_plain(
    listener: TcpListener,
    max: usize,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<PlainConnection>> {
    let (sender, receiver) = mpsc::channel(1);
    let (listener, places) = (Listener::Tcp(listener), Arc::new(Semaphore::new(max)));
    tasks.spawn(async move {
        let accepting = async {
            while let Ok(place) = places.clone().acquire_owned().await {
                let connection = accept_one(&listener).await.map(|socket| Connection {
                    stream: socket.plain(),
                    peer: (),
                    _place: place,
                    _share: None,
                });
                let Some(connection) = connection else {
                    continue;
                };
                if sender.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
        };
        stop.run_until_cancelled(accepting).await;
    });
    ReceiverStream::new(receiver)
}

/// The next connection, or `None` after a pause.
async fn accept_one(listener: &Listener) -> Option<Socket> {
    match listener.accept().await {
        Ok(socket) => {
            // An answer may be more than one write; waiting for the client's delayed ACK in between
            // costs 40 ms.
            if let Socket::Tcp(stream) = &socket
                && let Err(error) = stream.set_nodelay(true)
            {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            Some(socket)
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

impl<S, P: Clone + Send + Sync + 'static> Connected for Connection<S, P> {
    type ConnectInfo = P;

    fn connect_info(&self) -> P {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Connection<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Connection<S, P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
