//! sled's opening of a directory, in an order that a power cut may interrupt anywhere.
//!
//! As it opens, sled writes a snapshot of where everything is, renames it into place, and wipes what no
//! longer counts by it, without having made the new name durable: after a power cut the disk may hold the
//! older snapshot and nothing of what that one names. So sled is stopped right after the renaming, by a
//! fail point that its authors put there for their tests, the name is made durable, and it opens again.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::{super::Error, database::Trees, rows::SEGMENT_BYTES};

const DAMAGED: &str = "its files are damaged; put a backup in its place";
/// Trees of the database.
const RECORDS: &str = "records";
const PARTS: &str = "parts";
const COUNTERS: &str = "counters";
/// Of stores that were made before values lay in parts.
const FORMER_SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// What sled may keep of the data in memory; what is hot is in the token cache, not here.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// After a snapshot was renamed and before anything is wiped.
const FAIL_POINT: &str = "snap write mv post";
/// Fail points are the process's: one database is opened at a time.
static OPENING: Mutex<()> = Mutex::new(());
/// sled's own lock stays a moment longer than its database.
const LOCKED_MAX: Duration = Duration::from_secs(5);
const LOOKS: Duration = Duration::from_millis(5);

/// Opens the database of a directory. sled panics on some damage.
pub(super) fn open(directory: &Path) -> Result<Trees, Error> {
    let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = catch_unwind(AssertUnwindSafe(|| open_durably(directory)));
    sled::fail::reset();
    match opened {
        Ok(result) => result.map_err(|error| refusal(directory, error)),
        Err(_) => Err(unopenable(directory, DAMAGED)),
    }
}

fn open_durably(directory: &Path) -> sled::Result<Trees> {
    sled::fail::set(FAIL_POINT, 1);
    match open_of_any_size(directory) {
        // The next one finds nothing to add to the snapshot, so it writes none.
        Err(sled::Error::FailPoint) => {
            fs::File::open(directory)?.sync_all()?;
            remove_older_snapshots(directory)?;
            open_of_any_size(directory)
        }
        opened => opened,
    }
}

fn open_of_any_size(directory: &Path) -> sled::Result<Trees> {
    match open_unlocked(directory, SEGMENT_BYTES) {
        Err(sled::Error::Unsupported(_)) => open_unlocked(directory, FORMER_SEGMENT_BYTES),
        opened => opened,
    }
}

/// Opens it as soon as whoever had it open just now has let go of it.
fn open_unlocked(directory: &Path, segment_bytes: usize) -> sled::Result<Trees> {
    let deadline = Instant::now() + LOCKED_MAX;
    loop {
        match open_trees(directory, segment_bytes) {
            Err(error) if is_locked(&error) && Instant::now() < deadline => thread::sleep(LOOKS),
            opened => return opened,
        }
    }
}

fn open_trees(directory: &Path, segment_bytes: usize) -> sled::Result<Trees> {
    let db = sled::Config::new()
        .path(directory)
        .cache_capacity(CACHE_BYTES)
        .segment_size(segment_bytes)
        .flush_every_ms(None)
        .open()?;
    let [records, parts, counters] = [RECORDS, PARTS, COUNTERS].map(|name| db.open_tree(name));
    Ok(Trees {
        db,
        records: records?,
        parts: parts?,
        counters: counters?,
    })
}

/// sled puts the lock's `WouldBlock` into the text of another kind.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().contains("WouldBlock"))
}

/// Removes what sled would take for its newest snapshot.
pub(super) fn remove_unfinished_snapshots(directory: &Path) -> io::Result<()> {
    for path in snapshots(directory)? {
        if path.extension().is_some_and(|last| last == "generating") {
            tracing::warn!(file = %path.display(), "removing a snapshot that a crash left unfinished");
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn remove_older_snapshots(directory: &Path) -> io::Result<()> {
    let mut snapshots = snapshots(directory)?;
    // Their names are numbers of 16 digits.
    snapshots.sort();
    snapshots.pop();
    snapshots.iter().try_for_each(fs::remove_file)
}

fn snapshots(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let items: Vec<_> = fs::read_dir(directory)?.collect::<io::Result<_>>()?;
    let is_snapshot =
        |item: &fs::DirEntry| item.file_name().as_encoded_bytes().starts_with(b"snap.");
    Ok(items
        .iter()
        .filter(|item| is_snapshot(item))
        .map(fs::DirEntry::path)
        .collect())
}

/// Makes new files and their names durable; returns the log file, to be synced with each commit.
pub(super) fn sync_all(directory: &Path) -> io::Result<fs::File> {
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

pub(super) fn refusal(directory: &Path, error: sled::Error) -> Error {
    match error {
        locked if is_locked(&locked) => Error::InUse(directory.into()),
        sled::Error::Io(io) => unopenable(directory, io),
        sled::Error::Corruption { .. } => unopenable(directory, DAMAGED),
        // What it says of the version and settings of its files is in these files.
        other => unopenable(directory, format!("{DAMAGED} ({other})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Key, Revision, Store as _, conformance};

    #[tokio::test]
    async fn a_store_from_before_values_lay_in_parts_opens() {
        let directory = tempfile::tempdir().expect("a folder");
        let written = open_trees(directory.path(), FORMER_SEGMENT_BYTES).expect("opens");
        let row = [&7_u64.to_be_bytes()[..], &[5; 90_000]].concat();
        written.records.insert(b"a/1", row).expect("writes");
        written.db.flush().expect("writes");
        drop(written);
        let store = conformance::reopen(directory.path()).await;
        let entry = store.get(&Key::new(b"a/", b"1")).await.expect("reads");
        let entry = entry.expect("is there");
        assert_eq!(
            (entry.value, entry.revision),
            (vec![5; 90_000], Revision(7))
        );
    }

    #[test]
    fn of_the_snapshots_the_newest_stays() {
        let directory = tempfile::tempdir().expect("a folder");
        let named = |name: &str| directory.path().join(name);
        for name in ["snap.00000000000000FF", "snap.0000000000000100", "db"] {
            fs::write(named(name), name).expect("writes");
        }
        remove_older_snapshots(directory.path()).expect("removes");
        assert!(!named("snap.00000000000000FF").exists());
        assert!(named("snap.0000000000000100").exists() && named("db").exists());
    }
}
