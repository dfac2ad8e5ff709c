//! Reads files that hold a key, and replaces files: small, and closed to everybody else.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Permission bits that would let somebody else read or change the file: group write and execute,
/// and everything for others. Group read stays allowed: Kubernetes mounts secrets that way.
const FORBIDDEN_MODE: u32 = 0o037;

/// Reads a file of at most `bytes_max` bytes.
///
/// # Errors
/// Those of the file system, and a sentence with the remedy if the file is longer, no regular file,
/// or open to others.
pub(crate) fn read(file: &Path, bytes_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    read_closed_to(FORBIDDEN_MODE, file, bytes_max)
}

/// The same of a file that others may read: one whose mode is not the operator's to choose.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_shared(file: &Path, bytes_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    read_closed_to(0, file, bytes_max)
}

/// Puts a file in the place of the one that is there, for its owner alone. A power cut leaves one of the
/// two.
///
/// # Errors
/// Those of the file system.
pub(crate) fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = file.to_owned().into_os_string();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut open = options.open(&new)?;
    open.write_all(content)?;
    open.sync_all()?;
    fs::rename(&new, file)?;
    sync_folder_of(file)
}

/// Has the disk know which files are in a file's folder.
///
/// # Errors
/// Those of the file system.
pub(crate) fn sync_folder_of(file: &Path) -> io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::File::open(folder)?.sync_all()
}

fn read_closed_to(
    forbidden_mode: u32,
    file: &Path,
    bytes_max: usize,
) -> io::Result<Zeroizing<Vec<u8>>> {
    let open = fs::File::open(file)?;
    // Asked of the open file, so that it cannot be exchanged in between.
    let metadata = open.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    if metadata.mode() & forbidden_mode != 0 {
        return Err(io::Error::other(format!(
            "its mode {:04o} lets others at it; run `chmod 0600` on it",
            metadata.mode() & 0o7777,
        )));
    }
    // One byte more than allowed, to tell; never more than reserved, since growing would leave
    // pieces of the key behind in freed memory.
    let mut content = Zeroizing::new(Vec::with_capacity(bytes_max + 1));
    open.take(bytes_max as u64 + 1).read_to_end(&mut content)?;
    if content.len() > bytes_max {
        return Err(io::Error::other(format!(
            "is longer than {bytes_max} bytes"
        )));
    }
    Ok(content)
}
