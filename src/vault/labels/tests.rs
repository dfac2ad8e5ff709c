use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::*;
use crate::{
    organization::label::Labelled as _,
    store::{self, Entry, Key, Revision, Store, Transaction, memory::MemoryStore},
    vault::{
        Changes, Organization, RECORDS, RequestMark, Vault,
        tests::{Fixture, entries, holds, id, kek, now, put, reopen},
    },
};

fn labels(texts: &[&str]) -> Labels {
    let labels = texts
        .iter()
        .map(|text| Label::parse(text).expect("a label"));
    Labels::new(labels).expect("few")
}

fn has(vault: &Vault, organization: &str, label: &str) -> bool {
    let label = Label::parse(label).expect("a label");
    vault.labels().has(&id(organization), &label)
}

async fn label(vault: &Vault, organization: &str, to: &[&str]) -> Result<Organization, Error> {
    let id = id(organization);
    let found = vault.organization(&id).await?.expect("is registered");
    let changes = Changes {
        labels: Some(labels(to)),
        ..Changes::default()
    };
    let mark: RequestMark = vault.mark(&format!("label {}", found.revision), b"content");
    vault
        .update(&id, found.revision, changes, mark, now())
        .await
}

async fn labels_of(vault: &Vault, organization: &str) -> Labels {
    let found = vault.organization(&id(organization)).await.expect("reads");
    found.expect("is registered").labels
}

#[tokio::test]
async fn labels_are_known_at_once_and_after_a_restart() {
    let fixture = Fixture::with(&["contoso", "fabrikam"]).await;
    let vault = &fixture.vault;
    assert!(vault.labels().is_empty());
    let changed = label(vault, "contoso", &["msp=nw", "tier=1"])
        .await
        .expect("changes");
    assert_eq!(
        (changed.revision, &changed.labels),
        (2, &labels(&["msp=nw", "tier=1"]))
    );
    assert!(has(vault, "contoso", "msp=nw") && !has(vault, "fabrikam", "msp=nw"));
    // A rotation and a revocation keep them.
    fixture.rotate("contoso", 2).await.expect("rotates");
    label(vault, "fabrikam", &["msp=fb"])
        .await
        .expect("changes");
    fixture.revoke("fabrikam", 2).await.expect("revokes");
    label(vault, "contoso", &["msp=nw"]).await.expect("changes");
    let again = reopen(&fixture.store, 1).await.expect("opens");
    for vault in [vault, &again] {
        assert!(has(vault, "contoso", "msp=nw") && has(vault, "fabrikam", "msp=fb"));
        assert!(!has(vault, "contoso", "tier=1"));
        assert_eq!(vault.labels().len(), 2);
        assert_eq!(labels_of(vault, "contoso").await, labels(&["msp=nw"]));
        assert_eq!(labels_of(vault, "fabrikam").await, labels(&["msp=fb"]));
    }
    label(&again, "contoso", &[]).await.expect("changes");
    assert!(!has(&again, "contoso", "msp=nw"));
    let bare = reopen(&fixture.store, 1).await.expect("opens");
    assert_eq!(bare.labels().len(), 1);
}

#[tokio::test]
async fn a_change_of_another_revision_changes_no_label() {
    let fixture = Fixture::with(&["contoso"]).await;
    label(&fixture.vault, "contoso", &["msp=nw"])
        .await
        .expect("changes");
    let changes = Changes {
        labels: Some(labels(&["msp=fb"])),
        ..Changes::default()
    };
    let mark = fixture.vault.mark("late", b"content");
    let late = fixture
        .vault
        .update(&id("contoso"), 1, changes, mark, now())
        .await;
    let refused = late.expect_err("is late");
    assert!(
        matches!(refused, Error::RevisionConflict { current: 2 }),
        "{refused:?}"
    );
    assert!(has(&fixture.vault, "contoso", "msp=nw") && !has(&fixture.vault, "contoso", "msp=fb"));
}

#[tokio::test]
async fn what_is_stored_shows_no_label() {
    let fixture = Fixture::with(&["contoso"]).await;
    label(&fixture.vault, "contoso", &["canary-key=Canary-Value"])
        .await
        .expect("changes");
    for (key, value) in entries(&fixture.store).await {
        for canary in [&b"canary-key"[..], b"Canary-Value", b"contoso"] {
            assert!(!holds(key.as_bytes(), canary) && !holds(&value, canary));
        }
    }
}

/// Both of one length and at the same revision, so that nothing but the index tells them apart.
#[tokio::test]
async fn labels_of_another_organization_or_revision_do_not_open() {
    let fixture = Fixture::with(&["contoso", "litware"]).await;
    let record = async |organization: &str| {
        let at = Key::new(RECORDS, &fixture.vault.root.index(&id(organization)));
        let entry = fixture.store.get(&at).await.expect("reads");
        (at, entry.expect("is there").value)
    };
    label(&fixture.vault, "contoso", &["a=1"])
        .await
        .expect("changes");
    label(&fixture.vault, "litware", &["a=2"])
        .await
        .expect("changes");
    let (at, contoso) = record("contoso").await;
    let (_, litware) = record("litware").await;
    label(&fixture.vault, "contoso", &["a=3"])
        .await
        .expect("changes");
    let (_, later) = record("contoso").await;
    assert_eq!(contoso.len(), litware.len());
    let boxed = 28..30 + usize::from(u16::from_be_bytes([contoso[28], contoso[29]]));
    for foreign in [&litware, &contoso] {
        let mut mixed = later.clone();
        mixed[boxed.clone()].copy_from_slice(&foreign[boxed.clone()]);
        put(&fixture.store, &at, &mixed).await;
        let found = fixture.vault.organization(&id("contoso")).await;
        assert!(matches!(found, Err(Error::Corrupt(_))), "{found:?}");
        // The manifest knows, too, and so a broker does not start with it.
        reopen(&fixture.store, 1)
            .await
            .expect_err("is not what was written");
    }
    put(&fixture.store, &at, &later).await;
    reopen(&fixture.store, 1).await.expect("is whole again");
}

/// A store that does what it is asked, and then cannot tell, once `failing` is set.
#[derive(Debug, Default)]
struct Uncertain {
    store: MemoryStore,
    failing: AtomicBool,
}

#[async_trait]
impl Store for Uncertain {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, store::Error> {
        self.store.get(key).await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, store::Error> {
        self.store.scan(prefix, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, store::Error> {
        let done = self.store.commit(transaction).await;
        if self.failing.load(Ordering::Relaxed) {
            return Err(store::Error::Failed("the disk is gone".into()));
        }
        done
    }
}

#[tokio::test]
async fn while_nobody_knows_whether_labels_changed_only_those_count_that_stay_either_way() {
    let store = std::sync::Arc::new(Uncertain::default());
    let vault = Vault::open(store.clone(), kek(1))
        .await
        .expect("a new vault");
    let fixture = Fixture {
        store: std::sync::Arc::default(),
        vault,
    };
    fixture.register("contoso").await.expect("registers");
    label(&fixture.vault, "contoso", &["a=1", "b=1"])
        .await
        .expect("changes");
    store.failing.store(true, Ordering::Relaxed);
    let failed = label(&fixture.vault, "contoso", &["b=1", "c=1"]).await;
    assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
    let has = |label: &str| has(&fixture.vault, "contoso", label);
    assert!(has("b=1") && !has("a=1") && !has("c=1"));
}
