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

use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::server::Connected;

use super::peer::{Unidentified, identify};
use crate::{
    audit::Place,
    authz::{Caller, LivePolicy},
    clock::Clock,
    config::LimitsConfig,
    tls::{self, LiveTls},
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
    /// How long the peer's certificate is still good for, from when it was shown.
    pub good_for: Duration,
    /// Tells when a CA that may have vouched for the peer is trusted no more.
    pub distrusted: CancellationToken,
    /// Gives the place back when the connection ends.
    _place: OwnedSemaphorePermit,
}

/// A connection with a verified client certificate.
pub type TlsConnection = Connection<TlsStream<TcpStream>, Peer>;
/// A connection of anybody.
pub type PlainConnection = Connection<TcpStream, ()>;

/// Who is at the other end: worked out once for each connection. Cheap to clone; found in the
/// extensions of a request.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Known>);

#[derive(Debug)]
struct Known {
    identity: Result<Caller, Unidentified>,
    /// Up to where the audit log must be written before anything more leaves on the connection.
    recorded: AtomicU64,
}

/// What the listener needs to know.
pub struct Acceptor {
    tls: Arc<LiveTls>,
    policy: Arc<LivePolicy>,
    handshake_timeout: Duration,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

impl Acceptor {
    /// An acceptor with its limits.
    #[must_use]
    pub fn new(tls: Arc<LiveTls>, policy: Arc<LivePolicy>, limits: &LimitsConfig) -> Arc<Self> {
        let places = |max: std::num::NonZeroU32| {
            let max = usize::try_from(max.get()).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))
        };
        Arc::new(Self {
            tls,
            policy,
            handshake_timeout: limits.handshake_timeout(),
            connections: places(limits.connections_max),
            handshakes: places(limits.handshakes_max),
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
        listener: TcpListener,
        tasks: &TaskTracker,
        serve: impl Fn(TlsConnection) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            let Some(stream) = accept_one(&listener).await else {
                continue;
            };
            let Ok(place) = self.connections.clone().acquire_owned().await else {
                return;
            };
            let Ok(shaking) = self.handshakes.clone().acquire_owned().await else {
                return;
            };
            let (acceptor, serve) = (self.clone(), serve.clone());
            tasks.spawn(async move {
                let finished = acceptor.handshake(stream, place).await;
                drop(shaking);
                if let Some(connection) = finished {
                    serve(connection).await;
                }
            });
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
    ) -> Option<TlsConnection> {
        let from = stream.peer_addr().ok();
        if self.tls.has_ended() {
            tracing::info!(?from, "refused a connection: the SVID has expired");
            return None;
        }
        let material = self.tls.current();
        let tls = TlsAcceptor::from(material.config.clone());
        let stream = match timeout(self.handshake_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::info!(?from, %error, "refused a connection");
                return None;
            }
            Err(_) => {
                tracing::info!(?from, "refused a connection: the handshake took too long");
                return None;
            }
        };
        let chain = stream.get_ref().1.peer_certificates();
        let good_for = chain.and_then(good_for).unwrap_or(Duration::MAX);
        let identity = identify(chain, &material.domains);
        let distrusted = match &identity {
            Ok(id) => material.distrusted(id.trust_domain()),
            Err(error) => {
                tracing::warn!(?from, %error, "a caller without an identity");
                CancellationToken::new()
            }
        };
        Some(Connection {
            stream,
            good_for,
            peer: Peer::new(identity.map(|id| Caller::new(id, &self.policy.current()))),
            distrusted,
            _place: place,
        })
    }
}

/// How long a chain is still good for that TLS has verified, which goes by the system's clock.
fn good_for(chain: &[CertificateDer<'_>]) -> Option<Duration> {
    let validity = tls::validity(chain.first()?)?;
    let left = validity.not_after.duration_since(Clock::system().now());
    Some(left.unwrap_or(Duration::ZERO))
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Peer {
    /// Somebody, or nobody.
    #[must_use]
    pub fn new(identity: Result<Caller, Unidentified>) -> Self {
        Self(Arc::new(Known {
            identity,
            recorded: AtomicU64::new(0),
        }))
    }

    /// Who it is.
    ///
    /// # Errors
    /// Why nobody knows.
    pub fn caller(&self) -> Result<&Caller, Unidentified> {
        self.0.identity.as_ref().map_err(|error| *error)
    }

    /// Has everything that is written to the connection from now on wait for the audit log.
    pub fn answers_after(&self, place: Place) {
        self.0.recorded.fetch_max(place.get(), Ordering::AcqRel);
    }

    /// Up to where the audit log must be written before anything more leaves.
    #[must_use]
    pub fn recorded(&self) -> Place {
        Place::new(self.0.recorded.load(Ordering::Acquire))
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
    let places = Arc::new(Semaphore::new(max));
    tasks.spawn(async move {
        let accepting = async {
            while let Ok(place) = places.clone().acquire_owned().await {
                let connection = accept_one(&listener).await.map(|stream| Connection {
                    stream,
                    peer: (),
                    good_for: Duration::MAX,
                    distrusted: CancellationToken::new(),
                    _place: place,
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
async fn accept_one(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            // An answer may be more than one write; waiting for the client's delayed ACK in between
            // costs 40 ms.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            Some(stream)
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
