//! The embedded store: sled 0.34.7, tamed.
//!
//! What sled does not promise, and what is done about it here (measured, with sources, when this
//! was designed):
//! - its `flush` makes data stable with `sync_file_range`, which survives a killed process but not a
//!   power cut (sled issues 1351, 1452): every commit is followed by `flush` *and* `fdatasync` of the
//!   log file through a descriptor of our own, several commits sharing one of each;
//! - a crash while it opens leaves `snap.*.generating`, which the next open mistakes for the newest
//!   snapshot (issue 1527): such files are removed first;
//! - it panics on some damaged files: the panic is caught and reported as a refusal;
//! - it takes a file that the disk cannot read for the leftover of a crash, and wipes it: all files are
//!   read through before it opens them;
//! - it may wait for ever for a thread of its own that has failed: the wait for a commit is bounded;
//! - an error while writing is sticky: the store then refuses further writes until a restart.

use std::{
    fs, io,
    ops::Bound,
    os::unix::fs::DirBuilderExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use sled::{Db, Tree};

use super::{Entry, Error, Key, Revision, SCAN_MAX, Store, Transaction, VALUE_BYTES_MAX};

mod beginning;
mod writer;

use beginning::Mark;
use writer::Writer;

const DAMAGED: &str = "its files are damaged; put a backup in its place";
/// Trees of the database.
const RECORDS: &str = "records";
const COUNTERS: &str = "counters";
/// Size of sled's segments; it cannot be changed later. sled writes what is larger than a quarter of it
/// into files of their own, which it never syncs: 16 of the largest values, as many as a leaf of its
/// tree holds, must be smaller.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
const _: () = assert!(16 * (VALUE_BYTES_MAX + 1024) < SEGMENT_BYTES / 4);
/// Locked by us before anything in the directory is touched: sled takes its own lock only later.
const LOCK: &str = "kodo-broker.lock";
/// What sled may keep of the data in memory; what is hot is in the token cache, not here.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// A sled database with durable commits.
#[derive(Debug)]
pub struct SledStore {
    records: Tree,
    /// The one thread that writes.
    writer: Writer,
    /// Held open: the lock goes with it.
    _lock: fs::File,
}

impl SledStore {
    /// Opens the database of a directory, which is created if it is missing.
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
        remove_unfinished_snapshots(directory).map_err(failed)?;
        let mark = Mark::of(directory).map_err(failed)?;
        beginning::read_through(directory).map_err(failed)?;
        let opened = match (open_caught(directory), &mark) {
            (Err(Error::Unopenable { .. }), Some(mark)) => {
                mark.begin_anew().map_err(failed)?;
                open_caught(directory)
            }
            (opened, _) => opened,
        };
        let (db, records, counters) = opened?;
        // What sled finds in damaged files may be nothing at all, without an error.
        if mark.is_none() && records.is_empty() {
            let reason = "it was a store before and holds nothing now; if nothing was ever registered in it, remove the directory";
            return Err(unopenable(directory, reason));
        }
        db.flush().map_err(|error| refusal(directory, error))?;
        let log = sync_all(directory).map_err(failed)?;
        let writer = Writer::start(db, records.clone(), counters, log, mark).map_err(failed)?;
        Ok(Self {
            records,
            writer,
            _lock: lock,
        })
    }
}

#[async_trait]
impl Store for SledStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let records = self.records.clone();
        let key = key.clone();
        blocking(move || match records.get(key.as_bytes()) {
            Ok(value) => value.map(|stored| entry(&stored)).transpose(),
            Err(error) => Err(failed(error)),
        })
        .await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, Error> {
        let records = self.records.clone();
        let prefix = prefix.to_vec();
        let start = match after {
            Some(key) if key.as_bytes() >= prefix.as_slice() => {
                Bound::Excluded(key.as_bytes().to_vec())
            }
            _ => Bound::Included(prefix.clone()),
        };
        blocking(move || {
            let mut found = Vec::new();
            for item in records
                .range::<Vec<u8>, _>((start, Bound::Unbounded))
                .take(limit.min(SCAN_MAX))
            {
                let (key, stored) = item.map_err(failed)?;
                if !key.starts_with(&prefix) {
                    break;
                }
                found.push((Key(key.to_vec()), entry(&stored)?));
            }
            Ok(found)
        })
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

/// Runs what may read from disk off the async workers. sled panics on some damage.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|panic| Err(failed(panic)))
}

/// sled panics on some damage.
fn open_caught(directory: &Path) -> Result<(Db, Tree, Tree), Error> {
    match catch_unwind(AssertUnwindSafe(|| open_database(directory))) {
        Ok(result) => result.map_err(|error| refusal(directory, error)),
        Err(_) => Err(unopenable(directory, DAMAGED)),
    }
}

fn open_database(directory: &Path) -> sled::Result<(Db, Tree, Tree)> {
    let db = sled::Config::new()
        .path(directory)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .open()?;
    let records = db.open_tree(RECORDS)?;
    let counters = db.open_tree(COUNTERS)?;
    Ok((db, records, counters))
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

fn remove_unfinished_snapshots(directory: &Path) -> io::Result<()> {
    for item in fs::read_dir(directory)? {
        let path = item?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "removing a snapshot that a crash left unfinished");
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Makes new files and their names durable; returns the log file, to be synced with each commit.
fn sync_all(directory: &Path) -> io::Result<fs::File> {
    let log = fs::File::open(directory.join("db"))?;
    log.sync_all()?;
    fs::File::open(directory.join("conf"))?.sync_all()?;
    for name in ["blobs", "."] {
        fs::File::open(directory.join(name))?.sync_all()?;
    }
    if let Some(parent) = directory
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(log)
}

/// Splits a stored value into the commit that wrote it, 8 bytes, and the rest.
fn entry(stored: &[u8]) -> Result<Entry, Error> {
    let Some((revision, value)) = stored.split_first_chunk() else {
        return Err(failed("a record is shorter than its header"));
    };
    Ok(Entry {
        value: value.to_vec(),
        revision: Revision(u64::from_be_bytes(*revision)),
    })
}

fn failed(reason: impl ToString) -> Error {
    Error::Failed(reason.to_string().into())
}

fn unopenable(directory: &Path, reason: impl ToString) -> Error {
    Error::Unopenable {
        directory: PathBuf::from(directory),
        reason: reason.to_string(),
    }
}

fn refusal(directory: &Path, error: sled::Error) -> Error {
    match error {
        // sled puts the lock's `WouldBlock` into the text of another kind.
        sled::Error::Io(io) if io.to_string().contains("WouldBlock") => {
            Error::InUse(directory.into())
        }
        sled::Error::Io(io) => unopenable(directory, io),
        sled::Error::Corruption { .. } => unopenable(directory, DAMAGED),
        // What it says of the version and settings of its files is in these files.
        other => unopenable(directory, format!("{DAMAGED} ({other})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Write, conformance};

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
