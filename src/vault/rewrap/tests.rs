use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use proptest::prelude::*;
use tokio::{
    task::{JoinSet, yield_now},
    time::Instant,
};

use super::*;
use crate::{
    kek::{self, KeyProvider, local::FileKey},
    secret::SymmetricKey,
    store::{Store as _, memory::MemoryStore},
    vault::tests::{Fixture, entries, kek, put, reopen},
};

/// Has several KEKs, of which one is the present one.
#[derive(Debug)]
struct Keys {
    keys: Vec<Arc<FileKey>>,
    current: AtomicUsize,
    /// Keys that are wrapped until it fails.
    left: AtomicUsize,
}

impl Keys {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: (1..=3).map(kek).collect(),
            current: AtomicUsize::new(0),
            left: AtomicUsize::new(usize::MAX),
        })
    }

    fn activate(&self, number: usize) {
        self.current.store(number, Ordering::SeqCst);
    }

    fn id(&self, number: usize) -> KekId {
        self.keys[number].current()
    }

    fn of(&self, kek_id: &KekId) -> Result<&FileKey, kek::Error> {
        let found = self.keys.iter().find(|key| key.current() == *kek_id);
        found
            .map(Arc::as_ref)
            .ok_or_else(|| kek::Error::UnknownKek(kek_id.clone()))
    }
}

#[async_trait]
impl KeyProvider for Keys {
    fn current(&self) -> KekId {
        self.id(self.current.load(Ordering::SeqCst))
    }

    async fn wrap_dek(
        &self,
        kek_id: &KekId,
        dek: &SymmetricKey,
        aad: &[u8],
    ) -> Result<Vec<u8>, kek::Error> {
        yield_now().await;
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.left.store(0, Ordering::SeqCst);
            return Err(kek::Error::CryptoFailed);
        }
        self.of(kek_id)?.wrap_dek(kek_id, dek, aad).await
    }

    async fn unwrap_dek(
        &self,
        kek_id: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, kek::Error> {
        yield_now().await;
        self.of(kek_id)?.unwrap_dek(kek_id, wrapped, aad).await
    }
}

async fn with(names: &[String], keys: &Arc<Keys>) -> Fixture {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::open(store.clone(), keys.clone()).await;
    let vault = vault.expect("a new vault");
    let fixture = Fixture { store, vault };
    for name in names {
        fixture.register(name).await.expect("registers");
    }
    fixture
}

fn names(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("organization-{number}"))
        .collect()
}

/// Everything opens, and under this KEK alone.
async fn all_under(store: &Arc<MemoryStore>, kek_byte: u8, names: &[String]) {
    let vault = reopen(store, kek_byte).await.expect("opens under it");
    let store = store.clone();
    let fixture = Fixture { store, vault };
    for name in names {
        assert!(fixture.secret(name).await.is_some(), "{name}");
    }
}

#[tokio::test]
async fn after_a_walk_no_key_needs_the_older_kek() {
    let (keys, names) = (Keys::new(), names(450));
    let fixture = with(&names, &keys).await;
    let before = entries(&fixture.store).await;
    let mut told = Vec::new();
    let census = fixture
        .vault
        .rewrap(None, |progress| told.push(progress))
        .await;
    assert_eq!(census.expect("counts").total(), 451);
    assert_eq!(
        (told.len(), entries(&fixture.store).await),
        (0, before.clone())
    );

    keys.activate(1);
    assert!(
        !fixture
            .vault
            .census()
            .await
            .expect("counts")
            .is_all_under(&keys.id(1))
    );
    let census = fixture
        .vault
        .rewrap(None, |progress| told.push(progress))
        .await;
    let expected = BTreeMap::from([(keys.id(1).as_str().to_owned(), 451)]);
    assert_eq!(census.expect("counts").keys, expected);
    let (first, last) = (
        told.first().expect("is told"),
        told.last().expect("is told"),
    );
    assert_eq!((first.done, first.total), (0, 451));
    assert_eq!((last.done, last.rewrapped, last.total), (451, 451, 451));
    assert!(told.windows(2).all(|pair| pair[0].done <= pair[1].done));
    all_under(&fixture.store, 2, &names).await;
    reopen(&fixture.store, 1)
        .await
        .expect_err("opens no more under the older one");
    // Nothing but wrapped keys has changed.
    let mut after = entries(&fixture.store).await;
    // ... and what is to be destroyed now.
    after.retain(|(key, _)| key.as_bytes() != b"m/shred");
    assert_eq!(before.len(), after.len());
    for ((key, old), (_, new)) in before.iter().zip(&after) {
        let is_record = key.as_bytes().starts_with(b"o/") || key.as_bytes() == b"m/manifest";
        assert_eq!(old == new, is_record, "{key:?}");
    }
}

#[tokio::test]
async fn a_walk_that_was_cut_off_anywhere_is_gone_on_with() {
    let names = names(300);
    // Within the first page, at its end, and within the second.
    for left in [0, 1, 2, 100, 256, 257, 299] {
        let keys = Keys::new();
        let fixture = with(&names, &keys).await;
        keys.activate(1);
        keys.left.store(left, Ordering::SeqCst);
        fixture
            .vault
            .rewrap(None, |_| ())
            .await
            .expect_err("is cut off");
        for name in &names {
            assert!(fixture.secret(name).await.is_some(), "{name}");
        }
        keys.left.store(usize::MAX, Ordering::SeqCst);
        fixture.vault.rewrap(None, |_| ()).await.expect("goes on");
        all_under(&fixture.store, 2, &names).await;
    }
}

#[tokio::test]
async fn a_key_that_was_moved_is_not_wrapped_anew() {
    let (keys, names) = (Keys::new(), names(2));
    let fixture = with(&names, &keys).await;
    let rows = fixture.store.scan(KEYS, None, 10).await.expect("reads");
    put(&fixture.store, &rows[0].0, &rows[1].1.value).await;
    keys.activate(1);
    let refused = fixture.vault.rewrap(None, |_| ()).await;
    assert!(matches!(refused, Err(Error::Corrupt(_))), "{refused:?}");
}

#[tokio::test]
async fn changes_go_on_and_the_kek_may_change_once_more() {
    let (keys, names) = (Keys::new(), names(50));
    let fixture = Arc::new(with(&names, &keys).await);
    let done = Arc::new(AtomicBool::new(false));
    let mut changing = JoinSet::new();
    for name in names.clone() {
        let (fixture, done) = (fixture.clone(), done.clone());
        changing.spawn(async move {
            let mut revision = 1;
            while !done.load(Ordering::SeqCst) {
                fixture.rotate(&name, revision).await.expect("rotates");
                revision += 1;
                assert!(fixture.secret(&name).await.is_some());
            }
        });
    }
    for number in [1, 2, 0, 1, 2] {
        keys.activate(number);
        let mut switched = false;
        let census = fixture.vault.rewrap(None, |_| {
            if !switched && number == 0 {
                keys.activate(1);
            }
            switched = true;
        });
        let census = census.await.expect("ends");
        assert!(census.is_all_under(&keys.current()), "{census:?}");
    }
    done.store(true, Ordering::SeqCst);
    changing.join_all().await;
    all_under(&fixture.store, 3, &names).await;
}

#[tokio::test(start_paused = true)]
async fn a_walk_keeps_to_its_rate_and_goes_on_alone() {
    let (keys, names) = (Keys::new(), names(1000));
    let fixture = with(&names, &keys).await;
    keys.activate(1);
    let began = Instant::now();
    let walking = fixture.vault.rewrap(NonZeroU32::new(100), |_| ());
    let second = async {
        yield_now().await;
        fixture.vault.rewrap(None, |_| ()).await
    };
    let (walked, second) = tokio::join!(walking, second);
    walked.expect("ends");
    assert!(matches!(second, Err(Error::Busy(_))), "{second:?}");
    let took = began.elapsed();
    assert!((9..12).contains(&took.as_secs()), "{took:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever is changed, activated, walked and cut off in whatever order: everything opens, and after
    /// a walk that ends under the present KEK alone.
    #[test]
    fn no_order_loses_a_key(steps in prop::collection::vec((0..6_u8, 0..6_u8, 0..3_usize), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (keys, names) = (Keys::new(), names(6));
            let fixture = with(&names, &keys).await;
            let mut revisions = [1; 6];
            for (what, which, kek) in steps {
                let which = usize::from(which);
                match what {
                    0 => keys.activate(kek),
                    1 | 2 => {
                        fixture.rotate(&names[which], revisions[which]).await.expect("rotates");
                        revisions[which] += 1;
                    }
                    3 => {
                        keys.left.store(which, Ordering::SeqCst);
                        // Cut off, or done before.
                        let _ = fixture.vault.rewrap(None, |_| ()).await;
                        keys.left.store(usize::MAX, Ordering::SeqCst);
                    }
                    _ => {
                        let census = fixture.vault.rewrap(None, |_| ()).await.expect("ends");
                        assert!(census.is_all_under(&keys.current()));
                    }
                }
                for name in &names {
                    assert!(fixture.secret(name).await.is_some(), "{name}");
                }
            }
        });
    }
}
