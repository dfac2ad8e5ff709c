use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::{
    super::{
        RECORDS,
        tests::{Fixture, HOUR, TENANT, entries, holds, id, now, put, reopen},
    },
    *,
};
use crate::store::{Entry, Revision, Store, memory::MemoryStore};

mod model;

const MINUTE: Duration = Duration::from_secs(60);
const TOKEN: &str = "canary.access-token.Zq7";

fn client() -> ClientId {
    ClientId::parse("0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9").expect("a GUID")
}

/// A token of an hour, asked for now.
fn token(text: &str, credential_version: u64) -> KeptToken {
    KeptToken {
        access_token: AccessToken::new(text.to_owned()),
        audience_url: "https://graph.microsoft.com".into(),
        client_id: client(),
        credential_version,
        issue_time: now(),
        refresh_time: now() + HOUR / 2,
        expire_time: now() + HOUR,
    }
}

fn host(name: &str) -> Resource {
    Resource::SharePoint(Some(name.to_owned()))
}

fn resources() -> [Resource; 6] {
    [
        Resource::Graph,
        Resource::Exchange,
        Resource::AzureAdGraph,
        Resource::SharePoint(None),
        host("contoso.sharepoint.com"),
        host("contoso-my.sharepoint.com"),
    ]
}

impl Fixture {
    async fn keep(&self, id: &str, resource: &Resource, token: &KeptToken) {
        let kept = self.vault.keep_token(&self::id(id), resource, token).await;
        kept.expect("keeps");
    }

    async fn kept_at(&self, id: &str, resource: &Resource, now: SystemTime) -> Option<KeptToken> {
        let kept = self.vault.kept_token(&self::id(id), resource, now).await;
        kept.expect("reads")
    }

    /// The text of the token that is kept.
    async fn kept(&self, id: &str, resource: &Resource) -> Option<String> {
        let kept = self.kept_at(id, resource, now()).await?;
        // Exposed: it is compared.
        Some(kept.access_token.expose().to_owned())
    }

    /// Keys and values of the kept tokens.
    async fn stored(&self) -> Vec<(Key, Vec<u8>)> {
        let mut entries = entries(&self.store).await;
        entries.retain(|(key, _)| key.as_bytes().starts_with(TOKENS));
        entries
    }
}

#[tokio::test]
async fn a_kept_token_is_there_for_the_next_vault_and_for_its_resource_only() {
    let fixture = Fixture::with(&["contoso", "fabrikam"]).await;
    for (number, resource) in resources().iter().enumerate() {
        let token = token(&format!("token {number}"), 1);
        fixture.keep("contoso", resource, &token).await;
    }
    let vault = reopen(&fixture.store, 1).await.expect("opens");
    let fixture = Fixture { vault, ..fixture };
    for (number, resource) in resources().iter().enumerate() {
        let kept = fixture.kept("contoso", resource).await;
        assert_eq!(kept, Some(format!("token {number}")));
        assert_eq!(fixture.kept("fabrikam", resource).await, None);
    }
    let kept = fixture.kept_at("contoso", &Resource::Graph, now()).await;
    let kept = kept.expect("is there");
    assert_eq!(kept.audience_url, "https://graph.microsoft.com");
    assert_eq!((kept.client_id, kept.credential_version), (client(), 1));
    assert_eq!(kept.issue_time, now());
    assert_eq!(kept.refresh_time, now() + HOUR / 2);
    assert_eq!(kept.expire_time, now() + HOUR);
}

#[tokio::test]
async fn a_later_token_takes_the_place_of_an_earlier_one() {
    let fixture = Fixture::with(&["contoso"]).await;
    for text in ["first", "second"] {
        let token = token(text, 1);
        fixture.keep("contoso", &Resource::Graph, &token).await;
    }
    let kept = fixture.kept("contoso", &Resource::Graph).await;
    assert_eq!(kept.as_deref(), Some("second"));
    assert_eq!(fixture.stored().await.len(), 1);
}

#[tokio::test]
async fn a_token_that_has_ended_or_is_from_the_future_is_passed_over() {
    let fixture = Fixture::with(&["contoso"]).await;
    let resource = Resource::Graph;
    fixture.keep("contoso", &resource, &token(TOKEN, 1)).await;
    let second = Duration::from_secs(1);
    for (at, there) in [
        (now() + HOUR - Duration::from_millis(1), true),
        (now() + HOUR, false),
        (now() + 100 * HOUR, false),
        (now() - SKEW, true),
        (now() - SKEW - second, false),
        (now() - HOUR, false),
        (SystemTime::UNIX_EPOCH, false),
    ] {
        let kept = fixture.kept_at("contoso", &resource, at).await;
        assert_eq!(kept.is_some(), there, "{at:?}");
    }
}

#[tokio::test]
async fn a_rotation_and_a_revocation_leave_no_kept_token() {
    let fixture = Fixture::with(&["contoso", "fabrikam"]).await;
    for id in ["contoso", "fabrikam"] {
        for resource in resources() {
            fixture.keep(id, &resource, &token(TOKEN, 1)).await;
        }
    }
    let before = fixture.stored().await;
    fixture.rotate("contoso", 1).await.expect("rotates");
    assert_eq!(fixture.stored().await.len(), resources().len());
    // Neither do they open where somebody puts them back, nor is one of the old credential kept.
    for (key, value) in &before {
        put(&fixture.store, key, value).await;
    }
    for resource in resources() {
        assert_eq!(fixture.kept("contoso", &resource).await, None);
        assert!(fixture.kept("fabrikam", &resource).await.is_some());
    }
    fixture
        .vault
        .forget_tokens(&id("contoso"))
        .await
        .expect("forgets");
    fixture
        .keep("contoso", &Resource::Graph, &token("old", 1))
        .await;
    assert_eq!(fixture.kept("contoso", &Resource::Graph).await, None);
    fixture
        .keep("contoso", &Resource::Graph, &token("new", 2))
        .await;
    let kept = fixture.kept("contoso", &Resource::Graph).await;
    assert_eq!(kept.as_deref(), Some("new"));

    fixture.revoke("contoso", 2).await.expect("revokes");
    assert_eq!(fixture.stored().await.len(), resources().len());
    for version in 0..4 {
        let late = token("late", version);
        fixture.keep("contoso", &Resource::Graph, &late).await;
    }
    fixture
        .keep("unknown", &Resource::Graph, &token("none", 1))
        .await;
    assert_eq!(fixture.kept("contoso", &Resource::Graph).await, None);
    assert_eq!(fixture.stored().await.len(), resources().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_token_is_kept_past_a_change_however_they_race() {
    let fixture = Arc::new(Fixture::with(&["contoso"]).await);
    for revision in 1..100 {
        let mut keeping = JoinSet::new();
        for _ in 0..2 {
            let fixture = fixture.clone();
            keeping.spawn(async move {
                let token = token(TOKEN, revision);
                fixture.keep("contoso", &Resource::Graph, &token).await;
            });
        }
        fixture.rotate("contoso", revision).await.expect("rotates");
        keeping.join_all().await;
        assert_eq!(fixture.kept("contoso", &Resource::Graph).await, None);
    }
}

/// A store in which every record is written anew just before a token is.
#[derive(Debug)]
struct Overtaken(Arc<MemoryStore>);

#[async_trait]
impl Store for Overtaken {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, store::Error> {
        self.0.get(key).await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, store::Error> {
        self.0.scan(prefix, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, store::Error> {
        for (key, record) in self.0.scan(RECORDS, None, SCAN_MAX).await? {
            put(&self.0, &key, &record.value).await;
        }
        self.0.commit(transaction).await
    }
}

#[tokio::test]
async fn a_token_is_written_only_to_the_record_that_it_was_made_for() {
    let mut fixture = Fixture::with(&["contoso"]).await;
    fixture.vault.store = Arc::new(Overtaken(fixture.store.clone()));
    fixture
        .keep("contoso", &Resource::Graph, &token(TOKEN, 1))
        .await;
    assert_eq!(fixture.stored().await, []);
}

/// A store that cannot be read.
#[derive(Debug)]
struct Broken;

#[async_trait]
impl Store for Broken {
    async fn get(&self, _: &Key) -> Result<Option<Entry>, store::Error> {
        Err(store::Error::Failed("a broken disk".into()))
    }

    async fn scan(
        &self,
        _: &[u8],
        _: Option<&Key>,
        _: usize,
    ) -> Result<Vec<(Key, Entry)>, store::Error> {
        Err(store::Error::Failed("a broken disk".into()))
    }

    async fn commit(&self, _: Transaction) -> Result<Revision, store::Error> {
        Err(store::Error::Failed("a broken disk".into()))
    }
}

#[tokio::test]
async fn a_store_that_fails_is_told_from_one_without_the_token() {
    let mut fixture = Fixture::with(&["contoso"]).await;
    fixture.vault.store = Arc::new(Broken);
    let (vault, contoso) = (&fixture.vault, id("contoso"));
    let graph = Resource::Graph;
    let kept = vault.kept_token(&contoso, &graph, now()).await.map(|_| ());
    let keeping = vault.keep_token(&contoso, &graph, &token(TOKEN, 1)).await;
    let forgotten = vault.forget_tokens(&contoso).await;
    let swept = vault.sweep_tokens(now(), None, 1).await.map(|_| ());
    for outcome in [kept, keeping, forgotten, swept] {
        assert!(matches!(outcome, Err(Error::Store(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn tokens_are_forgotten_of_one_organization_only() {
    let fixture = Fixture::with(&["contoso", "fabrikam"]).await;
    for id in ["contoso", "fabrikam"] {
        for resource in resources() {
            fixture.keep(id, &resource, &token(TOKEN, 1)).await;
        }
    }
    fixture
        .vault
        .forget_tokens(&id("contoso"))
        .await
        .expect("forgets");
    for resource in resources() {
        assert_eq!(fixture.kept("contoso", &resource).await, None);
        assert!(fixture.kept("fabrikam", &resource).await.is_some());
    }
    fixture
        .vault
        .forget_tokens(&id("unknown"))
        .await
        .expect("forgets nothing");
}

#[tokio::test]
async fn a_sweep_deletes_in_pages_what_has_ended_and_nothing_else() {
    let ids: Vec<_> = (0..7).map(|number| format!("o{number}")).collect();
    let fixture = Fixture::new().await;
    for (number, id) in (0_u32..).zip(&ids) {
        fixture.register(id).await.expect("registers");
        let token = KeptToken {
            expire_time: now() + number * MINUTE,
            ..token(TOKEN, 1)
        };
        fixture.keep(id, &Resource::Graph, &token).await;
    }
    let others = entries(&fixture.store).await.len() - 7;
    let (mut after, mut deleted, mut calls) = (None, 0, 0);
    loop {
        let swept = fixture
            .vault
            .sweep_tokens(now() + 3 * MINUTE, after.as_ref(), 2);
        let swept = swept.await.expect("sweeps");
        assert!(swept.deleted <= 2);
        (deleted, calls) = (deleted + swept.deleted, calls + 1);
        after = swept.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((deleted, calls), (4, 4));
    assert_eq!(entries(&fixture.store).await.len(), others + 3);
    for (number, id) in ids.iter().enumerate() {
        let kept = fixture.kept_at(id, &Resource::Graph, now()).await;
        assert_eq!(kept.is_some(), number > 3, "{id}");
    }
    let swept = fixture.vault.sweep_tokens(now(), None, 0).await;
    assert!(swept.expect("sweeps").next.is_some(), "at least one");
}

#[tokio::test]
async fn a_sweep_takes_what_is_no_token_and_leaves_what_is_of_a_newer_broker() {
    let fixture = Fixture::with(&["contoso"]).await;
    fixture
        .keep("contoso", &Resource::Graph, &token(TOKEN, 1))
        .await;
    let (key, value) = fixture.stored().await.remove(0);
    let mut newer = value.clone();
    newer[5] = 2;
    for (stored, deleted) in [(newer, 0), (value[..19].to_vec(), 1), (vec![], 1)] {
        put(&fixture.store, &key, &stored).await;
        assert_eq!(fixture.kept("contoso", &Resource::Graph).await, None);
        let swept = fixture.vault.sweep_tokens(now(), None, 10).await;
        assert_eq!(swept.expect("sweeps").deleted, deleted);
    }
}

#[tokio::test]
async fn a_changed_or_cut_token_is_as_if_there_were_none() {
    let fixture = Fixture::with(&["contoso"]).await;
    fixture
        .keep("contoso", &Resource::Graph, &token(TOKEN, 1))
        .await;
    let (key, right) = fixture.stored().await.remove(0);
    for position in 0..right.len() {
        let mut changed = right.clone();
        changed[position] ^= 1;
        put(&fixture.store, &key, &changed).await;
        let kept = fixture.kept("contoso", &Resource::Graph).await;
        assert_eq!(kept, None, "byte {position}");
    }
    for length in 0..right.len() {
        put(&fixture.store, &key, &right[..length]).await;
        let kept = fixture.kept("contoso", &Resource::Graph).await;
        assert_eq!(kept, None, "length {length}");
    }
    put(&fixture.store, &key, &right).await;
    assert!(fixture.kept("contoso", &Resource::Graph).await.is_some());
}

#[tokio::test]
async fn tokens_cannot_be_swapped_between_organizations_or_resources() {
    let fixture = Fixture::with(&["contoso", "fabrikam"]).await;
    for id in ["contoso", "fabrikam"] {
        for resource in [Resource::Graph, Resource::Exchange] {
            fixture.keep(id, &resource, &token(TOKEN, 1)).await;
        }
    }
    let stored = fixture.stored().await;
    let all_kept = async || {
        let mut kept = Vec::new();
        for id in ["contoso", "fabrikam"] {
            for resource in [Resource::Graph, Resource::Exchange] {
                kept.push(fixture.kept(id, &resource).await);
            }
        }
        kept.iter().flatten().count()
    };
    for one in 0..4 {
        for other in one + 1..4 {
            put(&fixture.store, &stored[one].0, &stored[other].1).await;
            put(&fixture.store, &stored[other].0, &stored[one].1).await;
            assert_eq!(all_kept().await, 2, "{one} and {other}");
            for place in [one, other] {
                put(&fixture.store, &stored[place].0, &stored[place].1).await;
            }
        }
    }
    assert_eq!(all_kept().await, 4);
}

#[tokio::test]
async fn the_store_tells_neither_the_token_nor_what_it_is_for() {
    let fixture = Fixture::with(&["canary-organization"]).await;
    let resource = host("canary.sharepoint.com");
    fixture
        .keep("canary-organization", &resource, &token(TOKEN, 1))
        .await;
    let seen: Vec<u8> = fixture
        .stored()
        .await
        .into_iter()
        .flat_map(|(key, value)| [key.as_bytes(), &value].concat())
        .collect();
    for canary in [TOKEN, TENANT, "canary", "sharepoint", "graph.microsoft.com"] {
        assert!(!holds(&seen, canary.as_bytes()), "{canary}");
    }
    assert!(!holds(
        &seen,
        uuid::Uuid::parse_str(TENANT).expect("a GUID").as_bytes()
    ));
    let kept = fixture
        .kept_at("canary-organization", &resource, now())
        .await;
    assert!(!format!("{kept:?}").contains(TOKEN));
}

/// Puts the entries of a golden file into a store.
pub(in crate::vault) async fn golden(mut rest: &[u8]) -> Arc<MemoryStore> {
    let mut part = || {
        let (length, after) = rest.split_first_chunk()?;
        let (part, after) = after.split_at(u16::from_be_bytes(*length).into());
        rest = after;
        Some(part)
    };
    let store = Arc::new(MemoryStore::default());
    while let (Some(key), Some(value)) = (part(), part()) {
        put(&store, &Key::new(b"", key), value).await;
    }
    store
}

/// A whole store made by an independent implementation (Python's `cryptography`), and kept: what lies
/// in the stores of format 1, from the root to two tokens.
#[tokio::test]
async fn a_store_of_format_1_opens_down_to_its_tokens() {
    let store = golden(include_bytes!("golden-1.store")).await;
    assert_eq!(store.scan(b"", None, 10).await.expect("scans").len(), 5);
    let vault = reopen(&store, 1).await.expect("opens");
    let fixture = Fixture { store, vault };
    let secret = fixture.secret("fabrikam").await;
    assert_eq!(secret.as_deref(), Some("golden~secret.value"));
    let my = host("contoso-my.sharepoint.com");
    let kept = fixture.kept("fabrikam", &my).await;
    assert_eq!(kept.as_deref(), Some("golden.my.token"));
    assert_eq!(fixture.kept("fabrikam", &Resource::Exchange).await, None);
    let kept = fixture.kept_at("fabrikam", &Resource::Graph, now()).await;
    let kept = kept.expect("is there");
    // Exposed: it is compared.
    let text = kept.access_token.expose();
    assert_eq!(text, "eyJ0eXAiOiJKV1QifQ.golden.token");
    assert_eq!(kept.audience_url, "https://graph.microsoft.com");
    assert_eq!((kept.client_id, kept.credential_version), (client(), 1));
    assert_eq!(kept.issue_time, now());
    assert_eq!(kept.refresh_time, now() + HOUR / 2);
    assert_eq!(kept.expire_time, now() + HOUR - Duration::from_secs(1));
}
