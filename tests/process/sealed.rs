//! A broker that cannot open what it guards starts all the same, and opens once it can.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    time::Duration,
};

use kodo_broker::{client::TokenOptions, pb::v1::Resource};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    command_line::register,
    program::{Ended, now, poll, run},
    site::{KEK, OTHER_KEK, Serving, Site, files_below},
};

const TOKEN: [&str; 4] = ["token", "get", "contoso", "graph"];
/// How long the broker may take to notice that nothing is wrong any more: an attempt every 8 s at most.
const NOTICES_WITHIN_SECONDS: u64 = 20;

/// A site where `contoso` is registered, and no broker runs.
async fn with_contoso() -> Site {
    let site = Site::new().await;
    let audit = format!("\n[audit]\nfile = \"{}\"\n", site.shown("audit.jsonl"));
    site.write("broker.toml", site.configuration("info") + &audit);
    let serving = site.serve().await;
    register(&site, "contoso");
    serving.stop();
    site
}

/// Everything of the store, byte by byte.
fn stored(site: &Site) -> Vec<(PathBuf, Vec<u8>)> {
    files_below(&site.path("data"))
}

/// What the log says about why it is sealed: one line.
fn reason_logged(ended: &Ended) -> &str {
    let mut lines = ended.err.lines().filter(|line| line.contains("SEALED:"));
    lines.next().unwrap_or_else(|| panic!("none: {ended:?}"))
}

fn healthcheck(serving: &Serving) -> Ended {
    run(&["healthcheck", "--endpoint", &serving.health_url()])
}

/// Fails unless the broker is alive, not ready, and says so to everybody who asks.
async fn assert_sealed(site: &Site, serving: &Serving, said: &str) {
    let (not, is) = (
        Some(ServingStatus::NotServing),
        Some(ServingStatus::Serving),
    );
    assert_eq!(serving.health("readiness").await, not);
    assert_eq!(serving.health("").await, not);
    assert_eq!(serving.health("unsealed").await, not);
    assert_eq!(serving.health("liveness").await, is);
    let unhealthy = healthcheck(serving).expect_code(1);
    assert!(
        unhealthy.error().contains("the broker is sealed"),
        "{unhealthy:?}"
    );
    let refused = once(site, "worker", &TOKEN).expect_code(75);
    assert!(refused.err.contains("reason: SEALED"), "{refused:?}");
    assert!(refused.err.contains(said), "{refused:?}");
    let refused = once(site, "admin", &["org", "list"]).expect_code(75);
    assert!(refused.err.contains("reason: SEALED"), "{refused:?}");
    let folder = site.shown("");
    assert!(
        !refused.err.contains(folder.trim_end_matches('/')),
        "a path: {refused:?}"
    );
}

/// Runs a command of the command line, which tries once.
fn once(site: &Site, caller: &str, arguments: &[&str]) -> Ended {
    let connection = fs::read_to_string(site.path(&format!("{caller}.toml"))).expect("reads");
    let name = format!("{caller}-once");
    site.write(&format!("{name}.toml"), connection + "max_attempts = 1\n");
    site.call(&name, arguments)
}

/// Waits until the broker is ready, and gets a token.
async fn assert_unseals(site: &Site, serving: &Serving) {
    let began = now();
    poll("it opens", || {
        healthcheck(serving).code.filter(|code| *code == 0)
    });
    let took = began.elapsed();
    assert!(took.as_secs() < NOTICES_WITHIN_SECONDS, "{took:?}");
    assert_eq!(
        serving.health("readiness").await,
        Some(ServingStatus::Serving)
    );
    site.call("worker", &TOKEN).expect_code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_its_kek_is_sealed_until_the_file_is_there() {
    let site = with_contoso().await;
    let before = stored(&site);
    fs::remove_file(site.path("kek")).expect("it is there");
    let serving = site.serve_sealed().await;
    assert_sealed(&site, &serving, "the key encryption key is missing").await;
    assert_eq!(stored(&site), before, "the store was touched");

    // Neither one that others can read nor one that is none helps.
    site.write("kek", "no key at all");
    serving.logged("32 bytes in base64", 1);
    site.write("kek", KEK);
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(site.path("kek"), open).expect("it is ours");
    serving.logged("chmod", 1);
    assert_sealed(&site, &serving, "the key encryption key is missing").await;
    assert_eq!(stored(&site), before, "the store was touched");

    let closed = fs::Permissions::from_mode(0o600);
    fs::set_permissions(site.path("kek"), closed).expect("it is ours");
    assert_unseals(&site, &serving).await;
    let ended = serving.stop();
    assert!(reason_logged(&ended).contains("/kek"), "{ended:?}");
    assert_eq!(ended.err.matches("UNSEALED").count(), 1, "{ended:?}");
    let audit = fs::read_to_string(site.path("audit.jsonl")).expect("an audit log");
    let refused = audit.lines().filter(|line| line.contains("SEALED"));
    assert!(
        refused.clone().any(|line| line.contains("contoso")
            && line.contains("GetToken")
            && line.contains("graph")
            && line.contains("/worker")),
        "{audit}"
    );
    assert!(
        refused
            .clone()
            .any(|line| line.contains("ListOrganizations")),
        "{audit}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_a_kek_makes_no_store() {
    let site = Site::new().await;
    fs::remove_file(site.path("kek")).expect("it is there");
    let serving = site.serve_sealed().await;
    assert_sealed(&site, &serving, "the key encryption key is missing").await;
    assert!(!site.path("data").exists() && !site.path("data.anchor").exists());
    site.write("kek", KEK);
    poll("it opens", || {
        healthcheck(&serving).code.filter(|code| *code == 0)
    });
    register(&site, "contoso");
    serving.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_kek_is_left_as_it_is_until_its_own_is_there() {
    let site = with_contoso().await;
    let before = stored(&site);
    site.write("kek", OTHER_KEK);
    let serving = site.serve_sealed().await;
    assert_sealed(&site, &serving, "the key encryption key is missing, wrong").await;
    // The engine fills the last segment of its log up when it opens it; what it held, it still holds.
    let opened = stored(&site);
    for (path, content) in &before {
        let now = opened.iter().find(|(other, _)| other == path);
        let now = now.unwrap_or_else(|| panic!("{} is gone", path.display()));
        assert!(now.1.starts_with(content), "{} changed", path.display());
    }
    // It is opened once, however often the KEK is tried.
    site.write("kek", "no key at all");
    serving.logged("32 bytes in base64", 1);
    site.write("kek", OTHER_KEK);
    serving.logged("is sealed under the KEK file-", 2);
    assert_eq!(stored(&site), opened, "another attempt wrote to the store");
    site.write("kek", KEK);
    assert_unseals(&site, &serving).await;
    let ended = serving.stop();
    assert!(
        reason_logged(&ended).contains("is sealed under the KEK file-"),
        "the key that is missing is not named: {ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_stays_sealed_and_is_not_touched_again() {
    let site = with_contoso().await;
    let file = site.path("data").join("db");
    let sound = fs::read(&file).expect("reads");
    let mut damaged = sound.clone();
    // All that it holds: the engine cuts a log off where it ends in the middle of something.
    let written = damaged.iter_mut().filter(|byte| **byte != 0);
    written.for_each(|byte| *byte ^= 0x55);
    fs::write(&file, &damaged).expect("writes");
    let serving = site.serve_sealed().await;
    assert_sealed(&site, &serving, "its operator has to look at it").await;
    // Whoever looks after it finds it free, and what it held can be put back.
    let config = site.shown("broker.toml");
    let looked = run(&["store", "check", "--config", &config]).expect_code(1);
    assert!(!looked.err.contains("in use"), "{looked:?}");
    let ended = serving.stop();
    assert!(reason_logged(&ended).contains("then restart"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_broker_ends_with_the_signal_between_two_attempts() {
    let site = with_contoso().await;
    let before = stored(&site);
    fs::remove_file(site.path("kek")).expect("it is there");
    let serving = site.serve_sealed().await;
    // A connection that stays, and a call on it that was refused.
    let worker = site.worker().await;
    let options = TokenOptions {
        timeout: Some(Duration::from_secs(2)),
        ..TokenOptions::default()
    };
    let refused = worker.token("contoso", Resource::Graph, options).await;
    assert!(refused.is_err(), "{refused:?}");
    let began = now();
    let ended = serving.stop();
    // Not by the limit of the drain, which is 20 s.
    assert!(began.elapsed().as_secs() < 10, "{ended:?}");
    assert!(
        !ended.err.contains("before everything had finished"),
        "{ended:?}"
    );
    assert_eq!(stored(&site), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_waits_for_the_one_that_it_replaces() {
    let site = with_contoso().await;
    let first = site.serve().await;
    let connections = ["worker.toml", "admin.toml"].map(|name| {
        let content = fs::read(site.path(name)).expect("reads");
        (name, content)
    });
    let second = site.serve_sealed().await;
    // Nor can it write to the same audit log, so that it cannot even refuse on record.
    let unhealthy = healthcheck(&second).expect_code(1);
    assert!(unhealthy.error().contains("is sealed"), "{unhealthy:?}");
    let refused = once(&site, "worker", &TOKEN).expect_code(75);
    assert!(refused.err.contains("AUDIT_UNAVAILABLE"), "{refused:?}");
    let of_second = fs::read(site.path("worker.toml")).expect("reads");
    // The first one does not mind.
    for (name, content) in &connections {
        site.write(name, content);
    }
    site.call("worker", &TOKEN).expect_code(0);
    first.stop();
    site.write("worker.toml", of_second);
    assert_unseals(&site, &second).await;
    let ended = second.stop();
    assert!(reason_logged(&ended).contains("in use"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_a_byte_of_a_damaged_store_changes() {
    let site = with_contoso().await;
    let file = site.path("data").join("conf");
    let sound = fs::read(&file).expect("reads");
    let mut damaged = sound.clone();
    damaged[0] ^= 1;
    fs::write(&file, damaged).expect("writes");
    let before = stored(&site);
    let serving = site.serve_sealed().await;
    assert_sealed(&site, &serving, "its operator has to look at it").await;
    assert_eq!(stored(&site), before, "the store was touched");
    // What is mended is not looked at again, and is served after a restart.
    fs::write(&file, sound).expect("writes");
    serving.stop();
    let serving = site.serve().await;
    site.call("worker", &TOKEN).expect_code(0);
    serving.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_whose_store_is_gone_gets_no_other_store() {
    let site = with_contoso().await;
    let anchor = fs::read(site.path("data.anchor")).expect("reads");
    fs::rename(site.path("data"), site.path("moved")).expect("moves");
    let serving = site.serve_sealed().await;
    assert_sealed(&site, &serving, "its operator has to look at it").await;
    let ended = serving.stop();
    let reason = reason_logged(&ended);
    assert!(reason.contains("there is no store in it"), "{reason}");
    assert!(!site.path("data").exists(), "a store was made");
    assert_eq!(fs::read(site.path("data.anchor")).expect("reads"), anchor);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_that_cannot_be_read_seals_until_it_can_be() {
    let site = with_contoso().await;
    let before = stored(&site);
    fs::rename(site.path("data.anchor"), site.path("moved")).expect("moves");
    // It leads to itself.
    symlink("data.anchor", site.path("data.anchor")).expect("a link");
    let serving = site.serve_sealed().await;
    assert_sealed(&site, &serving, "the anchor of its store cannot be read").await;
    assert_eq!(stored(&site), before, "the store was touched");
    fs::rename(site.path("moved"), site.path("data.anchor")).expect("moves");
    assert_unseals(&site, &serving).await;
    let ended = serving.stop();
    assert!(
        reason_logged(&ended).contains("the anchor file"),
        "{ended:?}"
    );
}
