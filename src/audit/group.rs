//! The lines that are to become durable together, and who waits for that.

use std::{
    fmt, mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{sync::watch, time::Instant};

use super::{BACKLOG_BYTES_MAX, Unavailable, line::Head};

/// From so many bytes on, lines are written though nobody waits for them yet.
const EARLY_BYTES: usize = 64 * 1024;
/// Lines that nobody waits for are written after so long.
const UNWANTED_MAX: Duration = Duration::from_secs(1);

/// What the writer and everybody else share.
pub(super) struct Group {
    waiting: Mutex<Waiting>,
    /// There is something to do for the writer.
    wanted: Condvar,
    /// The log ends.
    ending: Condvar,
    /// So many records are durable.
    pub(super) durable: AtomicU64,
    /// In so many groups they became so.
    pub(super) groups: AtomicU64,
    /// Whether the last attempt failed, or takes too long.
    pub(super) failing: AtomicBool,
    /// The contrary of `failing`, for those who wait for a change.
    pub(super) works: watch::Sender<bool>,
    /// Whether the writer is gone.
    pub(super) finished: watch::Sender<bool>,
    /// The last line that is durable.
    pub(super) head: watch::Sender<Head>,
    /// Known once the log is open.
    pub(super) facts: OnceLock<Facts>,
}

/// What is known of a log that is open.
#[derive(Debug)]
pub(super) struct Facts {
    /// Its id.
    pub(super) log: String,
    /// Whether something was wrong with it.
    pub(super) damaged: bool,
}

#[derive(Default)]
struct Waiting {
    /// Lines that the writer has not taken up yet.
    lines: Vec<u8>,
    /// How many records there have been.
    end: u64,
    /// Up to which one somebody waits.
    wanted: u64,
    waiters: Vec<(u64, Arc<AtomicWaker>)>,
    ended: bool,
    /// When the writer took up what it is writing.
    busy_since: Option<Instant>,
}

/// Lines that the writer has taken up.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) lines: Vec<u8>,
    /// How many records there are with these.
    pub(super) end: u64,
    /// Whether they are the last ones.
    pub(super) ended: bool,
}

/// Somebody who waits for places, one after the other.
#[derive(Default)]
pub struct Watcher {
    waker: Arc<AtomicWaker>,
    /// The last place that it was entered for.
    entered: AtomicU64,
}

impl Group {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            wanted: Condvar::new(),
            ending: Condvar::new(),
            durable: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            works: watch::Sender::new(true),
            finished: watch::Sender::new(false),
            head: watch::Sender::new(Head::default()),
            facts: OnceLock::new(),
        }
    }

    /// Adds a line, if there is room for it, and says how many records there are with it.
    pub(super) fn append(&self, line: &[u8]) -> Option<u64> {
        let mut waiting = self.lock();
        if waiting.ended || waiting.lines.len() + line.len() > BACKLOG_BYTES_MAX {
            return None;
        }
        waiting.lines.extend_from_slice(line);
        waiting.end += 1;
        if waiting.lines.len() >= EARLY_BYTES && waiting.busy_since.is_none() {
            self.wanted.notify_one();
        }
        Some(waiting.end)
    }

    /// The slow way of [`super::Audit::poll_durable`]: it was not durable a moment ago.
    #[cold]
    pub(super) fn poll_durable(
        &self,
        place: u64,
        watcher: &Watcher,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unavailable>> {
        watcher.waker.register(cx.waker());
        // Under the lock, since the writer looks for waiters after it has told what is durable.
        let mut waiting = self.lock();
        if let Some(outcome) = self.outcome(place) {
            return Poll::Ready(outcome);
        }
        if watcher.entered.fetch_max(place, Ordering::AcqRel) < place {
            waiting.waiters.push((place, watcher.waker.clone()));
        }
        self.want(&mut waiting, place);
        Poll::Pending
    }

    fn outcome(&self, place: u64) -> Option<Result<(), Unavailable>> {
        if self.durable.load(Ordering::Acquire) >= place {
            return Some(Ok(()));
        }
        let failing = self.failing.load(Ordering::Acquire);
        failing.then_some(Err(Unavailable))
    }

    fn want(&self, waiting: &mut Waiting, place: u64) {
        if waiting.wanted < place {
            waiting.wanted = place;
            if waiting.busy_since.is_none() {
                self.wanted.notify_one();
            }
        }
    }

    /// Ends the log: the writer writes what is left.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.wanted.notify_all();
        self.ending.notify_all();
    }

    /// For the writer: waits until there is something to write, or for so long, and takes it up. `lines`
    /// is a buffer to be used again.
    pub(super) fn take(&self, lines: Vec<u8>, at_most: Duration) -> Taken {
        let mut waiting = self.lock();
        waiting.busy_since = None;
        let began = Instant::now();
        loop {
            let unwanted = waiting.lines.is_empty() || waiting.wanted <= self.durable();
            let (waited, limit) = (began.elapsed(), at_most.min(UNWANTED_MAX));
            let early = waiting.lines.len() >= EARLY_BYTES;
            if !unwanted || early || waiting.ended || waited >= limit {
                break;
            }
            waiting = wait(&self.wanted, waiting, limit - waited);
        }
        waiting.busy_since = Some(Instant::now());
        Taken {
            lines: mem::replace(&mut waiting.lines, lines),
            end: waiting.end,
            ended: waiting.ended,
        }
    }

    fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// How many records there have been.
    #[cfg(test)]
    pub(super) fn recorded(&self) -> u64 {
        self.lock().end
    }

    /// For the writer: so many records are durable.
    pub(super) fn succeed(&self, end: u64) {
        if self.durable.swap(end, Ordering::AcqRel) < end {
            self.groups.fetch_add(1, Ordering::Relaxed);
        }
        self.recover();
        let mut waiting = self.lock();
        let due = waiting.waiters.extract_if(.., |(place, _)| *place <= end);
        let woken: Vec<_> = due.collect();
        drop(waiting);
        wake(woken);
    }

    /// For the writer: nothing stands in the way any more.
    pub(super) fn recover(&self) {
        if self.failing.swap(false, Ordering::AcqRel) {
            tracing::warn!("the audit log is written again");
            self.works.send_replace(true);
        }
    }

    /// For the writer and the watch: nobody is to wait for what is not durable.
    pub(super) fn fail(&self, error: &dyn fmt::Display) {
        if !self.failing.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "the audit log cannot be written: all calls are refused");
            self.works.send_replace(false);
        }
        let woken = mem::take(&mut self.lock().waiters);
        wake(woken);
    }

    /// For the writer: waits before it tries again. Whether there is a point in that.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let waiting = self.lock();
        let ended = waiting.ended;
        drop(wait(&self.wanted, waiting, pause));
        !ended
    }

    /// For the writer: it is gone, and nothing more becomes durable.
    pub(super) fn finish(&self) {
        let mut waiting = self.lock();
        let in_vain = !waiting.ended || self.durable() < waiting.end;
        waiting.ended = true;
        drop(waiting);
        if in_vain {
            self.fail(&"the thread that writes it is gone");
        }
        self.ending.notify_all();
        self.finished.send_replace(true);
    }

    /// Sees to it that nobody waits for a disk that does not answer, until the log ends.
    pub(super) fn watch(&self, stall_max: Duration) {
        let mut waiting = self.lock();
        while !waiting.ended {
            let busy = waiting.busy_since.map(|since| since.elapsed());
            if busy.is_some_and(|busy| busy >= stall_max) {
                drop(waiting);
                self.fail(&format_args!("the disk has not answered for {stall_max:?}"));
                waiting = self.lock();
            }
            waiting = wait(&self.ending, waiting, stall_max / 8);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic happens under the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(woken: Vec<(u64, Arc<AtomicWaker>)>) {
    for (_, waker) in woken {
        waker.wake();
    }
}

fn wait<'a, T>(on: &Condvar, guard: MutexGuard<'a, T>, limit: Duration) -> MutexGuard<'a, T> {
    let waited = on.wait_timeout(guard, limit);
    waited.unwrap_or_else(PoisonError::into_inner).0
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}
