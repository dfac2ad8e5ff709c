//! Seam: the key encryption key (KEK), which wraps every other key and lives outside the store.

use std::{fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use crate::{
    config::{KekConfig, WrapWith},
    secret::SymmetricKey,
};

mod both;
pub mod file;
pub mod local;
pub mod transit;

/// Longest id of a KEK, in bytes.
pub const KEK_ID_BYTES_MAX: usize = 64;

/// Wraps and unwraps data encryption keys (DEKs) under a KEK that it never hands out.
#[async_trait]
pub trait KeyProvider: fmt::Debug + Send + Sync {
    /// The KEK that new keys are to be wrapped under; another one at any time. An id is never used
    /// for another key.
    fn current(&self) -> KekId;

    /// Whether keys that were wrapped under `kek_id` can be unwrapped, as far as is known without
    /// asking anybody.
    fn opens(&self, kek_id: &KekId) -> bool {
        *kek_id == self.current()
    }

    /// Wraps a key under a KEK that was [`Self::current`] a moment ago, bound to `aad`. The caller
    /// names it, since it has named it in `aad`, too, and it may have changed in between.
    async fn wrap_dek(
        &self,
        kek_id: &KekId,
        dek: &SymmetricKey,
        aad: &[u8],
    ) -> Result<Vec<u8>, Error>;

    /// Unwraps a key that was wrapped under `kek_id` with equal `aad`.
    async fn unwrap_dek(
        &self,
        kek_id: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, Error>;

    /// Keeps up with what changes outside: keys that are added, access that must be renewed. Goes on
    /// until it is dropped.
    async fn follow(&self) {
        std::future::pending().await
    }
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
        "the store is sealed under the KEK {0}, which is none of those that are configured; configure that one, too"
    )]
    UnknownKek(KekId),
    /// Right KEK by its id, and yet the wrapped key does not open: it was changed or moved.
    #[error("a wrapped key does not open: it was changed, or moved from another record")]
    DoesNotOpen,
    /// The provider cannot be asked now: out of reach, sealed, too busy, or it lets us in no more.
    /// What was asked may be asked again later.
    #[error("the KEK {kek} cannot be used for now: {reason}")]
    Unavailable {
        /// Which key, and where.
        kek: Arc<str>,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// What is configured is no KEK; asking again does not help.
    #[error("the KEK {kek} cannot be used: {reason}")]
    Unusable {
        /// Which key, and where.
        kek: Arc<str>,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    CryptoFailed,
}

/// Opens the configured provider. Its [`KeyProvider::follow`] is to be run beside it.
///
/// # Errors
/// [`Error::File`] if a file is missing, malformed or open to others; [`Error::Unavailable`] and
/// [`Error::Unusable`] of a remote one.
pub async fn open(config: &KekConfig) -> Result<Arc<dyn KeyProvider>, Error> {
    Ok(match config {
        KekConfig::File(file) => Arc::new(file::KeyFile::open(file)?),
        KekConfig::Transit(transit) => Arc::new(transit::Transit::open(transit).await?),
        KekConfig::Both {
            file,
            transit,
            wrap_with,
        } => {
            let file = Arc::new(file::KeyFile::open(file)?);
            let transit = Arc::new(transit::Transit::open(transit).await?);
            Arc::new(match wrap_with {
                WrapWith::File => both::Both::new(file, transit),
                WrapWith::Transit => both::Both::new(transit, file),
            })
        }
    })
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

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key in base64, leaving no copy behind. `None` if it is none.
fn key_from_base64(base64: &[u8]) -> Option<SymmetricKey> {
    // The decoder wants room for what three quarters of the text could be at most.
    let mut bytes = Zeroizing::new([0; SymmetricKey::LENGTH + 1]);
    let length = BASE64_STANDARD.decode_slice(base64, &mut *bytes).ok()?;
    SymmetricKey::new(bytes[..length].to_vec())
}
