//! The program takes its own files again: at SIGHUP, and the log filter with them.

use std::fs;

use super::site::{Serving, Site};

/// How many changes were taken.
fn taken(serving: &Serving) -> u64 {
    let answer = serving.metrics();
    let mut lines = answer.lines();
    let taken =
        lines.find_map(|line| line.strip_prefix("kodo_broker_reloads_total{outcome=\"taken\"} "));
    taken.map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_takes_what_has_changed_and_the_log_filter_too() {
    let site = Site::new().await;
    let configuration = |filter: &str| {
        let configuration = site.configuration(filter);
        configuration.replace(
            "[server.tls]",
            "metrics_listen = \"127.0.0.1:0\"\n[server.tls]",
        )
    };
    site.write("broker.toml", configuration("info"));
    let serving = site.serve().await;
    serving.process.signal("HUP");
    serving.logged("nothing to reload", 1);

    site.write("broker.toml", configuration("warn"));
    serving.process.signal("HUP");
    while taken(&serving) < 1 {}
    // At a level that is heard no more.
    serving.process.signal("HUP");

    let policy = fs::read_to_string(site.path("policy.toml")).expect("it is there");
    site.write("policy.toml", "[[grant]]\nactions = []");
    serving.process.signal("HUP");
    serving.logged("NOT RELOADED", 1);

    site.write("policy.toml", policy);
    let other = configuration("info").replace("[log]", "[tokens]\nmargin_seconds = 200\n[log]");
    site.write("broker.toml", other);
    serving.process.signal("HUP");
    serving.logged("in force after a restart only", 1);
    serving.logged("\"reloaded: ", 1);
    let ended = serving.stop();
    for (said, times) in [("nothing to reload", 1), ("\"reloaded: ", 1)] {
        assert_eq!(ended.err.matches(said).count(), times, "{said}: {ended:?}");
    }
    // The poll may have seen it before whoever asked did, who is told in any case.
    let refusals = ended.err.matches("NOT RELOADED").count();
    assert!((1..=2).contains(&refusals), "{refusals}: {ended:?}");
}
