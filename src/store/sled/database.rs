//! sled's database of one directory, from when it opens until it is closed.

use std::{
    collections::BTreeSet,
    fs, io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use sled::{Db, Tree};

use super::{
    super::{Entry, Error, Key, Transaction, Write},
    beginning::{self, Mark},
    failed,
    opening::{self, refusal, unopenable},
};

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
    pub(super) db: Db,
    pub(super) records: Tree,
    /// Of values that are too large for a row.
    pub(super) parts: Tree,
    pub(super) counters: Tree,
}

impl Database {
    /// Opens the database of a directory that is locked.
    pub(super) fn open(directory: &Path, mark: Option<&Mark>) -> Result<Self, Error> {
        let failed = |error: io::Error| unopenable(directory, error);
        opening::remove_unfinished_snapshots(directory).map_err(failed)?;
        beginning::read_through(directory).map_err(failed)?;
        let opened = match (opening::open(directory), mark) {
            (Err(Error::Unopenable { .. }), Some(mark)) => {
                mark.begin_anew().map_err(failed)?;
                opening::open(directory)
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
        let log = opening::sync_all(directory).map_err(failed)?;
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
        let entry = self.trees().entry(key);
        if self.doubtful().contains(key) {
            return Err(doubt());
        }
        entry
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
            let key = Key(key.to_vec());
            if let Some(entry) = self.trees().entry_of(&key, stored)? {
                found.push((key, entry));
            }
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
}

impl Drop for Database {
    /// sled panics where the last sync fails; whatever was acknowledged is on disk by then.
    fn drop(&mut self) {
        let trees = self.trees.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(trees)));
    }
}

fn doubt() -> Error {
    failed(
        "the last change of this entry failed; what came of it is known once the disk is well again",
    )
}
