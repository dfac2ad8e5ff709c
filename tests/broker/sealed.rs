//! A broker that cannot open its store refuses every call with one reason, and serves on the same
//! connections once it can.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};

use kodo_broker::{
    pb::{
        self,
        admin::v1::{
            BackUpStoreRequest, GetExposureRequest, GetStoreStatusRequest, ListJobGrantsRequest,
            RevokeJobGrantRequest, RewrapKeysRequest, TraceTokenRequest,
            audit_service_client::AuditServiceClient,
            job_grant_service_client::JobGrantServiceClient,
            store_service_client::StoreServiceClient,
        },
        v1::{
            ErrorReason, IdentitySource, Resource, WhoAmIRequest,
            identity_service_client::IdentityServiceClient,
        },
    },
    simulator::pki::Leaf,
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::support::{
    CONTOSO, Fixture, Organizations, SECRET, Setup, Tokens, assert_refused, pki, reason, request,
    token,
};

const KEK: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// `contoso` in a store whose KEK is away.
async fn without_kek() -> Fixture {
    let setup = Setup::new()
        .sled()
        .server("metrics_listen = \"127.0.0.1:0\"")
        .config("[audit]\nfile = \"{folder}/audit.jsonl\"");
    let mut fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    fixture.stop_broker().await;
    fs::remove_file(fixture.kek_file()).expect("it is there");
    fixture.start_broker_sealed().await;
    fixture
}

fn refusal<T>(outcome: Result<T, Status>) -> Status {
    outcome.err().expect("the call is refused")
}

/// Every call that there is, made over one connection: its name and how it was refused.
async fn all_calls(connection: Channel) -> Vec<(&'static str, Status)> {
    let mut calls = calls_of_workers(Tokens::new(connection.clone())).await;
    calls.extend(calls_of_operators(Organizations::new(connection.clone())).await);
    calls.extend(calls_about_jobs(JobGrantServiceClient::new(connection.clone())).await);
    calls.extend(calls_about_the_store(StoreServiceClient::new(connection.clone())).await);
    calls.extend(calls_about_tokens(AuditServiceClient::new(connection)).await);
    let made: BTreeSet<_> = calls.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
    assert_eq!(made, rpcs());
    calls
}

/// Every RPC of the contract that needs the store.
fn rpcs() -> BTreeSet<String> {
    let descriptors = FileDescriptorSet::decode(pb::DESCRIPTORS);
    let files = descriptors.expect("made by our own build").file;
    let services = files.iter().flat_map(|file| &file.service);
    let methods = services.flat_map(|service| &service.method);
    let names = methods.map(|method| method.name().to_owned());
    // See `a_caller_learns_who_it_is_all_the_same`.
    names.filter(|name| name != "WhoAmI").collect()
}

async fn calls_of_workers(mut tokens: Tokens) -> Vec<(&'static str, Status)> {
    let graph = Resource::Graph;
    let token = tokens.get_token(request::token("contoso", graph)).await;
    let watch = tokens.watch_token(request::watch("contoso", graph)).await;
    let report = request::report("contoso", graph, "00", 401);
    let report = tokens.report_token(report).await;
    vec![
        ("GetToken", refusal(token)),
        ("WatchToken", refusal(watch)),
        ("ReportToken", refusal(report)),
    ]
}

async fn calls_of_operators(mut organizations: Organizations) -> Vec<(&'static str, Status)> {
    let register = request::register("contoso", CONTOSO, request::secret(SECRET));
    let register = organizations.register_organization(register).await;
    let get = organizations
        .get_organization(request::get("contoso"))
        .await;
    let list = organizations.list_organizations(request::list()).await;
    let update = organizations.update_organization(request::update("contoso", 1, &[]));
    let update = update.await;
    let rotate = request::rotate("contoso", 1, request::certificate());
    let rotate = organizations.rotate_credential(rotate).await;
    let revoke = request::revoke("contoso", 1);
    let revoke = organizations.revoke_organization(revoke).await;
    let suspend = request::suspend("contoso", 1);
    let suspend = organizations.suspend_organization(suspend).await;
    let resume = request::resume("contoso", 1);
    let resume = organizations.resume_organization(resume).await;
    vec![
        ("RegisterOrganization", refusal(register)),
        ("GetOrganization", refusal(get)),
        ("ListOrganizations", refusal(list)),
        ("UpdateOrganization", refusal(update)),
        ("RotateCredential", refusal(rotate)),
        ("RevokeOrganization", refusal(revoke)),
        ("SuspendOrganization", refusal(suspend)),
        ("ResumeOrganization", refusal(resume)),
    ]
}

async fn calls_about_tokens(mut audit: AuditServiceClient<Channel>) -> Vec<(&'static str, Status)> {
    let trace = audit.trace_token(TraceTokenRequest::default()).await;
    let exposure = GetExposureRequest {
        organization_id: "contoso".into(),
    };
    let exposure = audit.get_exposure(exposure).await;
    vec![
        ("TraceToken", refusal(trace)),
        ("GetExposure", refusal(exposure)),
    ]
}

async fn calls_about_jobs(mut jobs: JobGrantServiceClient<Channel>) -> Vec<(&'static str, Status)> {
    let create = request::job("contoso", "job", "worker");
    let list = ListJobGrantsRequest {
        organization_id: "contoso".into(),
    };
    let revoke = RevokeJobGrantRequest {
        organization_id: "contoso".into(),
        job_grant_id: "0".repeat(32),
    };
    vec![
        (
            "CreateJobGrant",
            refusal(jobs.create_job_grant(create).await),
        ),
        ("ListJobGrants", refusal(jobs.list_job_grants(list).await)),
        (
            "RevokeJobGrant",
            refusal(jobs.revoke_job_grant(revoke).await),
        ),
    ]
}

async fn calls_about_the_store(
    mut store: StoreServiceClient<Channel>,
) -> Vec<(&'static str, Status)> {
    let status = store.get_store_status(GetStoreStatusRequest::default());
    let status = refusal(status.await);
    let rewrap = refusal(store.rewrap_keys(RewrapKeysRequest::default()).await);
    let backup = refusal(store.back_up_store(BackUpStoreRequest::default()).await);
    vec![
        ("GetStoreStatus", status),
        ("RewrapKeys", rewrap),
        ("BackUpStore", backup),
    ]
}

async fn of_caller(fixture: &Fixture, path: &str) -> Vec<(&'static str, Status)> {
    all_calls(fixture.connect(Some(&pki::caller(path)))).await
}

#[tokio::test]
async fn every_call_is_refused_with_the_reason_and_when_to_ask_again() {
    let fixture = without_kek().await;
    // Whoever is known is told the same, whatever the policy grants.
    for path in ["worker", "admin", "nobody/of/ours"] {
        for (rpc, status) in of_caller(&fixture, path).await {
            assert_eq!(
                (status.code(), reason(&status)),
                (Code::Unavailable, Some(ErrorReason::Sealed)),
                "{rpc} {status:?}"
            );
            assert!(
                status.get_details_retry_info().is_some(),
                "{rpc} {status:?}"
            );
            assert!(!status.message().contains('/'), "{rpc} {status:?}");
        }
    }
    let figures = fixture.ask_metrics("GET /metrics").await;
    for line in [
        "kodo_broker_sealed 1",
        r#"kodo_broker_calls_total{rpc="GetToken",outcome="SEALED"} 3"#,
        r#"kodo_broker_calls_total{rpc="RevokeOrganization",outcome="SEALED"} 3"#,
    ] {
        assert!(
            figures.contains(&format!("{line}\n")),
            "{line} is not in\n{figures}"
        );
    }
}

#[tokio::test]
async fn each_refusal_is_on_record() {
    let fixture = without_kek().await;
    let known = fs::read_to_string(fixture.path("audit.jsonl")).expect("it is there");
    let calls = of_caller(&fixture, "worker").await;
    let audit = fs::read_to_string(fixture.path("audit.jsonl")).expect("it is there");
    let lines: Vec<serde_json::Value> = audit[known.len()..]
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    assert_eq!(lines.len(), calls.len(), "{audit}");
    for (line, (rpc, _)) in lines.iter().zip(&calls) {
        assert_eq!(line["rpc"], *rpc);
        assert_eq!(line["outcome"], "SEALED");
        assert_eq!(line["caller"], "spiffe://kodo.test/worker");
        let of_all = [
            "ListOrganizations",
            "GetStoreStatus",
            "RewrapKeys",
            "BackUpStore",
            "TraceToken",
        ];
        let is_about_one = !of_all.contains(rpc);
        assert_eq!(line["organization"] == "contoso", is_about_one, "{line}");
        assert_eq!(
            line["resource"] == "graph",
            ["GetToken", "WatchToken", "ReportToken"].contains(rpc),
            "{line}"
        );
    }
    assert!(!audit.contains(SECRET));
}

#[tokio::test]
async fn a_caller_without_an_identity_is_told_of_that_and_nothing_else() {
    let fixture = without_kek().await;
    let connection = fixture.connect(Some(&pki::issue(&Leaf::default())));
    for (rpc, status) in all_calls(connection).await {
        assert_eq!(
            (status.code(), reason(&status)),
            (
                Code::Unauthenticated,
                Some(ErrorReason::PeerIdentityInvalid)
            ),
            "{rpc} {status:?}"
        );
    }
}

#[tokio::test]
async fn open_connections_are_served_as_soon_as_the_kek_is_there() {
    let fixture = without_kek().await;
    let (worker, mut admin) = (fixture.worker(), fixture.admin());
    assert_refused(
        token(&worker, "contoso", Resource::Graph).await,
        Code::Unavailable,
        ErrorReason::Sealed,
    );
    let connections = fixture.simulator.request_count();
    fs::write(fixture.kek_file(), KEK).expect("a writable folder");
    let closed = fs::Permissions::from_mode(0o600);
    fs::set_permissions(fixture.kek_file(), closed).expect("a file of ours");
    let given = loop {
        match token(&worker, "contoso", Resource::Graph).await {
            Err(status) if reason(&status) == Some(ErrorReason::Sealed) => {}
            given => break given.expect("a token"),
        }
    };
    assert!(!given.access_token.is_empty());
    // Kept from before: nothing is asked of Entra.
    assert_eq!(fixture.simulator.request_count(), connections);
    let found = admin.get_organization(request::get("contoso")).await;
    found.expect("is registered");
    let figures = fixture.ask_metrics("GET /metrics").await;
    assert!(figures.contains("kodo_broker_sealed 0\n"), "{figures}");
    assert!(
        figures.contains("kodo_broker_store_failed 0\n"),
        "{figures}"
    );
}

#[tokio::test]
async fn a_caller_learns_who_it_is_all_the_same() {
    let fixture = without_kek().await;
    let channel = fixture.connect(Some(&pki::caller("worker")));
    let mut identity = IdentityServiceClient::new(channel);
    let named = identity.who_am_i(WhoAmIRequest {}).await;
    let named = named.expect("it needs no store").into_inner();
    assert_eq!(named.spiffe_id, "spiffe://kodo.test/worker");
    assert_eq!(named.source(), IdentitySource::Mtls);
    let [grant] = named.grants.as_slice() else {
        panic!("{:?}", named.grants)
    };
    let text = "get_token of * for graph, exchange, sharepoint, azure_ad_graph";
    assert_eq!((grant.line, grant.text.as_str()), (2, text));
}
