//! Room that is kept free for bad days: sled needs some to open, so a store on a full disk could not even
//! be read after a restart.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::{super::Error, beginning::Mark, database::Database, rows::SEGMENT_BYTES};

/// Beside sled's files.
const RESERVE: &str = "kodo-broker.reserve";
/// As large as the reserve, for the moment of a question.
const PROBE: &str = "kodo-broker.probe";
/// What sled needs to open: a segment and a snapshot, which was seen to be some hundredth of its log. The
/// reserve is as many of these as are a 32nd of the log, at least one.
const STEP_BYTES: u64 = 4 * SEGMENT_BYTES as u64;
const LOG_SHARE: u64 = 32;

/// A file in the store's directory that is given up where nothing else helps.
#[derive(Debug)]
pub(super) struct Reserve {
    directory: PathBuf,
}

impl Reserve {
    pub(super) fn of(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Opens the database of the directory; on a full disk in the room of the reserve.
    ///
    /// # Errors
    /// Those of [`Database::open`].
    pub(super) fn open(&self, mark: Option<&Mark>) -> Result<Database, Error> {
        let opened = Database::open(&self.directory, mark);
        if matches!(opened, Err(Error::Unopenable { .. }))
            && self.check_room().is_err()
            && self.give()
        {
            tracing::warn!("the disk is full: the store opens in the room that was kept for this");
            return Database::open(&self.directory, mark);
        }
        opened
    }

    /// Whether as much room as the reserve takes is free beside it. What is missing of the reserve is
    /// filled up first.
    ///
    /// # Errors
    /// Why there is not: usually that the disk is full.
    pub(super) fn check_room(&self) -> io::Result<()> {
        self.fill()?;
        let probe = self.directory.join(PROBE);
        let probed = take(&probe, self.bytes());
        fs::remove_file(&probe).and(probed)
    }

    /// Takes the room, as far as that was not done yet.
    ///
    /// # Errors
    /// As [`Self::check_room`].
    pub(super) fn fill(&self) -> io::Result<()> {
        let (file, bytes) = (self.file(), self.bytes());
        if fs::metadata(&file).is_ok_and(|file| file.len() >= bytes) {
            return Ok(());
        }
        take(&file, bytes).inspect_err(|_| {
            // It is not whole: whatever it took is better free.
            let _ = fs::remove_file(&file);
        })
    }

    /// Gives the room up. Tells whether there was any.
    fn give(&self) -> bool {
        fs::remove_file(self.file()).is_ok()
    }

    fn file(&self) -> PathBuf {
        self.directory.join(RESERVE)
    }

    /// As much as the log calls for.
    fn bytes(&self) -> u64 {
        let log = fs::metadata(self.directory.join("db")).map_or(0, |log| log.len());
        (log / LOG_SHARE).max(1).next_multiple_of(STEP_BYTES)
    }
}

/// Makes a file that takes as much room as it is long.
fn take(file: &Path, bytes: u64) -> io::Result<()> {
    let mut options = File::options();
    let mut file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(file)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // Not every file system can.
        Err(Errno::OPNOTSUPP) => {
            io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
            file.flush()
        }
        taken => Ok(taken?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_room_once_and_leaves_no_probe() {
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = Reserve::of(folder.path());
        reserve.check_room().expect("there is room");
        let names = || {
            let items = fs::read_dir(folder.path()).expect("reads").flatten();
            let names: Vec<_> = items.map(|item| item.file_name()).collect();
            names
        };
        assert_eq!(names(), [RESERVE]);
        assert!(reserve.give());
        assert!(!reserve.give());
        assert!(names().is_empty());
        // What is not whole is made whole.
        fs::write(folder.path().join(RESERVE), b"short").expect("writes");
        reserve.fill().expect("there is room");
        let file = fs::metadata(folder.path().join(RESERVE)).expect("is there");
        assert_eq!(file.len(), STEP_BYTES);
        // It grows with the log.
        let log = fs::File::create(folder.path().join("db")).expect("creates");
        log.set_len(100 * STEP_BYTES).expect("grows");
        reserve.fill().expect("there is room");
        let file = fs::metadata(folder.path().join(RESERVE)).expect("is there");
        assert_eq!(file.len(), 4 * STEP_BYTES);
    }
}
