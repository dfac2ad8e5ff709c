//! `kodo-broker policy`: what a pipeline asks of a policy file before it is rolled out.

use std::fs;

use crate::{
    command_line::{json, register},
    program::run,
    site::Site,
};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policy.toml");
const WORKER: &str = "spiffe://kodo.example/ns/kodo/sa/backup-worker";

fn asked<'a>(action: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let line = ["policy", "test", "--file", SHIPPED, "--as", WORKER];
    let case = ["--action", action, "--organization", "contoso"];
    [&line[..], &case[..], rest].concat()
}

#[test]
fn a_policy_file_is_checked_without_a_broker() {
    let whole = run(&["policy", "check", SHIPPED]).expect_code(0);
    assert_eq!(whole.out, "whole: 2 grants for 2 callers of kodo.example\n");
    let whole = run(&["-o", "json", "policy", "check", SHIPPED]).expect_code(0);
    assert_eq!(json(&whole.out)["trust_domain"], "kodo.example");
    let foreign = ["policy", "check", SHIPPED, "--trust-domain", "kodo.test"];
    let foreign = run(&foreign).expect_code(78);
    assert!(
        foreign.error().contains("outside the trust domain"),
        "{foreign:?}"
    );

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("policy.toml");
    let name = file.to_str().expect("a plain name");
    let shipped = fs::read_to_string(SHIPPED).expect("is shipped");
    fs::write(&file, shipped.replace("\"rotate\"", "\"rotates\"")).expect("writable");
    let wrong = run(&["policy", "check", name]).expect_code(78);
    assert!(
        wrong.err.contains(name) && wrong.err.contains("`rotates`"),
        "{wrong:?}"
    );
    let wrong = run(&["-o", "json", "policy", "check", name]).expect_code(78);
    assert_eq!(json(&wrong.err)["error"]["exit_code"], 78);
    fs::write(&file, "# nothing yet\n").expect("writable");
    let empty = run(&["policy", "check", name]).expect_code(78);
    assert!(empty.error().contains("names no caller"), "{empty:?}");
    run(&["policy", "check", name, "--trust-domain", "kodo.test"]).expect_code(0);
    run(&["policy", "check", "/nowhere/policy.toml"]).expect_code(78);
}

#[test]
fn a_policy_file_is_asked_for_a_decision_and_the_exit_code_has_it() {
    let granted = run(&asked("get_token", &["--resource", "graph"])).expect_code(0);
    let line = granted.out.lines().next().unwrap_or_default();
    assert!(line.starts_with("granted by the grant in line "), "{line}");
    let denied = run(&asked("get_token", &["--resource", "azure_ad_graph"])).expect_code(5);
    assert!(
        denied.out.starts_with("denied: ") && denied.out.contains("falls short by its `resources`"),
        "{denied:?}"
    );
    let denied = [&["-o", "json"][..], &asked("revoke", &[])].concat();
    let denied = json(&run(&denied).expect_code(5).out);
    assert_eq!(
        (&denied["decision"], &denied["line"]),
        (&"denied".into(), &serde_json::Value::Null)
    );
    assert_eq!(denied["grants"][0]["lacks"], "actions");
    for (rest, says) in [
        (&["--resource", "graph", "--purpose", "audit"][..], "audit"),
        (&["--resource", "graph", "--label", "msp"], "`msp`"),
        (&[], "with a resource"),
    ] {
        let wrong = run(&asked("get_token", rest)).expect_code(3);
        assert!(wrong.error().contains(says), "{wrong:?}");
    }
    let mut foreign = asked("get", &[]);
    foreign[5] = "spiffe://kodo.test/worker";
    let foreign = run(&foreign).expect_code(3);
    assert!(
        foreign.error().contains("outside the trust domain"),
        "{foreign:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn organizations_are_labelled_and_listed_by_label_on_the_command_line() {
    let site = Site::new().await;
    let _serving = site.serve().await;
    register(&site, "contoso");
    register(&site, "fabrikam");
    let update = [
        "org", "update", "contoso", "--label", "msp=nw", "--label", "tier=1",
    ];
    let updated = site.call("admin", &update).expect_code(0);
    assert!(updated.out.contains("msp=nw, tier=1"), "{updated:?}");
    let update = [
        "-o",
        "json",
        "org",
        "update",
        "contoso",
        "--display-name",
        "Contoso AG",
    ];
    let more = ["--remove-label", "tier", "--label", "team=blue"];
    let updated = site
        .call("admin", &[&update[..], &more].concat())
        .expect_code(0);
    let organization = &json(&updated.out)["organization"];
    assert_eq!(organization["display_name"], "Contoso AG");
    assert_eq!(
        organization["labels"],
        serde_json::json!({"msp": "nw", "team": "blue"})
    );
    assert_eq!(organization["revision"], 3);
    let ids = |line: &[&str]| {
        let listed = site
            .call("admin", &[&["-o", "json"], line].concat())
            .expect_code(0);
        let listed = json(&listed.out);
        let organizations = listed["organizations"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ids = organizations
            .iter()
            .map(|found| found["organization_id"].to_string());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(ids(&["org", "list", "--label", "msp=nw"]), ["\"contoso\""]);
    assert_eq!(ids(&["org", "list"]).len(), 2);
    assert!(ids(&["org", "list", "--label", "msp=nw", "--label", "team=red"]).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_that_are_none_or_come_too_late_are_refused_on_the_command_line() {
    let site = Site::new().await;
    let _serving = site.serve().await;
    register(&site, "contoso");
    let first = ["org", "update", "contoso", "--label", "a=1"];
    site.call("admin", &first).expect_code(0);
    for (line, says) in [
        (&["org", "update", "contoso"][..], "--display-name"),
        (
            &[
                "org",
                "update",
                "contoso",
                "--label",
                "a=1",
                "--remove-label",
                "a",
            ],
            "both",
        ),
        (
            &["org", "update", "contoso", "--label", "a"],
            "msp=northwind",
        ),
    ] {
        let wrong = site.call("admin", line).expect_code(2);
        assert!(wrong.err.contains(says), "{wrong:?}");
    }
    site.call("admin", &["org", "update", "contoso", "--label", "A=1"])
        .expect_code(3);
    let late = [
        "org",
        "update",
        "contoso",
        "--label",
        "a=1",
        "--revision",
        "1",
    ];
    site.call("admin", &late).expect_code(3);
}
