use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use proptest::prelude::*;
use tokio::{
    task::{JoinSet, yield_now},
    time::sleep,
};

use super::*;
use crate::{
    kek::{self, KeyProvider, local::FileKey},
    store::{SCAN_MAX, Store as _, memory::MemoryStore},
    vault::tests::{Fixture, HOUR, entries, id, kek, now, put, reopen},
};

/// The KEKs that there are: the first wraps, all open.
#[derive(Debug)]
struct Keks(Mutex<Vec<Arc<FileKey>>>);

impl Keks {
    fn new(bytes: &[u8]) -> Arc<Self> {
        let keks = Self(Mutex::default());
        keks.are(bytes);
        Arc::new(keks)
    }

    fn are(&self, bytes: &[u8]) {
        let keys = bytes.iter().map(|byte| kek(*byte)).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn of(&self, kek_id: &KekId) -> Result<Arc<FileKey>, kek::Error> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = keys.iter().find(|key| key.current() == *kek_id).cloned();
        found.ok_or_else(|| kek::Error::UnknownKek(kek_id.clone()))
    }
}

#[async_trait]
impl KeyProvider for Keks {
    fn current(&self) -> KekId {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys[0].current()
    }

    fn opens(&self, kek_id: &KekId) -> bool {
        self.of(kek_id).is_ok()
    }

    async fn wrap_dek(
        &self,
        kek_id: &KekId,
        dek: &SymmetricKey,
        aad: &[u8],
    ) -> Result<Vec<u8>, kek::Error> {
        yield_now().await;
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

fn kek_id(byte: u8) -> KekId {
    kek(byte).current()
}

fn retired(byte: u8, organizations: u64) -> Retired {
    Retired {
        kek_id: kek_id(byte),
        organizations,
        since: (organizations > 0).then(|| now() + HOUR),
    }
}

async fn with(names: &[&str], keks: &Arc<Keks>) -> Fixture {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::open(store.clone(), keks.clone()).await;
    let vault = vault.expect("a new vault");
    let fixture = Fixture { store, vault };
    for name in names {
        fixture.register(name).await.expect("registers");
    }
    fixture
}

async fn revoke_and_shred(fixture: &Fixture, name: &str) -> Result<(), Error> {
    let mark = fixture.vault.mark("shred", b"content");
    let (vault, id) = (&fixture.vault, id(name));
    let revoked = vault.revoke_and_shred(&id, 1, mark, now() + HOUR).await;
    revoked.map(|_| ())
}

/// A copy of the store as it is now.
async fn copy(store: &MemoryStore) -> Arc<MemoryStore> {
    let copy = MemoryStore::default();
    for (key, value) in entries(store).await {
        put(&copy, &key, &value).await;
    }
    Arc::new(copy)
}

/// The secret that a copy of a store gives away to whoever has one of these KEKs.
async fn stolen(copy: &Arc<MemoryStore>, name: &str, keks: &[u8]) -> Option<String> {
    for byte in keks {
        let Ok(vault) = reopen(copy, *byte).await else {
            continue;
        };
        let store = copy.clone();
        let found = Fixture { store, vault }.secret(name).await;
        if found.is_some() {
            return found;
        }
    }
    None
}

/// One look at what there is to do.
async fn look(fixture: &Fixture) -> Vec<Retired> {
    let left = fixture.vault.shred(&mut None).await;
    left.expect("goes on")
}

#[tokio::test]
async fn copies_open_until_the_kek_of_their_time_is_destroyed_and_never_after() {
    let keks = Keks::new(&[1]);
    let fixture = with(&["contoso", "fabrikam"], &keks).await;
    let before = copy(&fixture.store).await;
    let record = entries(&before).await;
    revoke_and_shred(&fixture, "contoso")
        .await
        .expect("revokes");

    // The broker itself: its key opens nothing of before, even where the old record is put back.
    assert_eq!(fixture.secret("contoso").await, None);
    let after = copy(&fixture.store).await;
    for (key, value) in record
        .iter()
        .filter(|(key, _)| key.as_bytes().starts_with(b"o/"))
    {
        put(&after, key, value).await;
    }
    let vault = Vault::open(after, keks.clone()).await;
    assert!(matches!(vault, Err(Error::Altered(_))), "{vault:?}");

    // An older copy opens under the KEK of its time, whatever the broker does.
    assert!(stolen(&before, "contoso", &[1]).await.is_some());
    assert_eq!(look(&fixture).await, [retired(1, 1)]);
    keks.are(&[2, 1]);
    assert_eq!(look(&fixture).await, [retired(1, 1)]);
    let census = fixture.vault.census().await.expect("counts");
    assert!(census.is_all_under(&kek_id(2)), "it was re-wrapped at once");
    let between = copy(&fixture.store).await;
    assert!(stolen(&before, "contoso", &[2, 1]).await.is_some());

    // Once that KEK is gone, no copy does.
    keks.are(&[2]);
    assert_eq!(look(&fixture).await, []);
    assert_eq!(fixture.vault.retired().await.expect("reads"), []);
    for copy in [&before, &between] {
        assert_eq!(stolen(copy, "contoso", &[2]).await, None);
    }
    assert!(stolen(&between, "fabrikam", &[2]).await.is_some());
}

#[tokio::test]
async fn a_kek_that_was_replaced_before_is_waited_for_too() {
    let keks = Keks::new(&[1]);
    let fixture = with(&["contoso"], &keks).await;
    let before = copy(&fixture.store).await;
    keks.are(&[2, 1]);
    fixture.vault.rewrap(None, |_| ()).await.expect("re-wraps");
    assert_eq!(
        fixture.vault.retired().await.expect("reads"),
        [retired(1, 0)]
    );
    assert_eq!(look(&fixture).await, [], "nobody waits");
    revoke_and_shred(&fixture, "contoso")
        .await
        .expect("revokes");
    assert_eq!(look(&fixture).await, [retired(1, 1), retired(2, 1)]);
    // The present one being replaced, the copy of before opens still.
    keks.are(&[3, 1]);
    let left = fixture.vault.shred(&mut None).await;
    assert!(
        matches!(left, Err(Error::Kek(_))),
        "keys under KEK 2 are left: {left:?}"
    );
    keks.are(&[3, 2, 1]);
    assert_eq!(look(&fixture).await.len(), 2);
    keks.are(&[3, 1]);
    assert_eq!(look(&fixture).await, [retired(1, 1)]);
    assert!(stolen(&before, "contoso", &[3, 1]).await.is_some());
    keks.are(&[3]);
    assert_eq!(look(&fixture).await, []);
    assert_eq!(stolen(&before, "contoso", &[3]).await, None);
}

#[tokio::test]
async fn the_kek_that_the_key_is_wrapped_under_is_listed_and_not_the_present_one() {
    let keks = Keks::new(&[1]);
    let fixture = with(&["contoso"], &keks).await;
    keks.are(&[2, 1]);
    revoke_and_shred(&fixture, "contoso")
        .await
        .expect("revokes");
    let listed = fixture.vault.retired().await.expect("reads");
    assert_eq!(listed, [retired(1, 1)]);
    // It is replaced already: that is enough to re-wrap.
    assert_eq!(look(&fixture).await, [retired(1, 1)]);
    let census = fixture.vault.census().await.expect("counts");
    assert!(census.is_all_under(&kek_id(2)));
}

#[tokio::test]
async fn a_kek_that_is_gone_too_early_stays_listed() {
    let keks = Keks::new(&[1]);
    let fixture = with(&["contoso", "fabrikam"], &keks).await;
    revoke_and_shred(&fixture, "contoso")
        .await
        .expect("revokes");
    keks.are(&[2]);
    assert!(fixture.vault.shred(&mut None).await.is_err());
    // Even if nobody tries to re-wrap.
    let left = fixture.vault.shred(&mut Some(kek_id(2))).await;
    assert_eq!(left.expect("counts"), [retired(1, 1)]);
}

#[tokio::test]
async fn a_refused_revocation_lists_nothing_and_a_plain_one_neither() {
    let keks = Keks::new(&[1]);
    let fixture = with(&["contoso", "fabrikam"], &keks).await;
    fixture.rotate("contoso", 1).await.expect("rotates");
    let refused = revoke_and_shred(&fixture, "contoso").await;
    assert!(matches!(
        refused,
        Err(Error::RevisionConflict { current: 2 })
    ));
    fixture.revoke("fabrikam", 1).await.expect("revokes");
    let refused = revoke_and_shred(&fixture, "fabrikam").await;
    assert!(matches!(refused, Err(Error::Revoked(_))));
    assert_eq!(fixture.vault.retired().await.expect("reads"), []);
}

#[tokio::test]
async fn the_list_outlives_a_restart_and_a_damaged_one_is_told() {
    let keks = Keks::new(&[1]);
    let fixture = with(&["contoso", "fabrikam"], &keks).await;
    revoke_and_shred(&fixture, "contoso")
        .await
        .expect("revokes");
    let again = reopen(&fixture.store, 1).await.expect("opens");
    assert_eq!(again.retired().await.expect("reads"), [retired(1, 1)]);
    let stored = fixture.store.get(&place()).await.expect("reads");
    let mut stored = stored.expect("is there").value;
    *stored.last_mut().expect("some bytes") ^= 1;
    put(&fixture.store, &place(), &stored).await;
    let before = entries(&fixture.store).await;
    for outcome in [
        again.retired().await.map(|_| ()),
        revoke_and_shred(&fixture, "fabrikam").await,
    ] {
        assert!(matches!(outcome, Err(Error::Corrupt(_))), "{outcome:?}");
    }
    assert_eq!(entries(&fixture.store).await, before);
    // Without shredding it is revoked all the same.
    fixture.revoke("fabrikam", 1).await.expect("revokes");
}

#[tokio::test]
async fn the_list_names_no_kek_in_clear_and_is_bounded() {
    let keks = Keks::new(&[1]);
    let fixture = with(&["contoso"], &keks).await;
    revoke_and_shred(&fixture, "contoso")
        .await
        .expect("revokes");
    let retirement = &fixture.vault.root.retirement;
    let mut list = fixture.vault.retired().await.expect("reads");
    for number in 0..2 * LISTED_MAX {
        listed(
            &mut list,
            &KekId::parse(&format!("{number:064}")).expect("an id"),
        );
    }
    assert_eq!(list.len(), LISTED_MAX);
    assert_eq!(list[0], retired(1, 1), "what organizations wait for stays");
    let sealed = retirement.seal(&list).expect("seals");
    assert!(sealed.len() < crate::store::VALUE_BYTES_MAX);
    assert_eq!(retirement.open(Some(&sealed)).expect("opens"), list);
    let name = b"000000";
    assert!(!sealed.windows(name.len()).any(|window| window == name));
}

#[tokio::test(start_paused = true)]
async fn whoever_looks_out_re_wraps_and_strikes_off_by_itself() {
    let keks = Keks::new(&[1]);
    let fixture = Arc::new(with(&["contoso", "fabrikam"], &keks).await);
    let looking = fixture.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { looking.vault.follow_shredding().await });
    sleep(LOOK_INTERVAL / 2).await;
    assert_eq!(fixture.vault.keks_waited_for(), 0);
    revoke_and_shred(&fixture, "contoso")
        .await
        .expect("revokes");
    // Told at once, not with the next look.
    sleep(Duration::from_millis(1)).await;
    assert_eq!(fixture.vault.keks_waited_for(), 1);
    keks.are(&[2, 1]);
    sleep(LOOK_INTERVAL).await;
    let census = fixture.vault.census().await.expect("counts");
    assert!(census.is_all_under(&kek_id(2)));
    assert_eq!(fixture.vault.keks_waited_for(), 1);
    keks.are(&[2]);
    sleep(LOOK_INTERVAL).await;
    assert_eq!(fixture.vault.keks_waited_for(), 0);
}

#[tokio::test]
async fn a_key_that_is_wrapped_anew_just_then_is_listed_with_both_keks() {
    let (mut before, mut after) = (0, 0);
    for turns in 0..60 {
        let keks = Keks::new(&[1]);
        let fixture = Arc::new(with(&["contoso"], &keks).await);
        keks.are(&[2, 1]);
        let (rewrapping, mut tasks) = (fixture.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut rewrapped = 0;
            let walk = rewrapping
                .vault
                .rewrap(None, |told| rewrapped = told.rewrapped);
            walk.await.expect("re-wraps");
            rewrapped
        });
        for _ in 0..turns {
            yield_now().await;
        }
        revoke_and_shred(&fixture, "contoso")
            .await
            .expect("revokes");
        let rewrapped = tasks.join_next().await.expect("a task").expect("ends");
        let listed = fixture.vault.retired().await.expect("reads");
        // The root and the key: else the key was replaced before it was its turn.
        if rewrapped == 2 {
            after += 1;
            assert_eq!(
                listed,
                [retired(1, 1), retired(2, 1)],
                "after {turns} turns"
            );
        } else {
            before += 1;
            assert_eq!(listed, [retired(1, 1)], "after {turns} turns");
        }
    }
    assert!(before > 0 && after > 0, "{before} {after}");
}

/// What happens beside a re-wrapping.
#[derive(Clone, Copy, Debug)]
enum Event {
    Register,
    Rotate(usize),
    Revoke(usize),
    Shred(usize),
    /// So many turns of the re-wrapping.
    Turns(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Register),
        any::<usize>().prop_map(Event::Rotate),
        any::<usize>().prop_map(Event::Revoke),
        any::<usize>().prop_map(Event::Shred),
        (1..40_usize).prop_map(Event::Turns),
    ]
}

/// Organizations with their revisions; 0 once revoked.
type Model = Vec<u64>;

async fn step(fixture: &Fixture, model: &mut Model, event: Event) {
    let name = |at: usize| format!("organization-{at}");
    match event {
        Event::Register => {
            fixture
                .register(&name(model.len()))
                .await
                .expect("registers");
            model.push(1);
        }
        Event::Turns(turns) => {
            for _ in 0..turns {
                yield_now().await;
            }
        }
        Event::Rotate(at) | Event::Revoke(at) | Event::Shred(at) => {
            let at = at % model.len();
            let (name, revision) = (name(at), model[at]);
            if revision == 0 {
                return;
            }
            let mark = fixture.vault.mark(&format!("{revision}"), b"");
            let vault = &fixture.vault;
            match event {
                Event::Rotate(_) => {
                    fixture.rotate(&name, revision).await.expect("rotates");
                    model[at] += 1;
                    return;
                }
                Event::Revoke(_) => vault.revoke(&id(&name), revision, mark, now()).await,
                _ => {
                    let id = id(&name);
                    vault.revoke_and_shred(&id, revision, mark, now()).await
                }
            }
            .expect("revokes");
            model[at] = 0;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_meanwhile_all_opens_after_and_none_is_under_the_older_kek(
        events in proptest::collection::vec(event(), 1..60), organizations in 1..40_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(async {
            let keks = Keks::new(&[1]);
            let fixture = Arc::new(with(&[], &keks).await);
            let mut model = Model::new();
            for _ in 0..organizations {
                step(&fixture, &mut model, Event::Register).await;
            }
            keks.are(&[2, 1]);
            let rewrapping = fixture.clone();
            let mut tasks = JoinSet::new();
            tasks.spawn(async move { rewrapping.vault.rewrap(None, |_| ()).await });
            for event in events {
                step(&fixture, &mut model, event).await;
            }
            let census = tasks.join_next().await.expect("a task").expect("ends");
            let census = census.expect("re-wraps");
            assert!(census.is_all_under(&kek_id(2)), "{census:?}");
            let store = fixture.store.clone();
            assert!(store.scan(b"k/", None, SCAN_MAX).await.expect("reads").len() == model.len());
            keks.are(&[2]);
            let vault = reopen(&store, 2).await.expect("opens");
            let fixture = Fixture { store, vault };
            for (at, revision) in model.iter().enumerate() {
                let found = fixture.secret(&format!("organization-{at}")).await;
                assert_eq!(found.is_some(), *revision > 0, "{at}");
            }
        });
    }
}
