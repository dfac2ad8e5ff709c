//! Wakes sled where it sleeps for ever.
//!
//! When a write fails in a thread of sled's own, it notes the error, and on one of the ways there (the end
//! of `Log::exit_reservation` in its `logger.rs`) forgets to wake whoever waits for that write. A flush
//! that begins afterwards sees the error, and wakes everybody. Where nothing has failed, it waits like the
//! others.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::slot::Readers;

/// How long a commit may take until it is looked into; and how often then.
const INTERVAL: Duration = Duration::from_secs(1);
/// Threads that may wait at a time, since a disk that is just slow keeps them.
const THREADS_MAX: usize = 32;

/// Wakes whoever has waited too long.
pub(super) struct Nudge {
    readers: Readers,
    last: Mutex<Instant>,
    /// Held by each thread.
    threads: Arc<()>,
}

impl Nudge {
    pub(super) fn new(readers: Readers) -> Self {
        Self {
            readers,
            last: Mutex::new(Instant::now()),
            threads: Arc::default(),
        }
    }

    /// Waits for what a commit comes to.
    pub(super) async fn until<F: Future>(&self, outcome: F) -> F::Output {
        let mut outcome = pin!(outcome);
        loop {
            match timeout(INTERVAL, &mut outcome).await {
                Ok(outcome) => return outcome,
                Err(_) => self.nudge(),
            }
        }
    }

    fn nudge(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < INTERVAL || Arc::strong_count(&self.threads) > THREADS_MAX {
            return;
        }
        *last = Instant::now();
        let Some(database) = self.readers.database_now() else {
            return;
        };
        let held = self.threads.clone();
        let nudging = thread::Builder::new().name("store-nudge".into());
        // Without a thread, the next second has another try.
        let _ = nudging.spawn(move || {
            database.nudge();
            drop(held);
        });
    }
}
