//! The wire form of a unary call, for the one that is called most.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: a message is a byte that says
//! whether it is compressed, its length in four bytes, and the message.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use hyper::{
    HeaderMap, Response,
    body::{Body, Bytes, Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderValue},
};
use prost::bytes::{Buf, BufMut as _, BytesMut};
use smallvec::SmallVec;
use tonic::Status;

use super::request_body::RequestBody;
use crate::token::delivery::Delivery;

/// Bytes before a message.
pub(super) const PREFIX_BYTES: usize = 5;

/// The body of an answer.
pub(super) enum Answer {
    /// One message, and that all is well.
    Message(Message),
    /// What tonic makes, with the tokens that are in what it makes next.
    Other(tonic::body::Body, Option<Handed>),
}

/// Tokens on their way out that are in an answer of tonic's, which cannot carry them itself: an
/// extension of the response.
#[derive(Clone, Debug, Default)]
pub(super) struct Handed(Arc<Mutex<Vec<Delivery>>>);

/// Bytes on their way out, and the tokens in them.
#[derive(Debug)]
pub(super) struct Data {
    bytes: Bytes,
    tokens: SmallVec<[Delivery; 1]>,
}

/// A message on its way out.
pub(super) enum Message {
    /// Prefix and message, with the token in it.
    Whole(Bytes, Delivery),
    /// The status is left.
    Status,
    /// Nothing is.
    Sent,
}

/// The body of a request, as far as it was read.
pub(super) struct Read(Bytes);

impl Read {
    /// The message, if the body is one that is not compressed, and nothing else.
    pub(super) fn message(&self) -> Option<&[u8]> {
        let (prefix, message) = self.0.split_first_chunk::<PREFIX_BYTES>()?;
        let [0, length @ ..] = prefix else {
            return None;
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        (length == message.len()).then_some(message)
    }

    /// Everything that was read.
    pub(super) fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// Reads the body of a request, at most until it is longer than a message of `bytes_max`.
///
/// # Errors
/// If it may not take what it does.
pub(super) async fn read(mut body: RequestBody, bytes_max: usize) -> Result<Read, Status> {
    let mut read = Bytes::new();
    while !body.is_end_stream() {
        let frame = match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => match error.downcast::<Status>() {
                Ok(status) => return Err(*status),
                // The client is gone.
                Err(_) => break,
            },
            None => break,
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        read = if read.is_empty() {
            data
        } else {
            let mut both = BytesMut::with_capacity(read.len() + data.len());
            both.put(read);
            both.put(data);
            both.freeze()
        };
        if read.len() > PREFIX_BYTES + bytes_max {
            break;
        }
    }
    Ok(Read(read))
}

/// The answer with a message, given with its prefix.
pub(super) fn response(whole: Bytes, token: Delivery) -> Response<Answer> {
    let mut response = Response::new(Answer::Message(Message::Whole(whole, token)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

/// An answer of tonic's.
pub(super) fn answer(mut response: Response<tonic::body::Body>) -> Response<Answer> {
    let handed = response.extensions_mut().remove::<Handed>();
    response.map(|body| Answer::Other(body, handed))
}

impl Handed {
    /// Adds a token that is in what the answer sends next.
    pub(super) fn add(&self, token: Delivery) {
        self.lock().push(token);
    }

    pub(super) fn take(&self) -> SmallVec<[Delivery; 1]> {
        SmallVec::from_vec(mem::take(&mut *self.lock()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Delivery>> {
        // Nothing that can panic happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buf for Data {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // Otherwise the stream has ended before all of it was written, and a token that lacks its end is
        // none.
        if !self.bytes.has_remaining() {
            self.tokens.drain(..).for_each(Delivery::written);
        }
    }
}

impl Body for Answer {
    type Data = Data;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, Status>>> {
        let message = match self.get_mut() {
            Self::Message(message) => message,
            Self::Other(body, handed) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                let with_tokens = |bytes| {
                    let tokens = handed.as_ref().map(Handed::take).unwrap_or_default();
                    Data { bytes, tokens }
                };
                return Poll::Ready(frame.map(|frame| Ok(frame?.map_data(with_tokens))));
            }
        };
        Poll::Ready(match std::mem::replace(message, Message::Sent) {
            Message::Whole(bytes, token) => {
                *message = Message::Status;
                let tokens = SmallVec::from_buf([token]);
                Some(Ok(Frame::data(Data { bytes, tokens })))
            }
            Message::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Message::Sent => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(message) => matches!(message, Message::Sent),
            Self::Other(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // With a length, hyper would send a `content-length`; gRPC has none.
            Self::Message(_) => SizeHint::default(),
            Self::Other(body, _) => body.size_hint(),
        }
    }
}
