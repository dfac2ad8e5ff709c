//! The file that the anchor of the store is kept in; see [`crate::vault::Vault::anchor`].
//!
//! It follows the store: within a second of a change it has seen it. So an older copy of the store is
//! noticed unless it is of that very second. It belongs elsewhere than the store, where whoever restores
//! the one does not restore the other.

use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    private_file,
    vault::{ANCHOR_BYTES_MAX, Vault},
};

/// How far the file may be behind, and how often a write that failed is tried again.
const INTERVAL: Duration = Duration::from_secs(1);

/// A file with an anchor, or a place for one.
#[derive(Clone, Debug)]
pub struct AnchorFile(PathBuf);

impl AnchorFile {
    /// The file with this name.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        Self(file)
    }

    /// The anchor, `None` if there is no file.
    ///
    /// # Errors
    /// Those of the file system, with the file's name, and a file that holds anything else.
    pub fn read(&self) -> io::Result<Option<String>> {
        let open = match fs::File::open(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| self.named(error))?,
        };
        let mut text = String::new();
        let length = ANCHOR_BYTES_MAX as u64 + 1;
        let read = open.take(length).read_to_string(&mut text);
        read.map_err(|error| self.named(error))?;
        Ok(Some(text))
    }

    /// Puts an anchor in the place of the one that is there. A power cut leaves one of the two.
    ///
    /// # Errors
    /// Those of the file system, with the file's name.
    pub fn write(&self, anchor: &str) -> io::Result<()> {
        private_file::replace(&self.0, anchor.as_bytes()).map_err(|error| self.named(error))
    }

    /// Writes down each change of a vault, until `end` and once more then.
    pub async fn follow(self, vault: Arc<Vault>, end: CancellationToken) {
        let mut changes = vault.changes();
        let mut failing = false;
        loop {
            let changed = async {
                if !failing {
                    // The vault, and so the sender, is held here.
                    let _ = changes.changed().await;
                }
            };
            let ended = end.run_until_cancelled(changed).await.is_none();
            changes.mark_unchanged();
            let (file, anchor) = (self.clone(), vault.anchor());
            let written = spawn_blocking(move || file.write(&anchor)).await;
            let written = written
                .map_err(io::Error::other)
                .and_then(|written| written);
            if let Err(error) = &written {
                tracing::error!(%error, "the anchor of the store cannot be written: an older copy of the store would not be noticed");
            }
            failing = written.is_err();
            if ended {
                return;
            }
            // Changes that come together are written down together.
            end.run_until_cancelled(sleep(INTERVAL)).await;
        }
    }

    fn named(&self, error: io::Error) -> io::Error {
        let text = format!("the anchor file {}: {error}", self.0.display());
        io::Error::new(error.kind(), text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_the_latest_anchor_or_an_error_says_which_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().join("store.anchor");
        let file = AnchorFile::new(name.clone());
        assert_eq!(file.read().expect("reads"), None);
        for anchor in ["one\n", "another\n"] {
            file.write(anchor).expect("writes");
            assert_eq!(file.read().expect("reads").as_deref(), Some(anchor));
        }
        let others = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(others, 1, "nothing is left beside it");
        fs::write(&name, vec![b'x'; 100_000]).expect("writes");
        let long = file.read().expect("reads").expect("is there");
        assert_eq!(long.len(), ANCHOR_BYTES_MAX + 1, "no more than tells");
        let nowhere = AnchorFile::new(folder.path().join("no folder/anchor"));
        let error = nowhere.write("one\n").expect_err("there is no folder");
        assert!(error.to_string().contains("no folder/anchor"), "{error}");
    }
}
