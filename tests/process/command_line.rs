//! What an operator meets: refusals that say why, an end that is in order, and exit codes that a
//! program can go by.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _};

use kodo_broker::simulator::{
    certificate::Certificate,
    fault::{Endpoint, Fault},
    pki::KeyKind,
};
use serde_json::Value;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    certificate::ApplicationKey,
    program::{Ended, Running, command, poll, run, run_with_input},
    site::Site,
};

const SECRET: &str = "Secret~0123456789~abcdefghij";

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Registers an organization with a client secret, in a tenant of the same name.
pub(crate) fn register(site: &Site, name: &str) -> (uuid::Uuid, uuid::Uuid) {
    let (tenant, client_id) = site.add_tenant(name, |application| application.with_secret(SECRET));
    let file = site.write("secret", format!("{SECRET}\n"));
    let (tenant_text, client_text) = (tenant.to_string(), client_id.to_string());
    let line = [
        "org",
        "register",
        name,
        "--tenant",
        &tenant_text,
        "--cloud",
        "global",
        "--client-id",
        &client_text,
        "--secret-file",
        &file,
    ];
    site.call("admin", &line).expect_code(0);
    (tenant, client_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_cannot_be_used_is_refused_with_its_place() {
    let site = Site::new().await;
    let sound = site.configuration("info");
    let edited = |from: &str, to: &str| {
        assert!(sound.contains(from), "{from}");
        site.write("broker.toml", sound.replace(from, to));
        site.refused(78).err
    };
    let unknown_key = edited("[identity]", "[identity]\ncolour = \"blue\"");
    let section = sound.lines().position(|line| line == "[identity]");
    let place = format!("line {}", section.expect("a section") + 2);
    assert!(
        unknown_key.contains(&place) && unknown_key.contains("colour"),
        "{unknown_key}"
    );
    for (from, to, said) in [
        ("filter = \"info\"", "filter = \"info,[\"", "log.filter"),
        ("broker.key\"", "nothing.key\"", "nothing.key"),
        ("key_file = ", "key_file = \"/dev/null\" #", "/dev/null"),
        ("policy.toml\"", "ca.pem\"", "ca.pem"),
        (
            "extra_ca_file = ",
            "extra_ca_file = \"/dev/null/x\" #",
            "/dev/null/x",
        ),
        ("https://127.0.0.1", "https://login.example", "loopback"),
    ] {
        let said_so = edited(from, to);
        assert!(said_so.contains(said), "{said_so}");
    }

    site.write("broker.toml", &sound);
    site.write(
        "policy.toml",
        "[[grant]]\ncallers = []\nactions = [\"fly\"]\norganizations = []\n",
    );
    let policy = site.refused(78).err;
    assert!(
        policy.contains("policy.toml") && policy.contains("line 3"),
        "{policy}"
    );
    fs::remove_file(site.path("broker.toml")).expect("it is there");
    assert!(site.refused(78).error().contains("broker.toml"));
    assert!(!site.path("data").exists(), "a store was made all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_others_can_read_is_refused_with_the_remedy() {
    let site = Site::new().await;
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(site.path("broker.key"), open).expect("it is ours");
    let ended = site.refused(78);
    assert!(
        ended.error().contains("broker.key") && ended.error().contains("chmod"),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_taken_is_named() {
    let site = Site::new().await;
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("an address");
    for option in ["listen", "health_listen"] {
        let sound = site.configuration("info");
        let line = format!("\n{option} = \"127.0.0.1:0\"");
        site.write(
            "broker.toml",
            sound.replace(&line, &format!("\n{option} = \"{taken}\"")),
        );
        let ended = site.refused(1);
        let said = ended.error();
        assert!(
            said.contains(&taken.to_string()) && said.contains("in use"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_under_way_is_answered_after_the_signal_to_stop() {
    let site = Site::new().await;
    let serving = site.serve().await;
    let (tenant, _) = register(&site, "contoso");
    let health = |service: &str| {
        run(&[
            "healthcheck",
            "--endpoint",
            &serving.health_url(),
            "--service",
            service,
        ])
    };
    health("readiness").expect_code(0);
    health("liveness").expect_code(0);

    let hold = site.simulator.hold(tenant, Endpoint::Token);
    let mut caller = command();
    caller.arg("--connection").arg(site.path("worker.toml"));
    caller.args(["token", "get", "contoso", "exchange"]);
    let caller = Running::start(caller);
    hold.arrived(1).await;
    serving.process.signal("TERM");
    let not_ready = poll("it says that it stops", || {
        let ended = health("readiness");
        (ended.code != Some(0)).then_some(ended)
    });
    assert_eq!(not_ready.code, Some(1));
    assert!(not_ready.error().contains("NOT_SERVING"), "{not_ready:?}");
    health("liveness").expect_code(0);
    // Whoever comes now goes elsewhere.
    site.call("worker", &["token", "get", "contoso", "graph"])
        .expect_code(75);

    hold.release();
    let answered = caller.ended().expect_code(0);
    assert!(answered.out.contains("fingerprint"), "{answered:?}");
    let url = serving.health_url();
    let ended = serving.process.ended().expect_code(0);
    assert!(!ended.err.contains("error:"), "{ended:?}");
    let nobody = run(&["healthcheck", "--endpoint", &url]).expect_code(1);
    assert!(nobody.error().contains(&url), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_of_what_there_is_not_fails() {
    let site = Site::new().await;
    let serving = site.serve().await;
    assert_eq!(serving.health("").await, Some(ServingStatus::Serving));
    assert_eq!(serving.health("nonsense").await, None);
    let url = serving.health_url();
    let health = |arguments: &[&str]| run(&[&["healthcheck"], arguments].concat());
    health(&["--endpoint", &url]).expect_code(0);
    health(&["--endpoint", &url, "--service", "nonsense"])
        .expect_code(1)
        .error();
    health(&["--endpoint", "no URL"]).expect_code(1).error();
    // The port of the callers speaks TLS only.
    let plain = format!("http://{}", serving.address);
    health(&["--endpoint", &plain]).expect_code(1).error();
    health(&[]).expect_code(2);
    serving.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_is_registered_and_shown() {
    let site = Site::new().await;
    let serving = site.serve().await;
    let (tenant, client_id) = site.add_tenant("fabrikam", |app| app.with_secret(SECRET));
    let (tenant_text, client_text) = (tenant.to_string(), client_id.to_string());
    let register = [
        "org",
        "register",
        "fabrikam",
        "--tenant",
        "fabrikam.onmicrosoft.com",
        "--cloud",
        "global",
        "--client-id",
        &client_text,
        "--secret-file",
        "-",
        "--secret-expires",
        "2999-01-01",
        "--display-name",
        "Fabrikam, Inc.",
    ];
    // The secret comes on standard input.
    let connection = site.shown("admin.toml");
    let line = [&["--connection", &connection][..], &register].concat();
    let registered = run_with_input(&line, format!("{SECRET}\n").as_bytes()).expect_code(0);
    assert!(registered.out.contains(&tenant_text), "{registered:?}");
    assert!(registered.err.starts_with("warning: "), "{registered:?}");

    let list = site
        .call("admin", &["org", "list", "-o", "json"])
        .expect_code(0);
    let list = json(&list.out);
    let listed = &list["organizations"][0];
    assert_eq!(listed["organization_id"], "fabrikam");
    assert_eq!(listed["credential"]["kind"], "client-secret");
    let one = site
        .call("admin", &["-o", "json", "org", "get", "fabrikam"])
        .expect_code(0);
    assert_eq!(&json(&one.out), listed);
    let table = site.call("admin", &["org", "list"]).expect_code(0).out;
    assert!(
        table.starts_with("ORGANIZATION") && table.contains("Fabrikam, Inc."),
        "{table}"
    );

    serving.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_is_rotated_and_used_and_revoked() {
    let site = Site::new().await;
    let serving = site.serve().await;
    let (tenant, client_id) = register(&site, "fabrikam");
    let key = ApplicationKey::generate(KeyKind::Rsa2048);
    let directory = site.simulator.directory();
    directory.change_application(tenant, client_id, |application| {
        application.secrets.clear();
        let certificate = Certificate::from_pem(&key.certificate_pem);
        application
            .certificates
            .push(certificate.expect("a certificate"));
    });
    let pfx = site.write("app.pfx", key.pkcs12("pass word"));
    let password = site.write("password", "pass word\n");
    let rotate = [
        "org",
        "rotate",
        "fabrikam",
        "--pfx-file",
        &pfx,
        "--pfx-password-file",
        &password,
        "-o",
        "json",
    ];
    let checked = site
        .call("admin", &[&rotate[..], &["--validate-only"]].concat())
        .expect_code(0);
    assert_eq!(json(&checked.out)["validate_only"], true);
    let version = |token: &Ended| json(&token.out)["credential_version"].clone();
    let graph = ["token", "get", "fabrikam", "graph", "-o", "json"];
    let before = site.call("worker", &graph).expect_code(0);
    assert_eq!(version(&before), 1);
    let rotate = [&rotate[..], &["--forget-tokens"]].concat();
    let rotated = json(&site.call("admin", &rotate).expect_code(0).out);
    assert_eq!(rotated["organization"]["credential"]["version"], 2);
    let after = site.call("worker", &graph).expect_code(0);
    assert_eq!(version(&after), 2, "the old token is forgotten");
    assert_eq!(rotated["organization"]["revision"], 2);

    let get = ["token", "get", "fabrikam", "sharepoint"];
    let as_json = json(
        &site
            .call("worker", &[&get[..], &["-o", "json"]].concat())
            .expect_code(0)
            .out,
    );
    let as_token = site
        .call("worker", &[&get[..], &["-o", "token"]].concat())
        .expect_code(0)
        .out;
    let as_table = site.call("worker", &get).expect_code(0).out;
    assert_eq!(as_json["access_token"], as_token.trim_end());
    assert_eq!(as_json["credential_version"], 2);
    assert_eq!(as_json["resource_url"], "https://fabrikam.sharepoint.com");
    assert!(
        !as_table.contains(as_token.trim_end()),
        "the table shows the token"
    );
    let fingerprint = as_json["fingerprint"].as_str().expect("a text");
    assert!(as_table.contains(fingerprint), "{as_table}");

    let revoke = ["org", "revoke", "fabrikam"];
    let asked = site.call("admin", &revoke).expect_code(2);
    assert!(asked.error().contains("--yes"), "{asked:?}");
    let revoked = site.call("admin", &[&revoke[..], &["--yes", "-o", "json"]].concat());
    let revoked = json(&revoked.expect_code(0).out);
    assert_eq!(revoked["organization"]["state"], "revoked");
    assert_eq!(revoked["organization"]["credential"], Value::Null);
    let refused = site.call("worker", &get).expect_code(6);
    assert!(refused.err.contains("ORGANIZATION_REVOKED"), "{refused:?}");
    serving.stop();
}

/// Runs a command that fails, for people and for programs: both tell the same.
fn failed(site: &Site, caller: &str, line: &[&str], code: i32) -> (Ended, Value) {
    let text = site.call(caller, line).expect_code(code);
    assert!(text.out.is_empty(), "{text:?}");
    let in_json = site
        .call(caller, &[line, &["-o", "json"]].concat())
        .expect_code(code);
    assert!(in_json.out.is_empty(), "{in_json:?}");
    let error = json(&in_json.err)["error"].clone();
    assert_eq!(error["exit_code"], code, "{error}");
    let message = error["message"].as_str().expect("a text");
    // What is left of a pause gets shorter meanwhile.
    let without_digits = |text: &str| text.replace(|sign: char| sign.is_ascii_digit(), "");
    let said = without_digits(text.error());
    assert_eq!(said, without_digits(&format!("error: {message}")));
    (text, error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_and_json_tell_refusals_apart() {
    let site = Site::new().await;
    let serving = site.serve().await;
    let (tenant, _) = register(&site, "contoso");
    let (_, taken) = failed(
        &site,
        "admin",
        &[
            "org",
            "register",
            "contoso",
            "--tenant",
            "contoso.onmicrosoft.com",
            "--cloud",
            "global",
            "--client-id",
            &tenant.to_string(),
            "--secret-file",
            &site.shown("secret"),
        ],
        3,
    );
    assert_eq!(taken["reason"], "ORGANIZATION_ALREADY_EXISTS");
    let (_, invalid) = failed(&site, "worker", &["token", "get", "Contoso!", "graph"], 3);
    assert_eq!(invalid["field_violations"][0]["field"], "organization_id");
    let old = ["org", "revoke", "contoso", "--yes", "--revision", "7"];
    assert_eq!(
        failed(&site, "admin", &old, 3).1["reason"],
        "REVISION_CONFLICT"
    );
    let no_file = [
        "org",
        "rotate",
        "contoso",
        "--secret-file",
        "/nowhere/secret",
    ];
    assert_eq!(failed(&site, "admin", &no_file, 3).1["reason"], Value::Null);
    let (_, unknown) = failed(&site, "admin", &["org", "get", "nobody"], 4);
    assert_eq!(unknown["code"], "NOT_FOUND");
    let (_, forbidden) = failed(&site, "worker", &["org", "list"], 5);
    assert_eq!(forbidden["reason"], "CALLER_NOT_AUTHORIZED");
    let (_, secret_only) = failed(
        &site,
        "worker",
        &["token", "get", "contoso", "sharepoint"],
        6,
    );
    assert_eq!(secret_only["reason"], "CERTIFICATE_REQUIRED");

    let throttled = Fault::throttled(Some(7)).times(2);
    site.simulator.script(tenant, Endpoint::Token, throttled);
    let (text, throttled) = failed(
        &site,
        "worker",
        &["token", "get", "contoso", "exchange"],
        75,
    );
    assert!(
        throttled["retry_after_seconds"]
            .as_f64()
            .is_some_and(|wait| wait > 0.0 && wait <= 7.0)
    );
    assert!(text.err.contains("retry after"), "{text:?}");

    told_in_log(&serving.stop().err);
}

/// Who wanted what, and what came of it, is in the log.
fn told_in_log(log: &str) {
    let events: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    for (message, caller, action) in [
        ("organization changed", "admin", "register"),
        ("organization not changed", "admin", "register"),
        ("organization not changed", "admin", "revoke"),
        ("call denied", "worker", "List"),
    ] {
        let told = events.iter().any(|event| {
            let by = event["caller"].as_str().unwrap_or_default();
            event["message"] == message && by.ends_with(caller) && event["action"] == action
        });
        assert!(told, "{message} {caller} {action}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_a_broker_that_is_not_there_from_a_wrong_configuration() {
    let site = Site::new().await;
    site.serve().await.stop();
    failed(&site, "worker", &["token", "get", "contoso", "graph"], 75);
    site.write("worker.toml", "endpoint = \"https://127.0.0.1:1\"\n");
    failed(&site, "worker", &["token", "get", "contoso", "graph"], 78);
    site.write("admin.toml", "colour = \"blue\"\n");
    let (text, _) = failed(&site, "admin", &["org", "list"], 78);
    assert!(
        text.error().contains("line 1") && text.error().contains("colour"),
        "{text:?}"
    );
    let without = run(&["org", "list"]).expect_code(2);
    assert!(without.error().contains("--connection"), "{without:?}");
}

#[test]
fn no_flag_takes_a_secret() {
    let register = [
        "org",
        "register",
        "contoso",
        "--tenant",
        "contoso.onmicrosoft.com",
        "--cloud",
        "global",
        "--client-id",
        "c0a70500-0000-4000-8000-00000000000a",
    ];
    for command in [&register[..], &["org", "rotate", "contoso"]] {
        for flag in [
            "--secret",
            "--client-secret",
            "--secret-value",
            "--password",
            "--pfx-password",
            "--pem",
            "--pfx",
            "--key",
        ] {
            run(&[command, &[flag, SECRET]].concat()).expect_code(2);
            let joined = format!("{flag}={SECRET}");
            let ended = run(&[command, &[joined.as_str()]].concat()).expect_code(2);
            assert!(!ended.err.contains(SECRET), "{ended:?}");
        }
        let help = run(&[&command[..2], &["--help"]].concat())
            .expect_code(0)
            .out;
        let lines = help
            .lines()
            .map(str::trim_start)
            .filter(|line| line.starts_with("--"));
        let delicate = ["secret", "password", "key", "pem", "pfx"];
        let delicate: Vec<_> = lines
            .filter(|line| delicate.iter().any(|word| line.contains(word)))
            .collect();
        assert!(delicate.len() >= 4, "{help}");
        for line in delicate {
            assert!(line.contains("<FILE>") || line.contains("<TIME>"), "{line}");
        }
    }
}
