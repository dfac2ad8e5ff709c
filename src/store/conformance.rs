//! What every store must do, whatever it is made of.

use std::{collections::BTreeMap, path::Path};

use futures_util::future::join_all;
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use super::{
    Compare, Entry, Error, Key, Revision, Store, Transaction, Update, Write, sled::SledStore,
};

/// Checks a store that is empty.
pub(super) async fn check(store: &dyn Store) {
    compares_decide(store).await;
    a_transaction_applies_whole_or_not_at_all(store).await;
    scans_are_ordered_and_paged(store).await;
    limits_are_kept(store).await;
    updates_see_what_is_there(store).await;
    agrees_with_a_model(store).await;
}

/// Reopens a directory that was just closed: sled's threads may hold its lock a moment longer.
pub(super) async fn reopen(directory: &Path) -> SledStore {
    loop {
        match SledStore::open(directory).await {
            Err(Error::InUse(_)) => tokio::task::yield_now().await,
            other => return other.expect("opens"),
        }
    }
}

fn key(id: &str) -> Key {
    Key::new(b"t/", id.as_bytes())
}

async fn commit(
    store: &dyn Store,
    compares: Vec<Compare>,
    writes: Vec<Write>,
) -> Result<Revision, Error> {
    store.commit(Transaction { compares, writes }).await
}

async fn compares_decide(store: &dyn Store) {
    let put = |value: &[u8]| vec![Write::Put(key("a"), value.to_vec())];
    assert_eq!(store.get(&key("a")).await.expect("reads"), None);
    let first = commit(store, vec![Compare::Absent(key("a"))], put(b"1"))
        .await
        .expect("commits");
    let again = commit(store, vec![Compare::Absent(key("a"))], put(b"2")).await;
    assert!(matches!(again, Err(Error::Conflict)));
    let second = commit(store, vec![Compare::Unchanged(key("a"), first)], put(b"3")).await;
    let second = second.expect("commits");
    assert!(second > first);
    let stale = commit(store, vec![Compare::Unchanged(key("a"), first)], put(b"4")).await;
    assert!(matches!(stale, Err(Error::Conflict)));
    let entry = Entry {
        value: b"3".to_vec(),
        revision: second,
    };
    assert_eq!(store.get(&key("a")).await.expect("reads"), Some(entry));
    let unchanged = commit(store, vec![], vec![]).await.expect("waits");
    assert_eq!(unchanged, second);
}

async fn a_transaction_applies_whole_or_not_at_all(store: &dyn Store) {
    let writes = vec![Write::Put(key("b"), b"x".to_vec()), Write::Delete(key("a"))];
    let refused = commit(store, vec![Compare::Absent(key("a"))], writes.clone()).await;
    assert!(matches!(refused, Err(Error::Conflict)));
    assert!(store.get(&key("b")).await.expect("reads").is_none());
    commit(store, vec![], writes).await.expect("commits");
    assert!(store.get(&key("a")).await.expect("reads").is_none());
    assert!(store.get(&key("b")).await.expect("reads").is_some());
    commit(store, vec![], vec![Write::Delete(key("b"))])
        .await
        .expect("commits");
}

async fn scans_are_ordered_and_paged(store: &dyn Store) {
    let neighbours = [Key::new(b"s", b"~"), Key::new(b"u/", b"0")];
    let mut writes: Vec<_> = (0..25)
        .rev()
        .map(|n| Write::Put(key(&format!("{n:02}")), vec![n]))
        .collect();
    writes.extend(neighbours.iter().map(|key| Write::Put(key.clone(), vec![])));
    commit(store, vec![], writes).await.expect("commits");
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.scan(b"t/", after.as_ref(), 10).await.expect("scans");
        assert!(page.len() <= 10);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        seen.extend(page.into_iter().map(|(_, entry)| entry.value[0]));
    }
    assert_eq!(seen, (0..25).collect::<Vec<u8>>());
    let mut cleanup: Vec<_> = (0..25)
        .map(|n| Write::Delete(key(&format!("{n:02}"))))
        .collect();
    cleanup.extend(neighbours.into_iter().map(Write::Delete));
    commit(store, vec![], cleanup).await.expect("commits");
}

async fn limits_are_kept(store: &dyn Store) {
    let longest = Key::new(b"t/", &[0xff; super::KEY_BYTES_MAX - 2]);
    let put = Write::Put(longest.clone(), vec![0; super::VALUE_BYTES_MAX]);
    commit(store, vec![], vec![put]).await.expect("commits");
    let after = store.scan(b"t/", Some(&longest), 10).await.expect("scans");
    assert!(after.is_empty());
    commit(store, vec![], vec![Write::Delete(longest)])
        .await
        .expect("commits");
    let large = vec![0; super::VALUE_BYTES_MAX + 1];
    let refused = commit(store, vec![], vec![Write::Put(key("large"), large)]).await;
    assert!(matches!(refused, Err(Error::OutOfLimits)));
    let many = vec![Write::Delete(key("large")); super::WRITES_MAX + 1];
    let refused = commit(store, vec![], many).await;
    assert!(matches!(refused, Err(Error::OutOfLimits)));
    let put = Write::Put(key("large"), vec![0; super::TRANSACTION_BYTES_MAX / 4 + 1]);
    let refused = commit(store, vec![], vec![put; 4]).await;
    assert!(matches!(refused, Err(Error::OutOfLimits)));
    assert!(store.get(&key("large")).await.expect("reads").is_none());
}

async fn updates_see_what_is_there(store: &dyn Store) {
    let add = |count: u8| {
        Update::new(move |current| {
            let before = current.map_or(0, |value| value[0]);
            Some(vec![before.checked_add(count)?])
        })
    };
    let total = async || {
        store
            .get(&key("sum"))
            .await
            .expect("reads")
            .map(|entry| entry.value)
    };
    let update = |count| Write::Update(key("sum"), add(count));
    let commits = (1..=20).map(|count| commit(store, vec![], vec![update(count)]));
    for committed in join_all(commits).await {
        committed.expect("commits");
    }
    assert_eq!(total().await, Some(vec![210]));
    // A function that refuses takes the whole transaction back.
    let put = Write::Put(key("beside"), vec![]);
    for writes in [vec![put.clone(), update(50)], vec![update(50), put]] {
        let refused = commit(store, vec![], writes).await;
        assert!(matches!(refused, Err(Error::NotUpdated)));
    }
    assert_eq!(total().await, Some(vec![210]));
    assert!(store.get(&key("beside")).await.expect("reads").is_none());
    let large = Update::new(|_| Some(vec![0; super::VALUE_BYTES_MAX + 1]));
    let refused = commit(store, vec![], vec![Write::Update(key("sum"), large)]).await;
    assert!(matches!(refused, Err(Error::OutOfLimits)));
    commit(store, vec![], vec![Write::Delete(key("sum"))])
        .await
        .expect("commits");
}

/// Random transactions over few keys, compared with a map after each.
async fn agrees_with_a_model(store: &dyn Store) {
    let mut runner = TestRunner::deterministic();
    let step = (0..6_u8, 0..4_u8, any::<u8>(), 0..3_u8);
    let mut model = BTreeMap::<Key, (Vec<u8>, Revision)>::new();
    for _ in 0..400 {
        let (id, action, value, compare) = step.new_tree(&mut runner).expect("a value").current();
        let key = key(&id.to_string());
        let known = model.get(&key).map(|(_, revision)| *revision);
        let (compares, holds) = match (compare, known) {
            (0, _) => (vec![], true),
            (1, known) => (vec![Compare::Absent(key.clone())], known.is_none()),
            (_, Some(revision)) => (vec![Compare::Unchanged(key.clone(), revision)], true),
            (_, None) => (vec![Compare::Unchanged(key.clone(), Revision(1))], false),
        };
        let write = match action {
            0 => Write::Delete(key.clone()),
            _ => Write::Put(key.clone(), vec![value]),
        };
        let outcome = commit(store, compares, vec![write]).await;
        assert_eq!(outcome.is_ok(), holds);
        if let Ok(revision) = outcome {
            match action {
                0 => model.remove(&key),
                _ => model.insert(key.clone(), (vec![value], revision)),
            };
        }
        let stored = store.scan(b"t/", None, 100).await.expect("scans");
        let stored: BTreeMap<_, _> = stored
            .into_iter()
            .map(|(key, entry)| (key, (entry.value, entry.revision)))
            .collect();
        assert_eq!(stored, model);
    }
}
