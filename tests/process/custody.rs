//! Backups that restore, and keys that rotate, with the real executable.

use std::fs;

use kodo_broker::{client::TokenOptions, pb::v1::Resource};
use serde_json::Value;

use crate::{
    command_line::register,
    program::{Ended, poll, run},
    site::{KEK, OTHER_KEK, Serving, Site},
};

fn offline(site: &Site, config: &str, arguments: &[&str]) -> Ended {
    let config = site.shown(config);
    run(&[&["store"], arguments, &["--config", &config]].concat())
}

/// A configuration like the site's, with its store elsewhere.
fn elsewhere(site: &Site, name: &str) -> String {
    let config = site.configuration("info");
    let here = format!("directory = \"{}\"", site.path("data").display());
    assert!(config.contains(&here), "{config}");
    let there = format!("directory = \"{}\"", site.path(name).display());
    let file = format!("{name}.toml");
    site.write(&file, config.replace(&here, &there));
    file
}

async fn gets_token(site: &Site, organization: &str) -> bool {
    let options = TokenOptions::default();
    let worker = site.worker().await;
    worker
        .token(organization, Resource::Graph, options)
        .await
        .is_ok()
}

async fn serving_with(names: &[&str]) -> (Site, Serving) {
    let site = Site::new().await;
    let broker = site.serve().await;
    for name in names {
        register(&site, name);
    }
    (site, broker)
}

fn back_up(site: &Site, file: &str) -> Ended {
    site.call("admin", &["store", "backup", &site.shown(file)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_while_serving_restores_on_another_machine() {
    let (site, broker) = serving_with(&["contoso", "fabrikam"]).await;
    let taken = back_up(&site, "backup").expect_code(0);
    assert!(taken.out.contains("2 organizations"), "{taken:?}");
    let again = back_up(&site, "backup").expect_code(3);
    assert!(again.err.contains("exists already"), "{again:?}");
    let denied = site.call("worker", &["store", "backup", &site.shown("stolen")]);
    denied.expect_code(5);
    assert!(!site.path("stolen").exists() && !site.path("stolen.part").exists());
    site.call("admin", &["org", "revoke", "contoso", "--yes"])
        .expect_code(0);
    broker.stop();
    let backup = site.shown("backup");

    // In the place of the store there is nothing to be restored.
    let refused = offline(&site, "broker.toml", &["restore", &backup]).expect_code(1);
    assert!(refused.err.contains("is not empty"), "{refused:?}");

    let there = elsewhere(&site, "there");
    let restored = offline(&site, &there, &["restore", &backup, "-o", "json"]).expect_code(0);
    let report: Value = serde_json::from_str(&restored.out).expect("JSON");
    assert_eq!(
        (&report["organizations"], &report["revoked"]),
        (&2.into(), &0.into())
    );
    let why = report["older"].as_str().expect("it is not served yet");
    assert!(why.contains("its anchor is missing"), "{why}");
    // Nobody serves what may be older than what there was, and contoso with it, unasked.
    site.write(
        "broker.toml",
        fs::read(site.path(&there)).expect("a configuration"),
    );
    let refused = site.serve_sealed().await.stop();
    assert!(refused.err.contains("its anchor is missing"), "{refused:?}");
    let accept = ["accept-rollback", "--reason", "the other machine is gone"];
    offline(&site, &there, &accept).expect_code(0);
    let broker = site.serve().await;
    assert!(gets_token(&site, "fabrikam").await && gets_token(&site, "contoso").await);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_damaged_or_sealed_under_another_kek_leaves_nothing() {
    let (site, broker) = serving_with(&["contoso"]).await;
    back_up(&site, "backup").expect_code(0);
    broker.stop();
    let right = fs::read(site.path("backup")).expect("a backup");
    let there = elsewhere(&site, "there");
    let nothing_is_left = || !site.path("there").exists() && !site.path("there.restoring").exists();
    let mut flipped = right.clone();
    flipped[right.len() / 2] ^= 1;
    for wrong in [
        &right[..right.len() - 1],
        &flipped,
        b"",
        b"no backup at all, but long enough",
    ] {
        let file = site.write("wrong", wrong);
        let refused = offline(&site, &there, &["restore", &file]).expect_code(1);
        assert!(refused.err.contains("backup"), "{refused:?}");
        assert!(nothing_is_left());
    }
    let missing = site.shown("missing");
    offline(&site, &there, &["restore", &missing]).expect_code(1);
    site.write("kek", OTHER_KEK);
    let refused = offline(&site, &there, &["restore", &site.shown("backup")]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.err.contains("KEK"), "{refused:?}");
    assert!(nothing_is_left());
    site.write("kek", KEK);
    offline(&site, &there, &["restore", &site.shown("backup")]).expect_code(0);
}

fn keys(site: &Site) -> Value {
    let status = site.call("admin", &["store", "status", "-o", "json"]);
    serde_json::from_str(&status.expect_code(0).out).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kek_is_replaced_without_a_restart_and_the_old_one_is_needed_no_more() {
    let (site, broker) = serving_with(&["contoso", "fabrikam"]).await;
    let before = keys(&site);
    let old = before["kek_id"].as_str().expect("an id").to_owned();
    assert_eq!(before["keys"][&old], 3);
    // Prepared and made the present one.
    site.write("kek", format!("{OTHER_KEK}\n{KEK}\n"));
    let new = poll("the new KEK is read", || {
        let id = keys(&site)["kek_id"].as_str().expect("an id").to_owned();
        (id != old).then_some(id)
    });
    assert_eq!(keys(&site)["keys"][&old], 3);
    let rewrapped = site.call("admin", &["store", "rewrap"]).expect_code(0);
    assert!(
        rewrapped.out.contains("3 keys wrapped anew"),
        "{rewrapped:?}"
    );
    assert!(
        rewrapped
            .out
            .contains(&format!("all 3 keys are wrapped under {new}")),
        "{rewrapped:?}"
    );
    let after = keys(&site);
    assert_eq!(after["keys"], serde_json::json!({ &new: 3 }));
    let nothing = site
        .call("admin", &["store", "rewrap", "--per-second", "10"])
        .expect_code(0);
    assert!(nothing.out.contains("0 keys wrapped anew"), "{nothing:?}");
    site.call("worker", &["store", "rewrap"]).expect_code(5);
    assert!(gets_token(&site, "contoso").await);
    broker.stop();
    // Destroyed.
    site.write("kek", OTHER_KEK);
    let broker = site.serve().await;
    assert!(gets_token(&site, "fabrikam").await);
    broker.stop();
    site.write("kek", KEK);
    let refused = site.serve_sealed().await.stop();
    assert!(
        refused.err.contains(&new),
        "the old one opens nothing: {refused:?}"
    );
}
