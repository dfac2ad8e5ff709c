//! What the store must hold: how often it was changed, how many records there are, and a sum of them
//! all. So a store with a record missing, or with one of yesterday, is not taken for whole.
//!
//! sled shows fewer rows after some damage, without an error, and whoever can write its files can put an
//! old row back: each row by itself is right then. The manifest is written in the transaction of each
//! change, and everything is compared with it when the store is opened.
//!
//! The sum is the XOR of a keyed digest of each record, so that a change costs two digests however many
//! records there are. XOR alone would let somebody who watches the store find records whose changes
//! cancel out: so the manifest is sealed, and nobody without the root key sees a sum.
//!
//! What is kept of tokens is not counted: losing it costs a request.
//!
//! Layout of `m/manifest`: `"OBM1" | format (2)` and then, sealed by [`crate::sealed`],
//! `epoch (8) | records (8) | sum (32)`.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::hmac;

use super::{
    Error, KEYS, RECORDS, UNREADABLE_MANIFEST,
    envelope::{self, FORMAT, Index, Parts, Reader, StoreId, WrappedKey},
};
use crate::{
    sealed::{self, CryptoFailed},
    secret::SymmetricKey,
    store::{Key, SCAN_MAX, Store, Update, Write},
};

const MAGIC: [u8; 4] = *b"OBM1";

/// Where the manifest is.
pub(super) fn place() -> Key {
    Key::new(b"m/", b"manifest")
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Changes since the store was made.
    pub(super) epoch: u64,
    /// Records there are, those of revoked organizations too.
    pub(super) records: u64,
    pub(super) sum: [u8; 32],
}

/// Keeps a store's manifest. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ledger(Arc<Keys>);

struct Keys {
    store: StoreId,
    sealing: SymmetricKey,
    /// Digests records.
    rows: hmac::Key,
}

/// A change to be counted, and the epoch that it makes once it is committed.
pub(super) struct Counted {
    pub(super) write: Write,
    epoch: Arc<AtomicU64>,
}

impl Counted {
    /// The epoch that the change has made. To be asked once it is durable.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

impl Ledger {
    /// The ledger of the store with this root key.
    pub(super) fn new(store: StoreId, root_key: &SymmetricKey) -> Result<Self, CryptoFailed> {
        let sealing = sealed::derive_key(root_key, b"manifest").ok_or(CryptoFailed)?;
        let rows = sealed::derive_key(root_key, b"manifest rows").ok_or(CryptoFailed)?;
        Ok(Self(Arc::new(Keys {
            store,
            sealing,
            // Exposed: an HMAC key is made from the key's bytes.
            rows: hmac::Key::new(hmac::HMAC_SHA256, rows.expose()),
        })))
    }

    /// Counts that a record takes the place of another one, or of none.
    pub(super) fn replaced(&self, index: &Index, old: Option<&[u8]>, new: &[u8]) -> Counted {
        let mut difference = self.digest(index, new);
        if let Some(old) = old {
            add(&mut difference, &self.digest(index, old));
        }
        let more = u64::from(old.is_none());
        self.count(move |manifest| {
            add(&mut manifest.sum, &difference);
            manifest.records += more;
            manifest.epoch += 1;
        })
    }

    /// Counts that the store is, from now on, newer than any epoch up to this one.
    pub(super) fn raised_above(&self, epoch: u64) -> Counted {
        self.count(move |manifest| manifest.epoch = manifest.epoch.max(epoch) + 1)
    }

    fn count(&self, change: impl Fn(&mut Manifest) + Send + Sync + 'static) -> Counted {
        let (ledger, epoch) = (self.clone(), Arc::new(AtomicU64::new(0)));
        let made = epoch.clone();
        let update = Update::new(move |current| {
            let mut manifest = ledger.open(current?).ok()?;
            change(&mut manifest);
            made.store(manifest.epoch, Ordering::Release);
            ledger.seal(&manifest).ok()
        });
        Counted {
            write: Write::Update(place(), update),
            epoch,
        }
    }

    /// The manifest as it lies in the store.
    pub(super) fn seal(&self, manifest: &Manifest) -> Result<Vec<u8>, CryptoFailed> {
        let text = [
            manifest.epoch.to_be_bytes().as_slice(),
            &manifest.records.to_be_bytes(),
            &manifest.sum,
        ]
        .concat();
        let sealed = sealed::seal(&self.0.sealing, &self.aad(), &text)?;
        Ok([MAGIC.as_slice(), &FORMAT.to_be_bytes(), &sealed].concat())
    }

    /// The manifest of these bytes.
    pub(super) fn open(&self, stored: &[u8]) -> Result<Manifest, Error> {
        let mut rest = Reader(stored);
        rest.magic(MAGIC)?;
        rest.format()?;
        let text =
            sealed::open(&self.0.sealing, &self.aad(), rest.0).map_err(|_| UNREADABLE_MANIFEST)?;
        let mut text = Reader(&text);
        Ok(Manifest {
            epoch: u64::from_be_bytes(text.array()?),
            records: u64::from_be_bytes(text.array()?),
            sum: text.array()?,
        })
    }

    /// The manifest of a store.
    pub(super) async fn read(&self, store: &dyn Store) -> Result<Manifest, Error> {
        let stored = store.get(&place()).await?;
        let stored = stored.ok_or_else(|| altered("its manifest is missing"))?;
        self.open(&stored.value)
    }

    /// Compares the store with its manifest: every record is there as it was last written, and its key
    /// with it. Decrypts none, and shows each record as it goes by.
    pub(super) async fn check(
        &self,
        store: &dyn Store,
        show: impl FnMut(&Index, Parts<'_>) -> Result<(), Error>,
    ) -> Result<Manifest, Error> {
        let manifest = self.read(store).await?;
        let found = self.take_stock(store, show).await?;
        if found.records != manifest.records {
            return Err(altered(format!(
                "{} organizations were stored, {} are there",
                manifest.records, found.records
            )));
        }
        if found.sum != manifest.sum {
            return Err(altered(
                "the record of an organization is not the one that was last written",
            ));
        }
        Ok(manifest)
    }

    /// Counts what is there, and shows each record. The epoch is left 0.
    pub(super) async fn take_stock(
        &self,
        store: &dyn Store,
        mut show: impl FnMut(&Index, Parts<'_>) -> Result<(), Error>,
    ) -> Result<Manifest, Error> {
        let mut found = Manifest::default();
        let mut after = [None, None];
        loop {
            let records = store.scan(RECORDS, after[0].as_ref(), SCAN_MAX).await?;
            let keys = store.scan(KEYS, after[1].as_ref(), SCAN_MAX).await?;
            if records.len() != keys.len() {
                return Err(altered("a record or its key is missing"));
            }
            for ((at, record), (key_at, key)) in records.iter().zip(&keys) {
                let index = index(at, RECORDS)?;
                if self::index(key_at, KEYS)? != index {
                    return Err(altered("a record or its key is missing"));
                }
                let parts = envelope::parse(&record.value)?;
                if WrappedKey::decode(&key.value)?.generation != parts.header.generation {
                    return Err(altered("a record and its key are not of one change"));
                }
                show(&index, parts)?;
                add(&mut found.sum, &self.digest(&index, &record.value));
                found.records += 1;
            }
            let (Some((record, _)), Some((key, _))) = (records.last(), keys.last()) else {
                return Ok(found);
            };
            after = [Some(record.clone()), Some(key.clone())];
        }
    }

    fn digest(&self, index: &Index, record: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0.rows);
        context.update(index);
        context.update(record);
        *context
            .sign()
            .as_ref()
            .first_chunk()
            .expect("HMAC-SHA-256 has 32 bytes")
    }

    fn aad(&self) -> Vec<u8> {
        [MAGIC.as_slice(), &self.0.store, &FORMAT.to_be_bytes()].concat()
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ledger")
    }
}

fn index(at: &Key, prefix: &[u8]) -> Result<Index, Error> {
    let index = at.as_bytes()[prefix.len()..].try_into();
    index.map_err(|_| Error::Corrupt("a record under no index"))
}

fn altered(how: impl Into<String>) -> Error {
    Error::Altered(how.into())
}

fn add(sum: &mut [u8; 32], digest: &[u8; 32]) {
    for (sum, digest) in sum.iter_mut().zip(digest) {
        *sum ^= digest;
    }
}

#[cfg(test)]
mod tests;
