//! The HTTPS server: loopback only, HTTP/1.1 and HTTP/2, connections that can be reset.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

use super::{Error, pki::Identity};

/// Connections that have shaken hands and wait for the HTTP server.
const ACCEPTED_MAX: usize = 64;
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// After an error of `accept`, such as too many open files, others get time to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connection that a request came over.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    end: CancellationToken,
}

/// The finished handshakes, as axum wants to be fed.
struct Handshakes {
    connections: mpsc::Receiver<Connection>,
    local_address: SocketAddr,
}

/// A TLS connection that can be ended from elsewhere.
struct Connection {
    stream: TlsStream<TcpStream>,
    end: CancellationToken,
    /// Polled with every read, which registers the reader to be woken at the end.
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Serves the router until `stop` is cancelled, with all tasks in `tasks`.
pub(super) fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> io::Result<()> {
    let local_address = listener.local_addr()?;
    let (handshakes, connections) = mpsc::channel(ACCEPTED_MAX);
    let accept = accept(
        listener,
        TlsAcceptor::from(tls),
        handshakes,
        stop.clone(),
        tasks.clone(),
    );
    tasks.spawn(accept);

    let listener = Handshakes {
        connections,
        local_address,
    };
    let service = router.into_make_service_with_connect_info::<Peer>();
    let server =
        axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    tasks.spawn(async move {
        // It ends by the signal only: our listener never fails.
        let _ = server.await;
    });
    Ok(())
}

/// The TLS side of a server identity.
pub(super) fn tls_config(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    let certificates = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    // The provider is named rather than taken from the process, where nobody may have set one.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts connections. Handshakes go on side by side, so that a client that is slow or silent
/// holds up no other.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: mpsc::Sender<Connection>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let acceptor = acceptor.clone();
        let handshakes = handshakes.clone();
        let end = stop.child_token();
        tasks.spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream));
            let finished = tokio::select! {
                finished = handshake => finished,
                () = end.cancelled() => return,
            };
            match finished {
                Ok(Ok(stream)) => {
                    // Nobody receives once the server stops, and then it may be dropped.
                    let _ = handshakes.send(Connection::new(stream, end)).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "simulator: handshake failed"),
                Err(_) => tracing::debug!("simulator: handshake took too long"),
            }
        });
    }
}

// === impl Peer ===

impl Peer {
    /// Resets the connection, dropping whatever goes on over it.
    pub(super) fn reset(&self) {
        self.end.cancel();
    }
}

impl Connected<IncomingStream<'_, Handshakes>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Handshakes>) -> Self {
        Self {
            end: stream.io().end.clone(),
        }
    }
}

// === impl Handshakes ===

impl Listener for Handshakes {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => {
                let address = connection.stream.get_ref().0.peer_addr();
                (connection, address.unwrap_or(self.local_address))
            }
            // The acceptor has stopped, and the server is about to.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local_address)
    }
}

// === impl Connection ===

impl Connection {
    fn new(stream: TlsStream<TcpStream>, end: CancellationToken) -> Self {
        Self {
            stream,
            ended: Box::pin(end.clone().cancelled_owned()),
            end,
        }
    }

    /// Fails once the connection has been ended; until then, wakes the task when it is.
    fn poll_alive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.is_cancelled() || self.ended.as_mut().poll(context).is_ready() {
            // Without lingering, closing sends a reset instead of an orderly end.
            let _ = self.stream.get_ref().0.set_zero_linger();
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_alive(context))?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_alive(context))?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_alive(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_alive(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
