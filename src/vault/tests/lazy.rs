//! Nothing is opened that nobody asked for.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::{kek::KekId, organization::Resource, secret::AccessToken};

/// Counts the keys that are unwrapped: without its key, no record is opened.
#[derive(Debug)]
struct Counting {
    keys: Arc<FileKey>,
    unwrapped: AtomicUsize,
}

#[async_trait]
impl KeyProvider for Counting {
    fn current(&self) -> KekId {
        self.keys.current()
    }

    async fn wrap_dek(
        &self,
        kek_id: &KekId,
        dek: &SymmetricKey,
        aad: &[u8],
    ) -> Result<Vec<u8>, kek::Error> {
        self.keys.wrap_dek(kek_id, dek, aad).await
    }

    async fn unwrap_dek(
        &self,
        kek_id: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, kek::Error> {
        self.unwrapped.fetch_add(1, Ordering::Relaxed);
        self.keys.unwrap_dek(kek_id, wrapped, aad).await
    }
}

#[tokio::test]
async fn opening_a_vault_opens_its_root_and_asking_opens_what_was_asked_for() {
    let ids: Vec<_> = (0..50).map(|number| format!("o{number}")).collect();
    let fixture = Fixture::new().await;
    let token = KeptToken {
        access_token: AccessToken::new("a token".into()),
        audience_url: "https://graph.microsoft.com".into(),
        client_id: ClientId::parse(CLIENT).expect("a GUID"),
        credential_version: 1,
        issue_time: now(),
        refresh_time: now() + HOUR / 2,
        expire_time: now() + HOUR,
    };
    for id in &ids {
        fixture.register(id).await.expect("registers");
        let (vault, id) = (&fixture.vault, self::id(id));
        let kept = vault.keep_token(&id, &Resource::Graph, &token).await;
        kept.expect("keeps");
    }
    let keys = Arc::new(Counting {
        keys: kek(1),
        unwrapped: AtomicUsize::new(0),
    });
    let vault = Vault::open(fixture.store.clone(), keys.clone()).await;
    let vault = vault.expect("opens");
    let unwrapped = || keys.unwrapped.swap(0, Ordering::Relaxed);
    assert_eq!(unwrapped(), 1, "the root's");
    let found = vault.application(&id("o7")).await.expect("reads");
    assert!(found.is_some());
    assert_eq!(unwrapped(), 1);
    let kept = vault.kept_token(&id("o7"), &Resource::Graph, now()).await;
    assert!(kept.expect("reads").is_some());
    assert_eq!(unwrapped(), 1);
    // What is not there, or has ended, costs nothing.
    for (resource, now) in [(Resource::Exchange, now()), (Resource::Graph, now() + HOUR)] {
        let kept = vault.kept_token(&id("o7"), &resource, now).await;
        assert!(kept.expect("reads").is_none());
    }
    let swept = vault.sweep_tokens(now() + HOUR, None, 50).await;
    assert_eq!(swept.expect("sweeps").deleted, 50);
    assert_eq!(unwrapped(), 0);
}
