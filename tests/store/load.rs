//! What the tests write, so that whatever is read can be told right from wrong.
//!
//! Each of some writers counts its commits. Commit `n` of a writer writes the writer's count and slot
//! `n % 8` of its ring, and deletes slot `(n + 4) % 8`: what is there tells whether a commit was
//! applied whole, and whether those before it were.

use std::collections::BTreeMap;

use kodo_broker::store::{Error, Key, Store, Transaction, Write};

use crate::numbers::Numbers;

const RING: u64 = 8;

/// Counts of the writers that have committed anything.
pub(crate) type Counts = BTreeMap<u64, u64>;

fn count_key(writer: u64) -> Key {
    Key::new(b"count/", &writer.to_be_bytes())
}

fn ring_key(writer: u64, slot: u64) -> Key {
    Key::new(
        b"ring/",
        &[writer.to_be_bytes(), (slot % RING).to_be_bytes()].concat(),
    )
}

/// The value of a commit, of up to `largest` bytes besides the two numbers.
fn value(writer: u64, count: u64, largest: u64) -> Vec<u8> {
    let mut numbers = Numbers(writer ^ count.rotate_left(32));
    let length = numbers.below(largest + 1);
    let mut value = [writer.to_be_bytes(), count.to_be_bytes()].concat();
    value.extend((0..length).map(|_| numbers.next() as u8));
    value
}

/// Commit `count` of a writer.
pub(crate) fn transaction(writer: u64, count: u64, largest: u64) -> Transaction {
    let value = value(writer, count, largest);
    Transaction {
        compares: vec![],
        writes: vec![
            Write::Put(count_key(writer), count.to_be_bytes().to_vec()),
            Write::Put(ring_key(writer, count), value),
            Write::Delete(ring_key(writer, count + 4)),
        ],
    }
}

/// What a store holds.
///
/// # Errors
/// The store's own. What is there and cannot be there is a panic.
pub(crate) async fn counts(store: &dyn Store, writers: u64, largest: u64) -> Result<Counts, Error> {
    let mut counts = Counts::new();
    for writer in 0..writers {
        let stored = store.get(&count_key(writer)).await?;
        let count = stored.map_or(0, |entry| {
            u64::from_be_bytes(entry.value.try_into().expect("a count of 8 bytes"))
        });
        // The last four are there, the four before them gone.
        for slot in 0..RING {
            let back = (count % RING + RING - slot) % RING;
            let expected = (back < 4 && back < count).then(|| value(writer, count - back, largest));
            let found = store.get(&ring_key(writer, slot)).await?;
            assert!(
                found.map(|entry| entry.value) == expected,
                "writer {writer} at {count}: a wrong value in slot {slot}"
            );
        }
        if count > 0 {
            counts.insert(writer, count);
        }
    }
    Ok(counts)
}

/// Panics unless everything acknowledged is there and nothing that was never sent.
pub(crate) fn compare(found: &Counts, acknowledged: &Counts, sent: &Counts, at: &str) {
    for writer in found.keys().chain(acknowledged.keys()) {
        let count = |of: &Counts| of.get(writer).copied().unwrap_or(0);
        let (found, least, most) = (count(found), count(acknowledged), count(sent));
        assert!(
            (least..=most).contains(&found),
            "{at}: writer {writer} is at {found}, acknowledged were {least}, sent {most}"
        );
    }
}
