//! Who was given what is on record before they have it.

use std::fs;

use kodo_broker::pb::v1::{ErrorReason, Resource};
use serde_json::Value;
use tonic::Code;

use crate::support::{CONTOSO, Fixture, SECRET, Setup, assert_refused, request, token};

const IN_THE_FOLDER: &str = "[audit]\nfile = \"{folder}/audit.jsonl\"";

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
    assert_eq!(given_line["expire_time"], expire_time.to_string());
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
