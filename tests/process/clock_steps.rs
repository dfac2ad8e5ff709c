//! The wall clock is set while a request is under way: how long a token lives is not its business.
//!
//! `libfaketime` (Debian's package `faketime`) sets the clock of the broker, and of nobody else.

use std::path::Path;

use kodo_broker::{client::TokenOptions, pb::v1::Resource, simulator::fault::Endpoint};

use super::{command_line::register, site::Site};

/// Where Debian puts it.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

async fn fingerprint(site: &Site) -> String {
    // A new one each time: it has nothing in memory.
    let client = site.worker().await;
    let options = TokenOptions::default();
    let token = client.token("contoso", Resource::Exchange, options).await;
    token.expect("a token").fingerprint.clone()
}

/// Sets the clock while the request for a token is under way, and again between two starts.
async fn steps(by: &str, back: &str) {
    let library = LIBRARIES.iter().find(|file| Path::new(file).exists());
    let library = library.expect("tests/run installs the package faketime");
    let site = Site::new().await;
    let clock = site.write("clock", "+0");
    let command = || {
        let mut command = site.serve_command();
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    };
    let serving = site.serve_as(command()).await;
    let (tenant, _) = register(&site, "contoso");
    let held = site.simulator.hold(tenant, Endpoint::Token);
    let count = site.simulator.request_count();
    let (got, ()) = tokio::join!(fingerprint(&site), async {
        held.arrived(1).await;
        site.write("clock", by);
        held.release();
    });
    // It is neither thought to have ended nor renewed, at this time or at that.
    for time in [by, back, "+0", by] {
        site.write("clock", time);
        assert_eq!(fingerprint(&site).await, got, "{by}, now {time}");
    }
    assert_eq!(site.simulator.request_count(), count + 1, "{by}");
    serving.stop();
    // Set back between two starts, the time tells nothing of tokens that were kept: a new one is got
    // rather than one handed out that may have ended. Where the clock is as it was, none is needed.
    site.write("clock", back);
    let serving = site.serve_as(command()).await;
    fingerprint(&site).await;
    let asked = site.simulator.request_count() - count - 1;
    assert_eq!(asked, u64::from(by != back), "{by}, then {back}");
    serving.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_forward_during_a_flight_changes_no_life() {
    steps("+10m", "+0").await;
    steps("+1h", "+0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_back_during_a_flight_changes_no_life() {
    steps("-10m", "-10m").await;
    steps("-1h", "-1h").await;
}
