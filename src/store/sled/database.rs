//! sled's database of one directory, from when it opens until it is closed.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use sled::{Db, Tree};

use super::{
    super::{Entry, Error, Key, Revision, Transaction, VALUE_BYTES_MAX, Write},
    beginning::{self, Mark},
    failed,
};

const DAMAGED: &str = "its files are damaged; put a backup in its place";
/// Trees of the database.
const RECORDS: &str = "records";
const COUNTERS: &str = "counters";
/// Size of sled's segments; it cannot be changed later. sled writes what is larger than a quarter of it
/// into files of their own, which it never syncs: 16 of the largest values, as many as a leaf of its
/// tree holds, must be smaller.
pub(super) const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
const _: () = assert!(16 * (VALUE_BYTES_MAX + 1024) < SEGMENT_BYTES / 4);
/// What sled may keep of the data in memory; what is hot is in the token cache, not here.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// An open database.
pub(super) struct Database {
    /// `None` only as it is dropped.
    trees: Option<Trees>,
    /// A descriptor of ours of sled's log file: what sled itself does not do with it is `fdatasync`.
    pub(super) log: fs::File,
    /// Keys whose last change was refused and may not be on disk: nobody gets to see it. Empty unless a
    /// write has failed.
    doubtful: RwLock<BTreeSet<Key>>,
}

/// What is sled's of it.
pub(super) struct Trees {
    db: Db,
    pub(super) records: Tree,
    pub(super) counters: Tree,
}

impl Database {
    /// Opens the database of a directory that is locked.
    pub(super) fn open(directory: &Path, mark: Option<&Mark>) -> Result<Self, Error> {
        let failed = |error: io::Error| unopenable(directory, error);
        remove_unfinished_snapshots(directory).map_err(failed)?;
        beginning::read_through(directory).map_err(failed)?;
        let opened = match (open_caught(directory), mark) {
            (Err(Error::Unopenable { .. }), Some(mark)) => {
                mark.begin_anew().map_err(failed)?;
                open_caught(directory)
            }
            (opened, _) => opened,
        };
        let trees = opened?;
        // What sled finds in damaged files may be nothing at all, without an error.
        if mark.is_none() && trees.records.is_empty() {
            let reason = "it was a store before and holds nothing now; if nothing was ever registered in it, remove the directory";
            return Err(unopenable(directory, reason));
        }
        let flushed = trees.db.flush();
        flushed.map_err(|error| refusal(directory, error))?;
        let log = sync_all(directory).map_err(failed)?;
        Ok(Self {
            trees: Some(trees),
            log,
            doubtful: RwLock::default(),
        })
    }

    pub(super) fn trees(&self) -> &Trees {
        self.trees.as_ref().expect("taken only as it is dropped")
    }

    /// As [`super::Store::get`].
    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let stored = self.trees().records.get(key.as_bytes()).map_err(failed)?;
        if self.doubtful().contains(key) {
            return Err(doubt());
        }
        stored.map(|stored| entry(&stored)).transpose()
    }

    /// As [`super::Store::scan`].
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, Error> {
        let start = match after {
            Some(key) if key.as_bytes() >= prefix => Bound::Excluded(key.as_bytes()),
            _ => Bound::Included(prefix),
        };
        let range = (start, Bound::Unbounded);
        let mut found = Vec::new();
        for item in self.trees().records.range::<&[u8], _>(range).take(limit) {
            let (key, stored) = item.map_err(failed)?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((Key(key.to_vec()), entry(&stored)?));
        }
        // Also one that is not among them: it may have been removed.
        if self
            .doubtful()
            .iter()
            .any(|key| key.as_bytes().starts_with(prefix))
        {
            return Err(doubt());
        }
        Ok(found)
    }

    /// From now on nobody gets to see what these transactions have changed.
    pub(super) fn doubt<'a>(&self, transactions: impl Iterator<Item = &'a Transaction>) {
        let writes = transactions.flat_map(|these| &these.writes);
        let mut doubtful = self
            .doubtful
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        doubtful.extend(writes.map(|write| match write {
            Write::Put(key, _) | Write::Delete(key) | Write::Update(key, _) => key.clone(),
        }));
    }

    pub(super) fn doubtful(&self) -> RwLockReadGuard<'_, BTreeSet<Key>> {
        // Nothing that can panic happens under the lock.
        self.doubtful.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable what was changed so far.
    pub(super) fn make_durable(&self) -> io::Result<()> {
        self.trees().db.flush().map_err(io::Error::other)?;
        self.log.sync_data()
    }

    /// Wakes whoever waits in sled for a write that has failed.
    pub(super) fn nudge(&self) {
        let _ = self.trees().db.flush();
    }

    /// Tells two databases apart that do not hold the same, but for some keys.
    pub(super) fn digest(&self, except: &BTreeSet<Key>) -> sled::Result<u64> {
        let mut digest = 0;
        for item in &self.trees().records {
            let (key, value) = item?;
            let mut hasher = DefaultHasher::new();
            (&*key, &*value).hash(&mut hasher);
            if !except.contains(&Key(key.to_vec())) {
                digest ^= hasher.finish();
            }
        }
        Ok(digest)
    }
}

impl Drop for Database {
    /// sled panics where the last sync fails; whatever was acknowledged is on disk by then.
    fn drop(&mut self) {
        let trees = self.trees.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(trees)));
    }
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

fn doubt() -> Error {
    failed(
        "the last change of this entry failed; what came of it is known once the disk is well again",
    )
}

/// sled panics on some damage.
fn open_caught(directory: &Path) -> Result<Trees, Error> {
    match catch_unwind(AssertUnwindSafe(|| open_database(directory))) {
        Ok(result) => result.map_err(|error| refusal(directory, error)),
        Err(_) => Err(unopenable(directory, DAMAGED)),
    }
}

fn open_database(directory: &Path) -> sled::Result<Trees> {
    let db = sled::Config::new()
        .path(directory)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .open()?;
    let records = db.open_tree(RECORDS)?;
    let counters = db.open_tree(COUNTERS)?;
    Ok(Trees {
        db,
        records,
        counters,
    })
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

pub(super) fn unopenable(directory: &Path, reason: impl ToString) -> Error {
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
