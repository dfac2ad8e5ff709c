//! Large stores: what nobody asks for costs nothing, neither at the start nor afterwards.

use std::{fs, sync::Arc, time::Duration};

use kodo_broker::{
    client::{Client, Token, TokenOptions},
    clock::Clock,
    credential::Credential,
    kek::file::KeyFile,
    organization::{ClientId, Cloud, OrganizationId, Resource, TenantId},
    pb::v1,
    secret::{AccessToken, ClientSecret},
    store::sled::SledStore,
    vault::{KeptToken, NewOrganization, Vault},
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    program::{now, poll},
    site::{Serving, Site},
};

const SECRET: &str = "one~5ecret.of-all_0123456789abcdef";
/// What there are kept tokens for.
const KEPT: [(v1::Resource, &str); 2] = [
    (v1::Resource::Graph, "https://graph.microsoft.com"),
    (v1::Resource::Exchange, "https://outlook.office365.com"),
];
/// How long a start may take, up to the first token.
const START: Duration = Duration::from_secs(5);
/// Changes at once: enough to fill the groups of the store's writer.
const COMMITS: usize = 512;
/// Calls at once.
const CALLS: usize = 64;

pub(crate) fn id(number: usize) -> String {
    format!("customer-{number}")
}

/// Does something with every number below a bound, so many at once.
async fn for_each<F>(at_once: usize, bound: usize, work: impl Fn(usize) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..bound {
        if tasks.len() == at_once {
            let done = tasks.join_next().await;
            done.expect("there are some").expect("nothing panics");
        }
        tasks.spawn(work(number));
    }
    tasks.join_all().await;
}

/// A vault in the store of a site, while no broker has it.
pub(crate) async fn open(site: &Site) -> Arc<Vault> {
    let key = KeyFile::open(&site.path("kek")).expect("a key");
    let store = SledStore::open(&site.path("data")).await.expect("opens");
    let vault = Vault::open(Arc::new(store), Arc::new(key)).await;
    Arc::new(vault.expect("opens"))
}

/// Closes a vault, and waits until sled's threads have let go of its files.
pub(crate) fn close(site: &Site, vault: Arc<Vault>) {
    site.write("data.anchor", vault.anchor());
    drop(Arc::into_inner(vault).expect("nobody else has it"));
    let log = fs::File::open(site.path("data/db")).expect("a log");
    poll("the store is closed", || log.try_lock().ok());
}

/// Registers organizations, all of one application.
pub(crate) async fn fill(site: &Site, organizations: usize) {
    let (tenant, client_id) = site.add_tenant("all", |application| application.with_secret(SECRET));
    let vault = open(site).await;
    for_each(COMMITS, organizations, |number| {
        register(vault.clone(), number, tenant, client_id)
    })
    .await;
    close(site, vault);
}

async fn register(vault: Arc<Vault>, number: usize, tenant: Uuid, client_id: Uuid) {
    let credential = Credential::ClientSecret {
        value: ClientSecret::new(SECRET.into()),
        expires: None,
    };
    let new = NewOrganization {
        id: OrganizationId::parse(&id(number)).expect("an id"),
        display_name: format!("Customer {number}"),
        tenant_id: TenantId::parse(&tenant.to_string()).expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse(&client_id.to_string()).expect("a GUID"),
        sharepoint_root_host: None,
        sharepoint_hosts: vec![],
        labels: Default::default(),
    };
    let organization = new.registered(&credential, Clock::system().now());
    let mark = vault.mark(&id(number), b"");
    let registered = vault.register(organization, credential, mark).await;
    registered.expect("registers");
}

/// A token of an hour, asked for now.
fn kept(number: usize, audience_url: &str) -> KeptToken {
    let now = Clock::system().now();
    KeptToken {
        access_token: AccessToken::new(kept_text(number, audience_url)),
        audience_url: audience_url.into(),
        client_id: ClientId::parse(&Uuid::new_v4().to_string()).expect("a GUID"),
        credential_version: 1,
        issue_time: now,
        refresh_time: now + Duration::from_secs(1800),
        expire_time: now + Duration::from_secs(3600),
    }
}

/// As long as the tokens of Entra.
fn kept_text(number: usize, audience_url: &str) -> String {
    format!("{number}.{audience_url}.{}", "x".repeat(1800))
}

/// Starts a broker, gets a token of an organization nobody has asked for yet, and tells how long both
/// took together.
async fn start_and_ask(site: &Site, number: usize) -> (Serving, Duration) {
    let began = now();
    let serving = site.serve().await;
    let client = site.worker().await;
    ask(&client, number, v1::Resource::Graph).await;
    (serving, began.elapsed())
}

async fn ask(client: &Client, number: usize, resource: v1::Resource) -> Arc<Token> {
    let token = client
        .token(&id(number), resource, TokenOptions::default())
        .await;
    token.expect("a token")
}

/// What a stretch of work took, told so that a run shows it.
#[expect(
    clippy::print_stderr,
    reason = "figures of a run, shown with --nocapture"
)]
pub(crate) fn tell(what: &str, took: Duration) {
    eprintln!("scale: {what}: {:.3} s", took.as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_100_000_organizations_opens_and_answers_within_seconds() {
    let site = Site::new().await;
    let began = now();
    fill(&site, 100_000).await;
    tell("100,000 organizations registered", began.elapsed());
    // The first start reads the log of the fill, the second what the first left behind when killed.
    for (number, start) in ["first", "second"].into_iter().enumerate() {
        let (serving, took) = start_and_ask(&site, number).await;
        tell(&format!("{start} start and one token"), took);
        assert!(took < START, "{start}: {took:?}");
        assert_eq!(site.simulator.request_count(), number as u64 + 1);
        serving.process.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_15_000_kept_tokens_asks_entra_for_none() {
    const ORGANIZATIONS: usize = 7_500;
    /// Of so many organizations the broker itself got and kept the token for Graph.
    const ASKED: usize = 50;
    let site = Site::new().await;
    fill(&site, ORGANIZATIONS).await;
    let serving = site.serve().await;
    let client = site.worker().await;
    let mut got = Vec::new();
    for number in 0..ASKED {
        got.push(ask(&client, number, v1::Resource::Graph).await);
    }
    assert_eq!(site.simulator.request_count(), ASKED as u64);
    serving.stop();
    keep_all(&site, ORGANIZATIONS, ASKED).await;

    let (serving, took) = start_and_ask(&site, 0).await;
    tell("restart and one token", took);
    assert!(took < START, "{took:?}");
    let client = site.worker().await;
    let began = now();
    for (resource, audience_url) in KEPT {
        for_each(CALLS, ORGANIZATIONS, |number| {
            let client = client.clone();
            async move {
                let token = ask(&client, number, resource).await;
                // Exposed: they are compared.
                let by_broker = resource == v1::Resource::Graph && number < ASKED;
                let is_kept = token.access_token.expose() == kept_text(number, audience_url);
                assert!(is_kept != by_broker, "{number}");
            }
        })
        .await;
    }
    tell("15,000 kept tokens handed out", began.elapsed());
    for (number, before) in got.iter().enumerate() {
        let after = ask(&client, number, v1::Resource::Graph).await;
        // Exposed: they are compared.
        assert!(
            after.access_token.expose() == before.access_token.expose(),
            "{number}"
        );
    }
    assert_eq!(site.simulator.request_count(), ASKED as u64);
    serving.stop();
}

/// Keeps the tokens of all organizations, but for those that the broker has kept.
async fn keep_all(site: &Site, organizations: usize, asked: usize) {
    let vault = open(site).await;
    for (resource, audience_url) in KEPT {
        for_each(COMMITS, organizations, |number| {
            let vault = vault.clone();
            async move {
                let id = OrganizationId::parse(&id(number)).expect("an id");
                let resource = match resource {
                    v1::Resource::Graph if number < asked => return,
                    v1::Resource::Graph => Resource::Graph,
                    _ => Resource::Exchange,
                };
                let token = kept(number, audience_url);
                let keeping = vault.keep_token(&id, &resource, &token).await;
                keeping.expect("keeps");
            }
        })
        .await;
    }
    close(site, vault);
}
