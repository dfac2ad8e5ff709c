//! The audit log: who was given which token or refused one, and what operators changed. One JSON
//! object a line, never a secret, never a token.
//!
//! # No answer leaves before its record is durable
//!
//! A call puts its record into memory ([`Audit::record`]) and learns its place in the log. Before a
//! connection sends bytes that may hold the answer, it waits until the log is durable up to that place
//! ([`Audit::poll_durable`]). One thread writes: it takes all lines that have come together, whichever
//! connection they are of, and makes them durable with one `write(2)` and one `fdatasync(2)`. What
//! comes meanwhile is the next group, so that groups grow with the load. Nobody's thread is blocked:
//! a connection that waits is woken, and one whose record is durable, as that of each token that is
//! handed out again, learns so by one load.
//!
//! A line that cannot be made durable stays in memory and is tried again ([`RETRY`]); the answers that
//! wait for it never leave, since their connections break. Until it is durable, and while the disk has
//! not answered for [`STALL_MAX`], every further call is refused. So nothing is dropped, and memory is
//! bounded ([`BACKLOG_BYTES_MAX`]).

use std::{
    fmt,
    future::poll_fn,
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use tokio::sync::watch;

mod group;
mod record;
mod segment;
mod writer;

pub use group::Watcher;
pub use record::{Outcome, Record, TokenRecord};

use self::{group::Group, segment::Medium, writer::Writer};
use crate::config::Durability;

/// Lines in memory that no write has taken up yet, in bytes: some ten thousand.
pub const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the disk may take for a group before calls are refused.
pub const STALL_MAX: Duration = Duration::from_secs(2);
/// How often lines that could not be made durable are tried again.
pub const RETRY: Duration = Duration::from_millis(500);

/// Where records go. Cheap to clone; all clones are one log.
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Log>>);

/// A place in the log: up to here it must be durable before an answer leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// The log cannot be written; what would have to be recorded must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written")]
pub struct Unavailable;

struct Log {
    group: Arc<Group>,
}

impl Audit {
    /// Records nothing: for a broker whose hand-outs nobody has to answer for.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Appends to a file, which is made for its owner alone if it is not there. May also be a device
    /// or a pipe, as `/dev/stdout`.
    ///
    /// # Errors
    /// Those of the file system, with the file's name, and an existing file that others can access.
    pub fn open(file: &Path, durability: Durability) -> io::Result<Self> {
        Self::to(segment::open(file, durability)?, STALL_MAX)
    }

    fn to(medium: Box<dyn Medium>, stall_max: Duration) -> io::Result<Self> {
        let group = Arc::new(Group::new());
        let writer = Writer::new(group.clone(), medium);
        let watching = group.clone();
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(run)
        };
        start("audit", Box::new(move || writer.run()))?;
        start("audit-watch", Box::new(move || watching.watch(stall_max)))?;
        Ok(Self(Some(Arc::new(Log { group }))))
    }

    /// Takes a record down. What it is about must not leave before the log is durable up to its place.
    ///
    /// # Errors
    /// [`Unavailable`] while the log cannot be written: then nothing is recorded, and nothing may
    /// happen.
    pub fn record(&self, record: &Record<'_>) -> Result<Place, Unavailable> {
        let Some(log) = &self.0 else {
            return Ok(Place::default());
        };
        self.check()?;
        // Outside the lock. Most lines are of 400 bytes.
        let mut line = Vec::with_capacity(512);
        // Only a type that cannot be JSON fails, or one that refuses by itself; there is none in it.
        serde_json::to_writer(&mut line, record).map_err(|_| Unavailable)?;
        line.push(b'\n');
        log.group.append(&line).map(Place).ok_or(Unavailable)
    }

    /// Whether what happens can be recorded: asked where that may be put off.
    ///
    /// # Errors
    /// [`Unavailable`] while it cannot be.
    pub fn check(&self) -> Result<(), Unavailable> {
        match &self.0 {
            Some(log) if log.group.failing.load(Ordering::Acquire) => Err(Unavailable),
            _ => Ok(()),
        }
    }

    /// Waits until the log is durable up to a place. Whoever waits is woken then, or when that has
    /// failed.
    ///
    /// # Errors
    /// [`Unavailable`] if it cannot be written. The lines stay, and are tried again.
    pub fn poll_durable(
        &self,
        place: Place,
        watcher: &Watcher,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unavailable>> {
        match &self.0 {
            Some(log) if log.group.durable.load(Ordering::Acquire) < place.0 => {
                log.group.poll_durable(place.0, watcher, cx)
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// As [`Self::poll_durable`].
    ///
    /// # Errors
    /// As there.
    pub async fn durable(&self, place: Place) -> Result<(), Unavailable> {
        let watcher = Watcher::default();
        poll_fn(|cx| self.poll_durable(place, &watcher, cx)).await
    }

    /// Whether records can be written, and each change of that. `None` if there is nothing to write.
    #[must_use]
    pub fn works(&self) -> Option<watch::Receiver<bool>> {
        self.0.as_ref().map(|log| log.group.works.subscribe())
    }

    /// Ends the log, which takes no more records, and waits until what is left is written or was in vain.
    pub async fn close(&self) {
        let Some(log) = &self.0 else { return };
        log.group.end();
        // The sender is held here.
        let _ = log.group.finished.subscribe().wait_for(|is| *is).await;
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.group.end();
    }
}

impl Place {
    /// The place as a number, to be kept in an atomic.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// A place from [`Self::get`].
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
