use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use proptest::prelude::*;
use tokio::task::{JoinSet, yield_now};

use super::*;
use crate::{
    organization::State,
    store::{self, Entry, Revision, Store, Transaction, memory::MemoryStore},
    vault::{
        PAGE_MAX, Vault,
        tests::{Fixture, entries, kek, reopen},
    },
};

/// A store that lets others go first around everything it does.
#[derive(Debug)]
struct Yielding(Arc<MemoryStore>);

#[async_trait]
impl Store for Yielding {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, store::Error> {
        yield_now().await;
        let entry = self.0.get(key).await;
        yield_now().await;
        entry
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, store::Error> {
        yield_now().await;
        // In small pages, so that much comes in between.
        let page = self.0.scan(prefix, after, limit.min(20)).await;
        yield_now().await;
        page
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, store::Error> {
        yield_now().await;
        let committed = self.0.commit(transaction).await;
        yield_now().await;
        committed
    }
}

async fn take(vault: &Vault) -> Vec<u8> {
    let (mut backup, first) = Backup::begin(vault).await.expect("begins");
    let mut bytes = first.bytes;
    let mut done = first.done;
    while let Some(piece) = backup.next().await.expect("goes on") {
        assert!(piece.done >= done && piece.done <= piece.total);
        done = piece.done;
        bytes.extend(piece.bytes);
    }
    bytes
}

async fn put_back(mut backup: &[u8]) -> Result<Arc<MemoryStore>, Error> {
    let store = Arc::new(MemoryStore::default());
    restore(&mut backup, &*store, &*kek(1), |_| ()).await?;
    Ok(store)
}

async fn organizations(vault: &Vault) -> Vec<(String, u64, bool)> {
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let page = vault.list(next, PAGE_MAX).await.expect("lists");
        found.extend(page.organizations.into_iter().map(|organization| {
            let id = organization.id.as_str().to_owned();
            (
                id,
                organization.revision,
                organization.state == State::Active,
            )
        }));
        next = page.next;
        if next.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn what_is_put_back_is_what_there_was_but_for_kept_tokens() {
    for count in [0, 1, 3, 1500] {
        let ids: Vec<_> = (0..count)
            .map(|number| format!("organization-{number}"))
            .collect();
        let Fixture { store, vault } =
            Fixture::with(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let backup = take(&vault).await;
        let restored = put_back(&backup).await.expect("restores");
        assert_eq!(entries(&restored).await, entries(&store).await);
        let restored = reopen(&restored, 1).await.expect("is whole");
        assert_eq!(organizations(&restored).await, organizations(&vault).await);
        assert_eq!(restored.anchor(), vault.anchor());
    }
}

#[tokio::test]
async fn a_backup_tells_neither_names_nor_secrets_nor_places() {
    let Fixture { store, vault } = Fixture::with(&["contoso"]).await;
    let backup = take(&vault).await;
    assert!(!crate::vault::tests::holds(&backup, b"contoso"));
    for (key, value) in entries(&store).await {
        for text in [&key.as_bytes()[2..], &value] {
            assert!(!backup.windows(text.len()).any(|window| window == text));
        }
    }
}

#[tokio::test]
async fn a_backup_opens_with_its_kek_only() {
    let Fixture { vault, .. } = Fixture::with(&["contoso"]).await;
    let backup = take(&vault).await;
    let store = MemoryStore::default();
    let refused = restore(&mut &*backup, &store, &*kek(2), |_| ()).await;
    assert!(matches!(refused, Err(Error::Kek(_))), "{refused:?}");
    assert!(store.scan(b"", None, 1).await.expect("reads").is_empty());
}

#[tokio::test]
async fn no_changed_moved_missing_or_added_byte_goes_unnoticed() {
    let Fixture { vault, .. } = Fixture::with(&["contoso", "fabrikam"]).await;
    let right = take(&vault).await;
    put_back(&right).await.expect("restores");
    for bit in 0..right.len() * 8 {
        let mut changed = right.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        put_back(&changed).await.expect_err("was changed");
    }
    for length in 0..right.len() {
        put_back(&right[..length]).await.expect_err("is cut off");
    }
    put_back(&[&right[..], b"x"].concat())
        .await
        .expect_err("has more");
}

#[tokio::test]
async fn frames_cannot_be_left_out_or_exchanged() {
    let ids: Vec<_> = (0..1500)
        .map(|number| format!("organization-{number}"))
        .collect();
    let Fixture { vault, .. } =
        Fixture::with(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let backup = take(&vault).await;
    let head = 22 + 2 + usize::from(u16::from_be_bytes([backup[22], backup[23]]));
    let mut frames = Vec::new();
    let mut rest = &backup[head..];
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        frames.push(&rest[..4 + length]);
        rest = &after[length..];
    }
    assert!(frames.len() > 4, "{}", frames.len());
    for at in 0..frames.len() {
        let mut fewer = frames.clone();
        fewer.remove(at);
        let mut twice = frames.clone();
        twice.insert(at, frames[at]);
        let mut exchanged = frames.clone();
        exchanged.swap(at, (at + 1) % frames.len());
        for frames in [fewer, twice, exchanged] {
            let changed = [&backup[..head], &frames.concat()].concat();
            put_back(&changed).await.expect_err("was changed");
        }
    }
}

#[tokio::test]
async fn a_backup_is_of_one_moment_however_much_changes_meanwhile() {
    let names: Vec<_> = (0..40)
        .map(|number| format!("organization-{number}"))
        .collect();
    let mut fixture = Fixture::with(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let store = fixture.store.clone();
    fixture.vault.store = Arc::new(Yielding(store.clone()));
    let fixture = Arc::new(fixture);
    let done = Arc::new(AtomicBool::new(false));
    let mut changing = JoinSet::new();
    for name in names {
        let (fixture, done) = (fixture.clone(), done.clone());
        changing.spawn(async move {
            let mut revision = 1;
            while !done.load(Ordering::Relaxed) {
                fixture.rotate(&name, revision).await.expect("rotates");
                if revision % 100 == 0 {
                    let new = format!("{name}-{revision}");
                    fixture.register(&new).await.expect("registers");
                }
                revision += 1;
            }
        });
    }
    for _ in 0..5 {
        // Opening compares everything with the manifest.
        let restored = put_back(&take(&fixture.vault).await)
            .await
            .expect("restores");
        let restored = reopen(&restored, 1).await.expect("is of one moment");
        organizations(&restored).await;
    }
    done.store(true, Ordering::Relaxed);
    changing.join_all().await;
    let restored = put_back(&take(&fixture.vault).await)
        .await
        .expect("restores");
    assert_eq!(entries(&restored).await, entries(&store).await);
}

#[tokio::test]
async fn one_backup_is_taken_at_a_time_and_one_given_up_leaves_room() {
    let Fixture { vault, .. } = Fixture::with(&["contoso"]).await;
    let (first, _) = Backup::begin(&vault).await.expect("begins");
    let second = Backup::begin(&vault).await;
    assert!(matches!(second, Err(Error::Busy(_))), "{second:?}");
    drop(first);
    take(&vault).await;
}

/// Made by an independent implementation (`tests/real/custody.py`), and kept: a backup of format 1, of a
/// store of format 2.
#[tokio::test]
async fn a_backup_of_format_1_is_restored() {
    let backup = include_bytes!("golden-1.backup");
    let store = put_back(backup).await.expect("restores");
    let vault = reopen(&store, 1).await.expect("is whole");
    assert!(vault.anchor().contains(" change=9 "), "{}", vault.anchor());
    let fixture = Fixture { store, vault };
    let secret = fixture.secret("fabrikam").await;
    assert_eq!(secret.as_deref(), Some("golden~secret.value"));
    let mut expected = [
        ("fabrikam".to_owned(), 3, true),
        ("gone".to_owned(), 2, false),
    ];
    let mut found = organizations(&fixture.vault).await;
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    // A newer format is refused before anything is written.
    let mut newer = backup.to_vec();
    newer[4..6].copy_from_slice(&2_u16.to_be_bytes());
    let refused = put_back(&newer).await;
    assert!(matches!(refused, Err(Error::Newer(2))), "{refused:?}");
}

proptest! {
    #[test]
    fn rows_come_back(rows in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 1..64), prop::collection::vec(any::<u8>(), 0..300)), 0..20)
    ) {
        let rows: Vec<_> = rows.into_iter().map(|(key, value)| (Key::new(b"", &key), value)).collect();
        let content = Content::Rows(rows);
        prop_assert_eq!(Content::decode(&content.encode()).expect("decodes"), content);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>()) {
        if let Ok(content) = Content::decode(&bytes) {
            prop_assert_eq!(content.encode(), bytes);
        }
    }
}
