//! Two providers, while a store moves from one to the other.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Error, KekId, KeyProvider};
use crate::secret::SymmetricKey;

/// A provider that wraps, and another one that only opens.
#[derive(Debug)]
pub(super) struct Both {
    current: Arc<dyn KeyProvider>,
    other: Arc<dyn KeyProvider>,
}

impl Both {
    /// What is new is wrapped by `current`.
    pub(super) fn new(current: Arc<dyn KeyProvider>, other: Arc<dyn KeyProvider>) -> Self {
        Self { current, other }
    }
}

#[async_trait]
impl KeyProvider for Both {
    fn current(&self) -> KekId {
        self.current.current()
    }

    fn opens(&self, kek_id: &KekId) -> bool {
        self.current.opens(kek_id) || self.other.opens(kek_id)
    }

    async fn wrap_dek(
        &self,
        kek_id: &KekId,
        dek: &SymmetricKey,
        aad: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.current.wrap_dek(kek_id, dek, aad).await
    }

    async fn unwrap_dek(
        &self,
        kek_id: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, Error> {
        // Each knows by an id's look whether it may be one of its own, and asks nobody if not.
        match self.current.unwrap_dek(kek_id, wrapped, aad).await {
            Err(Error::UnknownKek(_)) => self.other.unwrap_dek(kek_id, wrapped, aad).await,
            outcome => outcome,
        }
    }

    async fn follow(&self) {
        tokio::join!(self.current.follow(), self.other.follow());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kek::local::FileKey;

    fn key(byte: u8) -> Arc<FileKey> {
        let key = SymmetricKey::new(vec![byte; 32]).expect("32 bytes");
        Arc::new(FileKey::new(key))
    }

    #[tokio::test]
    async fn one_wraps_and_both_open() {
        let (old, new) = (key(1), key(2));
        let both = Both::new(new.clone(), old.clone());
        assert_eq!(both.current(), new.current());
        let dek = SymmetricKey::new(vec![9; 32]).expect("32 bytes");
        for provider in [&old, &new] {
            let id = provider.current();
            let wrapped = provider.wrap_dek(&id, &dek, b"place").await.expect("wraps");
            assert!(both.opens(&id));
            let opened = both.unwrap_dek(&id, &wrapped, b"place").await;
            assert_eq!(opened.expect("opens").expose(), dek.expose());
            let moved = both.unwrap_dek(&id, &wrapped, b"elsewhere").await;
            assert!(matches!(moved, Err(Error::DoesNotOpen)));
        }
        let refused = both.wrap_dek(&old.current(), &dek, b"place").await;
        assert!(matches!(refused, Err(Error::UnknownKek(_))));
        let unknown = key(3).current();
        assert!(!both.opens(&unknown));
        let refused = both.unwrap_dek(&unknown, b"", b"place").await;
        assert!(matches!(refused, Err(Error::UnknownKek(id)) if id == unknown));
    }
}
