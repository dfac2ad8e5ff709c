//! Gathers the writes of a connection: what HTTP/2 sends in one turn leaves as one write.
//!
//! h2 flushes its stream after every DATA frame of 256 bytes or more (`CHAIN_THRESHOLD` of its
//! `framed_write.rs`), since it chains the payload to its own buffer instead of copying it there. An
//! answer with a token is such a frame, so it would leave as two writes, HEADERS with DATA and then
//! the trailers, each a TLS record and a system call of its own, for each of the calls that are
//! answered in the same turn.
//!
//! So a connection is two things over one stream: [`Gathering`], which h2 writes to and which takes
//! a flush for done while there is room, and [`Release`], which the connection's task polls after
//! each turn of h2 ([`turn`]), and which then writes and flushes in earnest. Nothing is put off
//! beyond the turn, so no answer waits for another one, and no task is woken for it.
//!
//! To put it off to the connection's next turn instead, so that all connections of the thread answer
//! before the first of them writes, was measured and does not pay: as much CPU with 64 connections of
//! one call each, more for a single caller.
//!
//! What is held is bounded ([`HELD_BYTES_MAX`]): beyond it h2 writes through, and is held up by a slow
//! reader as without all this. A shutdown, which h2 asks for after its last frame, is no flush: it
//! waits until everything has left.
//!
//! Before bytes leave, a gate is asked: that is where the audit log comes in. What comes after those
//! bytes may have to wait longer, and does not hold them up. The gate is told, too, when all of them
//! have left. What comes in passes a meter, which breaks the connection of a client that floods.

use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;

/// What is held at most, in bytes: two TLS records.
const HELD_BYTES_MAX: usize = 32 * 1024;
/// What an idle connection keeps allocated at most: room for one answer.
const KEPT_BYTES_MAX: usize = 4 * 1024;

/// Asked before bytes leave.
pub(super) trait Gate {
    /// What everything that was written so far waits for.
    fn mark(&self) -> u64;

    /// Whether what waits for a mark may leave; if not, the task is woken when it may. An error breaks
    /// the connection.
    fn poll_open(&self, mark: u64, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Everything that was written so far has left.
    fn flushed(&self);
}

/// The stream as h2 sees it.
pub(super) struct Gathering<S, G>(Arc<Mutex<Held<S, G>>>);

/// Lets go of what is held.
pub(super) struct Release<S, G>(Arc<Mutex<Held<S, G>>>);

struct Held<S, G> {
    stream: S,
    gate: G,
    meter: Meter,
    /// Whether the meter has broken the connection.
    flooded: bool,
    bytes: Vec<u8>,
    /// How many of the bytes have left.
    sent: usize,
    /// How many of the bytes may leave once the gate opens for a mark, if it was asked.
    asked: Option<(usize, u64)>,
    /// Whether bytes have left since the last flush.
    unflushed: bool,
    /// Whether h2 was told to wait until bytes have left.
    awaited: bool,
}

/// A stream in two parts. The lock between them is never contended: one task has both.
pub(super) fn gather<S, G>(stream: S, gate: G) -> (Gathering<S, G>, Release<S, G>) {
    let held = Arc::new(Mutex::new(Held {
        stream,
        gate,
        meter: Meter::new(),
        flooded: false,
        bytes: Vec::new(),
        sent: 0,
        asked: None,
        unflushed: false,
        awaited: false,
    }));
    (Gathering(held.clone()), Release(held))
}

/// A turn of the connection, and then the release of what it has written. An error of the release
/// ends the connection.
pub(super) fn turn<S, G, F, E>(
    connection: Pin<&mut F>,
    release: &Release<S, G>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>>
where
    S: AsyncWrite + Unpin,
    G: Gate,
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    if let Poll::Ready(ended) = connection.poll(cx) {
        return Poll::Ready(ended.map_err(io::Error::other));
    }
    ready!(release.poll(cx))?;
    Poll::Pending
}

impl<S, G> Release<S, G> {
    /// Whether the client has sent a frame.
    pub(super) fn heard(&self) -> bool {
        lock(&self.0).meter.heard()
    }

    /// Whether the connection was broken since the client floods.
    pub(super) fn flooded(&self) -> bool {
        lock(&self.0).flooded
    }
}

impl<S: AsyncWrite + Unpin, G: Gate> Release<S, G> {
    /// Writes and flushes what is held.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        let flushed = ready!(held.poll_flush(cx));
        if held.awaited {
            // The way has become free since h2 was told to wait: nobody else would tell it.
            held.awaited = false;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(flushed)
    }
}

impl<S: AsyncWrite + Unpin, G: Gate> Held<S, G> {
    /// Takes as much as there is room for; without room it makes some.
    fn poll_hold(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.bytes.len() >= HELD_BYTES_MAX {
            self.awaited = true;
            ready!(self.poll_send(cx))?;
            self.awaited = false;
        }
        let before = self.bytes.len();
        for part in parts {
            let room = HELD_BYTES_MAX - self.bytes.len();
            let taken = &part[..part.len().min(room)];
            self.reserve(taken.len());
            self.bytes.extend_from_slice(taken);
        }
        Poll::Ready(Ok(self.bytes.len() - before))
    }

    /// Grows in two steps only: to what an idle connection keeps, and to all there may be.
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let capacity = if needed > KEPT_BYTES_MAX {
                HELD_BYTES_MAX
            } else {
                KEPT_BYTES_MAX
            };
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
    }

    /// Writes what is held.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let (upto, mark) = match self.asked {
                Some(asked) => asked,
                None => *self.asked.insert((self.bytes.len(), self.gate.mark())),
            };
            ready!(self.gate.poll_open(mark, cx))?;
            while self.sent < upto {
                let left = &self.bytes[self.sent..upto];
                let count = ready!(Pin::new(&mut self.stream).poll_write(cx, left))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += count;
                self.unflushed = true;
            }
            self.asked = None;
        }
        self.meter.sent(self.sent);
        self.sent = 0;
        self.bytes.clear();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.gate.flushed();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin, G> AsyncRead for Gathering<S, G> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        let before = buf.filled().len();
        ready!(Pin::new(&mut held.stream).poll_read(cx, buf))?;
        if let Err(flood) = held.meter.received(&buf.filled()[before..]) {
            held.flooded = true;
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, G: Gate> AsyncWrite for Gathering<S, G> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_hold(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_hold(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done by [`Release`] at the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        held.awaited = true;
        ready!(held.poll_flush(cx))?;
        held.awaited = false;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A stream that panicked has taken its task with it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
