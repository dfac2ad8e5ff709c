//! `kodo-broker store restore`: a store from a backup.
//!
//! It is made beside its place, looked at whole, and only then put there: a restore that fails or is cut
//! off leaves nothing that could be taken for a store.

use std::{
    fs::{self, File},
    io::{self, BufReader, ErrorKind, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{super::Error, look};
use crate::{
    config::StoreConfig,
    kek::KeyProvider,
    store::{self, sled::SledStore},
    vault::{Vault, backup},
};

/// How long sled's threads may take to let go of its files, and how often they are asked.
const CLOSING_MAX: Duration = Duration::from_secs(30);
const CLOSING_INTERVAL: Duration = Duration::from_millis(20);

/// Makes the configured store of a backup.
pub(super) async fn restore(
    config: &StoreConfig,
    backup: &Path,
    keys: Arc<dyn KeyProvider>,
) -> Result<(), Error> {
    let StoreConfig::Sled { directory, .. } = config else {
        return Ok(());
    };
    if !is_free(directory)? {
        return Err(named(
            directory,
            &io::Error::other("is not empty; a store is restored where there is none"),
        ));
    }
    let file = File::open(backup).map_err(|error| named(backup, &error))?;
    let new = directory.with_added_extension("restoring");
    // Of a restore that was cut off.
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(named(&new, &error)),
        _ => {}
    }
    let made = make(&new, file, keys).await;
    if made.is_err() {
        // What it failed for is what counts.
        let _ = fs::remove_dir_all(&new);
        return made;
    }
    put_in_place(&new, directory).map_err(|error| named(directory, &error))
}

async fn make(directory: &Path, file: File, keys: Arc<dyn KeyProvider>) -> Result<(), Error> {
    let store = Arc::new(SledStore::open(directory).await?);
    let shown = io::stderr().is_terminal();
    let mut reader = BufReader::new(file);
    let progress = |rows: u64| {
        if shown {
            // Progress that cannot be seen is none.
            let _ = write!(io::stderr(), "\r{rows} rows");
        }
    };
    let restored = backup::restore(&mut reader, &*store, &*keys, progress).await;
    if shown {
        let _ = writeln!(io::stderr());
    }
    restored?;
    // Compares everything with the manifest, and opens every record.
    look(&Vault::open(store, keys).await?).await?;
    closed(directory).await
}

/// Waits until the store can be opened again.
async fn closed(directory: &Path) -> Result<(), Error> {
    let log = File::open(directory.join("db"))?;
    let closing = async {
        while log.try_lock().is_err() {
            sleep(CLOSING_INTERVAL).await;
        }
    };
    timeout(CLOSING_MAX, closing)
        .await
        .map_err(|_| store::Error::InUse(directory.to_owned()).into())
}

fn put_in_place(new: &Path, directory: &Path) -> io::Result<()> {
    // In the place of an empty directory, if there is one.
    fs::rename(new, directory)?;
    let parent = directory.parent().map(Path::to_owned);
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| PathBuf::from(".")))?.sync_all()
}

/// Whether there is nothing, or an empty directory.
fn is_free(directory: &Path) -> Result<bool, Error> {
    match fs::read_dir(directory) {
        Ok(mut items) => Ok(items.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(named(directory, &error)),
    }
}

fn named(path: &Path, error: &io::Error) -> Error {
    let text = format!("{}: {error}", path.display());
    io::Error::new(error.kind(), text).into()
}
