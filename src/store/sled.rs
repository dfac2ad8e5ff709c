//! The embedded store: sled 0.34.7, tamed.
//!
//! What sled does not promise, and what is done about it here (measured, with sources, when this
//! was designed):
//! - it takes for stable what `sync_file_range` was asked to write, which survives a killed process but not
//!   a power cut (sled issues 1351, 1452), and goes by that in what it writes over: it is made to sync
//!   (`sync`). Every commit is followed by `flush` *and* `fdatasync` of the log file through a descriptor
//!   of our own, several commits sharing one of each, so that what is acknowledged hangs on no trick;
//! - a crash while it opens leaves `snap.*.generating`, which the next open mistakes for the newest
//!   snapshot (issue 1527): such files are removed first;
//! - it wipes what its last snapshot does not name before that snapshot has its name for certain: it is
//!   stopped in between (`opening`);
//! - it panics on some damaged files: the panic is caught and reported as a refusal;
//! - what is larger than a quarter of one of its segments goes to files that it never syncs: values lie in
//!   parts that are smaller (`rows`);
//! - it takes a file that the disk cannot read for the leftover of a crash, and wipes it: all files are
//!   read through before it opens them;
//! - it may wait for ever for a thread of its own that has failed: it is woken (`nudge`), and the wait for
//!   a commit is bounded;
//! - it hangs where more of its threads wait for its file to be truncated than it has: so many rows are
//!   never written at once (`rows`), and no thread of its own writes beside ours;
//! - an error while writing is sticky, and on a full disk it does not even open: some room is kept for
//!   that (`reserve`), and after a failed write the database is opened anew, in this process, before
//!   anything more is written (`recovery`).

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::Path};

use super::{Entry, Error, Key, Revision, SCAN_MAX, Store, Transaction};
use async_trait::async_trait;

mod apply;
mod beginning;
mod database;
mod nudge;
mod opening;
mod recovery;
mod reserve;
mod rows;
mod slot;
mod sum;
mod sync;
mod writer;

use beginning::Mark;
use database::Database;
use opening::unopenable;
use recovery::Failure;
use reserve::Reserve;
use slot::{Readers, Slot};
use writer::Writer;

/// Locked by us before anything in the directory is touched: sled takes its own lock only later.
const LOCK: &str = "kodo-broker.lock";

/// A sled database with durable commits.
#[derive(Debug)]
pub struct SledStore {
    readers: Readers,
    /// The one thread that writes.
    writer: Writer,
    /// Held open: the lock goes with it.
    _lock: fs::File,
}

impl SledStore {
    /// Opens the database of a directory, which is created if it is missing. On a full disk it can be
    /// read, and accepts writes as soon as there is room.
    ///
    /// # Errors
    /// [`Error::InUse`], or [`Error::Unopenable`] for whatever else is wrong. The directory is left
    /// as it is then.
    pub async fn open(directory: &Path) -> Result<Self, Error> {
        let directory = directory.to_owned();
        let at = directory.clone();
        tokio::task::spawn_blocking(move || Self::open_blocking(&directory))
            .await
            .unwrap_or_else(|panic| Err(unopenable(&at, panic)))
    }

    fn open_blocking(directory: &Path) -> Result<Self, Error> {
        let failed = |error: io::Error| unopenable(directory, error);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        let lock = lock(directory)?;
        let mark = Mark::of(directory).map_err(failed)?;
        let reserve = Reserve::of(directory);
        let database = reserve.open(mark.as_ref())?;
        let acknowledged = database.revision()?;
        let failure = reserve.fill().err().map(|error| {
            tracing::error!(%error, "there is no room for the store: it can only be read");
            Failure::no_room(&error)
        });
        let (slot, readers) = Slot::new(database);
        let writer = Writer::start(slot, reserve, mark, failure, acknowledged).map_err(failed)?;
        Ok(Self {
            readers,
            writer,
            _lock: lock,
        })
    }

    /// Runs what may read from disk off the async workers. sled panics on some damage.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let database = self.readers.database().await?;
        tokio::task::spawn_blocking(move || read(&database))
            .await
            .unwrap_or_else(|panic| Err(failed(panic)))
    }
}

#[async_trait]
impl Store for SledStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let key = key.clone();
        self.read(move |database| database.get(&key)).await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, Error> {
        let (prefix, after) = (prefix.to_vec(), after.cloned());
        let limit = limit.min(SCAN_MAX);
        self.read(move |database| database.scan(&prefix, after.as_ref(), limit))
            .await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        if !transaction.within_limits() {
            return Err(Error::OutOfLimits);
        }
        self.writer.commit(transaction).await
    }

    fn has_failed(&self) -> bool {
        self.writer.has_failed()
    }
}

/// Whether a directory holds a database.
pub(super) fn exists(directory: &Path) -> bool {
    directory.join("db").exists()
}

fn lock(directory: &Path) -> Result<fs::File, Error> {
    let file =
        fs::File::create(directory.join(LOCK)).map_err(|error| unopenable(directory, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::InUse(directory.into())),
        Err(fs::TryLockError::Error(error)) => Err(unopenable(directory, error)),
    }
}

fn failed(reason: impl ToString) -> Error {
    Error::Failed(reason.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{VALUE_BYTES_MAX, Write, conformance};

    #[tokio::test]
    async fn the_sled_store_conforms() {
        let directory = tempfile::tempdir().expect("a folder");
        let store = SledStore::open(directory.path()).await.expect("opens");
        conformance::check(&store).await;
    }

    #[tokio::test]
    async fn a_committed_entry_is_there_after_reopening() {
        let directory = tempfile::tempdir().expect("a folder");
        let key = Key::new(b"a/", b"1");
        let written = {
            let store = SledStore::open(directory.path()).await.expect("opens");
            let put = Write::Put(key.clone(), b"value".to_vec());
            let transaction = Transaction {
                compares: vec![],
                writes: vec![put],
            };
            store.commit(transaction).await.expect("commits")
        };
        let store = conformance::reopen(directory.path()).await;
        let entry = store.get(&key).await.expect("reads").expect("is there");
        assert_eq!(
            (entry.value.as_slice(), entry.revision),
            (b"value".as_slice(), written)
        );
    }

    /// A closed store that holds something.
    async fn written(directory: &Path) {
        let store = SledStore::open(directory).await.expect("opens");
        let put = Write::Put(Key::new(b"a/", b"1"), b"value".to_vec());
        let transaction = Transaction {
            compares: vec![],
            writes: vec![put],
        };
        store.commit(transaction).await.expect("commits");
    }

    #[tokio::test]
    async fn the_largest_values_stay_in_the_log_that_is_synced() {
        let directory = tempfile::tempdir().expect("a folder");
        let store = SledStore::open(directory.path()).await.expect("opens");
        for number in 0..40_u8 {
            let put = Write::Put(Key::new(b"a/", &[number]), vec![number; VALUE_BYTES_MAX]);
            let transaction = Transaction {
                compares: vec![],
                writes: vec![put],
            };
            store.commit(transaction).await.expect("commits");
        }
        let blobs = fs::read_dir(directory.path().join("blobs")).expect("reads");
        assert_eq!(blobs.count(), 0);
    }

    #[tokio::test]
    async fn a_store_that_lost_everything_is_refused() {
        let directory = tempfile::tempdir().expect("a folder");
        written(directory.path()).await;
        let log = fs::OpenOptions::new()
            .write(true)
            .open(directory.path().join("db"));
        log.and_then(|log| log.set_len(0)).expect("truncates");
        for item in fs::read_dir(directory.path()).expect("reads").flatten() {
            if item.file_name().to_string_lossy().starts_with("snap") {
                fs::remove_file(item.path()).expect("removes");
            }
        }
        let opened = loop {
            match SledStore::open(directory.path()).await {
                Err(Error::InUse(_)) => tokio::task::yield_now().await,
                other => break other,
            }
        };
        assert!(
            matches!(opened, Err(Error::Unopenable { .. })),
            "{opened:?}"
        );
    }

    #[tokio::test]
    async fn a_second_opener_leaves_the_files_of_the_first_alone() {
        let directory = tempfile::tempdir().expect("a folder");
        let _first = SledStore::open(directory.path()).await.expect("opens");
        let under_way = directory.path().join("snap.00000000000000FF.generating");
        fs::write(&under_way, b"half").expect("writes");
        let second = SledStore::open(directory.path()).await;
        assert!(matches!(second, Err(Error::InUse(_))), "{second:?}");
        assert!(under_way.exists());
    }

    #[tokio::test]
    async fn a_second_opener_is_told_that_the_store_is_in_use() {
        let directory = tempfile::tempdir().expect("a folder");
        let _first = SledStore::open(directory.path()).await.expect("opens");
        let second = SledStore::open(directory.path()).await;
        assert!(matches!(second, Err(Error::InUse(_))), "{second:?}");
    }

    #[tokio::test]
    async fn a_snapshot_that_a_crash_left_unfinished_is_no_obstacle() {
        let directory = tempfile::tempdir().expect("a folder");
        written(directory.path()).await;
        let leftover = directory.path().join("snap.00000000000000FF.generating");
        fs::write(&leftover, b"half").expect("writes");
        let _store = conformance::reopen(directory.path()).await;
        assert!(!leftover.exists());
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_and_not_replaced() {
        let directory = tempfile::tempdir().expect("a folder");
        written(directory.path()).await;
        let file = directory.path().join("conf");
        let mut damaged = fs::read(&file).expect("reads");
        damaged[0] ^= 1;
        fs::write(&file, &damaged).expect("writes");
        let opened = loop {
            match SledStore::open(directory.path()).await {
                Err(Error::InUse(_)) => tokio::task::yield_now().await,
                other => break other,
            }
        };
        assert!(
            matches!(opened, Err(Error::Unopenable { .. })),
            "{opened:?}"
        );
        assert_eq!(fs::read(file).expect("reads"), damaged);
    }
}
