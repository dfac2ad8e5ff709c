//! The body of a request, which has to come in time. What has come of it is held until it is whole, so
//! how many may be long is limited, too.

use std::{
    error::Error,
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use tonic::Status;

use super::{
    in_turn::{Calls, SHORT_BYTES},
    status,
};

/// Why a body cannot be read to its end.
type BodyError = Box<dyn Error + Send + Sync>;

/// The body of a request.
pub(super) struct RequestBody {
    incoming: Incoming,
    calls: Arc<Calls>,
    bytes: usize,
    wait: Option<Box<Wait>>,
}

/// What is needed only for one that has not come whole.
struct Wait {
    late: Pin<Box<Sleep>>,
    place: Option<OwnedSemaphorePermit>,
}

impl RequestBody {
    /// The body of one of these calls.
    pub(super) fn new(incoming: Incoming, calls: Arc<Calls>) -> Self {
        Self {
            incoming,
            calls,
            bytes: 0,
            wait: None,
        }
    }

    /// Waits for more, unless that may not be.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let request_max = self.calls.request_max;
        let wait = self.wait.get_or_insert_with(|| {
            Box::new(Wait {
                late: Box::pin(sleep(request_max)),
                place: None,
            })
        });
        if self.bytes > SHORT_BYTES && wait.place.is_none() {
            match self.calls.long.clone().try_acquire_owned() {
                Ok(place) => wait.place = Some(place),
                Err(_) => return Poll::Ready(status::too_many_long_requests()),
            }
        }
        wait.late
            .as_mut()
            .poll(cx)
            .map(|()| status::request_too_slow())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) else {
            return this.poll_late(cx).map(|status| Some(Err(status.into())));
        };
        if let Some(Ok(frame)) = &frame {
            this.bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
