//! The files of a store do not grow with what was ever written, only with what there is.

use std::{fs, path::Path, sync::Arc};

use kodo_broker::store::{Key, Store, Transaction, Write, sled::SledStore};
use tokio::{task::JoinSet, time::Instant};

use crate::{is_long_run, report};

/// Entries, and how often one of them is written.
const FEW: (u64, u64) = (1000, 100_000);
const FEW_LONG: (u64, u64) = (1000, 1_000_000);
const MANY: (u64, u64) = (40_000, 200_000);
const MANY_LONG: (u64, u64) = (40_000, 1_000_000);
const WRITERS: u64 = 64;
const VALUE_BYTES: usize = 2048;
/// Most that the files may be of the live data.
const FACTOR_MAX: u64 = 4;

fn bytes(directory: &Path) -> u64 {
    let items = fs::read_dir(directory).expect("a folder").flatten();
    items
        .map(|item| match item.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes(&item.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_do_not_make_the_store_grow() {
    let long = is_long_run();
    update(if long { FEW_LONG } else { FEW }).await;
    update(if long { MANY_LONG } else { MANY }).await;
}

async fn update((entries, updates): (u64, u64)) {
    let directory = tempfile::tempdir().expect("a folder");
    let store = Arc::new(SledStore::open(directory.path()).await.expect("opens"));
    let began = Instant::now();
    let mut largest = 0;
    for part in 0..10_u64 {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                for update in (writer..updates / 10).step_by(WRITERS as usize) {
                    let number = part * (updates / 10) + update;
                    let key = Key::new(b"org/", &(number % entries).to_be_bytes());
                    let value = vec![(update ^ part) as u8; VALUE_BYTES];
                    let transaction = Transaction {
                        compares: vec![],
                        writes: vec![Write::Put(key, value)],
                    };
                    store.commit(transaction).await.expect("commits");
                }
            });
        }
        writers.join_all().await;
        largest = largest.max(bytes(directory.path()));
    }
    let live = entries * VALUE_BYTES as u64;
    report(&format!(
        "{updates} updates of {entries} entries in {:.0?}: at most {} KiB of files for {} KiB",
        began.elapsed(),
        largest / 1024,
        live / 1024,
    ));
    assert!(largest <= FACTOR_MAX * live, "{largest} bytes for {live}");
}
