//! Where lines lie: a file and those before it, or a device or pipe.
//!
//! A file that is full, or old, ends with a signed line, gets the number of its first line into its
//! name (`audit.jsonl` becomes `audit-00000000000000000001.jsonl`), and a new one goes on. Nothing is
//! ever deleted here.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    anchor::Anchor,
    recover::{Recovered, recover},
    verify::Trust,
};
use crate::{
    config::{AuditConfig, Durability},
    private_file,
};

/// Permission bits that would let somebody else read or change the file.
const FORBIDDEN_MODE: u32 = 0o077;
/// Keeps lines.
pub(super) trait Medium: Send {
    /// Puts lines after those that are durable, and makes them so. After an error the same lines are
    /// put again: what the attempt has left is replaced, or gone on with.
    fn put(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Whether what comes next belongs into a file of its own.
    fn is_full(&self) -> bool {
        false
    }

    /// Begins that file. After an error it is tried again.
    fn begin(&mut self, _first: u64) -> io::Result<()> {
        Ok(())
    }
}

/// How a file gets out of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aside {
    /// Under the number of its first line.
    Numbered,
    /// It is no log: under the time of its last change.
    Foreign,
}

/// A regular file.
struct Segment {
    path: PathBuf,
    file: File,
    durability: Durability,
    bytes_max: u64,
    age_max: Duration,
    since: Instant,
    /// The number of its first line.
    first: u64,
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

/// A medium, and what is known of what lies on it.
pub(super) struct Opened {
    pub(super) medium: Box<dyn Medium>,
    pub(super) recovered: Recovered,
}

/// Whether there is a regular file at a path, or none yet.
pub(super) fn is_regular(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.is_file())
}

/// Opens what is at a path.
pub(super) fn open(
    path: &Path,
    config: &AuditConfig,
    trust: &Trust,
    anchor: Option<&Anchor>,
) -> io::Result<Opened> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Opened {
            medium: Box::new(Stream { file, done: 0 }),
            recovered: Recovered::new(),
        });
    }
    if metadata.mode() & FORBIDDEN_MODE != 0 {
        return Err(io::Error::other(format!(
            "its mode {:04o} lets others at it; run `chmod 0600` on it",
            metadata.mode() & 0o7777
        )));
    }
    lock(&file)?;
    let recovered = recover(path, trust, anchor)?;
    let mut segment = Segment {
        path: path.to_owned(),
        durability: config.durability,
        bytes_max: config.segment_bytes_max(),
        age_max: config.segment_age_max(),
        since: Instant::now(),
        first: recovered.first.max(1),
        end: file.metadata()?.len(),
        unsure: false,
        file,
    };
    if recovered.first == 0 {
        segment.first = recovered.head.seq + 1;
    }
    if let Some(aside) = recovered.aside {
        let name = match aside {
            Aside::Numbered => name_of(path, recovered.first),
            Aside::Foreign => name_of_foreign(path, metadata.mtime()),
        };
        segment.go_on(&name, recovered.head.seq + 1)?;
    }
    private_file::sync_folder_of(path)?;
    Ok(Opened {
        medium: Box::new(segment),
        recovered,
    })
}

/// The files before the one at a path, the oldest first.
///
/// # Errors
/// Those of the file system.
pub fn numbered(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for item in fs::read_dir(folder)? {
        let file = folder.join(item?.file_name());
        if first_of(&file).is_some_and(|first| file.file_name() == name_of(path, first).file_name())
        {
            found.push(file);
        }
    }
    // As many digits in each.
    found.sort_unstable();
    Ok(found)
}

/// The number of the first line that a file is named after.
pub(super) fn first_of(file: &Path) -> Option<u64> {
    let (_, number) = file.file_stem()?.to_str()?.rsplit_once('-')?;
    let is_ours = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| is_ours)
}

/// What a file is called that is put aside.
fn name_of(path: &Path, first: u64) -> PathBuf {
    renamed(path, &format!("{first:020}"))
}

fn name_of_foreign(path: &Path, changed: i64) -> PathBuf {
    renamed(path, &format!("set-aside-{changed}"))
}

fn renamed(path: &Path, what: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}-{what}");
    if let Some(extension) = path.extension() {
        name = format!("{name}.{}", extension.to_string_lossy());
    }
    path.with_file_name(name)
}

/// One process writes at a time.
fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            io::Error::new(ErrorKind::WouldBlock, "another process writes to it")
        }
        TryLockError::Error(error) => error,
    })
}

impl Segment {
    /// Puts the file aside and begins another one.
    fn go_on(&mut self, name: &Path, first: u64) -> io::Result<()> {
        // It may have been put aside by an attempt that failed later on.
        if is_same(&self.file, &self.path)? {
            if name.exists() {
                return Err(io::Error::other(format!(
                    "{} is there already",
                    name.display()
                )));
            }
            fs::rename(&self.path, name)?;
        }
        let mut options = OpenOptions::new();
        let file = options
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        lock(&file)?;
        if file.metadata()?.len() > 0 {
            return Err(io::Error::other("another process writes to it"));
        }
        private_file::sync_folder_of(&self.path)?;
        *self = Self {
            path: self.path.clone(),
            file,
            since: Instant::now(),
            first,
            end: 0,
            unsure: false,
            ..*self
        };
        Ok(())
    }
}

/// Whether a path leads to a file that is open.
fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, theirs) = match fs::metadata(path) {
        Ok(theirs) => (file.metadata()?, theirs),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
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

    fn is_full(&self) -> bool {
        self.end >= self.bytes_max || self.since.elapsed() >= self.age_max
    }

    fn begin(&mut self, first: u64) -> io::Result<()> {
        let name = name_of(&self.path, self.first);
        self.go_on(&name, first)
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
