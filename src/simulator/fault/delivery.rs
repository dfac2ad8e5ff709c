//! How an answer travels: at one go, or not.

use std::{io, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::header,
    response::Response,
};
use tokio_stream::{StreamExt as _, iter, pending};

use crate::simulator::server::Peer;

/// Time for what has been sent to leave before the connection is reset.
const FLUSH: Duration = Duration::from_millis(50);

/// How the body of an answer is sent.
#[derive(Debug, Clone, Copy)]
pub(in crate::simulator) enum Delivery {
    /// As it should be.
    Whole,
    /// So many bytes, and then nothing more.
    Stalled(usize),
    /// A byte at a time.
    Dripping(Duration),
    /// So many bytes, and then a reset.
    Cut(usize),
}

impl Delivery {
    /// Sends an answer so.
    pub(in crate::simulator) async fn send(self, response: Response, peer: Peer) -> Response {
        if matches!(self, Self::Whole) {
            return response;
        }
        let (mut head, body) = response.into_parts();
        // A body of ours comes from memory and never fails.
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        head.headers
            .insert(header::CONTENT_LENGTH, body.len().into());
        let part = |bytes: usize| iter([Ok(body.slice(..bytes.min(body.len())))]);
        let body = match self {
            Self::Whole => Body::from(body),
            Self::Stalled(bytes) => Body::from_stream(part(bytes).chain(pending())),
            Self::Dripping(pause) => {
                let bytes: Vec<io::Result<Bytes>> =
                    (0..body.len()).map(|at| Ok(body.slice(at..=at))).collect();
                Body::from_stream(iter(bytes).throttle(pause))
            }
            Self::Cut(bytes) => {
                let reset = iter([()]).map(move |()| {
                    peer.reset();
                    Err(io::Error::from(io::ErrorKind::ConnectionReset))
                });
                Body::from_stream(part(bytes).chain(reset).throttle(FLUSH))
            }
        };
        Response::from_parts(head, body)
    }
}
