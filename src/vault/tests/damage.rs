//! What an attacker or a disk may do to the store: nothing opens, nothing is overwritten.

use async_trait::async_trait;

use super::*;
use crate::kek::KekId;

/// The keys of an organization's record and of its wrapped key.
fn places(vault: &Vault, id: &str) -> [Key; 2] {
    let index = vault.root.index(&self::id(id));
    [Key::new(RECORDS, &index), Key::new(KEYS, &index)]
}

async fn value(store: &MemoryStore, key: &Key) -> Vec<u8> {
    store
        .get(key)
        .await
        .expect("reads")
        .expect("is there")
        .value
}

#[track_caller]
fn corrupt<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    assert!(matches!(outcome, Err(Error::Corrupt(_))), "{outcome:?}");
}

/// Opening fails, and leaves the store as it was.
async fn unopenable(store: &Arc<MemoryStore>, kek_byte: u8) -> Error {
    let before = entries(store).await;
    let error = reopen(store, kek_byte).await.expect_err("refused");
    assert_eq!(entries(store).await, before, "untouched");
    error
}

#[tokio::test]
async fn records_of_two_organizations_cannot_be_swapped() {
    let ids = ["contoso", "fabrikam", "northwind", "tailspin", "wingtip"];
    let fixture = Fixture::with(&ids).await;
    let store = &fixture.store;
    for (one, other) in ids
        .iter()
        .flat_map(|one| ids.iter().map(move |other| (one, other)))
        .filter(|(one, other)| one < other)
    {
        let (ones, others) = (places(&fixture.vault, one), places(&fixture.vault, other));
        // The record alone, its key alone, and both.
        for half in [0..1, 1..2, 0..2] {
            let pairs = ones[half.clone()].iter().zip(&others[half]);
            let pairs: Vec<_> = pairs.collect();
            let swap = async || {
                for (one, other) in &pairs {
                    let (mine, its) = (value(store, one).await, value(store, other).await);
                    put(store, one, &its).await;
                    put(store, other, &mine).await;
                }
            };
            swap().await;
            corrupt(fixture.application(one).await);
            corrupt(fixture.application(other).await);
            corrupt(fixture.vault.list(None, PAGE_MAX).await);
            corrupt(fixture.rotate(one, 1).await);
            swap().await;
            assert_eq!(fixture.secret(one).await.as_deref(), Some(SECRET));
        }
    }
}

#[tokio::test]
async fn an_old_record_does_not_open_under_a_new_key() {
    let fixture = Fixture::with(&["contoso"]).await;
    let [record, key] = places(&fixture.vault, "contoso");
    let first = value(&fixture.store, &record).await;
    fixture.rotate("contoso", 1).await.expect("rotates");
    fixture.revoke("contoso", 2).await.expect("revokes");
    let last = value(&fixture.store, &record).await;

    put(&fixture.store, &record, &first).await;
    corrupt(fixture.application("contoso").await);
    // With the generation and version of the latest, and with its whole header.
    for header in [16..20, 16..28, 0..28] {
        let mut forged = first.clone();
        forged[header.clone()].copy_from_slice(&last[header]);
        put(&fixture.store, &record, &forged).await;
        corrupt(fixture.application("contoso").await);
    }
    // Neither does the latest open under a key that was made to look older.
    put(&fixture.store, &record, &last).await;
    let mut wrapped = value(&fixture.store, &key).await;
    wrapped[6..10].copy_from_slice(&1_u32.to_be_bytes());
    put(&fixture.store, &key, &wrapped).await;
    corrupt(fixture.application("contoso").await);
}

#[tokio::test]
async fn no_record_of_another_store_opens() {
    let (one, other) = (
        Fixture::with(&["contoso"]).await,
        Fixture::with(&["contoso"]).await,
    );
    let (here, there) = (
        places(&one.vault, "contoso"),
        places(&other.vault, "contoso"),
    );
    assert_ne!(here, there, "not even its place is the same");
    for (here, there) in here.iter().zip(&there) {
        put(&one.store, here, &value(&other.store, there).await).await;
    }
    corrupt(one.application("contoso").await);
}

#[tokio::test]
async fn every_changed_byte_of_the_store_is_noticed() {
    let fixture = Fixture::with(&["contoso"]).await;
    let [record, key] = places(&fixture.vault, "contoso");
    // The record's KEK hint is used by nothing that reads.
    for (place, hint) in [(&record, 8..16), (&key, 0..0)] {
        let right = value(&fixture.store, place).await;
        for position in (0..right.len()).filter(|position| !hint.contains(position)) {
            let mut changed = right.clone();
            changed[position] ^= 1;
            put(&fixture.store, place, &changed).await;
            assert!(fixture.application("contoso").await.is_err(), "{position}");
        }
        for length in 0..right.len() {
            put(&fixture.store, place, &right[..length]).await;
            assert!(fixture.application("contoso").await.is_err(), "{length}");
        }
        put(&fixture.store, place, &right).await;
    }
    assert!(fixture.application("contoso").await.is_ok());
}

#[tokio::test]
async fn a_record_without_its_key_is_corrupt() {
    let fixture = Fixture::with(&["contoso"]).await;
    let [_, key] = places(&fixture.vault, "contoso");
    let transaction = Transaction {
        compares: vec![],
        writes: vec![Write::Delete(key)],
    };
    fixture.store.commit(transaction).await.expect("deletes");
    corrupt(fixture.application("contoso").await);
}

#[tokio::test]
async fn another_kek_is_told_by_its_id() {
    let fixture = Fixture::with(&["contoso"]).await;
    let right = kek(1).current();
    let error = unopenable(&fixture.store, 2).await;
    assert!(
        matches!(&error, Error::Kek(kek::Error::UnknownKek(id)) if *id == right),
        "{error:?}"
    );
}

#[test]
fn keks_with_different_keys_have_different_ids() {
    let ids: std::collections::HashSet<_> = (0..=255)
        .map(|byte| kek(byte).current().as_str().to_owned())
        .collect();
    assert_eq!(ids.len(), 256);
}

/// A provider that gives another key the id of the right one.
#[derive(Debug)]
struct Impostor {
    key: Arc<FileKey>,
    id: KekId,
}

#[async_trait]
impl KeyProvider for Impostor {
    fn current(&self) -> KekId {
        self.id.clone()
    }

    async fn wrap_dek(
        &self,
        _: &KekId,
        dek: &SymmetricKey,
        aad: &[u8],
    ) -> Result<Vec<u8>, kek::Error> {
        self.key.wrap_dek(&self.key.current(), dek, aad).await
    }

    async fn unwrap_dek(
        &self,
        _: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, kek::Error> {
        self.key.unwrap_dek(&self.key.current(), wrapped, aad).await
    }
}

#[tokio::test]
async fn another_key_under_the_same_kek_id_opens_nothing() {
    let fixture = Fixture::with(&["contoso"]).await;
    let impostor = Impostor {
        key: kek(2),
        id: kek(1).current(),
    };
    let before = entries(&fixture.store).await;
    corrupt(Vault::open(fixture.store.clone(), Arc::new(impostor)).await);
    assert_eq!(entries(&fixture.store).await, before, "untouched");
}

#[tokio::test]
async fn a_store_of_a_newer_broker_is_refused_and_left_alone() {
    let fixture = Fixture::with(&["contoso"]).await;
    let root = Key::new(b"m/", b"root");
    let right = value(&fixture.store, &root).await;
    let mut newer = right.clone();
    newer[4..6].copy_from_slice(&3_u16.to_be_bytes());
    put(&fixture.store, &root, &newer).await;
    let error = unopenable(&fixture.store, 1).await;
    assert!(matches!(error, Error::Newer(3)), "{error:?}");
    put(&fixture.store, &root, &right).await;

    for place in places(&fixture.vault, "contoso") {
        let right = value(&fixture.store, &place).await;
        let mut newer = right.clone();
        newer[4..6].copy_from_slice(&3_u16.to_be_bytes());
        put(&fixture.store, &place, &newer).await;
        let before = entries(&fixture.store).await;
        let outcomes = [
            fixture.application("contoso").await.map(|_| ()),
            fixture.rotate("contoso", 1).await.map(|_| ()),
            fixture.revoke("contoso", 1).await.map(|_| ()),
        ];
        for outcome in outcomes {
            assert!(matches!(outcome, Err(Error::Newer(3))), "{outcome:?}");
        }
        assert_eq!(entries(&fixture.store).await, before, "untouched");
        put(&fixture.store, &place, &right).await;
    }
}

#[tokio::test]
async fn a_store_without_its_root_is_refused_and_gets_no_new_one() {
    let fixture = Fixture::with(&["contoso"]).await;
    let root = Key::new(b"m/", b"root");
    let transaction = Transaction {
        compares: vec![],
        writes: vec![Write::Delete(root.clone())],
    };
    fixture.store.commit(transaction).await.expect("deletes");
    let error = unopenable(&fixture.store, 1).await;
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
}

#[tokio::test]
async fn a_damaged_root_is_refused_and_left_alone() {
    let fixture = Fixture::new().await;
    let root = Key::new(b"m/", b"root");
    let right = value(&fixture.store, &root).await;
    for length in 0..right.len() {
        put(&fixture.store, &root, &right[..length]).await;
        unopenable(&fixture.store, 1).await;
    }
    for position in 0..right.len() {
        let mut changed = right.clone();
        changed[position] ^= 0x20;
        put(&fixture.store, &root, &changed).await;
        unopenable(&fixture.store, 1).await;
    }
    put(&fixture.store, &root, &right).await;
    assert!(reopen(&fixture.store, 1).await.is_ok());
}

#[test]
fn a_wrapped_key_is_bound_to_everything_that_places_it() {
    let place = Place {
        store: [1; 16],
        kind: ORGANIZATION,
        index: [2; 32],
    };
    let (one, other) = (kek(1).current(), kek(2).current());
    let aads = [
        place.key_aad(1, &one),
        place.key_aad(2, &one),
        place.key_aad(1, &other),
        Place {
            store: [3; 16],
            ..place
        }
        .key_aad(1, &one),
        Place {
            kind: b"root",
            ..place
        }
        .key_aad(1, &one),
        Place {
            index: [3; 32],
            ..place
        }
        .key_aad(1, &one),
    ];
    let different: std::collections::HashSet<_> = aads.iter().collect();
    assert_eq!(different.len(), aads.len());
}

/// Every bit of enough records that there are a million of them.
#[tokio::test]
async fn of_a_million_flipped_bits_none_opens() {
    const FLIPS: usize = 1_000_000;
    /// Magic, format, algorithm, KEK hint: what is in clear and bound by other means, or by none.
    const HINT: std::ops::Range<usize> = 8..16;
    let names: Vec<_> = (0..100)
        .map(|number| format!("organization-{number}"))
        .collect();
    let fixture = Fixture::with(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut flips = 0;
    for name in names.iter().cycle() {
        let index = fixture.vault.root.index(&id(name));
        let found = fixture.vault.find(&index).await.expect("reads");
        let found = found.expect("is there");
        let place = fixture.vault.place(index);
        let mut stored = found.entry.value;
        for bit in (0..stored.len() * 8).filter(|bit| !HINT.contains(&(bit / 8))) {
            stored[bit / 8] ^= 1 << (bit % 8);
            let opens = envelope::parse(&stored).is_ok_and(|parts| {
                let aad = place.aad(&parts.header, parts.labels);
                sealed::open(&found.key, &aad, parts.sealed).is_ok()
            });
            assert!(!opens, "bit {bit} of {name}");
            stored[bit / 8] ^= 1 << (bit % 8);
            flips += 1;
        }
        if flips >= FLIPS {
            return;
        }
    }
}

#[tokio::test]
async fn of_a_hundred_records_no_two_can_be_exchanged() {
    let names: Vec<_> = (0..100)
        .map(|number| format!("organization-{number}"))
        .collect();
    let fixture = Fixture::with(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut rows = Vec::new();
    for name in &names {
        let [record, _] = places(&fixture.vault, name);
        let stored = value(&fixture.store, &record).await;
        rows.push((name, record, stored));
    }
    for (name, at, right) in &rows {
        for (other, _, stored) in rows.iter().filter(|(other, ..)| other != name) {
            put(&fixture.store, at, stored).await;
            let opened = fixture.application(name).await;
            assert!(
                matches!(opened, Err(Error::Corrupt(_))),
                "{other} at {name}"
            );
        }
        put(&fixture.store, at, right).await;
        assert!(fixture.secret(name).await.is_some(), "{name}");
    }
}
