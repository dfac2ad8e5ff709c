//! KEKs from a file: for a single node, a systemd credential or a mounted Kubernetes secret.
//!
//! One key a line, 32 bytes in base64; blank lines, and lines that begin with `#`, say nothing. The
//! first key encrypts, all of them open. The file is read again when its content has changed, so that
//! a new key can be put last (prepared), then first (activated), and an old one be taken out, without
//! a restart. It is read whole each time: a mounted secret changes by a link that is put elsewhere,
//! which leaves nothing to watch.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{MissedTickBehavior, interval};

use super::{Error, KekId, KeyProvider, key_from_base64, local::FileKey};
use crate::{private_file, secret::SymmetricKey};

/// Most keys in a file: rotations whose re-wrapping has not ended.
pub const KEYS_MAX: usize = 16;
/// Longest file, in bytes: the keys, and a line of comment on each.
const FILE_BYTES_MAX: usize = 4096;
/// How often the file is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The keys of a file.
#[derive(Debug)]
pub struct KeyFile {
    file: PathBuf,
    /// Replaced as a whole when the file has changed; at least one key.
    keys: RwLock<Arc<[Arc<FileKey>]>>,
}

impl KeyFile {
    /// Reads the keys of a file.
    ///
    /// # Errors
    /// [`Error::File`] if the file is missing, malformed or open to others.
    pub fn open(file: &Path) -> Result<Self, Error> {
        Ok(Self {
            file: file.to_owned(),
            keys: RwLock::new(read(file)?),
        })
    }

    fn keys(&self) -> Arc<[Arc<FileKey>]> {
        // Nothing panics while it holds the lock, and what is in it is whole at any time.
        let keys = self.keys.read();
        keys.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, kek_id: &KekId) -> Result<Arc<FileKey>, Error> {
        let keys = self.keys();
        let found = keys.iter().find(|key| key.current() == *kek_id);
        found
            .cloned()
            .ok_or_else(|| Error::UnknownKek(kek_id.clone()))
    }

    /// Takes what is in the file by now. Whether that are other keys than before.
    async fn read_again(&self) -> Result<bool, Error> {
        let file = self.file.clone();
        // A mount that hangs must not hang what else goes on.
        let keys = tokio::task::spawn_blocking(move || read(&file)).await;
        let keys = keys.map_err(|_| Error::CryptoFailed)??;
        if ids(&keys) == ids(&self.keys()) {
            return Ok(false);
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(true)
    }
}

#[async_trait]
impl KeyProvider for KeyFile {
    fn current(&self) -> KekId {
        self.keys()[0].current()
    }

    fn opens(&self, kek_id: &KekId) -> bool {
        self.find(kek_id).is_ok()
    }

    async fn wrap_dek(
        &self,
        kek_id: &KekId,
        dek: &SymmetricKey,
        aad: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.find(kek_id)?.wrap_dek(kek_id, dek, aad).await
    }

    async fn unwrap_dek(
        &self,
        kek_id: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, Error> {
        self.find(kek_id)?.unwrap_dek(kek_id, wrapped, aad).await
    }

    async fn follow(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            ticks.tick().await;
            let trouble = match self.read_again().await {
                Ok(true) => {
                    let keys = ids(&self.keys());
                    let (current, others) = keys.split_first().expect("at least one key");
                    tracing::info!(%current, ?others, "other KEKs are in the file by now");
                    None
                }
                Ok(false) => None,
                Err(error) => Some(error.to_string()),
            };
            // Each trouble is told once, not with every look.
            if trouble.is_some() && trouble != told {
                let error = trouble.as_deref();
                tracing::error!(error, "the KEKs read before stay in use");
            }
            told = trouble;
        }
    }
}

fn ids(keys: &[Arc<FileKey>]) -> Vec<KekId> {
    keys.iter().map(|key| key.current()).collect()
}

fn read(file: &Path) -> Result<Arc<[Arc<FileKey>]>, Error> {
    let refused = |reason: String| Error::File {
        file: file.to_owned(),
        reason,
    };
    let text =
        private_file::read(file, FILE_BYTES_MAX).map_err(|error| refused(error.to_string()))?;
    parse(&text).map_err(refused)
}

/// What is wrong is told by its line: what stands in it may be most of a key.
fn parse(text: &[u8]) -> Result<Arc<[Arc<FileKey>]>, String> {
    let mut keys: Vec<Arc<FileKey>> = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let (number, line) = (number + 1, line.trim_ascii());
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let key = key_from_base64(line).ok_or_else(|| {
            format!(
                "line {number} must hold 32 bytes in base64, as `openssl rand -base64 32` makes them"
            )
        })?;
        let key = Arc::new(FileKey::new(key));
        if keys.iter().any(|known| known.current() == key.current()) {
            return Err(format!("line {number} holds a key that stands before it"));
        }
        if keys.len() == KEYS_MAX {
            return Err(format!(
                "holds more than {KEYS_MAX} keys; take out those that no record names any more"
            ));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err("holds no key; put one there, as `openssl rand -base64 32` makes them".into());
    }
    Ok(keys.into())
}

#[cfg(test)]
mod tests;
