//! Values of all lengths in the trees.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::*;
use crate::store::{
    Transaction, Write,
    sled::{beginning::Mark, database::Database, reserve::Reserve},
};

const LENGTHS: [usize; 6] = [
    0,
    1,
    ROW_BYTES_MAX,
    ROW_BYTES_MAX + 1,
    5 * ROW_BYTES_MAX,
    VALUE_BYTES_MAX,
];

fn database() -> (Database, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let mark = Mark::of(folder.path()).expect("looks");
    let database = Reserve::of(folder.path()).open(mark.as_ref());
    (database.expect("opens"), folder)
}

fn write(database: &Database, write: Write) -> Revision {
    let transaction = Transaction {
        writes: vec![write],
        ..Transaction::default()
    };
    let applied = database.apply(&transaction).expect("applies");
    applied.expect("is accepted").revision
}

#[test]
fn a_value_of_any_length_takes_the_place_of_any_other_and_leaves_nothing_behind() {
    let (database, _folder) = database();
    let (key, beside) = (Key::new(b"a/", b"1"), Key::new(b"a/", b"11"));
    write(&database, Write::Put(beside.clone(), vec![9; 5000]));
    let others = database.trees().parts.len();
    for (before, after) in LENGTHS.iter().flat_map(|a| LENGTHS.map(|b| (*a, b))) {
        for length in [before, after] {
            let value = vec![length as u8; length];
            let revision = write(&database, Write::Put(key.clone(), value.clone()));
            let entry = database.get(&key).expect("reads");
            assert_eq!(entry, Some(Entry { value, revision }));
            let scanned = database.scan(b"a/", None, 9).expect("scans");
            assert_eq!(scanned.len(), 2);
        }
        let parts = if after > ROW_BYTES_MAX {
            after.div_ceil(ROW_BYTES_MAX)
        } else {
            0
        };
        assert_eq!(database.trees().parts.len(), others + parts);
    }
    write(&database, Write::Delete(key.clone()));
    assert_eq!(database.get(&key).expect("reads"), None);
    assert_eq!(database.trees().parts.len(), others);
    assert_eq!(
        database
            .get(&beside)
            .expect("reads")
            .expect("is there")
            .value,
        [9; 5000]
    );
}

#[test]
fn whoever_reads_a_value_while_it_is_replaced_sees_one_of_both_whole() {
    let (database, _folder) = database();
    let key = Key::new(b"a/", b"1");
    write(&database, Write::Put(key.clone(), vec![0; 50_000]));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=255_u8 {
                let length = if round % 5 == 0 { 100 } else { 50_000 };
                write(&database, Write::Put(key.clone(), vec![round; length]));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        while !is_over.load(Ordering::Relaxed) {
            let scanned = database.scan(b"a/", None, 9).expect("scans").remove(0).1;
            for entry in [
                database.get(&key).expect("reads").expect("is there"),
                scanned,
            ] {
                assert!(entry.value.iter().all(|byte| *byte == entry.value[0]));
            }
        }
    });
}

#[test]
fn a_part_that_is_missing_is_told_not_left_out() {
    let (database, _folder) = database();
    let key = Key::new(b"a/", b"1");
    write(&database, Write::Put(key.clone(), vec![1; 50_000]));
    let first = database
        .trees()
        .parts
        .first()
        .expect("reads")
        .expect("is there");
    database.trees().parts.remove(first.0).expect("removes");
    assert!(database.get(&key).is_err());
    assert!(database.scan(b"a/", None, 9).is_err());
}
