//! The audit log of a broker that is killed, and of one whose disk is full.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use kodo_broker::{
    client::{Client, ConnectionConfig, Error, TokenOptions},
    pb::v1::Resource,
};
use serde_json::Value;
use tokio::task::JoinSet;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    command_line::register,
    is_long_run,
    numbers::Numbers,
    program::{Ended, now, run},
    shim,
    site::Site,
};

const CYCLES: u64 = 8;
const CYCLES_LONG: u64 = 100;
const ORGANIZATIONS: [&str; 3] = ["contoso", "fabrikam", "tailspin"];
const RESOURCES: [Resource; 3] = [Resource::Graph, Resource::Exchange, Resource::AzureAdGraph];
/// Within this, calls are served again once there is room.
const RECOVERY_MAX: Duration = Duration::from_secs(5);

async fn with_log(folder: &str) -> Site {
    let site = Site::new().await;
    fs::create_dir_all(site.path(folder)).expect("makes it");
    let file = site.shown(&format!("{folder}/audit.jsonl"));
    let audit = format!("\n[audit]\nfile = \"{file}\"\n");
    site.write("broker.toml", site.configuration("info") + &audit);
    site
}

fn verify(site: &Site) -> Ended {
    let (key, anchor) = (site.shown("log/audit.key"), site.shown("log/audit.anchor"));
    let log = site.shown("log/audit.jsonl");
    run(&[
        "audit",
        "verify",
        "--key-file",
        &key,
        "--anchor",
        &anchor,
        &log,
    ])
}

/// A token for somebody who has none: its fingerprint.
async fn token(site: &Site, organization: &str, resource: Resource) -> Option<String> {
    ask(site, organization, resource).await.ok()
}

async fn ask(site: &Site, organization: &str, resource: Resource) -> Result<String, Error> {
    let file = site.path("worker.toml");
    let mut config = ConnectionConfig::load(&file).expect("a connection file");
    config.max_attempts = 1;
    let worker = Client::connect(&config).await?;
    let options = TokenOptions::default();
    let token = worker.token(organization, resource, options).await?;
    Ok(token.fingerprint.clone())
}

/// Fingerprints on record since the broker was started last.
fn on_record(log: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(log).expect("a log");
    let (_, since) = text
        .rsplit_once("\"kind\":\"open\"")
        .expect("it was opened");
    let lines = since
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter_map(|line| Some(line["fingerprint"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_token_of_a_broker_that_is_killed_is_on_record_and_the_log_is_whole() {
    let site = std::sync::Arc::new(with_log("log").await);
    let broker = site.serve().await;
    for organization in ORGANIZATIONS {
        register(&site, organization);
    }
    broker.stop();
    let mut numbers = Numbers(11);
    let cycles = if is_long_run() { CYCLES_LONG } else { CYCLES };
    for _ in 0..cycles {
        let broker = site.serve().await;
        let mut calls = JoinSet::new();
        for organization in ORGANIZATIONS {
            for resource in RESOURCES {
                let site = site.clone();
                calls.spawn(async move { token(&site, organization, resource).await });
            }
        }
        let mut seen = BTreeSet::new();
        for _ in 0..=numbers.below(6) {
            let token = calls.join_next().await.expect("there are more");
            seen.extend(token.expect("no call panics"));
        }
        broker.process.kill();
        // What has arrived nevertheless counts, too.
        for token in calls.join_all().await {
            seen.extend(token);
        }
        let recorded = on_record(&site.path("log/audit.jsonl"));
        assert!(seen.is_subset(&recorded), "{seen:?} {recorded:?}");
        let verified = verify(&site).expect_code(0);
        assert!(verified.out.contains("intact: lines 1 to"), "{verified:?}");
    }
    site.serve().await.stop();
    let verified = verify(&site).expect_code(0);
    assert!(!verified.out.contains("not closed"), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_no_token_leaves_and_with_room_the_broker_goes_on_by_itself() {
    let site = with_log("log").await;
    let full = site.path("full");
    let mut command = site.serve_command();
    shim::put_under(&mut command, &site.path("log"));
    command.env("KODO_DISK_ROOM", &full);
    let broker = site.serve_as(command).await;
    register(&site, "contoso");
    let first = token(&site, "contoso", Resource::Graph).await;
    let first = first.expect("there is room");
    fs::write(&full, b"0").expect("writes");
    let mut leaked = Vec::new();
    // The first one finds the disk full, and its connection breaks; the others are refused, also with
    // a token that is on record already.
    for resource in [Resource::Exchange, Resource::AzureAdGraph, Resource::Graph] {
        leaked.extend(token(&site, "contoso", resource).await);
    }
    assert!(leaked.is_empty(), "{leaked:?}");
    assert_eq!(
        broker.health("readiness").await,
        Some(ServingStatus::NotServing)
    );
    assert_eq!(
        broker.health("liveness").await,
        Some(ServingStatus::Serving)
    );
    let why = ask(&site, "contoso", Resource::Graph)
        .await
        .expect_err("it is refused");
    assert_eq!(why.reason_name(), Some("AUDIT_UNAVAILABLE"));
    fs::remove_file(&full).expect("removes");
    let since: Instant = now();
    while broker.health("readiness").await != Some(ServingStatus::Serving) {
        assert!(since.elapsed() < RECOVERY_MAX, "it does not recover");
    }
    let again = token(&site, "contoso", Resource::Graph).await;
    assert_eq!(again, Some(first.clone()));
    assert!(on_record(&site.path("log/audit.jsonl")).contains(&first));
    broker.stop();
    verify(&site).expect_code(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_who_has_what_offline_and_by_the_broker() {
    let site = with_log("log").await;
    let broker = site.serve().await;
    register(&site, "contoso");
    let fingerprint = token(&site, "contoso", Resource::Graph)
        .await
        .expect("a token");
    token(&site, "contoso", Resource::Graph)
        .await
        .expect("again");
    broker.stop();
    let log = site.shown("log/audit.jsonl");
    let json = |arguments: &[&str]| -> Value {
        let said = run(&[&["-o", "json", "audit"], arguments, &[&log]].concat()).expect_code(0);
        serde_json::from_str(&said.out).expect("JSON")
    };
    for arguments in [
        ["trace", "--fingerprint", &fingerprint],
        ["exposure", "--organization", "contoso"],
    ] {
        let found = json(&arguments);
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
        assert_eq!(found[0]["fingerprint"], fingerprint);
        assert_eq!(found[0]["caller"], "spiffe://process.test/worker");
        assert_eq!(found[0]["resource"], "graph");
        assert_eq!(found[0]["times"], 2);
        assert_eq!(found[0]["credential_version"], 1);
    }
    assert_eq!(
        json(&["exposure", "--organization", "fabrikam"]),
        Value::Array(Vec::new())
    );
    let broker = site.serve().await;
    let of_broker = [
        "-o",
        "json",
        "audit",
        "exposure",
        "--organization",
        "contoso",
    ];
    let told = site.call("admin", &of_broker).expect_code(0).out;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told, json(&["exposure", "--organization", "contoso"]));
    broker.stop();
    let shown = run(&["audit", "exposure", "--organization", "contoso", &log]).expect_code(0);
    assert!(shown.out.starts_with("CALLER"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_log_is_told_by_the_exit_code_and_by_the_next_broker() {
    let site = with_log("log").await;
    let broker = site.serve().await;
    register(&site, "contoso");
    token(&site, "contoso", Resource::Graph)
        .await
        .expect("a token");
    broker.stop();
    let log = site.shown("log/audit.jsonl");
    let key = site.shown("log/audit.key");
    let public = run(&["audit", "public-key", &key]).expect_code(0).out;
    let of_public = ["audit", "verify", "--public-key", public.trim(), &log];
    run(&of_public).expect_code(0);
    let other = site.shown("other.key");
    let strange = run(&["audit", "new-key", &other]).expect_code(0).out;
    run(&["audit", "new-key", &other]).expect_code(3);
    run(&["audit", "verify", "--public-key", strange.trim(), &log]).expect_code(13);
    run(&["audit", "verify", "--key-file", &other, &log]).expect_code(13);

    let text = fs::read_to_string(&log).expect("a log");
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let write = |lines: &[&str]| site.write("log/audit.jsonl", lines.concat());
    write(&lines[..lines.len() - 1]);
    verify(&site).expect_code(11);
    write(&[&lines[..2], &lines[3..]].concat());
    let missing = verify(&site).expect_code(12);
    assert!(
        missing.out.contains("line 3 (number 3 of the log)"),
        "{missing:?}"
    );
    site.write(
        "log/audit.jsonl",
        text.replace("\"resource\":\"graph\"", "\"resource\":\"gruph\""),
    );
    verify(&site).expect_code(10);
    run(&of_public).expect_code(10);

    // A broker that finds it so says so, goes on in another file, and uses no number twice.
    write(&lines[..lines.len() - 1]);
    let broker = site.serve().await;
    broker.logged("THE AUDIT LOG IS DAMAGED", 1);
    broker.stop();
    verify(&site).expect_code(0);
    let before = site.shown("log/audit-00000000000000000001.jsonl");
    let both = ["audit", "verify", "--key-file", &key, &before, &log];
    run(&both).expect_code(12);
}
