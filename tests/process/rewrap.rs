//! Keys that are re-wrapped: killed at any point, beside calls, and until copies open no more.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kodo_broker::{
    client::TokenOptions,
    organization::OrganizationId,
    pb::{admin::v1::RewrapKeysRequest, v1::Resource},
    vault::{Vault, rewrap::Census},
};
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    command_line::register,
    is_long_run,
    numbers::Numbers,
    program::{now, poll},
    scale::{close, fill, id, open, tell},
    seed,
    site::{KEK, OTHER_KEK, Serving, Site},
};

const SEED: u64 = 0x7265_7772;
const KILLS: usize = 50;
const KILLS_LONG: usize = 200;
/// Several pages of a walk.
const ORGANIZATIONS: usize = 1500;
/// How long a kill comes after a message, at most.
const LATE_MAX_MICROSECONDS: u64 = 20_000;
/// For 100,000 keys.
const REWRAP_MAX: Duration = Duration::from_secs(60);
const CALLERS: usize = 4;

/// Has all keys re-wrapped, and is killed somewhere on the way. Whether it was in time.
async fn killed_on_the_way(site: &Site, numbers: &mut Numbers) -> bool {
    let serving = site.serve().await;
    let operator = site.operator().await;
    let request = RewrapKeysRequest {
        keys_per_second_max: 0,
    };
    let messages = operator.rewrap_keys(request).await;
    let mut messages = messages.expect("begins");
    let pages = ORGANIZATIONS as u64 / 256;
    let mut finished = false;
    for _ in 0..numbers.below(pages) {
        let message = messages.message().await.expect("goes on");
        finished |= message.is_none_or(|message| message.finished);
    }
    let late = Duration::from_micros(numbers.below(LATE_MAX_MICROSECONDS));
    let _ = timeout(late, async {
        while let Ok(Some(message)) = messages.message().await {
            finished |= message.finished;
        }
    })
    .await;
    serving.process.kill();
    !finished
}

/// Every organization opens; returns under which KEK the keys are.
async fn all_open(vault: &Vault, at: &str) -> Census {
    for number in 0..ORGANIZATIONS {
        let id = OrganizationId::parse(&id(number)).expect("an id");
        let found = vault.application(&id).await;
        let found = found.unwrap_or_else(|error| panic!("{at}: {id}: {error}"));
        assert!(
            found.is_some_and(|found| found.credential.is_some()),
            "{at}"
        );
    }
    vault.census().await.expect("counts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_point_every_key_opens_and_the_next_walk_goes_on() {
    let site = Site::new().await;
    fill(&site, ORGANIZATIONS).await;
    let seed = seed(SEED);
    let mut numbers = Numbers(seed);
    let kills = if is_long_run() { KILLS_LONG } else { KILLS };
    let mut keks = [KEK, OTHER_KEK];
    let (mut amid, mut in_time, mut walks) = (0, 0, 0);
    let mut last = 0;
    for kill in 0..kills {
        let at = format!("seed {seed:#x}, kill {kill}");
        site.write("kek", format!("{}\n{}\n", keks[1], keks[0]));
        in_time += usize::from(killed_on_the_way(&site, &mut numbers).await);
        let vault = open(&site).await;
        let census = all_open(&vault, &at).await;
        let done = census.under(&vault.kek_id());
        close(&site, vault);
        assert!(done >= last, "{at}: what is done stays done");
        last = done;
        if done == census.total() {
            // All: the other way round.
            keks.reverse();
            (last, walks) = (0, walks + 1);
        } else if done > 0 {
            amid += 1;
        }
    }
    crate::kill::report(&format!(
        "seed {seed:#x}: {kills} kills, {in_time} before the walk had said that it ended, {amid} left \
         keys under both KEKs, {walks} walks ended"
    ));
    // Otherwise the kills come too early or too late to show anything.
    assert!(amid > kills / 4 && walks > 0, "{amid} {walks}");

    // As the last walk that ended has left them.
    site.write("kek", format!("{}\n{}\n", keks[1], keks[0]));
    let serving = site.serve().await;
    site.call("admin", &["store", "rewrap"]).expect_code(0);
    serving.stop();
    site.write("kek", keks[1]);
    let vault = open(&site).await;
    assert_eq!(all_open(&vault, "the end").await.keys.len(), 1);
    close(&site, vault);
}

/// Asks for tokens of one organization after the other until it is told to stop.
async fn ask(
    site: &Site,
    first: usize,
    organizations: usize,
    stop: &AtomicBool,
    asked: &AtomicU64,
) {
    let client = site.worker().await;
    let mut number = first;
    while !stop.load(Ordering::Relaxed) {
        let name = id(number % organizations);
        let token = client.token(&name, Resource::Graph, TokenOptions::default());
        token.await.expect("a token");
        asked.fetch_add(1, Ordering::Relaxed);
        number += CALLERS;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_store_is_re_wrapped_within_its_time_while_tokens_are_handed_out() {
    let organizations = if is_long_run() { 100_000 } else { 20_000 };
    let site = Arc::new(Site::new().await);
    fill(&site, organizations).await;
    site.write("kek", format!("{OTHER_KEK}\n{KEK}\n"));
    let serving = site.serve().await;
    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut callers = JoinSet::new();
    for first in 0..CALLERS {
        let (site, stop, asked) = (site.clone(), stop.clone(), asked.clone());
        callers.spawn(async move { ask(&site, first, organizations, &stop, &asked).await });
    }
    let began = now();
    let (caller, before) = (site.clone(), asked.load(Ordering::Relaxed));
    let done =
        tokio::task::spawn_blocking(move || caller.call("admin", &["store", "rewrap"])).await;
    let took = began.elapsed();
    let handed_out = asked.load(Ordering::Relaxed) - before;
    stop.store(true, Ordering::Relaxed);
    callers.join_all().await;
    let done = done.expect("ends").expect_code(0);
    let all = format!("all {} keys are wrapped under", organizations + 1);
    assert!(done.out.contains(&all), "{done:?}");
    tell(
        &format!("{organizations} organizations re-wrapped beside {handed_out} calls of GetToken"),
        took,
    );
    assert!(handed_out > 0);
    let limit =
        REWRAP_MAX.mul_f64(f64::from(u32::try_from(organizations).expect("few")) / 100_000.0);
    assert!(took <= limit, "{took:?} of {limit:?}");
    serving.stop();
}

/// Copies the store's files as they are.
fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    for item in fs::read_dir(from).expect("a folder").flatten() {
        let (path, to) = (item.path(), to.join(item.file_name()));
        if path.is_dir() {
            copy_files(&path, &to);
        } else {
            fs::copy(path, to).expect("copies");
        }
    }
}

fn status(site: &Site) -> Value {
    let status = site.call("admin", &["store", "status", "-o", "json"]);
    serde_json::from_str(&status.expect_code(0).out).expect("JSON")
}

/// Serves an older copy of the store with this KEK file, and tells whether `contoso` gets a token.
async fn opens(site: &Site, copy: &str, kek: &str) -> bool {
    let _ = fs::remove_dir_all(site.path("data"));
    let _ = fs::remove_file(site.path("data.anchor"));
    copy_files(&site.path(copy), &site.path("data"));
    site.write("kek", kek);
    let config = site.shown("broker.toml");
    let accept = [
        "store",
        "accept-rollback",
        "--reason",
        "a thief",
        "--config",
        &config,
    ];
    if crate::program::run(&accept).code != Some(0) {
        return false;
    }
    let serving = site.serve().await;
    let options = TokenOptions::default();
    let worker = site.worker().await;
    let token = worker.token("contoso", Resource::Graph, options).await;
    serving.process.kill();
    token.is_ok()
}

async fn stopped(site: &Site, serving: Serving, copy: &str) -> Serving {
    serving.stop();
    copy_files(&site.path("data"), &site.path(copy));
    site.serve().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_shredding_no_copy_opens_once_the_kek_is_destroyed() {
    let site = Site::new().await;
    let serving = site.serve().await;
    for name in ["contoso", "fabrikam"] {
        register(&site, name);
    }
    let serving = stopped(&site, serving, "before").await;
    let old = status(&site)["kek_id"].as_str().expect("an id").to_owned();
    let arguments = ["org", "revoke", "contoso", "--yes", "--shred"];
    let revoked = site.call("admin", &arguments).expect_code(0);
    let to_do = format!(
        "to do: older copies open for 1 revoked organization under the KEK {old}: replace it"
    );
    assert!(revoked.err.contains(&to_do), "{revoked:?}");
    assert_eq!(status(&site)["keks_to_destroy"][0]["present"], true);

    // Replacing the KEK is all that the operator does: the broker re-wraps by itself.
    site.write("kek", format!("{OTHER_KEK}\n{KEK}\n"));
    let rewrapped = poll("the keys are re-wrapped", || {
        let status = status(&site);
        status["keys"].get(&old).is_none().then_some(status)
    });
    let waiting = &rewrapped["keks_to_destroy"][0];
    assert_eq!(
        (&waiting["kek_id"], &waiting["organizations"]),
        (&old.clone().into(), &1.into())
    );
    let shown = site.call("admin", &["store", "status"]).expect_code(0);
    assert!(
        shown.err.contains("destroy it now, with every copy of it"),
        "{shown:?}"
    );
    let serving = stopped(&site, serving, "between").await;
    site.write("kek", OTHER_KEK);
    poll("it is seen that the KEK is gone", || {
        let left = status(&site)["keks_to_destroy"].as_array().map(Vec::len);
        (left == Some(0)).then_some(())
    });
    serving.stop();

    // Whoever kept the KEK and a copy of before has it; without the KEK nobody has.
    assert!(opens(&site, "before", KEK).await);
    for copy in ["before", "between"] {
        assert!(!opens(&site, copy, OTHER_KEK).await, "{copy}");
    }
}
