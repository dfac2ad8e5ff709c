//! Tokens on the command line: watched as they come, and reported when an API refuses one.

use kodo_broker::simulator::resource::Resource;

use crate::{
    command_line::{json, register},
    program::{Running, command, run_with_input},
    site::Site,
};

/// Watches Graph tokens of an organization.
fn watching(site: &Site, organization: &str, output: &str) -> Running {
    let mut watch = command();
    watch.arg("--connection").arg(site.path("worker.toml"));
    watch.args(["token", "watch", organization, "graph", "-o", output]);
    Running::start(watch)
}

fn fingerprint(site: &Site, resource: &str) -> String {
    let get = ["token", "get", "contoso", resource, "-o", "json"];
    let got = json(&site.call("worker", &get).expect_code(0).out);
    got["fingerprint"].as_str().expect("a text").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_token_is_a_line_until_there_will_be_no_next() {
    let site = Site::new().await;
    let serving = site.serve().await;
    register(&site, "contoso");
    let first = fingerprint(&site, "graph");
    let token = site.call(
        "worker",
        &["token", "get", "contoso", "graph", "-o", "token"],
    );
    let token = token.expect_code(0).out.trim_end().to_owned();
    let in_json = watching(&site, "contoso", "json");
    let in_text = watching(&site, "contoso", "table");
    for watch in [&in_json, &in_text] {
        watch
            .out
            .until(|line| line.contains(&first))
            .expect("the current token");
    }
    let report = [
        "token",
        "report",
        "contoso",
        "graph",
        "--fingerprint",
        &first,
    ];
    let report = [&report[..], &["--status", "401", "-o", "json"]].concat();
    let reported = site.call("worker", &report).expect_code(0);
    assert_eq!(json(&reported.out)["verdict"], "replaced");
    let second = fingerprint(&site, "graph");
    assert_ne!(first, second);
    for watch in [&in_json, &in_text] {
        watch
            .out
            .until(|line| line.contains(&second))
            .expect("the next token");
    }
    site.call("admin", &["org", "revoke", "contoso", "--yes"])
        .expect_code(0);
    let in_json = in_json.ended().expect_code(6);
    let in_text = in_text.ended().expect_code(6);
    let lines: Vec<_> = in_json.out.lines().map(json).collect();
    assert_eq!(lines.len(), 2, "{in_json:?}");
    assert_eq!(lines[1]["fingerprint"], second);
    assert!(lines[1]["expire_time"].as_str() > lines[1]["refresh_time"].as_str());
    assert_eq!(
        json(&in_json.err)["error"]["reason"],
        "ORGANIZATION_REVOKED"
    );
    assert_eq!(in_text.out.lines().count(), 2, "{in_text:?}");
    assert!(in_text.err.contains("ORGANIZATION_REVOKED"), "{in_text:?}");
    assert!(!in_json.out.contains(&token) && !in_text.out.contains(&token));
    serving.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_tells_what_the_broker_makes_of_it() {
    let site = Site::new().await;
    let serving = site.serve().await;
    let (tenant, client_id) = register(&site, "contoso");
    site.simulator
        .directory()
        .change_application(tenant, client_id, |application| {
            let granted = vec!["Mail.Read".to_owned()];
            application.roles.insert(Resource::Exchange, granted);
        });
    let poor = fingerprint(&site, "exchange");
    let line = [
        "token",
        "report",
        "contoso",
        "exchange",
        "--fingerprint",
        &poor,
    ];
    let forbidden = [&line[..], &["--status", "403"]].concat();
    let in_text = site.call("worker", &forbidden).expect_code(0);
    assert!(in_text.out.contains("full_access_as_app"), "{in_text:?}");

    // What no broker would take.
    let claims = [&line[..], &["--status", "401", "--claims-file", "-"]].concat();
    let connection = site.shown("worker.toml");
    let claims = [&["--connection", &connection][..], &claims].concat();
    let refused = run_with_input(&claims, b"Bearer claims=\"e30=\"").expect_code(3);
    assert!(refused.error().contains("--claims-file"), "{refused:?}");
    site.call("worker", &[&line[..], &["--status", "500"]].concat())
        .expect_code(2);
    let short = [
        "token",
        "report",
        "contoso",
        "exchange",
        "--fingerprint",
        "f00d",
    ];
    let short = site.call("worker", &[&short[..], &["--status", "401"]].concat());
    assert!(short.expect_code(3).err.contains("fingerprint"));
    let stranger = site.call("admin", &forbidden);
    assert_ne!(stranger.code, Some(0));
    serving.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_gets_a_token_as_a_backup_does() {
    let site = Site::new().await;
    let serving = site.serve().await;
    register(&site, "contoso");
    let get = ["token", "get", "contoso", "graph", "--purpose"];
    for purpose in ["restore", "backup"] {
        site.call("worker", &[&get[..], &[purpose]].concat())
            .expect_code(0);
    }
    site.call("worker", &[&get[..], &["pleasure"]].concat())
        .expect_code(2);
    serving.stop();
}
