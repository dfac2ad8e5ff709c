//! Custody of the organizations' credentials: the only place where a plaintext credential and stored
//! bytes meet.
//!
//! # Keys
//! A KEK outside the store ([`crate::kek`]) wraps the store's root key and one random key per
//! organization. Each rotation gives the organization a new key (a *generation*), so that what was
//! sealed before cannot be opened with it. The root key gives the key of the index.
//!
//! # Layout
//! `m/root` names the store and holds its wrapped root key, `m/manifest` says what else there must be,
//! `m/shred` which KEKs are to be destroyed.
//! `o/<index>` is an organization's sealed
//! record, behind its sealed labels, and `k/<index>` its wrapped key, where *index* is an HMAC of the organization's id: a copy
//! of the store tells neither who the customers are nor what belongs to whom. `t/<index><resource>`
//! is an access token kept for the next start, `j/<index><id>` a job that runs. Formats: `vault/envelope.rs`, `vault/record.rs`, `vault/labels.rs`, `vault/job_grant.rs`,
//! `vault/kept_token/stored.rs`, [`crate::sealed`].
//!
//! # What it does not protect against
//! Whoever has the KEK and the store has everything. Secrets are in this process's memory while a
//! token is asked for. Old bytes stay in the store's files until it writes over them.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::{Mutex, RwLock, watch};

use crate::{
    credential::Credential,
    kek::{self, KekId, KeyProvider},
    organization::{Organization, OrganizationId, label_index::LabelIndex},
    sealed,
    secret::SymmetricKey,
    store::{self, Compare, Entry, Key, Revision, Store},
};

mod anchor;
pub mod backup;
mod change;
mod envelope;
mod job_grant;
mod kept_token;
mod labels;
mod manifest;
mod record;
pub mod rewrap;
mod root;
pub mod shred;

pub use anchor::{ANCHOR_BYTES_MAX, Accepted};
pub use change::{Changes, NewOrganization};
pub use kept_token::{KeptToken, Swept};
pub use record::RequestMark;

use backup::Watched;
use envelope::{Index, Parts, Place, WrappedKey};
use record::Record;
use root::Root;
use shred::Shredding;

/// Most organizations on a page.
pub const PAGE_MAX: usize = 500;
/// Prefixes of the store's keys.
const RECORDS: &[u8] = b"o/";
const KEYS: &[u8] = b"k/";
const TOKENS: &[u8] = b"t/";
/// Name of the records' kind in what they are bound to.
const ORGANIZATION: &[u8] = b"organization";
const UNREADABLE_MANIFEST: Error = Error::Corrupt("a manifest that does not open under its key");
/// How often a read is repeated when a write came between its two halves.
const TORN_READS_MAX: usize = 8;

/// Keeps the organizations in a store, sealed.
#[derive(Debug)]
pub struct Vault {
    store: Arc<dyn Store>,
    keys: Arc<dyn KeyProvider>,
    root: Root,
    /// Of the last change that is durable.
    epoch: watch::Sender<u64>,
    /// Held, by many at once, while something changes, from when the KEK is chosen; a backup and a
    /// re-wrapping hold changes up for a moment.
    changing: RwLock<()>,
    /// What changes while a backup is taken.
    watched: Watched,
    /// Held while keys are re-wrapped.
    rewrapping: Mutex<()>,
    shredding: Shredding,
    labels: Arc<LabelIndex>,
}

/// An organization with its credential, to get a token with.
#[derive(Debug)]
pub struct Application {
    /// The organization.
    pub organization: Organization,
    /// Its credential; `None` once revoked.
    pub credential: Option<Credential>,
}

/// Some organizations.
#[derive(Debug, Default)]
pub struct Page {
    /// Those of this page.
    pub organizations: Vec<Organization>,
    /// Where the next page begins; `None` if this was the last.
    pub next: Option<[u8; 32]>,
}

/// Why the vault did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No organization has this id.
    #[error("there is no such organization")]
    NotFound,
    /// The id is taken.
    #[error("an organization with this id is registered already")]
    AlreadyExists,
    /// The organization was revoked.
    #[error("the organization was revoked")]
    Revoked(SystemTime),
    /// The organization is suspended.
    #[error("the organization is suspended")]
    Suspended(SystemTime),
    /// The organization is not suspended.
    #[error("the organization is not suspended")]
    NotSuspended,
    /// The organization changed since the caller read it.
    #[error("the organization is at revision {current} by now")]
    RevisionConflict {
        /// The revision that it is at.
        current: u64,
    },
    /// The request id was used for a different request on this organization.
    #[error("the request id was used before for a different request")]
    RequestIdReused,
    /// What is stored is not what was written.
    #[error("the store is damaged: it holds {0}")]
    Corrupt(&'static str),
    /// The store is whole in each of its parts, and yet not what it was when it was last written to.
    #[error("the store is not as it was left: {0}; put a backup in its place")]
    Altered(String),
    /// The store may be an older copy of itself.
    #[error(
        "the store may be an older copy of itself: {0}; put the latest copy in its place, or, if this is the latest there is, run `kodo-broker store accept-rollback`"
    )]
    Older(String),
    /// Only one such thing can be done at a time.
    #[error("{0}; wait for its end")]
    Busy(&'static str),
    /// A backup cannot be read.
    #[error("the backup cannot be read: {0}")]
    Unreadable(String),
    /// What is stored was written by a newer broker.
    #[error("the store has format {0}, which is newer than this broker; update the broker")]
    Newer(u16),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The KEK is missing, wrong or failed.
    #[error(transparent)]
    Kek(kek::Error),
    /// The cryptographic library failed.
    #[error(transparent)]
    Crypto(#[from] sealed::CryptoFailed),
}

impl Vault {
    /// Opens the vault in a store; an empty store becomes a new vault.
    ///
    /// # Errors
    /// [`Error::Kek`] if the KEK is not the one of this store; [`Error::Altered`] if something is missing
    /// in it; [`Error::Corrupt`] or [`Error::Newer`] if the store is none of ours. Nothing is written
    /// then.
    pub async fn open(store: Arc<dyn Store>, keys: Arc<dyn KeyProvider>) -> Result<Self, Error> {
        let labels = Arc::default();
        let (root, epoch) = Root::open(&*store, &*keys, &labels).await?;
        Ok(Self {
            store,
            keys,
            root,
            epoch: watch::Sender::new(epoch),
            changing: RwLock::default(),
            watched: Watched::default(),
            rewrapping: Mutex::default(),
            shredding: Shredding::default(),
            labels,
        })
    }

    /// Which labels organizations have, as far as changes are durable.
    #[must_use]
    pub fn labels(&self) -> &Arc<LabelIndex> {
        &self.labels
    }

    /// An organization.
    ///
    /// # Errors
    /// Those of the store and of damaged records; `None` if there is no such organization.
    pub async fn organization(&self, id: &OrganizationId) -> Result<Option<Organization>, Error> {
        Ok(self
            .application(id)
            .await?
            .map(|application| application.organization))
    }

    /// An organization with its credential.
    ///
    /// # Errors
    /// As [`Self::organization`].
    pub async fn application(&self, id: &OrganizationId) -> Result<Option<Application>, Error> {
        let found = self.find(&self.root.index(id)).await?;
        Ok(found.map(|found| Application {
            organization: found.record.organization,
            credential: found.record.credential,
        }))
    }

    /// The organizations after a place, in the order of the index, up to `limit` (at most
    /// [`PAGE_MAX`]).
    ///
    /// # Errors
    /// Those of the store and of damaged records: a list with rows missing is no answer.
    pub async fn list(&self, after: Option<[u8; 32]>, limit: usize) -> Result<Page, Error> {
        let limit = limit.clamp(1, PAGE_MAX);
        let after = after.map(|index| Key::new(RECORDS, &index));
        let found = self.store.scan(RECORDS, after.as_ref(), limit).await?;
        let mut page = Page::default();
        for (key, _) in &found {
            let index = key.as_bytes()[RECORDS.len()..].try_into();
            let index = index.map_err(|_| Error::Corrupt("a record under no index"))?;
            // Read again with its key, in case both were written between the scan and now.
            if let Some(found) = self.find(&index).await? {
                page.organizations.push(found.record.organization);
            }
            page.next = (found.len() == limit).then_some(index);
        }
        Ok(page)
    }

    /// What a request is remembered by: its id, and a digest of its content under a key of the
    /// store, since the content holds secrets.
    #[must_use]
    pub fn mark(&self, request_id: &str, content: &[u8]) -> RequestMark {
        RequestMark {
            request_id: request_id.to_owned(),
            digest: self.root.digest(b"request", content).to_vec(),
        }
    }

    /// An id for an organization whose registrar gave none: the same for the same request.
    #[must_use]
    pub fn generated_id(&self, request_id: &str) -> OrganizationId {
        let digest = self.root.digest(b"organization id", request_id.as_bytes());
        let text = format!("org-{}", crate::hex::Hex(&digest[..10]));
        OrganizationId::parse(&text).expect("hex digits after a letter")
    }

    /// Reads, unwraps and opens.
    async fn find(&self, index: &Index) -> Result<Option<Found>, Error> {
        for _ in 0..TORN_READS_MAX {
            let Some(entry) = self.store.get(&Key::new(RECORDS, index)).await? else {
                return Ok(None);
            };
            let Parts {
                header,
                labels,
                sealed,
            } = envelope::parse(&entry.value)?;
            let row = self.store.get(&Key::new(KEYS, index)).await?;
            let row = row.ok_or(Error::Corrupt("a record without its key"))?;
            let wrapped = WrappedKey::decode(&row.value)?;
            if wrapped.generation != header.generation {
                // A rotation came between the two reads.
                continue;
            }
            let place = self.place(*index);
            let key = self.unwrap_key(index, &wrapped).await?;
            let opened = sealed::open(&key, &place.aad(&header, labels), sealed)
                .map_err(|_| Error::Corrupt("a record that does not open under its key"))?;
            let mut record = Record::decode(&opened, header.version)?;
            if !labels.is_empty() {
                (_, record.organization.labels) = self.root.labels.open(index, &header, labels)?;
            }
            if self.root.index(&record.organization.id) != *index {
                return Err(Error::Corrupt("a record of another organization"));
            }
            return Ok(Some(Found {
                record,
                entry,
                generation: header.generation,
                key,
                kek_id: wrapped.kek_id,
                key_revision: row.revision,
            }));
        }
        Err(Error::Corrupt(
            "a record whose key is of another generation",
        ))
    }

    /// An organization's key.
    async fn unwrap_key(&self, index: &Index, wrapped: &WrappedKey) -> Result<SymmetricKey, Error> {
        let aad = self
            .place(*index)
            .key_aad(wrapped.generation, &wrapped.kek_id);
        let key = self
            .keys
            .unwrap_dek(&wrapped.kek_id, &wrapped.wrapped, &aad);
        Ok(key.await?)
    }

    fn place(&self, index: Index) -> Place {
        Place {
            store: self.root.id,
            kind: ORGANIZATION,
            index,
        }
    }
}

impl From<kek::Error> for Error {
    fn from(error: kek::Error) -> Self {
        match error {
            // The KEK is the right one, so it is the store that is not.
            kek::Error::DoesNotOpen => {
                Self::Corrupt("a wrapped key that was changed, or moved from another record")
            }
            other => Self::Kek(other),
        }
    }
}

/// A record with what is needed to replace it.
struct Found {
    record: Record,
    entry: Entry,
    generation: u32,
    /// What it is sealed under.
    key: SymmetricKey,
    /// What that is wrapped under, by which commit.
    kek_id: KekId,
    key_revision: Revision,
}

impl Found {
    /// Holds until the record is written again.
    fn unchanged(&self, index: &Index) -> Compare {
        Compare::Unchanged(Key::new(RECORDS, index), self.entry.revision)
    }

    /// Holds until its key is wrapped anew.
    fn key_unchanged(&self, index: &Index) -> Compare {
        Compare::Unchanged(Key::new(KEYS, index), self.key_revision)
    }
}

/// Decodes bytes as everything that lies in a store. What decodes comes back the same.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_record(bytes: &[u8]) {
    let _ = envelope::parse(bytes);
    kept_token::fuzz(bytes);
    labels::fuzz(bytes);
    job_grant::fuzz(bytes);
    backup::fuzz(bytes);
    if let Ok(key) = WrappedKey::decode(bytes) {
        assert_eq!(key.encode(), bytes);
    }
    if let Ok(record) = Record::decode(bytes, 1) {
        let encoded = record.encode();
        let again = Record::decode(&encoded, 1).expect("what was encoded decodes");
        assert_eq!(again.encode(), encoded);
    }
}

#[cfg(test)]
mod tests;
