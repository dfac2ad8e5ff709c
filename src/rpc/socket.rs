//! Sockets that callers connect to: of a network, with TLS or, for a proxy, without, and of this machine.

use std::{
    fmt, io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tokio_rustls::server::TlsStream;

/// Accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// Of a network.
    Tcp(TcpListener),
    /// Of this machine.
    Unix(UnixListener),
}

/// A connection as it was accepted.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that calls can be read from.
#[derive(Debug)]
pub enum Stream {
    /// Behind a handshake.
    Tls(Box<TlsStream<TcpStream>>),
    /// In plaintext.
    Tcp(TcpStream),
    /// In plaintext, on this machine.
    Unix(UnixStream),
}

/// Where a connection comes from, by what the system says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// An address. One of IPv4 is never one of IPv6 in disguise.
    Address(IpAddr),
    /// The same address that it connects to, which nobody has but this machine: the system takes no
    /// packets from elsewhere that come from its own.
    Own(IpAddr),
    /// A process of this user.
    User(u32),
    /// The system does not say.
    Unknown,
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => Ok(Socket::Tcp(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

impl Socket {
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Tcp(stream) => match (stream.peer_addr(), stream.local_addr()) {
                (Ok(peer), Ok(local)) if peer.ip() == local.ip() => {
                    Origin::Own(peer.ip().to_canonical())
                }
                (Ok(peer), Ok(_)) => Origin::Address(peer.ip().to_canonical()),
                _ => Origin::Unknown,
            },
            // Of the process that connected, as it was then.
            Self::Unix(stream) => stream.peer_cred().map_or(Origin::Unknown, |credentials| {
                Origin::User(credentials.uid())
            }),
        }
    }

    /// Without a handshake.
    pub(super) fn plain(self) -> Stream {
        match self {
            Self::Tcp(stream) => Stream::Tcp(stream),
            Self::Unix(stream) => Stream::Unix(stream),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) | Self::Own(address) => address.fmt(f),
            Self::User(user) => write!(f, "uid:{user}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
