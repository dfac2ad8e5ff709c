//! A KEK in this process.

use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};

use super::{Error, KekId, KeyProvider};
use crate::{hex::Hex, sealed, secret::SymmetricKey};

/// One key, as [`super::file`] reads them.
#[derive(Debug)]
pub struct FileKey {
    id: KekId,
    key: SymmetricKey,
}

impl FileKey {
    /// Wraps with this key.
    #[must_use]
    pub fn new(key: SymmetricKey) -> Self {
        // Exposed: the id is a digest of the key, which tells nothing of 32 random bytes.
        let mut fingerprint = Context::new(&SHA256);
        fingerprint.update(b"kodo-broker kek id\0");
        fingerprint.update(key.expose());
        let fingerprint = fingerprint.finish();
        let id = format!("file-{}", Hex(&fingerprint.as_ref()[..8]));
        Self {
            id: KekId::parse(&id).expect("21 printable characters"),
            key,
        }
    }
}

#[async_trait]
impl KeyProvider for FileKey {
    fn current(&self) -> KekId {
        self.id.clone()
    }

    async fn wrap_dek(
        &self,
        kek_id: &KekId,
        dek: &SymmetricKey,
        aad: &[u8],
    ) -> Result<Vec<u8>, Error> {
        if *kek_id != self.id {
            return Err(Error::UnknownKek(kek_id.clone()));
        }
        // Exposed: what is wrapped are the key's bytes.
        sealed::seal(&self.key, aad, dek.expose()).map_err(|_| Error::CryptoFailed)
    }

    async fn unwrap_dek(
        &self,
        kek_id: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, Error> {
        if *kek_id != self.id {
            return Err(Error::UnknownKek(kek_id.clone()));
        }
        let bytes = sealed::open(&self.key, aad, wrapped).map_err(|_| Error::DoesNotOpen)?;
        SymmetricKey::new(bytes.to_vec()).ok_or(Error::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrapped_key_opens_only_under_its_kek_and_place() {
        let provider = FileKey::new(SymmetricKey::new(vec![1; 32]).expect("32 bytes"));
        let other = FileKey::new(SymmetricKey::new(vec![2; 32]).expect("32 bytes"));
        let dek = SymmetricKey::new(vec![9; 32]).expect("32 bytes");
        let id = provider.current();
        let wrapped = provider.wrap_dek(&id, &dek, b"place").await.expect("wraps");
        let opened = provider
            .unwrap_dek(&id, &wrapped, b"place")
            .await
            .expect("opens");
        assert_eq!(opened.expose(), dek.expose());
        let moved = provider.unwrap_dek(&id, &wrapped, b"elsewhere").await;
        assert!(matches!(moved, Err(Error::DoesNotOpen)));
        let foreign = other.unwrap_dek(&id, &wrapped, b"place").await;
        assert!(matches!(foreign, Err(Error::UnknownKek(named)) if named == id));
        let foreign = other.wrap_dek(&id, &dek, b"place").await;
        assert!(matches!(foreign, Err(Error::UnknownKek(named)) if named == id));
    }
}
