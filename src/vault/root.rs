//! The root of a store: its id, and the key that the index and the digests are made with.
//!
//! Layout of `m/root`: `"OBS1" | format (2) | store id (16) | wrapped root key`.

use std::fmt;

use aws_lc_rs::{hmac, rand};

use super::{
    Error,
    envelope::{FORMAT, Index, Place, StoreId, WrappedKey, check_format},
};
use crate::{
    kek::KeyProvider,
    organization::OrganizationId,
    sealed::{self, CryptoFailed},
    secret::SymmetricKey,
    store::{Compare, Key, Store, Transaction, Write},
};

const MAGIC: [u8; 4] = *b"OBS1";
const KIND: &[u8] = b"root";

/// An opened root.
pub(super) struct Root {
    pub(super) id: StoreId,
    /// HMACs organization ids and requests.
    index_key: hmac::Key,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root")
    }
}

impl Root {
    /// Opens the root of a store, or makes it if the store is empty.
    pub(super) async fn open(store: &dyn Store, keys: &dyn KeyProvider) -> Result<Self, Error> {
        let at = Key::new(b"m/", KIND);
        let (id, root_key) = match store.get(&at).await? {
            Some(entry) => unwrap(&entry.value, keys).await?,
            None if store.scan(b"", None, 1).await?.is_empty() => make(store, keys, at).await?,
            None => {
                return Err(Error::Corrupt(
                    "records, but not the root that their keys come from",
                ));
            }
        };
        let key = sealed::derive_key(&root_key, b"index").ok_or(CryptoFailed)?;
        Ok(Self {
            id,
            // Exposed: an HMAC key is made from the key's bytes.
            index_key: hmac::Key::new(hmac::HMAC_SHA256, key.expose()),
        })
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

async fn unwrap(value: &[u8], keys: &dyn KeyProvider) -> Result<(StoreId, SymmetricKey), Error> {
    let corrupt = || Error::Corrupt("a root that is cut off");
    let (magic, rest) = value.split_first_chunk::<4>().ok_or_else(corrupt)?;
    let (format, rest) = rest.split_first_chunk::<2>().ok_or_else(corrupt)?;
    let (id, wrapped) = rest.split_first_chunk::<16>().ok_or_else(corrupt)?;
    if *magic != MAGIC {
        return Err(Error::Corrupt("something that is no store of the broker"));
    }
    check_format(u16::from_be_bytes(*format))?;
    let wrapped = WrappedKey::decode(wrapped)?;
    let aad = place(*id).key_aad(wrapped.generation, &wrapped.kek_id);
    let key = keys
        .unwrap_dek(&wrapped.kek_id, &wrapped.wrapped, &aad)
        .await?;
    Ok((*id, key))
}

async fn make(
    store: &dyn Store,
    keys: &dyn KeyProvider,
    at: Key,
) -> Result<(StoreId, SymmetricKey), Error> {
    let mut id = StoreId::default();
    rand::fill(&mut id).map_err(|_| CryptoFailed)?;
    let key = sealed::random_key().ok_or(CryptoFailed)?;
    let kek_id = keys.current();
    let aad = place(id).key_aad(1, &kek_id);
    let wrapped = keys.wrap_dek(&kek_id, &key, &aad).await?;
    let wrapped = WrappedKey {
        kek_id,
        generation: 1,
        wrapped,
    };
    let value = [
        MAGIC.as_slice(),
        &FORMAT.to_be_bytes(),
        &id,
        &wrapped.encode(),
    ]
    .concat();
    let transaction = Transaction {
        compares: vec![Compare::Absent(at.clone())],
        writes: vec![Write::Put(at, value)],
    };
    store.commit(transaction).await?;
    Ok((id, key))
}

fn place(store: StoreId) -> Place {
    Place {
        store,
        kind: KIND,
        index: Index::default(),
    }
}
