//! The one thread that writes, so that many commits share one flush and one `fdatasync`.

use std::{
    fmt, io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use super::{
    super::{Error, Revision, Transaction},
    apply::Applied,
    beginning::Mark,
    failed,
    nudge::Nudge,
    recovery::Failure,
    reserve::Reserve,
    rows::ROWS_AT_ONCE,
    slot::Slot,
};

/// Groups of commits until the reserve is looked at: the log grows.
const RESERVE_EVERY: u32 = 1024;
/// Commits that wait for the writer; further callers wait for a place.
const QUEUE: usize = 1024;
/// Commits that are taken up at once; they share one flush, unless there are too many rows in them.
const GROUP: usize = 64;
/// Longest wait for a commit: a thread inside sled that failed may keep the others waiting for ever.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Hands transactions to the writing thread, which ends when this is dropped.
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
    places: Arc<Semaphore>,
    has_failed: Arc<AtomicBool>,
    nudge: Nudge,
}

struct Job {
    transaction: Transaction,
    done: oneshot::Sender<Result<Revision, Error>>,
    /// Its place in the queue.
    _place: OwnedSemaphorePermit,
}

struct Thread {
    slot: Slot,
    reserve: Reserve,
    /// Until the first commit.
    mark: Option<Mark>,
    /// Set by a failed write. Afterwards nobody knows what is on disk, so nothing more is written
    /// until that was looked at: a retried fsync may report success for data that is gone.
    failure: Option<Failure>,
    has_failed: HasFailed,
    /// The last commit that is durable.
    acknowledged: Revision,
}

/// The same, for others to see; also of a thread that panicked.
struct HasFailed(Arc<AtomicBool>);

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// Starts the thread, on a database whose last commit that is. With a failure it accepts nothing
    /// until that is made good.
    pub(super) fn start(
        slot: Slot,
        reserve: Reserve,
        mark: Option<Mark>,
        failure: Option<Failure>,
        acknowledged: Revision,
    ) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel();
        let nudge = Nudge::new(slot.readers());
        let has_failed = Arc::new(AtomicBool::new(failure.is_some()));
        let thread = Thread {
            slot,
            reserve,
            mark,
            failure,
            has_failed: HasFailed(has_failed.clone()),
            acknowledged,
        };
        thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread.run(&jobs))?;
        Ok(Self {
            queue,
            places: Arc::new(Semaphore::new(QUEUE)),
            has_failed,
            nudge,
        })
    }

    /// Whether nothing is written at present.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    pub(super) async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        let (done, outcome) = oneshot::channel();
        let answer = async {
            let place = self
                .places
                .clone()
                .acquire_owned()
                .await
                .map_err(|_| gone())?;
            let job = Job {
                transaction,
                done,
                _place: place,
            };
            self.queue.send(job).map_err(|_| gone())?;
            let outcome = self.nudge.until(outcome).await;
            outcome.map_err(|_| gone())?
        };
        timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
            self.has_failed.store(true, Ordering::Relaxed);
            Err(failed("the disk did not answer in 30 s"))
        })
    }
}

fn gone() -> Error {
    failed("the writing thread has ended; restart once the disk is well again")
}

impl Thread {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        let mut groups = 0_u32;
        while let Some(first) = self.next(jobs) {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(job) = jobs.try_recv()
            {
                group.push(job);
            }
            self.commit(group);
            groups = groups.wrapping_add(1);
            if groups.is_multiple_of(RESERVE_EVERY) {
                // Where there is no room for more, the commits will say so themselves.
                let _ = self.reserve.fill();
            }
        }
    }

    /// Waits for a job; after a failure only until it is time to try whether that has passed. `None` if
    /// there will be no more.
    fn next(&mut self, jobs: &mpsc::Receiver<Job>) -> Option<Job> {
        loop {
            let Some(failure) = &mut self.failure else {
                return jobs.recv().ok();
            };
            match jobs.recv_timeout(failure.until_next_try()) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let mark = self.mark.as_ref();
            if failure.has_passed(&self.slot, &self.reserve, mark, self.acknowledged) {
                tracing::warn!("the store writes again");
                self.failure = None;
                self.has_failed.set(false);
            }
        }
    }

    /// Applies the transactions, as many at once as there may be rows.
    fn commit(&mut self, group: Vec<Job>) {
        let (mut applied, mut rows) = (Vec::new(), 0);
        for job in group {
            let outcome = self.apply(&job.transaction);
            rows += outcome.as_ref().map_or(0, |applied| applied.rows);
            applied.push((outcome.map(|applied| applied.revision), job));
            if rows >= ROWS_AT_ONCE {
                self.conclude(mem::take(&mut applied));
                rows = 0;
            }
        }
        self.conclude(applied);
    }

    /// Makes what was applied durable at once, then answers.
    fn conclude(&mut self, applied: Vec<(Result<Revision, Error>, Job)>) {
        if applied.is_empty() {
            return;
        }
        let durable = self.make_durable();
        if durable.is_ok() {
            let revisions = applied
                .iter()
                .filter_map(|(outcome, _)| outcome.as_ref().ok());
            self.acknowledged = revisions.copied().fold(self.acknowledged, Revision::max);
        }
        // It may have been taken for failed since it was slow.
        self.has_failed.set(durable.is_err());
        if durable.is_err()
            && let Some(database) = self.slot.database()
        {
            let applied = applied.iter().filter(|(outcome, _)| outcome.is_ok());
            database.doubt(applied.map(|(_, job)| &job.transaction));
        }
        for (outcome, job) in applied {
            // The caller may have gone; the commit stands all the same.
            let _ = job.done.send(durable.clone().and(outcome));
        }
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.error.clone());
        }
        let database = self.slot.database().ok_or_else(gone)?;
        database.apply(transaction).unwrap_or_else(|error| {
            // Some of its trees may have changed in memory: nothing of it may become durable.
            database.doubt([transaction].into_iter());
            Err(self.fail(failed(error)))
        })
    }

    fn make_durable(&mut self) -> Result<(), Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.error.clone());
        }
        let database = self.slot.database().ok_or_else(gone)?;
        let durable = database.make_durable().and_then(|()| {
            // What is synced now is about to be acknowledged.
            if let Some(mark) = &self.mark
                && !database.trees().records.is_empty()
            {
                mark.remove()?;
                self.mark = None;
            }
            Ok(())
        });
        durable.map_err(|error| self.fail(failed(error)))
    }

    fn fail(&mut self, error: Error) -> Error {
        tracing::error!(%error, "the store cannot write; it tries again by itself");
        self.failure = Some(Failure::new(error.clone()));
        self.has_failed.set(true);
        error
    }
}

impl HasFailed {
    fn set(&self, has_failed: bool) {
        self.0.store(has_failed, Ordering::Relaxed);
    }
}

impl Drop for HasFailed {
    fn drop(&mut self) {
        self.set(true);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::{database::Database, reserve::Reserve},
        *,
    };
    use crate::store::{Key, Write};

    fn put(name: &[u8]) -> Transaction {
        Transaction {
            compares: vec![],
            writes: vec![Write::Put(Key::new(b"a/", name), b"value".to_vec())],
        }
    }

    #[tokio::test]
    async fn after_a_failed_sync_nothing_is_written_and_that_shows() {
        let directory = tempfile::tempdir().expect("a folder");
        let reserve = Reserve::of(directory.path());
        let mark = Mark::of(directory.path()).expect("looks");
        let mut database = Database::open(directory.path(), mark.as_ref()).expect("opens");
        // A file that the system does not sync.
        database.log = fs::File::open("/dev/null").expect("opens");
        let (slot, readers) = Slot::new(database);
        let writer = Writer::start(slot, reserve, mark, None, Revision(0)).expect("starts");
        assert!(!writer.has_failed());
        for name in [b"2", b"3"] {
            let failed = writer.commit(put(name)).await;
            assert!(matches!(failed, Err(Error::Failed(_))), "{failed:?}");
            assert!(writer.has_failed());
        }
        let database = readers.database().await.expect("is open");
        assert!(
            !database
                .trees()
                .records
                .contains_key(b"a/3")
                .expect("reads")
        );
    }
}
