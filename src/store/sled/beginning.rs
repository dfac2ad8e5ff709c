//! The beginning of a store: until something was acknowledged, it may be made anew; from then on it
//! is never replaced.
//!
//! A mark says so, a file that is durable before sled makes its first one, and gone, durably, before
//! the first commit is acknowledged. Without it, a first start that a crash or a full disk cut short
//! could not be told from a store that lost everything.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Advice, fadvise};

/// Beside sled's files.
const MARK: &str = "kodo-broker.new";

/// The mark of a store that has acknowledged nothing.
#[derive(Debug)]
pub(super) struct Mark {
    directory: PathBuf,
}

impl Mark {
    /// The mark of a folder, made if there is no store in it yet; `None` if there is a store.
    pub(super) fn of(directory: &Path) -> io::Result<Option<Self>> {
        let mark = directory.join(MARK);
        if !mark.try_exists()? {
            if !files(directory)?.is_empty() {
                return Ok(None);
            }
            fs::File::create(&mark)?.sync_all()?;
            fs::File::open(directory)?.sync_all()?;
        }
        let directory = directory.to_owned();
        Ok(Some(Self { directory }))
    }

    /// Removes what sled has made so far.
    pub(super) fn begin_anew(&self) -> io::Result<()> {
        tracing::warn!("a first start was cut short; it is begun anew");
        for path in files(&self.directory)? {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// From now on something is acknowledged.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_file(self.directory.join(MARK))?;
        fs::File::open(&self.directory)?.sync_all()
    }
}

/// The files that sled makes, but for blobs, which this store never has.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in fs::read_dir(directory)? {
        let item = item?;
        let name = item.file_name();
        let name = name.to_string_lossy();
        if name == "db" || name == "conf" || name.starts_with("snap.") {
            files.push(item.path());
        }
    }
    Ok(files)
}

/// Reads all of sled's files once, from the disk: what is in memory of a file whose sync failed is not
/// on it. Where a disk cannot read one, sled would take the rest of it for what a crash left, and wipe
/// it; what was read here comes from memory when sled reads it.
pub(super) fn read_through(directory: &Path) -> io::Result<()> {
    for path in files(directory)? {
        let mut file = fs::File::open(path)?;
        // Only what is on disk is dropped from memory.
        file.sync_data()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        io::copy(&mut file, &mut io::sink())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Key, Store as _, Transaction, Write, conformance, sled::SledStore};

    fn damage(directory: &Path) {
        fs::write(directory.join("conf"), b"half").expect("writes");
    }

    #[tokio::test]
    async fn a_first_start_that_was_cut_short_is_begun_anew() {
        let directory = tempfile::tempdir().expect("a folder");
        drop(SledStore::open(directory.path()).await.expect("opens"));
        drop(conformance::reopen(directory.path()).await);
        damage(directory.path());
        let _store = conformance::reopen(directory.path()).await;
    }

    #[tokio::test]
    async fn the_mark_is_gone_once_something_was_acknowledged() {
        let directory = tempfile::tempdir().expect("a folder");
        let store = SledStore::open(directory.path()).await.expect("opens");
        let mark = directory.path().join(MARK);
        store.commit(Transaction::default()).await.expect("waits");
        assert!(mark.exists());
        let transaction = Transaction {
            compares: vec![],
            writes: vec![Write::Put(Key::new(b"a/", b"1"), b"value".to_vec())],
        };
        store.commit(transaction).await.expect("commits");
        assert!(!mark.exists());
    }
}
