//! Who was given what is on record before they have it.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, SystemTime},
};

use kodo_broker::pb::{
    admin::v1::{GetExposureRequest, TraceTokenRequest, audit_service_client::AuditServiceClient},
    v1::{ErrorReason, Resource},
};
use prost_types::Timestamp;
use serde_json::Value;
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{CONTOSO, Fixture, SECRET, Setup, assert_refused, pki, request, token};

const IN_THE_FOLDER: &str = "[audit]\nfile = \"{folder}/audit.jsonl\"";

/// Each is worked out from the monotonic clock when it is told, so they are a little apart.
fn assert_near(one: Timestamp, other: Timestamp) {
    let [one, other] = [one, other].map(|time| SystemTime::try_from(time).expect("a time"));
    let apart = one.max(other).duration_since(one.min(other));
    assert!(apart.expect("in order") < Duration::from_millis(100));
}

fn lines(fixture: &Fixture) -> Vec<Value> {
    let text = fs::read_to_string(fixture.path("audit.jsonl")).expect("it is there");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    lines.filter(|line| line.get("outcome").is_some()).collect()
}

fn words(line: &Value) -> [&str; 4] {
    ["rpc", "caller", "organization", "outcome"].map(|name| line[name].as_str().unwrap_or_default())
}

#[tokio::test]
async fn every_call_of_somebody_known_is_on_record_with_what_came_of_it() {
    let fixture = Setup::new().config(IN_THE_FOLDER).start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let given = token(&worker, "contoso", Resource::Graph)
        .await
        .expect("a token");
    token(&worker, "unknown", Resource::Exchange)
        .await
        .expect_err("unknown");
    token(&worker, "NO ID\n{}", Resource::Graph)
        .await
        .expect_err("no id");
    token(&worker, "contoso", Resource::Sharepoint)
        .await
        .expect_err("has only a secret");
    let listed = fixture
        .organizations("worker")
        .list_organizations(request::list())
        .await;
    listed.expect_err("a worker may not");
    let lines = lines(&fixture);
    let (admin, worker) = ("spiffe://kodo.test/admin", "spiffe://kodo.test/worker");
    let expected = [
        ["RegisterOrganization", admin, "contoso", "OK"],
        ["GetToken", worker, "contoso", "OK"],
        ["GetToken", worker, "unknown", "ORGANIZATION_NOT_FOUND"],
        ["GetToken", worker, "", "FIELD_INVALID"],
        ["GetToken", worker, "contoso", "CERTIFICATE_REQUIRED"],
        ["ListOrganizations", worker, "", "CALLER_NOT_AUTHORIZED"],
    ];
    assert_eq!(lines.iter().map(words).collect::<Vec<_>>(), expected);
    let given_line = &lines[1];
    assert_eq!(given_line["resource"], "graph");
    assert_eq!(given_line["fingerprint"], given.fingerprint);
    assert_eq!(given_line["credential_version"], given.credential_version);
    let expire_time = given.expire_time.expect("every token ends");
    let recorded = given_line["expire_time"].as_str().expect("a text").parse();
    assert_near(recorded.expect("a time"), expire_time);
    let text = fs::read_to_string(fixture.path("audit.jsonl")).expect("it is there");
    assert!(!text.contains(&given.access_token) && !text.contains(SECRET));
}

#[tokio::test]
async fn without_a_record_no_token_leaves_and_nothing_is_done() {
    let fixture = Setup::new()
        .config("[audit]\nfile = \"/dev/full\"")
        .start()
        .await;
    let (code, unavailable) = (Code::Unavailable, ErrorReason::AuditUnavailable);
    let request = request::register("contoso", CONTOSO, request::secret(SECRET));
    let refused = fixture.admin().register_organization(request).await;
    assert_refused(refused, code, unavailable);
    for _ in 0..3 {
        let refused = token(&fixture.worker(), "contoso", Resource::Graph).await;
        assert_refused(refused, code, unavailable);
        let refused = fixture
            .admin()
            .get_organization(request::get("contoso"))
            .await;
        assert_refused(refused, code, unavailable);
    }
}

const READERS: &str = r#"
[[grant]]
callers = ["spiffe://kodo.test/worker"]
actions = ["get_token"]
organizations = ["*"]
resources = ["graph", "exchange"]

[[grant]]
callers = ["spiffe://kodo.test/admin"]
actions = ["register", "read_audit"]
organizations = ["*"]

[[grant]]
callers = ["spiffe://kodo.test/eu"]
actions = ["read_audit"]
organizations = ["eu-*"]
"#;

#[tokio::test]
async fn the_log_is_asked_by_those_who_may_and_tells_of_their_organizations_only() {
    let setup = Setup::new().policy(READERS.into()).config(IN_THE_FOLDER);
    let fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let mut given = Vec::new();
    for resource in [Resource::Graph, Resource::Exchange] {
        given.push(
            token(&fixture.worker(), "contoso", resource)
                .await
                .expect("a token"),
        );
    }
    let ask = |path: &str| AuditServiceClient::new(fixture.connect(Some(&pki::caller(path))));
    let trace = || TraceTokenRequest {
        fingerprint: given[0].fingerprint.clone(),
    };
    let exposure = || GetExposureRequest {
        organization_id: "contoso".into(),
    };
    let told = ask("admin").trace_token(trace()).await.expect("may");
    let told = told.into_inner().hand_outs;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].caller, "spiffe://kodo.test/worker");
    assert_near(
        told[0].expire_time.expect("every token ends"),
        given[0].expire_time.expect("every token ends"),
    );
    assert_eq!((told[0].resource.as_str(), told[0].times), ("graph", 1));
    let told = ask("admin").get_exposure(exposure()).await.expect("may");
    let told = told.into_inner().hand_outs;
    let told: BTreeSet<_> = told.into_iter().map(|told| told.fingerprint).collect();
    assert_eq!(
        told,
        given
            .iter()
            .map(|given| given.fingerprint.clone())
            .collect()
    );
    // Of another's organizations nothing is told, not even that they are there.
    let told = ask("eu").trace_token(trace()).await.expect("may");
    assert!(told.into_inner().hand_outs.is_empty());
    let refused = ask("eu").get_exposure(exposure()).await;
    assert_refused(refused, Code::NotFound, ErrorReason::OrganizationNotFound);
    for refused in [
        ask("worker").trace_token(trace()).await.err(),
        ask("worker").get_exposure(exposure()).await.err(),
    ] {
        let refused: Result<(), _> = Err(refused.expect("may not"));
        assert_refused(
            refused,
            Code::PermissionDenied,
            ErrorReason::CallerNotAuthorized,
        );
    }
    let lines = lines(&fixture);
    let asked = lines.iter().filter(|line| line["rpc"] == "GetExposure");
    assert_eq!(asked.count(), 3, "who asks is on record, too");
}

#[tokio::test]
async fn what_an_operator_begins_is_on_the_disk_before_it_is_done() {
    let fixture = Setup::new().config(IN_THE_FOLDER).start().await;
    let held = fixture.hold(CONTOSO);
    let request = request::register("contoso", CONTOSO, request::secret(SECRET));
    let mut admin = fixture.admin();
    let mut registering = JoinSet::new();
    registering.spawn(async move { admin.register_organization(request).await });
    held.arrived(1).await;
    let all = || fs::read_to_string(fixture.path("audit.jsonl")).expect("it is there");
    let (begun, text) = ("\"kind\":\"intent\",", all());
    assert!(
        text.contains(begun) && !text.contains("\"kind\":\"result\""),
        "{text}"
    );
    held.release();
    for registered in registering.join_all().await {
        registered.expect("is registered");
    }
    let lines = lines(&fixture);
    assert_eq!(
        (&lines[0]["kind"], &lines[0]["call"]),
        (&"result".into(), &1.into())
    );
}
