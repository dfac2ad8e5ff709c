//! An older copy of the store is not taken for the store, unless an operator says so.

use std::{fs, path::Path};

use kodo_broker::{client::TokenOptions, pb::v1::Resource};
use serde_json::Value;

use crate::{
    command_line::register,
    program::{Ended, run},
    site::{Site, files_below},
};

/// The store's directory and its anchor, as `Site::configuration` has them.
const STORE: &str = "data";
const ANCHOR: &str = "data.anchor";

fn copy(from: &Path, to: &Path) {
    for (file, content) in files_below(from) {
        let to = to.join(file.strip_prefix(from).expect("below it"));
        fs::create_dir_all(to.parent().expect("is in a folder")).expect("makes it");
        fs::write(to, content).expect("writes");
    }
}

/// Puts a copy in the place of the store.
fn put_back(site: &Site, copy_name: &str) {
    fs::remove_dir_all(site.path(STORE)).expect("removes");
    copy(&site.path(copy_name), &site.path(STORE));
}

fn store(site: &Site, arguments: &[&str]) -> Ended {
    let config = site.shown("broker.toml");
    run(&[&["store"], arguments, &["--config", &config]].concat())
}

async fn gets_token(site: &Site, organization: &str) -> bool {
    let worker = site.worker().await;
    let options = TokenOptions::default();
    let token = worker.token(organization, Resource::Graph, options).await;
    token.is_ok()
}

/// A site with a copy of its store, made before `contoso` was revoked.
async fn revoked_since() -> Site {
    let site = Site::new().await;
    let audit = format!("\n[audit]\nfile = \"{}\"\n", site.shown("audit.jsonl"));
    site.write("broker.toml", site.configuration("info") + &audit);
    let broker = site.serve().await;
    register(&site, "contoso");
    register(&site, "fabrikam");
    broker.stop();
    copy(&site.path(STORE), &site.path("copy"));
    let broker = site.serve().await;
    let revoked = ["org", "revoke", "contoso", "--revision", "1", "--yes"];
    site.call("admin", &revoked).expect_code(0);
    broker.stop();
    site
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_store_is_refused_until_it_is_accepted() {
    let site = revoked_since().await;
    let whole = store(&site, &["check"]).expect_code(0);
    assert!(
        whole.out.contains("2 organizations, 1 of them revoked"),
        "{whole:?}"
    );
    put_back(&site, "copy");
    let before = fs::read(site.path(ANCHOR)).expect("an anchor");
    let refused = site.serve_sealed().await.stop();
    assert!(
        refused.err.contains("its anchor has seen change 4"),
        "{refused:?}"
    );
    assert!(refused.err.contains("accept-rollback"), "{refused:?}");
    let refused = store(&site, &["check"]).expect_code(1);
    assert!(
        refused.err.contains("an older copy of itself"),
        "{refused:?}"
    );
    let reason = ["accept-rollback", "--reason", " "];
    store(&site, &reason).expect_code(1);
    assert_eq!(fs::read(site.path(ANCHOR)).expect("an anchor"), before);

    let reason = ["accept-rollback", "--reason", "the disk of 3 May is gone"];
    let accepted = store(&site, &reason).expect_code(0);
    assert!(accepted.out.contains("at change 5 now"), "{accepted:?}");
    let audit = fs::read_to_string(site.path("audit.offline.jsonl")).expect("an audit log");
    let accepted = audit.lines().find(|line| line.contains("AcceptRollback"));
    let last: Value = serde_json::from_str(accepted.expect("a line")).expect("JSON");
    assert_eq!(last["rpc"], "AcceptRollback");
    assert_eq!(last["reason"], "the disk of 3 May is gone");
    let broker = site.serve().await;
    assert!(
        gets_token(&site, "contoso").await,
        "as the operator wanted it"
    );
    assert!(gets_token(&site, "fabrikam").await);
    let busy = store(&site, &["check"]).expect_code(1);
    assert!(busy.err.contains("in use by another process"), "{busy:?}");
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_its_anchor_is_refused_and_a_crash_costs_none() {
    let site = revoked_since().await;
    let anchor = fs::read(site.path(ANCHOR)).expect("an anchor");
    fs::remove_file(site.path(ANCHOR)).expect("removes");
    let refused = site.serve_sealed().await.stop();
    assert!(refused.err.contains("its anchor is missing"), "{refused:?}");
    assert!(!site.path(ANCHOR).exists(), "it makes none up");
    site.write(ANCHOR, "kodo-broker anchor 1 store=00 change=1 mac=00\n");
    let refused = site.serve_sealed().await.stop();
    assert!(refused.err.contains("not one of this store"), "{refused:?}");
    // One that is behind is as good: the broker was killed before it wrote the next.
    site.write(ANCHOR, anchor);
    let broker = site.serve().await;
    register(&site, "northwind");
    broker.process.kill();
    site.serve().await.stop();
    let whole = store(&site, &["check", "-o", "json"]).expect_code(0);
    let report: Value = serde_json::from_str(&whole.out).expect("JSON");
    assert_eq!(
        (&report["organizations"], &report["change"]),
        (&3.into(), &5.into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_there_is_not_made_by_looking() {
    let site = Site::new().await;
    for arguments in [&["check"][..], &["accept-rollback", "--reason", "none"]] {
        let refused = store(&site, arguments).expect_code(1);
        assert!(
            refused.err.contains("there is no store in it"),
            "{refused:?}"
        );
    }
    assert!(!site.path(STORE).exists() && !site.path(ANCHOR).exists());
}
