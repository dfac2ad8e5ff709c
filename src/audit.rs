//! The audit log: who was given which token or refused one, and what operators changed. One JSON
//! object a line, never a secret, never a token.
//!
//! # No answer leaves before its record is written
//!
//! A call puts its record into memory ([`Audit::record`]) and learns its place in the log. Before a
//! connection sends bytes that may hold the answer, it has the log written up to that place
//! ([`Audit::written_up_to`]): one `write(2)` for all lines that have come together so far, whichever
//! connection they are of. Under load, lines are written in groups as large as the groups of answers,
//! and nothing has to be handed to another thread and back, which for one caller at a time costs
//! more than the write.
//!
//! A line that cannot be written stays in memory and is tried again with the next call; the answers
//! that wait for it never leave, since their connections break. Until it is written, every further
//! call is refused. So nothing is dropped, and memory is bounded ([`BACKLOG_BYTES_MAX`]).
//!
//! The file belongs to the system's page cache once written: a power cut may take the last lines.
//! A write that hangs holds the calls of its thread, for as long as it hangs: late, but never unrecorded.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, ErrorKind, Write},
    mem::swap,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

mod record;

pub use record::{Outcome, Record, TokenRecord};

/// Lines in memory that are not written yet, in bytes: some ten thousand.
pub const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Permission bits that would let somebody else read or change the file.
const FORBIDDEN_MODE: u32 = 0o077;

/// Where records go. Cheap to clone; all clones are one log.
#[derive(Clone, Debug)]
pub struct Audit(Option<Arc<Log>>);

/// A place in the log: up to here it must be written before an answer leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// The log cannot be written; what would have to be recorded must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log cannot be written")]
pub struct Unavailable;

#[derive(Debug)]
struct Log {
    /// Lines that no write has taken up yet. Held for a copy only.
    waiting: Mutex<Waiting>,
    /// Held during the write.
    writer: Mutex<Writer>,
    /// Where the written part ends.
    written: AtomicU64,
    /// Whether the last write failed.
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The place after the last line.
    end: u64,
}

struct Writer {
    file: Box<dyn Write + Send>,
    /// What is being written, and how much of it is.
    lines: Vec<u8>,
    done: usize,
    /// The place after the last of these lines.
    end: u64,
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
    pub fn open(file: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("audit file {}: {error}", file.display()),
            )
        };
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let open = options.open(file).map_err(named)?;
        let metadata = open.metadata().map_err(named)?;
        if metadata.is_file() && metadata.mode() & FORBIDDEN_MODE != 0 {
            return Err(named(io::Error::other(format!(
                "its mode {:04o} lets others at it; run `chmod 0600` on it",
                metadata.mode() & 0o7777
            ))));
        }
        Ok(Self::to(Box::new(open)))
    }

    fn to(file: Box<dyn Write + Send>) -> Self {
        Self(Some(Arc::new(Log {
            waiting: Mutex::default(),
            writer: Mutex::new(Writer {
                file,
                lines: Vec::new(),
                done: 0,
                end: 0,
            }),
            written: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        })))
    }

    /// Takes a record down. What it is about must not leave before [`Self::written_up_to`] its place.
    ///
    /// # Errors
    /// [`Unavailable`] while the log cannot be written: then nothing is recorded, and nothing may
    /// happen. Each call tries again.
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
        if let Some(place) = log.append(&line) {
            return Ok(place);
        }
        log.write().map_err(|_| Unavailable)?;
        log.append(&line).ok_or(Unavailable)
    }

    /// Whether what happens can be recorded: asked where that may be put off. While the log cannot be
    /// written, each call tries again.
    ///
    /// # Errors
    /// [`Unavailable`] while it cannot be.
    pub fn check(&self) -> Result<(), Unavailable> {
        match &self.0 {
            Some(log) if log.failing.load(Ordering::Acquire) => {
                log.write().map_err(|_| Unavailable)
            }
            _ => Ok(()),
        }
    }

    /// Has the log written up to a place, if it is not yet.
    ///
    /// # Errors
    /// Those of the write. The lines stay, and are tried again.
    pub fn written_up_to(&self, place: Place) -> io::Result<()> {
        match &self.0 {
            Some(log) if log.written.load(Ordering::Acquire) < place.0 => log.write(),
            _ => Ok(()),
        }
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

impl Log {
    /// Adds a line, if there is room for it.
    fn append(&self, line: &[u8]) -> Option<Place> {
        let mut waiting = lock(&self.waiting);
        if waiting.lines.len() + line.len() > BACKLOG_BYTES_MAX {
            return None;
        }
        waiting.lines.extend_from_slice(line);
        waiting.end += line.len() as u64;
        Some(Place(waiting.end))
    }

    /// Writes everything that waits.
    fn write(&self) -> io::Result<()> {
        let mut writer = lock(&self.writer);
        // What an earlier write left over comes first.
        let mut outcome = writer.write_lines();
        if outcome.is_ok() {
            let mut waiting = lock(&self.waiting);
            swap(&mut writer.lines, &mut waiting.lines);
            writer.end = waiting.end;
            drop(waiting);
            outcome = writer.write_lines();
        }
        let failed = outcome.is_err();
        if !failed {
            self.written.store(writer.end, Ordering::Release);
        }
        if self.failing.swap(failed, Ordering::AcqRel) != failed {
            match &outcome {
                Err(error) => {
                    tracing::error!(%error, "the audit log cannot be written: all calls are refused")
                }
                Ok(()) => tracing::warn!("the audit log is written again"),
            }
        }
        outcome
    }
}

impl Writer {
    /// Writes what is left of the lines. Goes on in the middle of one where a write was cut short.
    fn write_lines(&mut self) -> io::Result<()> {
        while self.done < self.lines.len() {
            match self.file.write(&self.lines[self.done..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.lines.clear();
        self.done = 0;
        Ok(())
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic happens under the locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
