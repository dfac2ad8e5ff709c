//! Every reason of the contract is given by something that can happen, with the code that the
//! contract says.

use std::{sync::Arc, time::Duration};

use kodo_broker::{
    clock::Clock,
    config::KekConfig,
    credential::{self, Credential},
    kek,
    organization::{ClientId, Cloud, OrganizationId, TenantId},
    pb::{
        self,
        v1::{ErrorReason, Resource},
    },
    secret::PrivateKey,
    simulator::{
        fault::{Endpoint, Fault},
        pki::Leaf,
    },
    store::{Key, Store as _, Transaction, Write},
    vault::{NewOrganization, Vault},
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{
    CONTOSO, Fixture, Organizations, SECOND_SECRET, SECRET, Setup, WRONG_SECRET, pki, reason,
    request, token,
};

/// Makes the broker give a reason. What cannot be made to happen has no place in the contract.
async fn provoke(reason: ErrorReason) -> Status {
    use ErrorReason as R;
    match reason {
        R::Unspecified => panic!("never sent"),
        R::FieldInvalid => call(Resource::Unspecified).await,
        R::PeerIdentityInvalid => without_identity().await,
        R::CallerNotAuthorized => list_as_worker().await,
        R::ResourceNotAllowed => with_a_grant_for_graph_only().await,
        R::OrganizationNotFound => call(Resource::Graph).await,
        R::OrganizationAlreadyExists => register_twice().await,
        R::OrganizationRevoked => after_revocation().await,
        R::RevisionConflict => rotate_from(7).await,
        R::RequestIdReused => reuse_request_id().await,
        R::CredentialRejected => register_with(WRONG_SECRET).await,
        R::CredentialExpired => refused_with("invalid_client", 7_000_222).await,
        R::CredentialRevoked => refused_with("invalid_client", 7_000_214).await,
        R::CertificateRequired => with_secret(Resource::Sharepoint).await,
        R::ApplicationNotFound => refused_with("unauthorized_client", 700_016).await,
        R::ApplicationDisabled => refused_with("unauthorized_client", 7_000_112).await,
        R::TenantUnavailable => refused_with("invalid_request", 90_002).await,
        R::WrongCloud => refused_with("invalid_request", 900_382).await,
        R::ResourceUnavailable => refused_with("invalid_resource", 500_011).await,
        R::ConsentRequired => refused_with("invalid_grant", 65_001).await,
        R::BlockedByPolicy => refused_with("interaction_required", 53_003).await,
        R::SharepointHostNotListed => with_a_foreign_host().await,
        R::SharepointHostUnknown => without_sharepoint().await,
        R::ClockSkew => half_an_hour_late().await,
        R::IdpRejected => refused_with("invalid_request", 123_456).await,
        R::IdpThrottled => answered(Fault::throttled(Some(1))).await,
        R::IdpUnreachable => answered(Fault::html(503)).await,
        R::IdpAnswerInvalid => answered(Fault::html(200)).await,
        R::LimitReached => with_one_slot().await,
        R::StoreUnavailable => with_a_record_that_sled_cannot_have_written().await,
        R::Sealed => damaged(b"k/", |wrapped| wrapped[KEK_ID_AT] = b'x').await,
        R::RecordCorrupt => damaged(b"o/", |record| *record.last_mut().expect("long") ^= 1).await,
        R::ShuttingDown => changed_again_and_again().await,
        R::Internal => with_a_key_that_cannot_sign().await,
    }
}

/// Where a wrapped key has the id of its KEK: after magic, format, generation and length.
const KEK_ID_AT: usize = 4 + 2 + 4 + 2;

#[tokio::test]
async fn every_reason_is_given_by_something_with_the_code_of_the_contract() {
    let mut walked = 0;
    for (name, promise) in promises() {
        let expected = ErrorReason::from_str_name(&name).expect("of the same descriptors");
        if expected == ErrorReason::Unspecified {
            continue;
        }
        println!("{name}");
        let status = provoke(expected).await;
        assert_eq!(reason(&status), Some(expected), "{status:?}");
        assert_eq!(screaming(status.code()), promise.code, "{name}: {status:?}");
        let waiting_helps = status.get_details_retry_info().is_some();
        assert_eq!(waiting_helps, promise.with_retry_info, "{name}: {status:?}");
        assert!(status.message().len() > 15, "{name}: {}", status.message());
        walked += 1;
    }
    assert_eq!(walked, 33);
}

/// What the comment of a reason says.
struct Promise {
    code: String,
    with_retry_info: bool,
}

/// All values of the enum with what their comments begin with: `UNAVAILABLE with RetryInfo. …`.
fn promises() -> Vec<(String, Promise)> {
    /// Numbers of fields in `descriptor.proto`: `FileDescriptorProto.enum_type` and
    /// `EnumDescriptorProto.value`.
    const ENUM: i32 = 5;
    const VALUE: i32 = 2;
    let files = FileDescriptorSet::decode(pb::DESCRIPTORS)
        .expect("made by our own build")
        .file;
    let declares = |file: &&prost_types::FileDescriptorProto| {
        file.enum_type
            .first()
            .is_some_and(|first| first.name() == "ErrorReason")
    };
    let file = files
        .iter()
        .find(declares)
        .expect("ErrorReason is declared");
    let locations = &file
        .source_code_info
        .as_ref()
        .expect("comments are kept")
        .location;
    let promise = |at: usize| {
        let at = i32::try_from(at).expect("a few");
        let path = [ENUM, 0, VALUE, at];
        let location = locations.iter().find(|location| location.path == path);
        let comment = location.expect("it has a place").leading_comments();
        let first = comment.trim().split('.').next().unwrap_or_default();
        Promise {
            code: first.trim_end_matches(" with RetryInfo").to_owned(),
            with_retry_info: first.ends_with(" with RetryInfo"),
        }
    };
    let values = file.enum_type[0].value.iter().enumerate();
    values
        .map(|(at, value)| (value.name().to_owned(), promise(at)))
        .collect()
}

/// `FailedPrecondition` as `FAILED_PRECONDITION`.
fn screaming(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

// === what can happen ===

/// Asks for a token where nothing is registered.
async fn call(resource: Resource) -> Status {
    let fixture = Fixture::start().await;
    refusal(&fixture, resource).await
}

async fn refusal(fixture: &Fixture, resource: Resource) -> Status {
    let refused = token(&fixture.worker(), "contoso", resource).await;
    refused.expect_err("the call is refused")
}

async fn with_contoso() -> Fixture {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    fixture
}

async fn with_secret(resource: Resource) -> Status {
    refusal(&with_contoso().await, resource).await
}

async fn without_identity() -> Status {
    let fixture = Fixture::start().await;
    let nobody = pki::issue(&Leaf::default());
    let mut caller = Organizations::new(fixture.connect(Some(&nobody)));
    caller
        .list_organizations(request::list())
        .await
        .expect_err("refused")
}

async fn list_as_worker() -> Status {
    let fixture = Fixture::start().await;
    let listed = fixture
        .organizations("worker")
        .list_organizations(request::list())
        .await;
    listed.expect_err("refused")
}

async fn with_a_grant_for_graph_only() -> Status {
    let policy = r#"
        [[grant]]
        callers = ["spiffe://kodo.test/worker"]
        actions = ["get_token"]
        organizations = ["*"]
        resources = ["graph"]
    "#;
    let fixture = Setup::new().policy(policy.into()).start().await;
    refusal(&fixture, Resource::Exchange).await
}

async fn register_twice() -> Status {
    let request = request::register("contoso", CONTOSO, request::secret(SECRET));
    let fixture = with_contoso().await;
    fixture
        .admin()
        .register_organization(request)
        .await
        .expect_err("refused")
}

async fn after_revocation() -> Status {
    let fixture = with_contoso().await;
    let revocation = request::revoke("contoso", 1);
    fixture
        .admin()
        .revoke_organization(revocation)
        .await
        .expect("revokes");
    refusal(&fixture, Resource::Graph).await
}

async fn rotate_from(revision: u64) -> Status {
    let rotation = request::rotate("contoso", revision, request::secret(SECOND_SECRET));
    let fixture = with_contoso().await;
    fixture
        .admin()
        .rotate_credential(rotation)
        .await
        .expect_err("refused")
}

async fn reuse_request_id() -> Status {
    let fixture = with_contoso().await;
    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    fixture
        .admin()
        .rotate_credential(rotation.clone())
        .await
        .expect("rotates");
    let mut revocation = request::revoke("contoso", 2);
    revocation.request_id = rotation.request_id;
    fixture
        .admin()
        .revoke_organization(revocation)
        .await
        .expect_err("refused")
}

async fn register_with(secret: &str) -> Status {
    let fixture = Fixture::start().await;
    let request = request::register("contoso", CONTOSO, request::secret(secret));
    fixture
        .admin()
        .register_organization(request)
        .await
        .expect_err("refused")
}

/// Asks for a token, and Entra answers so.
async fn answered(fault: Fault) -> Status {
    let fixture = with_contoso().await;
    fixture
        .simulator
        .script(CONTOSO.tenant, Endpoint::Token, fault);
    refusal(&fixture, Resource::Exchange).await
}

async fn refused_with(error: &str, aadsts: u32) -> Status {
    answered(Fault::rejection(400, error, aadsts, "No.")).await
}

async fn with_a_foreign_host() -> Status {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    let mut request = request::token("contoso", Resource::Sharepoint);
    request.sharepoint_host = "fabrikam.sharepoint.com".into();
    fixture
        .worker()
        .get_token(request)
        .await
        .expect_err("refused")
}

async fn without_sharepoint() -> Status {
    let fixture = Fixture::start().await;
    let directory = fixture.simulator.directory();
    directory.change_tenant(CONTOSO.tenant, |tenant| tenant.sharepoint_hosts.clear());
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    refusal(&fixture, Resource::Sharepoint).await
}

async fn half_an_hour_late() -> Status {
    let late = Clock::starting_at(Clock::system().now() - Duration::from_secs(1800));
    let fixture = Setup::new().clock(late).start().await;
    let request = request::register("contoso", CONTOSO, request::certificate());
    fixture
        .admin()
        .register_organization(request)
        .await
        .expect_err("refused")
}

async fn with_one_slot() -> Status {
    let fixture = Setup::new().config("[tokens]\nslots_max = 1").start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    refusal(&fixture, Resource::Exchange).await
}

/// A flight whose organization changes whenever it is about to land. Its caller is told to try
/// another broker, as if this one were stopping.
async fn changed_again_and_again() -> Status {
    let fixture = with_contoso().await;
    let worker = fixture.worker();
    let mut held = fixture.hold(CONTOSO);
    let changing = async {
        for revision in 1.. {
            held.arrived(1).await;
            // A rotation passes, and the flight's next request is held again.
            fixture.hold(CONTOSO).release();
            let rotation = request::rotate("contoso", revision, request::secret(SECOND_SECRET));
            fixture
                .admin()
                .rotate_credential(rotation)
                .await
                .expect("rotates");
            held = fixture.hold(CONTOSO);
        }
    };
    tokio::select! {
        refused = token(&worker, "contoso", Resource::Exchange) => refused.expect_err("refused"),
        () = changing => unreachable!("it goes on for ever"),
    }
}

// === what may be found in a store ===

/// Registers an organization, changes what is stored under a prefix while no broker runs, and asks
/// for a token of it.
async fn damaged(prefix: &[u8], damage: impl FnOnce(&mut Vec<u8>)) -> Status {
    let mut fixture = on_disk().await;
    let store = fixture.open_store().await;
    let found = store.scan(prefix, None, 1).await.expect("reads");
    let (key, mut entry) = found.into_iter().next().expect("one is registered");
    damage(&mut entry.value);
    let transaction = Transaction {
        compares: Vec::new(),
        writes: vec![Write::Put(key, entry.value)],
    };
    store.commit(transaction).await.expect("commits");
    drop(store);
    fixture.start_broker().await;
    refusal(&fixture, Resource::Graph).await
}

/// A registered organization in a store, and no broker.
async fn on_disk() -> Fixture {
    let mut fixture = Setup::new().sled().start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    fixture.stop_broker().await;
    fixture
}

/// Below the store's own interface: an entry without the number of its commit.
async fn with_a_record_that_sled_cannot_have_written() -> Status {
    let mut fixture = on_disk().await;
    let key = {
        let store = fixture.open_store().await;
        let found = store.scan(b"o/", None, 1).await.expect("reads");
        found.into_iter().next().expect("one is registered").0
    };
    overwrite(&fixture, &key).await;
    fixture.start_broker().await;
    refusal(&fixture, Resource::Graph).await
}

async fn overwrite(fixture: &Fixture, key: &Key) {
    let database = loop {
        match sled::open(fixture.store_folder()) {
            // Its lock is given back some time after the last user was dropped.
            Err(sled::Error::Io(_)) => tokio::task::yield_now().await,
            opened => break opened.expect("opens"),
        }
    };
    let records = database.open_tree("records").expect("opens");
    records.insert(key.as_bytes(), b"short").expect("writes");
    database.flush().expect("writes");
}

/// Only a defect of the broker stores such a key; here it is stored behind its back.
async fn with_a_key_that_cannot_sign() -> Status {
    let mut fixture = Setup::new().sled().start().await;
    fixture.stop_broker().await;
    let store = Arc::new(fixture.open_store().await);
    let kek = KekConfig {
        file: fixture.kek_file().to_owned(),
    };
    let vault = Vault::open(store, kek::open(&kek).expect("a KEK"))
        .await
        .expect("opens");
    let now = Clock::system().now();
    let broken = Credential::Certificate(credential::Certificate {
        key: PrivateKey::new("no key at all".into()),
        der: b"no certificate".to_vec(),
        expires: now + Duration::from_secs(3600),
        key_bits: 2048,
    });
    let new = NewOrganization {
        id: OrganizationId::parse("contoso").expect("an id"),
        display_name: String::new(),
        tenant_id: TenantId::parse(&CONTOSO.tenant.to_string()).expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse(&CONTOSO.client.to_string()).expect("a GUID"),
        sharepoint_root_host: None,
        sharepoint_hosts: Vec::new(),
    };
    let mark = vault.mark("tests", b"");
    let organization = new.registered(&broken, now);
    vault
        .register(organization, broken, mark)
        .await
        .expect("stores");
    drop(vault);
    fixture.start_broker().await;
    refusal(&fixture, Resource::Graph).await
}
