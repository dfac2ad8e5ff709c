//! One call over HTTP/2 or HTTP/1.1 and mutual TLS, and whether its answer is what it must be.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::Failure;

/// Windows as tonic's client has them; answers never fill them.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 5 * 1024 * 1024;
/// Whatever takes longer has gone wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server that is asked, and what it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) process: u32,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) protocol: Protocol,
    pub(crate) calls: Arc<Calls>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Many calls at once over one connection.
    Http2,
    /// One call at a time: there are as many connections as calls in flight.
    Http1,
}

/// The calls, of which each is chosen at random, and what an answer must be.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) head: Request<()>,
    pub(crate) bodies: Vec<Bytes>,
    pub(crate) answer: Answer,
}

/// What an answer must be. The length is that of the body.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// One message, and `grpc-status: 0`.
    Grpc(RangeInclusive<usize>),
    /// Status 200.
    Http(RangeInclusive<usize>),
}

/// A connection that calls are made over.
#[derive(Debug)]
pub(crate) enum Sender {
    Http2(h2::client::SendRequest<Bytes>),
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
}

/// A whole answer.
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

/// Opens a connection. Its task is in `connections`, and it ends with them.
pub(crate) async fn connect(
    target: &Target,
    connections: &mut JoinSet<()>,
) -> Result<Sender, Failure> {
    // If a connection breaks, the calls over it fail, and they tell.
    let opening = async {
        let stream = handshake(target).await?;
        Ok::<_, Failure>(match target.protocol {
            Protocol::Http2 => {
                let (sender, connection) = h2::client::Builder::new()
                    .initial_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .handshake(stream)
                    .await?;
                connections.spawn(async move { drop(connection.await) });
                Sender::Http2(sender)
            }
            Protocol::Http1 => {
                let stream = TokioIo::new(stream);
                let (sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
                connections.spawn(async move { drop(connection.await) });
                Sender::Http1(sender)
            }
        })
    };
    timeout(PATIENCE, opening).await?
}

/// Makes the first of the target's calls, once. Returns the body of the answer.
pub(crate) async fn once(target: &Target) -> Result<Bytes, Failure> {
    let mut connections = JoinSet::new();
    let mut sender = connect(target, &mut connections).await?;
    let body = target.calls.bodies[0].clone();
    timeout(PATIENCE, sender.call(&target.calls, body)).await?
}

async fn handshake(target: &Target) -> Result<TlsStream<TcpStream>, Failure> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let mut tls = target.tls.clone();
    let protocol: &[u8] = match target.protocol {
        Protocol::Http2 => b"h2",
        Protocol::Http1 => b"http/1.1",
    };
    Arc::make_mut(&mut tls).alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::from(target.address.ip());
    Ok(TlsConnector::from(tls).connect(name, stream).await?)
}

impl Sender {
    /// Another handle of the same connection, if calls can share it.
    pub(crate) fn share(&self) -> Option<Self> {
        match self {
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
            Self::Http1(_) => None,
        }
    }

    /// Makes one call and checks the answer. Returns its body.
    pub(crate) async fn call(&mut self, calls: &Calls, body: Bytes) -> Result<Bytes, Failure> {
        let answered = match self {
            Self::Http2(sender) => over_http2(sender, calls, body).await?,
            Self::Http1(sender) => over_http1(sender, calls, body).await?,
        };
        check(&answered, &calls.answer)?;
        Ok(answered.body)
    }
}

async fn over_http2(
    sender: &mut h2::client::SendRequest<Bytes>,
    calls: &Calls,
    body: Bytes,
) -> Result<Answered, Failure> {
    std::future::poll_fn(|context| sender.poll_ready(context)).await?;
    let (answer, mut request) = sender.send_request(calls.head.clone(), body.is_empty())?;
    if !body.is_empty() {
        request.send_data(body, true)?;
    }
    let (head, mut stream) = answer.await?.into_parts();
    let mut body = Bytes::new();
    while let Some(part) = stream.data().await {
        let part = part?;
        stream.flow_control().release_capacity(part.len())?;
        // Nearly always there is one part, which need not be copied.
        body = if body.is_empty() {
            part
        } else {
            [body, part].concat().into()
        };
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok(Answered {
        status: head.status,
        headers: head.headers,
        body,
        trailers,
    })
}

async fn over_http1(
    sender: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    calls: &Calls,
    body: Bytes,
) -> Result<Answered, Failure> {
    sender.ready().await?;
    let request = calls.head.clone().map(|()| Full::new(body));
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    let trailers = HeaderMap::new();
    Ok(Answered {
        status: head.status,
        headers: head.headers,
        body,
        trailers,
    })
}

fn check(answered: &Answered, answer: &Answer) -> Result<(), Failure> {
    let Answered {
        status,
        headers,
        body,
        trailers,
    } = answered;
    if *status != StatusCode::OK {
        return Err(format!("status {status}: {}", body.escape_ascii()).into());
    }
    let length = match answer {
        Answer::Http(length) => length,
        Answer::Grpc(length) => {
            // An answer without a message has its status in the headers.
            let field = |name| trailers.get(name).or_else(|| headers.get(name));
            let grpc_status = field("grpc-status");
            if grpc_status.is_none_or(|status| status != "0") {
                let message = field("grpc-message");
                return Err(format!("grpc-status {grpc_status:?}, {message:?}").into());
            }
            check_frame(body)?;
            length
        }
    };
    if !length.contains(&body.len()) {
        return Err(format!("the answer has {} bytes, not {length:?}", body.len()).into());
    }
    Ok(())
}

/// A gRPC body of one message that is not compressed.
fn check_frame(body: &Bytes) -> Result<(), Failure> {
    let length = body.get(1..5).and_then(|bytes| bytes.try_into().ok());
    let length = length.map(u32::from_be_bytes).map(usize::try_from);
    match (body.first(), length) {
        (Some(0), Some(Ok(length))) if length > 0 && length == body.len() - 5 => Ok(()),
        _ => Err("the answer is not one message".into()),
    }
}
