//! Tokens on their way out: in the hands of a call, and not yet sent to its caller.
//!
//! To have the cache forget an organization is not enough to be able to say that it gets no more tokens:
//! a call that looked a moment before may still be writing its answer, or wait, for as long as its
//! client likes, for room to write it. So whoever takes tokens back ([`Deliveries::take_back`])
//! first waits until every answer of before is out, and breaks the connections that do not get theirs
//! out in time.
//!
//! It is the scheme of sleepable RCU. There is a count of how often something was taken back. A call notes
//! it, looks for its token, and counts itself among the answers under way of its connection, on the
//! side of that number's parity; if the number is another one by then, it looks once more. Whoever takes
//! back has the cache forget, raises the number, and waits until no connection has answers on the other
//! side. Either the call sees the new number, or it is waited for.
//!
//! A call costs it two loads of a shared number that hardly ever changes, and counting on its own
//! connection. That all organizations are one here costs those that have no part in it nothing but, if they
//! do not read what they were sent, their connection.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// How long an answer that is under way has to get out, before its connection is broken.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long a broken connection has to be gone: its thread may hang in a write to the audit log.
const LIMIT: Duration = Duration::from_secs(20);
/// Pause between two looks. Most answers are out in less.
const PAUSE: Duration = Duration::from_millis(1);

/// Everything that is on its way out. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Deliveries(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// How often something was taken back.
    taken_back: AtomicU64,
    /// Connections, by a number of their own.
    routes: Mutex<HashMap<u64, Arc<Route>>>,
    next: AtomicU64,
    /// Held while something is taken back: there are two sides only.
    taking_back: tokio::sync::Mutex<()>,
}

/// Answers with tokens on their way out of one connection, on the side of each parity.
#[derive(Debug, Default)]
pub struct Route {
    /// In hands, in buffers of the connection, or written.
    under_way: [AtomicUsize; 2],
    /// Those of them that have been written to the connection and wait for its flush.
    written: [AtomicUsize; 2],
    broken: AtomicBool,
    breaking: Notify,
}

/// A token on its way out. When it is dropped, it will not get out any more.
#[derive(Debug)]
pub struct Delivery {
    route: Arc<Route>,
    side: usize,
    written: bool,
}

/// How often something had been taken back when a call began to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(u64);

/// A connection that is open.
#[derive(Debug)]
pub struct Open {
    deliveries: Deliveries,
    number: u64,
}

/// A connection neither gets its answers out nor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a connection neither gets its answers out nor ends")]
pub struct Stuck;

impl Deliveries {
    /// Has the answers of a connection waited for, as long as it is open.
    #[must_use]
    pub fn open(&self, route: Arc<Route>) -> Open {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.routes().insert(number, route);
        Open {
            deliveries: self.clone(),
            number,
        }
    }

    /// To be noted before a token is looked for.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen(self.0.taken_back.load(Ordering::SeqCst))
    }

    /// Sends a token on its way that was found after `seen`. `None` if something was taken back since: it
    /// may be this one, and is to be looked for anew.
    #[must_use]
    pub fn begin(&self, route: &Arc<Route>, seen: Seen) -> Option<Delivery> {
        let side = side(seen.0);
        route.under_way[side].fetch_add(1, Ordering::SeqCst);
        let delivery = Delivery {
            route: route.clone(),
            side,
            written: false,
        };
        (self.seen() == seen).then_some(delivery)
    }

    /// Waits until everything that was found before is out of this process, or cannot get out any more.
    /// To be called once it cannot be found any more.
    ///
    /// # Errors
    /// [`Stuck`] if that takes too long: then a token may get out later on.
    pub async fn take_back(&self) -> Result<(), Stuck> {
        let _alone = self.0.taking_back.lock().await;
        let side = side(self.0.taken_back.fetch_add(1, Ordering::SeqCst));
        let began = Instant::now();
        loop {
            let late = self.late(side);
            if late.is_empty() {
                return Ok(());
            }
            if began.elapsed() >= PATIENCE {
                late.iter().for_each(|route| route.break_off());
            }
            if began.elapsed() >= LIMIT {
                tracing::error!(
                    connections = late.len(),
                    "tokens may get out that were taken back"
                );
                return Err(Stuck);
            }
            sleep(PAUSE).await;
        }
    }

    /// Connections with answers under way on a side.
    fn late(&self, side: usize) -> Vec<Arc<Route>> {
        let routes = self.routes();
        let late = routes
            .values()
            .filter(|route| route.under_way[side].load(Ordering::SeqCst) > 0);
        late.cloned().collect()
    }

    fn routes(&self) -> MutexGuard<'_, HashMap<u64, Arc<Route>>> {
        // Nothing that can panic happens under the lock.
        self.0.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Route {
    /// Whatever was written to the connection has left this process.
    pub fn flushed(&self) {
        for (under_way, written) in self.under_way.iter().zip(&self.written) {
            if written.load(Ordering::Relaxed) > 0 {
                let count = written.swap(0, Ordering::AcqRel);
                under_way.fetch_sub(count, Ordering::SeqCst);
            }
        }
    }

    /// Whether nothing may leave any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Waits until nothing may leave any more: then the connection is to be dropped.
    pub async fn broken(&self) {
        let breaking = self.breaking.notified();
        if !self.is_broken() {
            breaking.await;
        }
    }

    fn break_off(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                "a connection is broken: its client did not take an answer with a token that was taken back"
            );
            self.breaking.notify_waiters();
        }
    }
}

impl Delivery {
    /// It has been written to its connection, and leaves with the next flush.
    pub fn written(mut self) {
        self.written = true;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.written {
            self.route.written[self.side].fetch_add(1, Ordering::AcqRel);
        } else {
            self.route.under_way[self.side].fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.deliveries.routes().remove(&self.number);
    }
}

fn side(number: u64) -> usize {
    usize::from(number % 2 == 1)
}

#[cfg(test)]
mod tests;
