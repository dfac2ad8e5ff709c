//! Seam: the key encryption key (KEK), which wraps every other key and lives outside the store.

use std::{fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;

use crate::{config::KekConfig, secret::SymmetricKey};

pub mod local;

/// Longest id of a KEK, in bytes.
pub const KEK_ID_BYTES_MAX: usize = 64;

/// Wraps and unwraps data encryption keys (DEKs) under a KEK that it never hands out.
#[async_trait]
pub trait KeyProvider: fmt::Debug + Send + Sync {
    /// The KEK that new keys are wrapped under. An id is never used for another key.
    fn current(&self) -> KekId;

    /// Wraps a key under the current KEK, bound to `aad`.
    async fn wrap_dek(&self, dek: &SymmetricKey, aad: &[u8]) -> Result<Vec<u8>, Error>;

    /// Unwraps a key that was wrapped under `kek_id` with equal `aad`.
    async fn unwrap_dek(
        &self,
        kek_id: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, Error>;
}

/// Names a KEK: 1 to [`KEK_ID_BYTES_MAX`] printable ASCII characters. Not secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekId(Arc<str>);

/// Why a key cannot be wrapped or unwrapped.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be used as it is.
    #[error("the KEK file {}: {reason}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The key was wrapped under a KEK that this provider does not have.
    #[error(
        "the store is sealed under the KEK {0:?}, which is not the configured one; configure that KEK"
    )]
    UnknownKek(KekId),
    /// Right KEK by its id, and yet the wrapped key does not open: it was changed or moved.
    #[error("a wrapped key does not open: it was changed, or moved from another record")]
    DoesNotOpen,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    CryptoFailed,
}

/// Opens the configured provider.
///
/// # Errors
/// [`Error::File`] if the key file is missing, malformed or open to others.
pub fn open(config: &KekConfig) -> Result<Arc<dyn KeyProvider>, Error> {
    Ok(Arc::new(local::FileKey::load(&config.file)?))
}

impl KekId {
    /// Parses an id, `None` outside its limits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=KEK_ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
