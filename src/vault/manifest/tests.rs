use proptest::{prelude::*, test_runner::TestRunner};

use super::*;
use crate::{
    store::{Compare, Transaction, memory::MemoryStore},
    vault::{
        Vault,
        kept_token::tests::golden,
        tests::{Fixture, entries, id, put, reopen},
    },
};

fn ledger() -> Ledger {
    let key = SymmetricKey::new(vec![5; 32]).expect("32 bytes");
    Ledger::new([9; 16], &key).expect("derives")
}

async fn refused(store: &Arc<MemoryStore>) -> String {
    let before = entries(store).await;
    let error = reopen(store, 1).await.expect_err("refused");
    assert_eq!(entries(store).await, before, "untouched");
    assert!(
        matches!(error, Error::Altered(_) | Error::Corrupt(_)),
        "{error:?}"
    );
    error.to_string()
}

fn rows(vault: &Vault, name: &str) -> [Key; 2] {
    let index = vault.root.index(&id(name));
    [Key::new(RECORDS, &index), Key::new(KEYS, &index)]
}

async fn delete(store: &MemoryStore, keys: &[Key]) {
    let writes = keys.iter().cloned().map(Write::Delete).collect();
    let compares: Vec<Compare> = vec![];
    let deleted = store.commit(Transaction { compares, writes }).await;
    deleted.expect("commits");
}

async fn values(store: &MemoryStore, keys: &[Key]) -> Vec<(Key, Vec<u8>)> {
    let mut values = Vec::new();
    for key in keys {
        let entry = store.get(key).await.expect("reads").expect("is there");
        values.push((key.clone(), entry.value));
    }
    values
}

async fn put_all(store: &MemoryStore, values: &[(Key, Vec<u8>)]) {
    for (key, value) in values {
        put(store, key, value).await;
    }
}

#[tokio::test]
async fn a_store_without_one_of_its_organizations_is_refused() {
    let fixture = Fixture::with(&["contoso", "fabrikam", "northwind"]).await;
    let rows = rows(&fixture.vault, "fabrikam");
    let right = values(&fixture.store, &rows).await;
    for missing in [&rows[..], &rows[..1], &rows[1..]] {
        delete(&fixture.store, missing).await;
        refused(&fixture.store).await;
        put_all(&fixture.store, &right).await;
        reopen(&fixture.store, 1).await.expect("is whole again");
    }
    delete(&fixture.store, &rows).await;
    let why = refused(&fixture.store).await;
    assert!(
        why.contains("3 organizations were stored, 2 are there"),
        "{why}"
    );
}

#[tokio::test]
async fn an_older_record_with_its_key_is_refused() {
    let fixture = Fixture::with(&["contoso", "fabrikam"]).await;
    let rows = rows(&fixture.vault, "contoso");
    let registered = values(&fixture.store, &rows).await;
    fixture.rotate("contoso", 1).await.expect("rotates");
    let rotated = values(&fixture.store, &rows).await;
    fixture.revoke("contoso", 2).await.expect("revokes");
    let revoked = values(&fixture.store, &rows).await;
    for older in [registered, rotated] {
        put_all(&fixture.store, &older).await;
        // By itself it would open.
        assert!(fixture.secret("contoso").await.is_some());
        let why = refused(&fixture.store).await;
        assert!(why.contains("not the one that was last written"), "{why}");
    }
    put_all(&fixture.store, &revoked).await;
    reopen(&fixture.store, 1).await.expect("is whole again");
}

#[tokio::test]
async fn an_older_manifest_a_foreign_one_and_none_are_refused() {
    let fixture = Fixture::with(&["contoso"]).await;
    let older = values(&fixture.store, &[place()]).await;
    fixture.rotate("contoso", 1).await.expect("rotates");
    let right = values(&fixture.store, &[place()]).await;
    put_all(&fixture.store, &older).await;
    refused(&fixture.store).await;
    let other = Fixture::with(&["contoso"]).await;
    put_all(&fixture.store, &values(&other.store, &[place()]).await).await;
    refused(&fixture.store).await;
    delete(&fixture.store, &[place()]).await;
    refused(&fixture.store).await;
    // Nothing can be changed then, either.
    let changed = fixture.rotate("contoso", 2).await;
    assert!(matches!(changed, Err(Error::Corrupt(_))), "{changed:?}");
    put_all(&fixture.store, &right).await;
    reopen(&fixture.store, 1).await.expect("is whole again");
}

#[tokio::test]
async fn a_manifest_counts_changes_made_at_once() {
    let fixture = Fixture::with(&[]).await;
    let names: Vec<_> = (0..50)
        .map(|number| format!("organization-{number}"))
        .collect();
    let registering = names.iter().map(|name| fixture.register(name));
    for registered in futures_util::future::join_all(registering).await {
        registered.expect("registers");
    }
    let rotating = names.iter().map(|name| fixture.rotate(name, 1));
    for rotated in futures_util::future::join_all(rotating).await {
        rotated.expect("rotates");
    }
    // Those that change nothing do not count.
    fixture.rotate(&names[0], 1).await.expect_err("has changed");
    let reopened = reopen(&fixture.store, 1).await.expect("is whole");
    assert_eq!(*reopened.epoch.borrow(), 1 + 100);
    assert_eq!(*fixture.vault.epoch.borrow(), 1 + 100);
}

#[tokio::test]
async fn the_root_of_a_store_cannot_be_made_to_look_older() {
    let fixture = Fixture::with(&["contoso"]).await;
    let root = Key::new(b"m/", b"root");
    let [(_, mut value)] = values(&fixture.store, std::slice::from_ref(&root))
        .await
        .try_into()
        .expect("one");
    assert_eq!(value[4..6], [0, 2]);
    value[4..6].copy_from_slice(&[0, 1]);
    put(&fixture.store, &root, &value).await;
    delete(&fixture.store, &[place()]).await;
    refused(&fixture.store).await;
    // The generation of the wrapped key, which it is bound to, changed along with it.
    value[28..32].copy_from_slice(&1_u32.to_be_bytes());
    put(&fixture.store, &root, &value).await;
    refused(&fixture.store).await;
}

#[tokio::test]
async fn a_store_of_format_1_gets_a_manifest_and_is_held_to_it_from_then_on() {
    let store = golden(include_bytes!("../kept_token/golden-1.store")).await;
    let before = entries(&store).await;
    for kek_byte in [2, 1, 1] {
        let opened = reopen(&store, kek_byte).await;
        assert_eq!(opened.is_ok(), kek_byte == 1);
        if opened.is_err() {
            assert_eq!(entries(&store).await, before, "untouched");
        }
    }
    let vault = reopen(&store, 1).await.expect("opens");
    assert_eq!(*vault.epoch.borrow(), 1);
    let [(_, root)] = values(&store, &[Key::new(b"m/", b"root")])
        .await
        .try_into()
        .expect("one");
    assert_eq!(root[4..6], [0, 2]);
    delete(&store, &rows(&vault, "fabrikam")).await;
    let why = refused(&store).await;
    assert!(
        why.contains("1 organizations were stored, 0 are there"),
        "{why}"
    );
}

#[test]
fn no_changed_bit_of_a_manifest_opens() {
    let ledger = ledger();
    let manifest = Manifest {
        epoch: 7,
        records: 3,
        sum: [0xab; 32],
    };
    let sealed = ledger.seal(&manifest).expect("seals");
    assert_eq!(ledger.open(&sealed).expect("opens"), manifest);
    assert_ne!(ledger.seal(&manifest).expect("seals"), sealed);
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        ledger.open(&changed).expect_err("does not open");
    }
    for length in 0..sealed.len() {
        ledger.open(&sealed[..length]).expect_err("is cut off");
    }
}

/// Whatever is registered and changed in whatever order, the sum is that of what is there; and no two
/// different contents have the same one.
#[test]
fn the_sum_is_that_of_what_is_there() {
    let step = (0..5_u8, any::<u8>());
    let mut runner = TestRunner::deterministic();
    let run = runner.run(&prop::collection::vec(step, 0..40), |steps| {
        let ledger = ledger();
        let mut rows = std::collections::BTreeMap::<u8, u8>::new();
        let mut stored = Some(ledger.seal(&Manifest::default()).expect("seals"));
        for (row, value) in steps {
            let index = [row; 32];
            let old = rows.insert(row, value).map(|old| [old]);
            let counted = ledger.replaced(&index, old.as_ref().map(<[u8; 1]>::as_slice), &[value]);
            let Write::Update(_, update) = counted.write else {
                panic!("it is an update");
            };
            stored = update.apply(stored.as_deref()).ok();
        }
        let manifest = ledger.open(&stored.expect("updates")).expect("opens");
        let mut sum = [0; 32];
        for (row, value) in &rows {
            add(&mut sum, &ledger.digest(&[*row; 32], &[*value]));
        }
        prop_assert_eq!(manifest.sum, sum);
        prop_assert_eq!(manifest.records, rows.len() as u64);
        Ok(())
    });
    run.expect("holds for every run");
}
