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
//!
//! # No line is changed, added or taken away unseen
//!
//! Each line names the hash of the one before and has a MAC ([`key`]); now and then one is signed.
//! The last line's hash is kept outside as well ([`Anchor`]), against cutting off the end. [`verify`]
//! looks through the files. What a crash has cut short stays where it is, and the next line says so.

use std::{
    fmt,
    future::poll_fn,
    io::{self, ErrorKind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};

mod anchor;
mod copy;
mod group;
pub mod key;
mod line;
mod record;
mod recover;
mod segment;
pub mod trace;
pub mod verify;
mod writer;

pub use anchor::Anchor;
pub use group::Watcher;
pub use line::Head;
pub use record::{Kind, Outcome, Record, TokenRecord};
pub use segment::numbered;

use self::{
    copy::{Copier, Lost},
    group::Group,
    key::{Keys, LineKey},
    verify::Trust,
    writer::Begins,
};
use crate::{clock::Clock, config::AuditConfig};

/// Lines in memory that no write has taken up yet, in bytes: some ten thousand.
pub const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the disk may take for a group before calls are refused.
pub const STALL_MAX: Duration = Duration::from_secs(2);
/// How often lines that could not be made durable are tried again.
pub const RETRY: Duration = Duration::from_millis(500);
/// How far the anchor may be behind, and how often a write of it that failed is tried again.
const ANCHOR_INTERVAL: Duration = Duration::from_secs(1);

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
    /// The number of the next call that begins on record.
    calls: AtomicU64,
    /// Where its anchor is kept, and what signs it.
    anchored: Option<(PathBuf, Arc<LineKey>)>,
    /// What was not copied.
    lost: Option<Lost>,
}

impl Audit {
    /// Records nothing: for a broker whose hand-outs nobody has to answer for.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Appends to the file of a configuration, or is [`Self::off`] if there is none. The file is made for
    /// its owner alone if it is not there; it may also be a device or a pipe, as `/dev/stdout`, where a
    /// log begins anew each time. What was there before is verified.
    ///
    /// # Errors
    /// Those of the file system, with the file's name; a file that others can access; a key that is
    /// missing. A log that another process writes to is no error: until that ends, nothing can be recorded
    /// here. Nor is one that is damaged: a further file goes on behind it and says so
    /// ([`Self::is_damaged`]).
    pub fn open(config: &AuditConfig, clock: Clock) -> io::Result<Self> {
        let Some(file) = &config.file else {
            return Ok(Self::off());
        };
        let is_regular = segment::is_regular(file);
        let keys = keys(config, is_regular)?;
        let key = keys.present().clone();
        let anchor_file = config.anchor_file().filter(|_| is_regular);
        let anchored = anchor_file.clone().map(|file| (file, key.clone()));
        let (file, config, syslog) = (file.clone(), config.clone(), config.syslog);
        let trust = Trust::Keys(keys);
        let open = move || {
            let anchor = anchor_file
                .as_deref()
                .map(|file| Anchor::read(file, &trust));
            let anchor = anchor.transpose()?.flatten();
            segment::open(&file, &config, &trust, anchor.as_ref()).map_err(|error| {
                let text = format!("audit file {}: {error}", file.display());
                io::Error::new(error.kind(), text)
            })
        };
        let begins = match open() {
            Ok(opened) => Begins::Now(opened),
            // The broker that this one is to replace.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Begins::Later(Box::new(open)),
            Err(error) => return Err(error),
        };
        let copier = syslog.map(Copier::start).transpose()?;
        Self::to(begins, key, anchored, clock, STALL_MAX, copier)
    }

    fn to(
        begins: Begins,
        key: Arc<LineKey>,
        anchored: Option<(PathBuf, Arc<LineKey>)>,
        clock: Clock,
        stall_max: Duration,
        copier: Option<Copier>,
    ) -> io::Result<Self> {
        let group = Arc::new(Group::new());
        let (writing, watching) = (group.clone(), group.clone());
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(run)
        };
        let lost = copier.as_ref().map(Copier::lost);
        let write = move || writer::write(&writing, begins, key, clock, copier);
        start("audit", Box::new(write))?;
        start("audit-watch", Box::new(move || watching.watch(stall_max)))?;
        Ok(Self(Some(Arc::new(Log {
            group,
            calls: AtomicU64::new(1),
            anchored,
            lost,
        }))))
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

    /// Whether something was wrong with what was there when the log was opened.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let facts = self.0.as_ref().and_then(|log| log.group.facts.get());
        facts.is_some_and(|facts| facts.damaged)
    }

    /// The number of the last line that is durable. `None` if there is nothing to write.
    #[must_use]
    pub fn last_line(&self) -> Option<impl Fn() -> u64 + Send + Sync + use<>> {
        let head = self.0.as_ref()?.group.head.subscribe();
        Some(move || head.borrow().seq)
    }

    /// How many lines were not copied to the collector. `None` if there is none.
    #[must_use]
    pub fn not_copied(&self) -> Option<impl Fn() -> u64 + Send + Sync + use<>> {
        let lost = self.0.as_ref()?.lost.clone()?;
        Some(move || lost.count())
    }

    /// In how many groups records became durable.
    #[must_use]
    pub fn groups(&self) -> u64 {
        let log = self.0.as_ref();
        log.map_or(0, |log| log.group.groups.load(Ordering::Relaxed))
    }

    /// A number for a call that begins on record and ends on record.
    #[must_use]
    pub fn next_call(&self) -> u64 {
        match &self.0 {
            Some(log) => log.calls.fetch_add(1, Ordering::Relaxed),
            None => 0,
        }
    }

    /// Has the anchor follow the log, for ever.
    pub async fn follow(&self) {
        let Some(log) = &self.0 else { return };
        let mut head = log.group.head.subscribe();
        let mut failing = false;
        loop {
            if !failing && head.changed().await.is_err() {
                return;
            }
            head.mark_unchanged();
            failing = log.clone().anchor().await.is_err();
            // Lines that come together are anchored together.
            sleep(ANCHOR_INTERVAL).await;
        }
    }

    /// Ends the log, which takes no more records, and waits until what is left is written or was in vain.
    pub async fn close(&self) {
        let Some(log) = &self.0 else { return };
        log.group.end();
        // The sender is held here.
        let _ = log.group.finished.subscribe().wait_for(|is| *is).await;
        let _ = log.clone().anchor().await;
        if let Some(lost) = &log.lost {
            lost.until_copied().await;
        }
    }
}

impl Log {
    /// Writes the anchor anew.
    async fn anchor(self: Arc<Self>) -> io::Result<()> {
        let written = spawn_blocking(move || {
            let (Some((file, key)), Some(facts)) = (&self.anchored, self.group.facts.get()) else {
                return Ok(());
            };
            let head = *self.group.head.borrow();
            if head.seq == 0 {
                return Ok(());
            }
            let log = facts.log.clone();
            Anchor { log, head }.write(file, key)
        });
        let written = written
            .await
            .map_err(io::Error::other)
            .and_then(|written| written);
        if let Err(error) = &written {
            tracing::error!(%error, "the anchor of the audit log cannot be written: it would not be noticed if the end of the log were cut off");
        }
        written
    }
}

/// The keys of a configuration. Where it names no file, one is made beside the log with its first line.
fn keys(config: &AuditConfig, is_regular: bool) -> io::Result<Keys> {
    match (&config.key_file, config.own_key_file()) {
        (Some(file), _) => Keys::read(file),
        (None, Some(file)) if is_regular => {
            if !file.exists() {
                Keys::make(&file)?;
                tracing::warn!(
                    file = %file.display(),
                    "the audit log has its key beside it, where whoever can change the one can read the other: set audit.key_file"
                );
            }
            Keys::read(&file)
        }
        _ => Keys::for_once(),
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
pub(crate) mod tests;
