//! Every field of every RPC is refused by name when it is not what it should be. The fields come
//! from the descriptors, so that a new one fails here until it has a case.

mod fields;

use std::time::Duration;

use kodo_broker::{
    clock::Clock,
    pb::{
        admin::v1 as admin,
        v1::{self, ErrorReason, Resource},
    },
};
use prost::Message as _;
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt as _;

use crate::support::{
    CONTOSO, Fixture, SECRET, Setup, assert_refused, pki, reason, request,
    wire::{self, Value},
};
use fields::{Field, Kind};

/// Fields that no value is wrong for, and why.
const ANYTHING: &[(&str, &str)] = &[
    ("validate_only", "a bool has two values, and both are meant"),
    ("forget_tokens", "a bool has two values, and both are meant"),
    (
        "verify_credential",
        "a bool has two values, and both are meant",
    ),
    ("shred", "a bool has two values, and both are meant"),
    (
        "keys_per_second_max",
        "any number is a rate, and none is no limit",
    ),
];

/// Text fields that may hold any characters, and why.
const ANY_TEXT: &[(&str, &str)] = &[(
    "credential.pkcs12_certificate.password",
    "people choose their passwords; only the length is bounded",
)];

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Longer than any text may be, and short enough that its request is still read.
const TOO_LONG: usize = 12 * 1024;
/// The same for files.
const FILE_TOO_LONG: usize = 64 * 1024 + 1;

/// Wrong values of a field, each with a name.
fn wrong_values(field: &Field) -> Vec<(&'static str, Value)> {
    let one = |bytes: &[u8]| Value::Bytes(vec![bytes.to_vec()]);
    let is_file = field.name.ends_with(".pem") || field.name.ends_with(".pfx");
    let length = if is_file { FILE_TOO_LONG } else { TOO_LONG };
    let mut values = match field.kind {
        Kind::Text => {
            let mut values = vec![
                ("too long", one(&vec![b'a'; length])),
                ("no UTF-8", one(&[b'a', 0xff, b'a'])),
            ];
            if !ANY_TEXT.iter().any(|(name, _)| *name == field.name) {
                values.push(("control characters", one(b"aaaaaaaa\0\naaaaaaaa")));
                values.push((
                    "a control character of Latin 1",
                    one("aaaaaaaa\u{85}aaaaaaaa".as_bytes()),
                ));
            }
            values
        }
        Kind::Bytes => vec![
            ("too long", one(&vec![b'a'; length])),
            ("garbage", one(b"garbage")),
        ],
        // The first value is none; where one is required, that is told like an absent field.
        Kind::Enum => vec![
            ("an unknown value", Value::Number(99)),
            ("a negative value", Value::Number(u64::MAX)),
        ],
        Kind::PageSize => vec![
            ("too many", Value::Number(501)),
            ("far too many", Value::Number(u32::MAX.into())),
        ],
        Kind::HttpStatus => [0, 200, 400, 404, 429, 500, 1401]
            .map(|status| ("not about the token", Value::Number(status)))
            .into(),
        Kind::Revision => vec![("none", Value::Number(0))],
        Kind::Duration => [
            (-1, 0),
            (0, -1),
            (86_401, 0),
            (86_400, 1),
            (i64::MAX, 0),
            (i64::MIN, 0),
        ]
        .map(|(seconds, nanos)| prost_types::Duration { seconds, nanos })
        .map(|duration| ("out of range", one(&duration.encode_to_vec())))
        .into(),
        Kind::Timestamp => wrong_times(),
        Kind::End => wrong_ends(),
        Kind::Labels => wrong_labels(),
        Kind::Mask => vec![
            ("an empty mask", one(b"")),
            ("an unknown field", one(b"\x0a\x06labelz")),
            (
                "a field that cannot change",
                one(b"\x0a\x06labels\x0a\x09tenant_id"),
            ),
        ],
        Kind::Message => vec![("without content", one(b""))],
        Kind::Bool | Kind::Rate => Vec::new(),
    };
    if field.required {
        values.push(("absent", Value::Absent));
    }
    if field.repeated && field.kind == Kind::Text {
        values.push((
            "too many",
            Value::Bytes(vec![b"a.sharepoint.com".to_vec(); 51]),
        ));
    }
    values
}

/// Wrong values of a time that is still to come.
fn wrong_times() -> Vec<(&'static str, Value)> {
    let one = |bytes: &[u8]| Value::Bytes(vec![bytes.to_vec()]);
    [
        (0, 0),
        (-1, 0),
        (i64::MIN, 0),
        (i64::MAX, 0),
        (253_402_300_800, 0),
    ]
    .map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos })
    .map(|time| ("past, or beyond the year 9999", one(&time.encode_to_vec())))
    .into()
}

/// Wrong values of the end of something that lasts a day at most.
fn wrong_ends() -> Vec<(&'static str, Value)> {
    let far = Clock::system().now() + DAY + Duration::from_secs(60);
    let far = prost_types::Timestamp::from(far).encode_to_vec();
    let mut times = wrong_times();
    times.push(("more than a day ahead", Value::Bytes(vec![far])));
    times
}

/// Wrong values of a map of labels.
fn wrong_labels() -> Vec<(&'static str, Value)> {
    let one = |bytes: &[u8]| Value::Bytes(vec![bytes.to_vec()]);

    let label = |key: &[u8], value: &[u8]| {
        let [key, value] = [(0x0a, key), (0x12, value)].map(|(tag, text)| {
            let length = u8::try_from(text.len()).expect("a short text");
            [&[tag, length], text].concat()
        });
        [key, value].concat()
    };
    let many = (0..17).map(|at| label(format!("key{at}").as_bytes(), b"value"));
    vec![
        ("an empty label", one(b"")),
        ("no UTF-8", one(&label(b"msp", b"\xff"))),
        ("no value", one(&label(b"msp", b""))),
        ("an upper-case key", one(&label(b"Msp", b"x"))),
        ("a control character", one(&label(b"msp", b"x\nx"))),
        ("a long value", one(&label(b"msp", &[b'a'; 64]))),
        ("a long key", one(&label(&[b'a'; 64], b"x"))),
        ("too many labels", Value::Bytes(many.collect())),
    ]
}

/// A request that the broker does not object to, with the kind of credential that a field is of.
fn accepted(rpc: &str, field: &str) -> Vec<u8> {
    let credential = if field.contains("pem_certificate") {
        request::certificate()
    } else if field.contains("pkcs12_certificate") {
        request::pkcs12(pki::application(), "password")
    } else {
        request::secret(SECRET)
    };
    match rpc.rsplit('/').next().unwrap_or_default() {
        "GetToken" => v1::GetTokenRequest {
            sharepoint_host: "contoso.sharepoint.com".into(),
            min_remaining: Some(prost_types::Duration {
                seconds: 60,
                nanos: 0,
            }),
            ..request::token("contoso", Resource::Sharepoint)
        }
        .encode_to_vec(),
        "WatchToken" => v1::WatchTokenRequest {
            organization_id: "contoso".into(),
            resource: Resource::Sharepoint.into(),
            sharepoint_host: "contoso.sharepoint.com".into(),
            ..Default::default()
        }
        .encode_to_vec(),
        "ReportToken" => v1::ReportTokenRequest {
            sharepoint_host: "contoso.sharepoint.com".into(),
            ..request::report("contoso", Resource::Sharepoint, &"0".repeat(64), 401)
        }
        .encode_to_vec(),
        "RegisterOrganization" => admin::RegisterOrganizationRequest {
            sharepoint_root_host: "contoso.sharepoint.com".into(),
            sharepoint_hosts: vec!["contoso-my.sharepoint.com".into()],
            validate_only: true,
            ..request::register("contoso", CONTOSO, credential)
        }
        .encode_to_vec(),
        "GetOrganization" => request::get("contoso").encode_to_vec(),
        "ListOrganizations" => admin::ListOrganizationsRequest {
            page_size: 500,
            page_token: "0".repeat(64),
            ..Default::default()
        }
        .encode_to_vec(),
        "CreateJobGrant" => request::job("contoso", "job-1", "worker").encode_to_vec(),
        "ListJobGrants" => admin::ListJobGrantsRequest {
            organization_id: "contoso".into(),
        }
        .encode_to_vec(),
        "RevokeJobGrant" => admin::RevokeJobGrantRequest {
            organization_id: "contoso".into(),
            job_grant_id: "0".repeat(32),
        }
        .encode_to_vec(),
        "UpdateOrganization" => request::update("contoso", 1, &[]).encode_to_vec(),
        "RotateCredential" => request::rotate("contoso", 1, credential).encode_to_vec(),
        "RevokeOrganization" => request::revoke("contoso", 1).encode_to_vec(),
        "SuspendOrganization" => request::suspend("contoso", 1).encode_to_vec(),
        "ResumeOrganization" => request::resume("contoso", 1).encode_to_vec(),
        "RewrapKeys" => admin::RewrapKeysRequest {
            keys_per_second_max: 100,
        }
        .encode_to_vec(),
        other => question(other),
    }
}

/// The same of what is asked of the audit log.
fn question(rpc: &str) -> Vec<u8> {
    match rpc {
        "TraceToken" => admin::TraceTokenRequest {
            fingerprint: "0".repeat(64),
        }
        .encode_to_vec(),
        "GetExposure" => admin::GetExposureRequest {
            organization_id: "contoso".into(),
        }
        .encode_to_vec(),
        other => panic!("{other} is new: tell what a good request of it is"),
    }
}

/// A caller who may do everything with everything, so that nothing but the fields can be wrong.
async fn fixture() -> (Fixture, Channel) {
    let policy = r#"
        [[grant]]
        callers = ["spiffe://kodo.test/admin"]
        actions = ["get_token", "register", "get", "list", "update", "rotate", "revoke", "suspend", "resume", "manage_jobs", "manage_store", "read_audit"]
        organizations = ["*"]
        resources = ["graph", "exchange", "sharepoint", "azure_ad_graph"]
    "#;
    let fixture = Setup::new().policy(policy.into()).start().await;
    let channel = fixture.connect(Some(&pki::caller("admin")));
    (fixture, channel)
}

async fn assert_nothing_happened(fixture: &Fixture) {
    assert_eq!(fixture.simulator.request_count(), 0);
    let page = fixture.admin().list_organizations(request::list()).await;
    assert_eq!(page.expect("lists").into_inner().organizations, []);
}

#[test]
fn every_field_has_a_wrong_value_or_a_reason_to_have_none() {
    let fields = fields::of_all_requests();
    for field in &fields {
        let excused = ANYTHING.iter().any(|(name, _)| *name == field.name);
        assert_ne!(
            excused,
            !wrong_values(field).is_empty(),
            "{} of {}",
            field.name,
            field.rpc
        );
    }
    for (name, why) in ANYTHING.iter().chain(ANY_TEXT) {
        assert!(
            fields.iter().any(|field| field.name == *name),
            "{name} is gone"
        );
        assert!(why.len() > 20);
    }
    assert!(fields.len() > 30, "{} fields", fields.len());
}

#[tokio::test]
async fn a_wrong_field_is_refused_by_name_and_nothing_happens() {
    let (fixture, channel) = fixture().await;
    let mut missed = Vec::new();
    for field in fields::of_all_requests() {
        for (what, value) in wrong_values(&field) {
            let message = accepted(&field.rpc, &field.name);
            let message = wire::replaced(&message, &field.path, &value);
            let outcome = wire::call(&channel, &field.rpc, message).await;
            if let Err(why) = refused_by_name(outcome, &field.name) {
                missed.push(format!("{} of {}, {what}: {why}", field.name, field.rpc));
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert_nothing_happened(&fixture).await;
}

/// Whether a call was refused because of a field, and says so.
fn refused_by_name(outcome: Result<Vec<u8>, tonic::Status>, field: &str) -> Result<(), String> {
    let Err(status) = outcome else {
        return Err("is accepted".into());
    };
    if (status.code(), reason(&status)) != (Code::InvalidArgument, Some(ErrorReason::FieldInvalid))
    {
        return Err(format!("{status:?}"));
    }
    let bad_request = status.get_details_bad_request();
    let violations = bad_request.map_or_else(Vec::new, |bad| bad.field_violations);
    let item = format!("{field}[");
    let named = violations
        .iter()
        .find(|violation| violation.field == field || violation.field.starts_with(&item));
    match named {
        Some(violation) if violation.description.len() > 10 => Ok(()),
        _ => Err(format!("{violations:?}")),
    }
}

#[tokio::test]
async fn the_requests_that_the_wrong_ones_are_made_of_are_right() {
    let (fixture, channel) = fixture().await;
    for field in fields::of_all_requests() {
        let message = accepted(&field.rpc, &field.name);
        let outcome = wire::call(&channel, &field.rpc, message).await;
        let refused = outcome.err().and_then(|status| reason(&status));
        // Nothing is registered, so that some find no organization.
        assert!(
            matches!(refused, None | Some(ErrorReason::OrganizationNotFound)),
            "{} of {}: {refused:?}",
            field.name,
            field.rpc
        );
    }
    drop(fixture);
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let (fixture, channel) = fixture().await;
    let empty = Vec::new();
    let outcome = wire::call(
        &channel,
        "/kodo.broker.admin.v1.OrganizationService/RegisterOrganization",
        empty,
    );
    let status = assert_refused(
        outcome.await,
        Code::InvalidArgument,
        ErrorReason::FieldInvalid,
    );
    let told = status.get_details_bad_request().expect("names the fields");
    let mut told: Vec<_> = told
        .field_violations
        .into_iter()
        .map(|found| found.field)
        .collect();
    told.sort();
    assert_eq!(
        told,
        ["client_id", "cloud", "credential", "request_id", "tenant"]
    );
    assert_nothing_happened(&fixture).await;
}

#[tokio::test]
async fn fields_that_contradict_each_other_are_refused() {
    let (fixture, _) = fixture().await;
    let mut worker = fixture.tokens("admin");
    for resource in [Resource::Graph, Resource::Exchange, Resource::AzureAdGraph] {
        let mut request = request::token("contoso", resource);
        request.sharepoint_host = "contoso.sharepoint.com".into();
        let status = worker.get_token(request).await.expect_err("refused");
        refused_by_name(Err(status), "sharepoint_host").expect("by name");
    }
    let mut request = request::register("contoso", CONTOSO, request::secret(SECRET));
    request.cloud = admin::Cloud::China.into();
    request.sharepoint_root_host = "contoso.sharepoint.com".into();
    let status = fixture
        .admin()
        .register_organization(request)
        .await
        .expect_err("refused");
    refused_by_name(Err(status), "sharepoint_root_host").expect("by name");
    assert_nothing_happened(&fixture).await;
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_unread() {
    let (fixture, _) = fixture().await;
    let rpcs = fields::of_all_requests().into_iter().map(|field| field.rpc);
    for rpc in rpcs.collect::<std::collections::BTreeSet<_>>() {
        for length in [1 << 20, 4 << 20] {
            // What still arrives of a refused request is answered by a reset, and a connection has a
            // limited number of these.
            let channel = fixture.connect(Some(&pki::caller("admin")));
            let refused = wire::call(&channel, &rpc, vec![b'a'; length]).await;
            let status = refused.expect_err("refused");
            assert_eq!(status.code(), Code::OutOfRange, "{rpc}: {status:?}");
        }
    }
    assert_nothing_happened(&fixture).await;
}

#[tokio::test]
async fn what_is_no_message_at_all_is_refused() {
    let (fixture, channel) = fixture().await;
    for rpc in fields::of_all_requests().into_iter().map(|field| field.rpc) {
        for garbage in [b"\xff".as_slice(), b"\x0a\xff", b"\x00", b"\x0c"] {
            let refused = wire::call(&channel, &rpc, garbage.to_vec()).await;
            assert_refused(refused, Code::InvalidArgument, ErrorReason::FieldInvalid);
        }
    }
    assert_nothing_happened(&fixture).await;
}
