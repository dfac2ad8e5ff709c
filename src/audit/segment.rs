//! Where lines lie: a file, or a device or pipe.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::config::Durability;

/// Permission bits that would let somebody else read or change the file.
const FORBIDDEN_MODE: u32 = 0o077;

/// Keeps lines.
pub(super) trait Medium: Send {
    /// Puts lines after those that are durable, and makes them so. After an error the same lines are
    /// put again: what the attempt has left is replaced, or gone on with.
    fn put(&mut self, lines: &[u8]) -> io::Result<()>;
}

/// A regular file.
struct Segment {
    file: File,
    durability: Durability,
    /// Where the durable part ends.
    end: u64,
    /// Whether there may be something behind it.
    unsure: bool,
}

/// Anything else: what it has taken cannot be taken back.
struct Stream {
    file: File,
    /// How many of the lines' bytes it has.
    done: usize,
}

/// Opens what is at a path.
pub(super) fn open(path: &Path, durability: Durability) -> io::Result<Box<dyn Medium>> {
    let named = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("audit file {}: {error}", path.display()),
        )
    };
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let file = options.open(path).map_err(named)?;
    let metadata = file.metadata().map_err(named)?;
    if !metadata.is_file() {
        return Ok(Box::new(Stream { file, done: 0 }));
    }
    if metadata.mode() & FORBIDDEN_MODE != 0 {
        return Err(named(io::Error::other(format!(
            "its mode {:04o} lets others at it; run `chmod 0600` on it",
            metadata.mode() & 0o7777
        ))));
    }
    Ok(Box::new(Segment {
        file,
        durability,
        end: metadata.len(),
        unsure: false,
    }))
}

impl Medium for Segment {
    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.unsure {
            // Also after a sync that failed: the system may hold its pages for clean by now, and would
            // say that all is well the next time.
            self.file.set_len(self.end)?;
        }
        self.unsure = true;
        self.file.write_all(lines)?;
        if self.durability == Durability::Sync {
            self.file.sync_data()?;
        }
        self.end += lines.len() as u64;
        self.unsure = false;
        Ok(())
    }
}

impl Medium for Stream {
    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        while self.done < lines.len() {
            match self.file.write(&lines[self.done..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.done = 0;
        Ok(())
    }
}
