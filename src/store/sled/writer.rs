//! The one thread that writes, so that many commits share one flush and one `fdatasync`.

use std::{
    fmt, fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use sled::{
    Db, Tree,
    transaction::{
        ConflictableTransactionError, TransactionError, Transactional, TransactionalTree,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    super::{Error, Revision, Transaction, Write},
    beginning::Mark,
    failed,
};

/// Commits that wait for the writer; further callers wait for a place.
const QUEUE: usize = 1024;
/// Commits that share one flush.
const GROUP: usize = 64;
/// Longest wait for a commit: a thread inside sled that failed may keep the others waiting for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// Holds the number of the last commit, 8 bytes.
const REVISION: &[u8] = b"revision";

/// Hands transactions to the writing thread, which ends when this is dropped.
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
    has_failed: Arc<AtomicBool>,
}

struct Job {
    transaction: Transaction,
    done: oneshot::Sender<Result<Revision, Error>>,
}

struct Thread {
    db: Db,
    records: Tree,
    counters: Tree,
    /// A descriptor of ours of sled's log file: what sled itself does not do with it is `fdatasync`.
    log: fs::File,
    /// Until the first commit.
    mark: Option<Mark>,
    /// Set by the first failed write. Afterwards nobody knows what is on disk, so nothing more is
    /// written: a retried fsync may report success for data that is gone.
    failed: Option<Error>,
    /// The same, for others to see.
    has_failed: Arc<AtomicBool>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    pub(super) fn start(
        db: Db,
        records: Tree,
        counters: Tree,
        log: fs::File,
        mark: Option<Mark>,
    ) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let has_failed = Arc::<AtomicBool>::default();
        let thread = Thread {
            db,
            records,
            counters,
            log,
            mark,
            failed: None,
            has_failed: has_failed.clone(),
        };
        thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || thread.run(jobs))?;
        Ok(Self { queue, has_failed })
    }

    /// Whether nothing is written any more.
    pub(super) fn has_failed(&self) -> bool {
        // A thread that panicked has said nothing.
        self.has_failed.load(Ordering::Relaxed) || self.queue.is_closed()
    }

    pub(super) async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        let gone = || failed("the writing thread has ended; restart once the disk is well again");
        let (done, outcome) = oneshot::channel();
        let job = Job { transaction, done };
        let answer = async {
            self.queue.send(job).await.map_err(|_| gone())?;
            outcome.await.map_err(|_| gone())?
        };
        let late = |_| failed("the disk did not answer in 30 s");
        timeout(PATIENCE, answer).await.map_err(late)?
    }
}

impl Thread {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(job) = jobs.try_recv()
            {
                group.push(job);
            }
            self.commit(group);
        }
    }

    /// Applies each transaction, makes all of them durable at once, then answers.
    fn commit(&mut self, group: Vec<Job>) {
        let applied: Vec<_> = group
            .into_iter()
            .map(|job| (self.apply(&job.transaction), job.done))
            .collect();
        let durable = self.make_durable();
        for (outcome, done) in applied {
            // The caller may have gone; the commit stands all the same.
            let _ = done.send(durable.clone().and(outcome));
        }
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<Revision, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let applied = (&self.records, &self.counters)
            .transaction(|(records, counters)| apply(transaction, records, counters));
        match applied {
            Ok(revision) => Ok(Revision(revision)),
            Err(TransactionError::Abort(error)) => Err(error),
            // One of the two trees may have changed in memory: nothing of it may become durable.
            Err(TransactionError::Storage(error)) => Err(self.fail(failed(error))),
        }
    }

    fn make_durable(&mut self) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let flushed = self.db.flush().map_err(io::Error::other);
        let synced = flushed.and_then(|_| {
            self.log.sync_data()?;
            self.unmark()
        });
        synced.map_err(|error| self.fail(failed(error)))
    }

    /// What is synced now is about to be acknowledged.
    fn unmark(&mut self) -> io::Result<()> {
        if let Some(mark) = &self.mark
            && !self.records.is_empty()
        {
            mark.remove()?;
            self.mark = None;
        }
        Ok(())
    }

    fn fail(&mut self, error: Error) -> Error {
        tracing::error!(%error, "the store cannot write; restart once its disk is well again");
        self.failed = Some(error.clone());
        self.has_failed.store(true, Ordering::Relaxed);
        error
    }
}

/// One transaction. sled may run it several times, so it does nothing but read and write the trees.
fn apply(
    transaction: &Transaction,
    records: &TransactionalTree,
    counters: &TransactionalTree,
) -> Result<u64, ConflictableTransactionError<Error>> {
    let abort = |error| Err(ConflictableTransactionError::Abort(error));
    let number = |stored: Option<sled::IVec>| {
        let bytes = stored
            .as_deref()
            .and_then(|value| value.first_chunk().copied());
        bytes.map(u64::from_be_bytes)
    };
    for compare in &transaction.compares {
        let (super::super::Compare::Absent(key) | super::super::Compare::Unchanged(key, _)) =
            compare;
        let current = number(records.get(key.as_bytes())?).map(Revision);
        if !compare.holds(|_| current) {
            return abort(Error::Conflict);
        }
    }
    let last = number(counters.get(REVISION)?).unwrap_or(0);
    if transaction.writes.is_empty() {
        return Ok(last);
    }
    let revision = last + 1;
    counters.insert(REVISION, &revision.to_be_bytes())?;
    for write in &transaction.writes {
        match write {
            Write::Put(key, value) => records.insert(
                key.as_bytes(),
                [&revision.to_be_bytes(), value.as_slice()].concat(),
            )?,
            Write::Delete(key) => records.remove(key.as_bytes())?,
            Write::Update(key, update) => {
                let stored = records.get(key.as_bytes())?;
                let current = stored
                    .as_deref()
                    .and_then(|stored| stored.split_first_chunk::<8>());
                let value = update
                    .apply(current.map(|(_, value)| value))
                    .map_err(ConflictableTransactionError::Abort)?;
                records.insert(
                    key.as_bytes(),
                    [&revision.to_be_bytes(), value.as_slice()].concat(),
                )?
            }
        };
    }
    Ok(revision)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{open_database, sync_all},
        *,
    };
    use crate::store::Key;

    fn put(name: &[u8]) -> Transaction {
        Transaction {
            compares: vec![],
            writes: vec![Write::Put(Key::new(b"a/", name), b"value".to_vec())],
        }
    }

    #[tokio::test]
    async fn after_a_failed_sync_nothing_is_written_and_that_shows() {
        let directory = tempfile::tempdir().expect("a folder");
        let (db, records, counters) = open_database(directory.path()).expect("opens");
        let log = sync_all(directory.path()).expect("syncs");
        let start = |log| Writer::start(db.clone(), records.clone(), counters.clone(), log, None);
        let sound = start(log).expect("starts");
        sound.commit(put(b"1")).await.expect("commits");
        assert!(!sound.has_failed());
        // A file that the system does not sync.
        let unsynced = fs::File::open("/dev/null").expect("opens");
        let failing = start(unsynced).expect("starts");
        for name in [b"2", b"3"] {
            let failed = failing.commit(put(name)).await;
            assert!(matches!(failed, Err(Error::Failed(_))), "{failed:?}");
            assert!(failing.has_failed());
        }
        assert!(!records.contains_key(b"a/3").expect("reads"));
    }
}
