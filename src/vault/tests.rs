use std::time::Duration;

use tokio::task::JoinSet;

use super::*;
use crate::{
    credential::Certificate,
    kek::local::FileKey,
    organization::{ClientId, Cloud, State, TenantId},
    secret::{ClientSecret, PrivateKey, SymmetricKey},
    store::{SCAN_MAX, Transaction, Write, memory::MemoryStore},
};

mod damage;
mod golden;
mod lazy;
mod secrecy;

pub(super) use secrecy::holds;

const SECRET: &str = "canary~secret.5fK8Q";
pub(super) const TENANT: &str = "8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a";
const CLIENT: &str = "0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9";

/// A vault with the store below it.
pub(super) struct Fixture {
    pub(super) store: Arc<MemoryStore>,
    pub(super) vault: Vault,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        let vault = reopen(&store, 1).await.expect("a new vault");
        Self { store, vault }
    }

    /// With organizations of these ids.
    pub(super) async fn with(ids: &[&str]) -> Self {
        let fixture = Self::new().await;
        for id in ids {
            fixture.register(id).await.expect("registers");
        }
        fixture
    }

    pub(super) async fn register(&self, id: &str) -> Result<Organization, Error> {
        let credential = secret(SECRET);
        let organization = new(id).registered(&credential, now());
        let mark = self.vault.mark(&format!("register {id}"), b"content");
        self.vault.register(organization, credential, mark).await
    }

    pub(super) async fn rotate(&self, id: &str, revision: u64) -> Result<Organization, Error> {
        let mark = self.vault.mark(&format!("rotate {revision}"), b"content");
        let credential = secret(&format!("{SECRET} {revision}"));
        self.vault
            .rotate(&self::id(id), revision, credential, mark, now())
            .await
    }

    pub(super) async fn revoke(&self, id: &str, revision: u64) -> Result<Organization, Error> {
        let mark = self.vault.mark("revoke", b"content");
        self.vault
            .revoke(&self::id(id), revision, mark, now() + HOUR)
            .await
    }

    async fn application(&self, id: &str) -> Result<Option<Application>, Error> {
        self.vault.application(&self::id(id)).await
    }

    /// The secret that a token would be asked for with.
    pub(super) async fn secret(&self, id: &str) -> Option<String> {
        let application = self.application(id).await.expect("reads")?;
        match application.credential? {
            // Exposed: it is compared.
            Credential::ClientSecret { value, .. } => Some(value.expose().to_owned()),
            Credential::Certificate(certificate) => Some(certificate.key.expose().to_owned()),
        }
    }
}

pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123)
}

pub(super) fn id(text: &str) -> OrganizationId {
    OrganizationId::parse(text).expect("an id")
}

pub(super) fn kek(byte: u8) -> Arc<FileKey> {
    Arc::new(FileKey::new(
        SymmetricKey::new(vec![byte; 32]).expect("32 bytes"),
    ))
}

pub(super) async fn reopen(store: &Arc<MemoryStore>, kek_byte: u8) -> Result<Vault, Error> {
    Vault::open(store.clone(), kek(kek_byte)).await
}

fn secret(value: &str) -> Credential {
    Credential::ClientSecret {
        value: ClientSecret::new(value.to_owned()),
        expires: None,
    }
}

fn new(id: &str) -> NewOrganization {
    NewOrganization {
        id: self::id(id),
        display_name: format!("Canary Name of {id}"),
        tenant_id: TenantId::parse(TENANT).expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse(CLIENT).expect("a GUID"),
        sharepoint_root_host: None,
        sharepoint_hosts: vec![],
        labels: Default::default(),
    }
}

pub(super) async fn entries(store: &MemoryStore) -> Vec<(Key, Vec<u8>)> {
    let entries = store.scan(b"", None, SCAN_MAX).await.expect("scans");
    entries.into_iter().map(|(k, e)| (k, e.value)).collect()
}

pub(super) async fn put(store: &MemoryStore, key: &Key, value: &[u8]) {
    let transaction = Transaction {
        compares: vec![],
        writes: vec![Write::Put(key.clone(), value.to_vec())],
    };
    store.commit(transaction).await.expect("writes");
}

#[tokio::test]
async fn a_registered_organization_is_found_as_it_was_given() {
    let fixture = Fixture::new().await;
    let registered = fixture.register("contoso").await.expect("registers");
    assert_eq!(
        (registered.revision, &registered.state),
        (1, &State::Active)
    );
    let found = fixture.application("contoso").await.expect("reads");
    let found = found.expect("is there").organization;
    assert_eq!(format!("{found:?}"), format!("{registered:?}"));
    assert_eq!(fixture.secret("contoso").await.as_deref(), Some(SECRET));
    assert!(
        fixture
            .application("fabrikam")
            .await
            .expect("reads")
            .is_none()
    );
}

#[tokio::test]
async fn an_id_is_taken_for_good() {
    let fixture = Fixture::with(&["contoso"]).await;
    let again = fixture.register("contoso").await;
    assert!(matches!(again, Err(Error::AlreadyExists)));
    fixture.revoke("contoso", 1).await.expect("revokes");
    let again = fixture.register("contoso").await;
    assert!(matches!(again, Err(Error::AlreadyExists)));
}

#[tokio::test]
async fn a_rotation_replaces_the_credential_and_counts_up() {
    let fixture = Fixture::with(&["contoso"]).await;
    let certificate = Credential::Certificate(Certificate {
        key: PrivateKey::new("a key".into()),
        der: vec![1, 2, 3],
        expires: now() + HOUR,
        key_bits: 2048,
    });
    let mark = fixture.vault.mark("rotate", b"");
    let rotated = fixture
        .vault
        .rotate(&id("contoso"), 1, certificate, mark, now() + HOUR)
        .await
        .expect("rotates");
    assert_eq!(rotated.revision, 2);
    assert_eq!(rotated.credential.map(|info| info.version), Some(2));
    assert_eq!(
        (rotated.create_time, rotated.update_time),
        (now(), now() + HOUR)
    );
    assert_eq!(fixture.secret("contoso").await.as_deref(), Some("a key"));
    let rotated = fixture.rotate("contoso", 2).await.expect("rotates");
    assert_eq!(rotated.credential.map(|info| info.version), Some(3));
}

#[tokio::test]
async fn a_revoked_organization_keeps_no_secret_and_changes_no_more() {
    let fixture = Fixture::with(&["contoso"]).await;
    let revoked = fixture.revoke("contoso", 1).await.expect("revokes");
    let at = now() + HOUR;
    assert_eq!((revoked.revision, revoked.state), (2, State::Revoked(at)));
    let application = fixture.application("contoso").await.expect("reads");
    let application = application.expect("is there");
    assert!(application.credential.is_none());
    assert_eq!(application.organization.credential, None);
    for outcome in [
        fixture.rotate("contoso", 2).await,
        fixture.revoke("contoso", 2).await,
    ] {
        assert!(matches!(outcome, Err(Error::Revoked(when)) if when == at));
    }
}

#[tokio::test]
async fn a_change_of_another_revision_is_refused_and_changes_nothing() {
    let fixture = Fixture::with(&["contoso"]).await;
    fixture.rotate("contoso", 1).await.expect("rotates");
    let before = entries(&fixture.store).await;
    for stale in [0, 1, 3, u64::MAX] {
        for outcome in [
            fixture.rotate("contoso", stale).await,
            fixture.revoke("contoso", stale).await,
        ] {
            assert!(matches!(
                outcome,
                Err(Error::RevisionConflict { current: 2 })
            ));
        }
    }
    let unknown = fixture.rotate("fabrikam", 1).await;
    assert!(matches!(unknown, Err(Error::NotFound)));
    assert_eq!(entries(&fixture.store).await, before);
}

#[tokio::test]
async fn a_repeated_request_is_answered_with_the_organization() {
    let fixture = Fixture::with(&["contoso"]).await;
    let replay = async |request: &str, content: &[u8]| {
        let mark = fixture.vault.mark(request, content);
        fixture.vault.replay(&id("contoso"), &mark).await
    };
    let known = replay("register contoso", b"content").await.expect("reads");
    assert_eq!(known.map(|organization| organization.revision), Some(1));
    let new = replay("another request", b"content").await.expect("reads");
    assert!(new.is_none());
    let reused = replay("register contoso", b"other content").await;
    assert!(matches!(reused, Err(Error::RequestIdReused)));
    let mark = fixture.vault.mark("register contoso", b"content");
    let elsewhere = fixture.vault.replay(&id("fabrikam"), &mark).await;
    assert!(elsewhere.expect("reads").is_none());
}

#[tokio::test]
async fn the_latest_eight_requests_are_remembered() {
    let fixture = Fixture::with(&["contoso"]).await;
    for revision in 1..=10 {
        fixture.rotate("contoso", revision).await.expect("rotates");
    }
    for revision in 1..=10 {
        let mark = fixture
            .vault
            .mark(&format!("rotate {revision}"), b"content");
        let replayed = fixture.vault.replay(&id("contoso"), &mark).await;
        let remembered = replayed.expect("reads").is_some();
        assert_eq!(remembered, revision > 2, "rotation of revision {revision}");
    }
}

#[tokio::test]
async fn a_list_has_every_organization_once_in_pages() {
    let ids = ["a", "b", "c", "d", "e", "f", "g"];
    let fixture = Fixture::with(&ids).await;
    fixture.revoke("c", 1).await.expect("revokes");
    for limit in [1, 2, 3, 7, 8, 10_000] {
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let page = fixture.vault.list(after, limit).await.expect("lists");
            assert!(page.organizations.len() <= limit);
            listed.extend(page.organizations.into_iter().map(|o| o.id.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        listed.sort();
        assert_eq!(listed, ids, "in pages of {limit}");
    }
    // At least one row: a limit of none would never end.
    let page = fixture.vault.list(None, 0).await.expect("lists");
    assert_eq!(page.organizations.len(), 1);
}

#[tokio::test]
async fn a_vault_opened_again_finds_everything() {
    let fixture = Fixture::with(&["contoso", "fabrikam"]).await;
    fixture.rotate("contoso", 1).await.expect("rotates");
    fixture.revoke("fabrikam", 1).await.expect("revokes");
    let generated = fixture.vault.generated_id("request");
    let before = entries(&fixture.store).await;
    let fixture = Fixture {
        vault: reopen(&fixture.store, 1).await.expect("opens"),
        store: fixture.store,
    };
    assert_eq!(entries(&fixture.store).await, before, "opening only reads");
    assert_eq!(fixture.secret("contoso").await, Some(format!("{SECRET} 1")));
    assert_eq!(fixture.secret("fabrikam").await, None);
    assert_eq!(fixture.vault.generated_id("request"), generated);
    let mark = fixture.vault.mark("rotate 1", b"content");
    let replayed = fixture.vault.replay(&id("contoso"), &mark).await;
    assert!(replayed.expect("reads").is_some());
    let page = fixture.vault.list(None, PAGE_MAX).await.expect("lists");
    assert_eq!(page.organizations.len(), 2);
}

#[tokio::test]
async fn a_generated_id_is_stable_and_of_its_request_and_store() {
    let (one, other) = (Fixture::new().await, Fixture::new().await);
    let first = one.vault.generated_id("request 1");
    assert_eq!(first, one.vault.generated_id("request 1"));
    assert_ne!(first, one.vault.generated_id("request 2"));
    assert_ne!(first, other.vault.generated_id("request 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_rotations_of_one_revision_exactly_one_wins() {
    let fixture = Arc::new(Fixture::with(&["contoso"]).await);
    for revision in 1..=20 {
        let mut rotations = JoinSet::new();
        for _ in 0..8 {
            let fixture = fixture.clone();
            rotations.spawn(async move { fixture.rotate("contoso", revision).await });
        }
        let outcomes = rotations.join_all().await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(won, 1);
        for outcome in outcomes {
            match outcome {
                Ok(organization) => assert_eq!(organization.revision, revision + 1),
                Err(Error::RevisionConflict { current }) => assert_eq!(current, revision + 1),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_registrations_of_one_id_exactly_one_wins() {
    let fixture = Arc::new(Fixture::new().await);
    let mut registrations = JoinSet::new();
    for _ in 0..16 {
        let fixture = fixture.clone();
        registrations.spawn(async move { fixture.register("contoso").await });
    }
    let outcomes = registrations.join_all().await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
    let taken = |o: &&Result<_, _>| matches!(o, Err(Error::AlreadyExists));
    assert_eq!(outcomes.iter().filter(taken).count(), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_never_sees_half_of_a_rotation() {
    let fixture = Arc::new(Fixture::with(&["contoso"]).await);
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let fixture = fixture.clone();
        readers.spawn(async move {
            let mut last = 0;
            while last < 200 {
                let found = fixture.application("contoso").await.expect("reads");
                let found = found.expect("is there").organization;
                assert!(found.revision >= last, "never back");
                assert_eq!(found.credential.map(|c| c.version), Some(found.revision));
                last = found.revision;
            }
        });
    }
    for revision in 1..200 {
        fixture.rotate("contoso", revision).await.expect("rotates");
    }
    readers.join_all().await;
}
