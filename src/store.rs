//! Seam: where records are kept. A store sees opaque keys and values, never a plaintext.
//!
//! The trait is as narrow as an embedded engine and a distributed one (etcd) have in common.

use std::{fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;

use crate::config::StoreConfig;

#[cfg(test)]
mod conformance;
pub mod memory;
pub mod sled;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64;
/// Longest value, in bytes: a certificate with its key (64 KiB as they come in) and names.
pub const VALUE_BYTES_MAX: usize = 96 * 1024;
/// Most writes of one transaction.
pub const WRITES_MAX: usize = 256;
/// Most that the values of one transaction take together, in bytes.
pub const TRANSACTION_BYTES_MAX: usize = 256 * 1024;
/// Most entries that one scan returns.
pub const SCAN_MAX: usize = 1000;

/// A store of entries in the order of their keys.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// The entry of a key, `None` if there is none. Sees every commit answered before the call.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error>;

    /// Up to `limit` (at most [`SCAN_MAX`]) entries whose keys begin with `prefix`, in the order of
    /// their keys, after `after` if given.
    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, Error>;

    /// Applies all writes, if all compares hold, or none. `Ok` means durable: on stable storage,
    /// not in a cache that a power cut empties. A transaction without writes waits until everything
    /// committed before it is durable.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a compare does not hold; any other error leaves open whether the
    /// transaction was applied.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error>;

    /// Whether a write has failed, so that none is accepted until that is made good.
    fn has_failed(&self) -> bool {
        false
    }
}

/// Name of an entry: 1 to [`KEY_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

/// Number of the commit that wrote an entry. Grows with each commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// The commit that wrote it.
    pub revision: Revision,
}

/// What must hold for a transaction to apply.
#[derive(Clone, Debug)]
pub enum Compare {
    /// There is no entry of this key.
    Absent(Key),
    /// The entry of this key was last written by this commit.
    Unchanged(Key, Revision),
}

/// A change of one entry.
#[derive(Clone, Debug)]
pub enum Write {
    /// Writes the entry, new or not.
    Put(Key, Vec<u8>),
    /// Removes the entry, if there is one.
    Delete(Key),
    /// Makes the entry what a function makes of it.
    Update(Key, Update),
}

/// Makes a value of the one that is there, if any, at the moment of the commit: so that entries which
/// every commit changes need no compare that all but one of them would fail. `None` refuses the whole
/// transaction. May be called several times for one commit.
#[derive(Clone)]
pub struct Update(Arc<UpdateFn>);

type UpdateFn = dyn Fn(Option<&[u8]>) -> Option<Vec<u8>> + Send + Sync;

/// Compares and writes that apply together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// What to write then.
    pub writes: Vec<Write>,
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A compare did not hold: somebody else wrote first. Read again, then redo.
    #[error("the entry has changed meanwhile")]
    Conflict,
    /// The engine or its disk failed, or is full. Nothing more is written until it was looked at, since
    /// after a failed sync nobody knows what is on disk.
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
    /// The directory holds something that is not a whole store. It is left as it is.
    #[error("the store in {} cannot be opened: {reason}", directory.display())]
    Unopenable {
        /// Where.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process has the store open.
    #[error("the store in {} is in use by another process; stop it first", .0.display())]
    InUse(PathBuf),
    /// A [`Write::Update`] was refused by its function.
    #[error("an entry is not one that can be updated")]
    NotUpdated,
    /// A value or a transaction outside the limits: a defect of the caller.
    #[error("a value or a transaction is outside the limits of the store")]
    OutOfLimits,
}

/// Opens the configured store.
///
/// # Errors
/// [`Error::Unopenable`] or [`Error::InUse`].
pub async fn open(config: &StoreConfig) -> Result<Arc<dyn Store>, Error> {
    match config {
        StoreConfig::Memory {} => Ok(Arc::new(memory::MemoryStore::default())),
        StoreConfig::Sled { directory, .. } => {
            Ok(Arc::new(sled::SledStore::open(directory).await?))
        }
    }
}

/// Opens the configured store if there is one already.
///
/// # Errors
/// As [`open`], and if there is none.
pub async fn open_existing(config: &StoreConfig) -> Result<Arc<dyn Store>, Error> {
    match config {
        StoreConfig::Sled { directory, .. } if !sled::exists(directory) => Err(Error::Unopenable {
            directory: directory.clone(),
            reason: "there is no store in it; see whether the path is right and its volume mounted, or restore a backup".to_owned(),
        }),
        config => open(config).await,
    }
}

impl Key {
    /// A key from its parts, one after the other.
    ///
    /// # Panics
    /// If it is empty or longer than [`KEY_BYTES_MAX`], which no caller's input can cause.
    #[must_use]
    pub fn new(prefix: &[u8], id: &[u8]) -> Self {
        let bytes = [prefix, id].concat();
        assert!(
            (1..=KEY_BYTES_MAX).contains(&bytes.len()),
            "keys are built from fixed-length digests"
        );
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Compare {
    /// Whether it holds for what is stored now.
    fn holds(&self, revision_of: impl Fn(&Key) -> Option<Revision>) -> bool {
        match self {
            Self::Absent(key) => revision_of(key).is_none(),
            Self::Unchanged(key, revision) => revision_of(key) == Some(*revision),
        }
    }
}

impl Transaction {
    fn within_limits(&self) -> bool {
        let lengths = self.writes.iter().map(|write| match write {
            Write::Put(_, value) => value.len(),
            Write::Delete(_) | Write::Update(..) => 0,
        });
        self.writes.len() <= WRITES_MAX
            && lengths.clone().all(|length| length <= VALUE_BYTES_MAX)
            && lengths.sum::<usize>() <= TRANSACTION_BYTES_MAX
    }
}

impl Update {
    /// An update by a function that depends on nothing but the value.
    pub fn new(update: impl Fn(Option<&[u8]>) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(update))
    }

    pub(crate) fn apply(&self, current: Option<&[u8]>) -> Result<Vec<u8>, Error> {
        let value = (self.0)(current).ok_or(Error::NotUpdated)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::OutOfLimits);
        }
        Ok(value)
    }
}

impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Update")
    }
}
