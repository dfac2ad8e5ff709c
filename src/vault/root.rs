//! The root of a store: its id, and the key that the index and the digests are made with.
//!
//! Layout of `m/root`: `"OBS1" | format (2) | store id (16) | wrapped root key`. A store of format 1 has
//! no manifest; it gets one when it is opened. The generation of the wrapped root key is the format, so
//! that no store can be made to look like one of an older format.

use std::fmt;

use aws_lc_rs::{hmac, rand};

use super::{
    Error,
    envelope::{Index, Parts, Place, Reader, StoreId, WrappedKey, check_format},
    job_grant::JobSealing,
    labels::LabelSealing,
    manifest::{self, Ledger, Manifest},
    shred::Retirement,
};
use crate::{
    kek::{KekId, KeyProvider},
    organization::{OrganizationId, label_index::LabelIndex},
    sealed::{self, CryptoFailed},
    secret::SymmetricKey,
    store::{Compare, Key, Store, Transaction, Write},
};

const MAGIC: [u8; 4] = *b"OBS1";
const KIND: &[u8] = b"root";
/// The present format, and the one before.
const ROOT_FORMAT: u16 = 2;
const WITHOUT_MANIFEST: u16 = 1;
const MISSING: Error = Error::Corrupt("no root");

/// An opened root.
pub(super) struct Root {
    pub(super) id: StoreId,
    /// Keeps the manifest.
    pub(super) ledger: Ledger,
    /// Keeps the list of KEKs to destroy.
    pub(super) retirement: Retirement,
    /// Seals labels.
    pub(super) labels: LabelSealing,
    /// Seals job grants.
    pub(super) jobs: JobSealing,
    /// HMACs organization ids and requests.
    index_key: hmac::Key,
}

/// A root as it lies in the store.
struct Stored {
    format: u16,
    id: StoreId,
    key: SymmetricKey,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root")
    }
}

impl Root {
    /// Opens the root of a store, or makes it if the store is empty, and makes sure that the store holds
    /// what its manifest says. Takes down the labels that it comes across. Returns the epoch, too.
    pub(super) async fn open(
        store: &dyn Store,
        keys: &dyn KeyProvider,
        labels: &LabelIndex,
    ) -> Result<(Self, u64), Error> {
        let at = at();
        let Some(entry) = store.get(&at).await? else {
            if store.scan(b"", None, 1).await?.is_empty() {
                return make(store, keys, at).await;
            }
            return Err(Error::Corrupt(
                "records, but not the root that their keys come from",
            ));
        };
        let stored = unwrap(&entry.value, keys).await?;
        let root = Self::new(stored.id, &stored.key)?;
        if stored.format == WITHOUT_MANIFEST {
            let unchanged = Compare::Unchanged(at, entry.revision);
            let found = root.ledger.take_stock(store, |index, parts| {
                root.index_labels(index, parts, labels)
            });
            let found = found.await?;
            tracing::info!(organizations = found.records, "the store gets a manifest");
            return root.begin(store, keys, &stored.key, unchanged, found).await;
        }
        let manifest = root.ledger.check(store, |index, parts| {
            root.index_labels(index, parts, labels)
        });
        let epoch = manifest.await?.epoch;
        Ok((root, epoch))
    }

    fn index_labels(
        &self,
        index: &Index,
        parts: Parts<'_>,
        labels: &LabelIndex,
    ) -> Result<(), Error> {
        if parts.labels.is_empty() {
            return Ok(());
        }
        let (id, found) = self.labels.open(index, &parts.header, parts.labels)?;
        if self.index(&id) != *index {
            return Err(Error::Corrupt("labels of another organization"));
        }
        labels.set(&id, parts.header.version, &found);
        Ok(())
    }

    fn new(id: StoreId, root_key: &SymmetricKey) -> Result<Self, Error> {
        let key = sealed::derive_key(root_key, b"index").ok_or(CryptoFailed)?;
        Ok(Self {
            id,
            ledger: Ledger::new(id, root_key)?,
            retirement: Retirement::new(id, root_key)?,
            labels: LabelSealing::new(id, root_key)?,
            jobs: JobSealing::new(id, root_key)?,
            // Exposed: an HMAC key is made from the key's bytes.
            index_key: hmac::Key::new(hmac::HMAC_SHA256, key.expose()),
        })
    }

    /// Writes the root in the present format, and a first manifest.
    async fn begin(
        self,
        store: &dyn Store,
        keys: &dyn KeyProvider,
        root_key: &SymmetricKey,
        compare: Compare,
        found: Manifest,
    ) -> Result<(Self, u64), Error> {
        let kek_id = keys.current();
        let generation = ROOT_FORMAT.into();
        let aad = place(self.id).key_aad(generation, &kek_id);
        let wrapped = WrappedKey {
            wrapped: keys.wrap_dek(&kek_id, root_key, &aad).await?,
            kek_id,
            generation,
        };
        let root = [
            MAGIC.as_slice(),
            &ROOT_FORMAT.to_be_bytes(),
            &self.id,
            &wrapped.encode(),
        ]
        .concat();
        let manifest = Manifest { epoch: 1, ..found };
        let sealed = self.ledger.seal(&manifest)?;
        let transaction = Transaction {
            compares: vec![compare],
            writes: vec![
                Write::Put(at(), root),
                Write::Put(manifest::place(), sealed),
            ],
        };
        store.commit(transaction).await?;
        Ok((self, manifest.epoch))
    }

    /// What stands for an organization's id in the store.
    pub(super) fn index(&self, id: &OrganizationId) -> Index {
        self.digest(b"organization", id.as_str().as_bytes())
    }

    /// A keyed digest, apart from those of any other purpose.
    pub(super) fn digest(&self, purpose: &[u8], content: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.index_key);
        context.update(purpose);
        context.update(&[0]);
        context.update(content);
        *context
            .sign()
            .as_ref()
            .first_chunk()
            .expect("HMAC-SHA-256 has 32 bytes")
    }
}

/// Where the root is.
pub(super) fn at() -> Key {
    Key::new(b"m/", KIND)
}

/// The KEK that the root key is wrapped under.
pub(super) async fn kek_id(store: &dyn Store) -> Result<KekId, Error> {
    let entry = store.get(&at()).await?.ok_or(MISSING)?;
    Ok(parse(&entry.value)?.wrapped.kek_id)
}

/// Wraps the root key under a KEK, if it is not. Says whether it was not.
pub(super) async fn rewrap(
    store: &dyn Store,
    keys: &dyn KeyProvider,
    kek_id: &KekId,
) -> Result<bool, Error> {
    let entry = store.get(&at()).await?.ok_or(MISSING)?;
    let Parsed {
        head,
        id,
        wrapped: old,
        ..
    } = parse(&entry.value)?;
    if old.kek_id == *kek_id {
        return Ok(false);
    }
    let place = place(id);
    let aad = place.key_aad(old.generation, &old.kek_id);
    let key = keys.unwrap_dek(&old.kek_id, &old.wrapped, &aad).await?;
    let aad = place.key_aad(old.generation, kek_id);
    let new = WrappedKey {
        kek_id: kek_id.clone(),
        generation: old.generation,
        wrapped: keys.wrap_dek(kek_id, &key, &aad).await?,
    };
    let value = [head, &new.encode()].concat();
    let transaction = Transaction {
        compares: vec![Compare::Unchanged(at(), entry.revision)],
        writes: vec![Write::Put(at(), value)],
    };
    store.commit(transaction).await?;
    Ok(true)
}

/// The parts of a root as it lies in the store.
struct Parsed<'a> {
    /// All before the wrapped key.
    head: &'a [u8],
    format: u16,
    id: StoreId,
    wrapped: WrappedKey,
}

fn parse(value: &[u8]) -> Result<Parsed<'_>, Error> {
    let mut rest = Reader(value);
    if rest.array()? != MAGIC {
        return Err(Error::Corrupt("something that is no store of the broker"));
    }
    let format = u16::from_be_bytes(rest.array()?);
    if format != ROOT_FORMAT {
        check_format(format)?;
    }
    let id = rest.array()?;
    let wrapped = WrappedKey::decode(rest.0)?;
    if wrapped.generation != u32::from(format) {
        return Err(Error::Corrupt("a root whose key is of another format"));
    }
    Ok(Parsed {
        head: &value[..value.len() - rest.0.len()],
        format,
        id,
        wrapped,
    })
}

async fn unwrap(value: &[u8], keys: &dyn KeyProvider) -> Result<Stored, Error> {
    let Parsed {
        format,
        id,
        wrapped,
        ..
    } = parse(value)?;
    let aad = place(id).key_aad(wrapped.generation, &wrapped.kek_id);
    let key = keys
        .unwrap_dek(&wrapped.kek_id, &wrapped.wrapped, &aad)
        .await?;
    Ok(Stored { format, id, key })
}

async fn make(store: &dyn Store, keys: &dyn KeyProvider, at: Key) -> Result<(Root, u64), Error> {
    let mut id = StoreId::default();
    rand::fill(&mut id).map_err(|_| CryptoFailed)?;
    let key = sealed::random_key().ok_or(CryptoFailed)?;
    let root = Root::new(id, &key)?;
    root.begin(store, keys, &key, Compare::Absent(at), Manifest::default())
        .await
}

fn place(store: StoreId) -> Place {
    Place {
        store,
        kind: KIND,
        index: Index::default(),
    }
}
