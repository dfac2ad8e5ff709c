//! Runs the calls of a connection in its own turn, as far as they come without waiting; only one that
//! waits becomes a task. A token that is in memory is handed out so, with the request read and the
//! answer written in one turn.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Requests that are longer than this ([`SHORT_BYTES`]) and have not come whole, on one connection.
const LONG_MAX: usize = 8;
/// A request that is held without being counted.
pub(super) const SHORT_BYTES: usize = 2 * 1024;

/// Runs calls. Each connection has its own.
///
/// A call that panics takes its connection along; there is none that should.
#[derive(Clone, Debug)]
pub(super) struct InTurn(Arc<Calls>);

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct Calls {
    /// How long a call may take, from its first header until the client has taken the answer.
    time_max: Duration,
    /// How long its request may take to come, from when it is first waited for.
    pub(super) request_max: Duration,
    /// Whether the one that is about to begin is a stream of answers, which lasts.
    lasting: AtomicBool,
    begun: AtomicUsize,
    /// Calls that are tasks.
    waiting: AtomicUsize,
    /// Cancelled when a client does not take an answer. h2 keeps what it has of that, whatever becomes of
    /// the call, as long as the connection lasts.
    pub(super) stuck: CancellationToken,
    /// Places for requests that are long and have not come whole.
    pub(super) long: Arc<Semaphore>,
}

impl InTurn {
    pub(super) fn new(time_max: Duration, request_max: Duration) -> Self {
        Self(Arc::new(Calls {
            time_max,
            request_max,
            lasting: AtomicBool::new(false),
            begun: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            stuck: CancellationToken::new(),
            long: Arc::new(Semaphore::new(LONG_MAX)),
        }))
    }

    pub(super) fn calls(&self) -> &Arc<Calls> {
        &self.0
    }
}

impl Calls {
    /// Says what the call is that hyper has run next: it does so as soon as it has its future.
    pub(super) fn begin(&self, lasting: bool) {
        // One thread at a time has the connection.
        let begun = self.begun.load(Ordering::Relaxed);
        self.begun.store(begun.wrapping_add(1), Ordering::Relaxed);
        self.lasting.store(lasting, Ordering::Relaxed);
    }

    /// Waits until there was no call for so long, and at most for twice as long.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            sleep(limit).await;
            let waiting = self.waiting.load(Ordering::Relaxed);
            if waiting == 0 && begun == self.begun.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for InTurn {
    #[expect(
        clippy::disallowed_methods,
        reason = "hyper ends the streams of a connection before the connection, which is tracked"
    )]
    fn execute(&self, call: F) {
        let mut call = Box::pin(call);
        // Its task polls it again and so leaves a waker that wakes something.
        let first = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if first.is_ready() {
            return;
        }
        let waiting = Waiting::new(self.0.clone());
        if self.0.lasting.load(Ordering::Relaxed) {
            tokio::spawn(async move {
                let _waiting = waiting;
                call.await;
            });
        } else {
            tokio::spawn(async move {
                if timeout(waiting.0.time_max, call).await.is_err() {
                    waiting.0.stuck.cancel();
                }
            });
        }
    }
}

/// Counts a call that is a task.
struct Waiting(Arc<Calls>);

impl Waiting {
    fn new(calls: Arc<Calls>) -> Self {
        calls.waiting.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Weak};

    use tokio::time::{Instant, advance};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Something that is gone when the call is.
    fn call(turns: &InTurn, lasting: bool) -> Weak<()> {
        turns.calls().begin(lasting);
        let held = Arc::new(());
        let gone = Arc::downgrade(&held);
        turns.execute(async move {
            let _held = held;
            pending().await
        });
        gone
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_in_time_and_a_stream_lasts() {
        let turns = InTurn::new(LIMIT, LIMIT);
        let (unary, stream) = (call(&turns, false), call(&turns, true));
        tokio::task::yield_now().await;
        advance(LIMIT - Duration::from_millis(1)).await;
        assert_eq!((unary.strong_count(), stream.strong_count()), (1, 1));
        assert!(!turns.calls().stuck.is_cancelled());
        sleep(Duration::from_secs(1)).await;
        assert_eq!((unary.strong_count(), stream.strong_count()), (0, 1));
        assert!(turns.calls().stuck.is_cancelled());
        sleep(LIMIT * 1000).await;
        assert_eq!(stream.strong_count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_without_calls_and_not_while_one_waits() {
        let turns = InTurn::new(LIMIT * 5, LIMIT);
        let began = Instant::now();
        turns.calls().begin(false);
        turns.execute(async {});
        let waited = call(&turns, false);
        turns.calls().idle(LIMIT).await;
        assert_eq!(waited.strong_count(), 0);
        let after = began.elapsed();
        assert!((LIMIT * 6..LIMIT * 7).contains(&after), "{after:?}");
    }
}
