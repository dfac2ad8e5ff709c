//! The wire form of a unary call, for the one that is called most.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: a message is a byte that says
//! whether it is compressed, its length in four bytes, and the message.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::{
    HeaderMap, Response,
    body::{Body, Bytes, Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderValue},
};
use prost::bytes::{BufMut as _, BytesMut};
use tonic::Status;

use super::request_body::RequestBody;

/// Bytes before a message.
pub(super) const PREFIX_BYTES: usize = 5;

/// The body of an answer.
pub(super) enum Answer {
    /// One message, and that all is well.
    Message(Message),
    /// What tonic makes.
    Other(tonic::body::Body),
}

/// A message on its way out.
pub(super) enum Message {
    /// Prefix and message.
    Whole(Bytes),
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
pub(super) fn response(whole: Bytes) -> Response<Answer> {
    let mut response = Response::new(Answer::Message(Message::Whole(whole)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let message = match self.get_mut() {
            Self::Message(message) => message,
            Self::Other(body) => return Poll::Ready(ready!(Pin::new(body).poll_frame(cx))),
        };
        Poll::Ready(match std::mem::replace(message, Message::Sent) {
            Message::Whole(whole) => {
                *message = Message::Status;
                Some(Ok(Frame::data(whole)))
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
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // With a length, hyper would send a `content-length`; gRPC has none.
            Self::Message(_) => SizeHint::default(),
            Self::Other(body) => body.size_hint(),
        }
    }
}
