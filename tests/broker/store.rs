//! The keys of the store, as operators see them: who may, what is on record, and what is left to do until
//! an organization that was revoked is shredded.

use std::fs;

use kodo_broker::pb::{
    admin::v1::{
        self as admin, GetStoreStatusRequest, GetStoreStatusResponse, RewrapKeysRequest,
        RewrapKeysResponse, store_service_client::StoreServiceClient,
    },
    v1::ErrorReason,
};
use serde_json::Value;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::support::{Fixture, SECRET, Setup, assert_refused, pki, request};

type Store = StoreServiceClient<Channel>;

/// `admin` may do anything, `operator` everything but this, and `keeper` only this.
const POLICY: &str = r#"
[[grant]]
callers = ["spiffe://kodo.test/admin"]
actions = ["register", "get", "list", "update", "rotate", "revoke", "manage_store"]
organizations = ["*"]

[[grant]]
callers = ["spiffe://kodo.test/operator"]
actions = ["register", "get", "list", "update", "rotate", "revoke"]
organizations = ["*"]

[[grant]]
callers = ["spiffe://kodo.test/keeper"]
actions = ["manage_store"]
organizations = ["*"]
"#;
const FIRST: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const SECOND: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

fn store(fixture: &Fixture, path: &str) -> Store {
    Store::new(fixture.connect(Some(&pki::caller(path))))
}

/// With organizations in a store on disk, the audit log and the figures.
async fn with(names: &[&str]) -> Fixture {
    let setup = Setup::new().sled().policy(POLICY.into());
    let setup = setup
        .config("[audit]\nfile = \"{folder}/audit.jsonl\"")
        .server("metrics_listen = \"127.0.0.1:0\"");
    let fixture = setup.start().await;
    for name in names {
        let application = fixture.add_tenant(name);
        fixture
            .register(name, application, request::secret(SECRET))
            .await;
    }
    fixture
}

/// Restarts the broker with these KEKs, of which the first wraps.
async fn with_keks(fixture: &mut Fixture, keks: &[&str]) {
    fixture.stop_broker().await;
    fs::write(fixture.kek_file(), keks.join("\n")).expect("a file of ours");
    fixture.start_broker().await;
}

async fn status(fixture: &Fixture) -> GetStoreStatusResponse {
    let mut store = store(fixture, "keeper");
    let answer = store.get_store_status(GetStoreStatusRequest {}).await;
    answer.expect("tells").into_inner()
}

async fn rewrap(
    mut store: Store,
    keys_per_second_max: u32,
) -> Result<Streaming<RewrapKeysResponse>, Status> {
    let request = RewrapKeysRequest {
        keys_per_second_max,
    };
    Ok(store.rewrap_keys(request).await?.into_inner())
}

/// All messages of a re-wrapping, or its error.
async fn to_its_end(
    messages: Result<Streaming<RewrapKeysResponse>, Status>,
) -> Result<Vec<RewrapKeysResponse>, Status> {
    let (mut messages, mut all) = (messages?, Vec::new());
    while let Some(message) = messages.message().await? {
        all.push(message);
    }
    Ok(all)
}

fn shredding(id: &str, revision: u64) -> admin::RevokeOrganizationRequest {
    admin::RevokeOrganizationRequest {
        shred: true,
        ..request::revoke(id, revision)
    }
}

#[tokio::test]
async fn only_who_may_manage_the_store_does_and_every_call_is_on_record() {
    let fixture = with(&["contoso"]).await;
    for path in ["operator", "worker"] {
        let (code, reason) = (Code::PermissionDenied, ErrorReason::CallerNotAuthorized);
        let refused = store(&fixture, path)
            .get_store_status(GetStoreStatusRequest {})
            .await;
        assert_refused(refused, code, reason);
        assert_refused(
            to_its_end(rewrap(store(&fixture, path), 0).await).await,
            code,
            reason,
        );
    }
    assert_eq!(status(&fixture).await.keys.len(), 1);
    let done = to_its_end(rewrap(store(&fixture, "keeper"), 0).await).await;
    assert!(done.expect("ends").last().expect("a message").finished);
    // Managing the store shows no organization.
    let refused = fixture
        .organizations("keeper")
        .get_organization(request::get("contoso"))
        .await;
    assert_refused(
        refused,
        Code::PermissionDenied,
        ErrorReason::CallerNotAuthorized,
    );

    let text = fs::read_to_string(fixture.path("audit.jsonl")).expect("it is there");
    let lines = text.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let caller = word("caller").replace("spiffe://kodo.test/", "");
        let intends = (line["kind"] == "intent").then_some("begins");
        line.get("rpc")?;
        let outcome = intends.map_or_else(|| word("outcome"), str::to_owned);
        Some([word("rpc"), caller, outcome].join(" "))
    });
    let denied = ["operator", "worker"].into_iter().flat_map(|caller| {
        ["GetStoreStatus", "RewrapKeys"].map(|rpc| format!("{rpc} {caller} CALLER_NOT_AUTHORIZED"))
    });
    let expected: Vec<_> = ["begins", "OK"]
        .map(|what| format!("RegisterOrganization admin {what}"))
        .into_iter()
        .chain(denied)
        .chain(
            [
                "GetStoreStatus keeper OK",
                "RewrapKeys keeper begins",
                "RewrapKeys keeper OK",
                "GetOrganization keeper CALLER_NOT_AUTHORIZED",
            ]
            .map(str::to_owned),
        )
        .collect();
    assert_eq!(lines.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn keys_are_re_wrapped_once_at_a_time_and_whoever_leaves_gives_the_place_back() {
    let mut fixture = with(&["contoso", "fabrikam", "tailspin"]).await;
    let old = status(&fixture).await.kek_id;
    with_keks(&mut fixture, &[SECOND, FIRST]).await;
    let new = status(&fixture).await.kek_id;
    assert_ne!(old, new);
    // At one key a second: it goes on as long as the test looks.
    let mut slow = rewrap(store(&fixture, "keeper"), 1).await.expect("begins");
    let first = slow.message().await.expect("goes on").expect("a message");
    assert_eq!((first.keys_done, first.keys_total), (0, 4));
    let busy = to_its_end(rewrap(store(&fixture, "admin"), 0).await).await;
    assert_refused(busy, Code::ResourceExhausted, ErrorReason::LimitReached);
    drop(slow);
    let messages = loop {
        match to_its_end(rewrap(store(&fixture, "admin"), 0).await).await {
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            }
            done => break done.expect("ends"),
        }
    };
    let last = messages.last().expect("a message");
    assert!(last.finished);
    assert_eq!(last.keys, [(new.clone(), 4)].into());
    let status = status(&fixture).await;
    assert_eq!(status.keys, [(new, 4)].into());
    let left = &status.keks_to_destroy[0];
    assert_eq!(
        (&left.kek_id, left.organizations, left.present),
        (&old, 0, false)
    );
}

#[tokio::test]
async fn a_re_wrapping_ends_with_the_broker_and_what_is_done_stays() {
    let mut fixture = with(&["contoso", "fabrikam", "tailspin"]).await;
    with_keks(&mut fixture, &[SECOND, FIRST]).await;
    let mut slow = rewrap(store(&fixture, "keeper"), 1).await.expect("begins");
    slow.message().await.expect("goes on");
    fixture.stop_broker().await;
    let ended = loop {
        match slow.message().await {
            Ok(Some(message)) => assert!(!message.finished, "{message:?}"),
            ended => break ended,
        }
    };
    assert_refused(ended, Code::Unavailable, ErrorReason::ShuttingDown);
    fixture.start_broker().await;
    let done = to_its_end(rewrap(store(&fixture, "keeper"), 0).await).await;
    assert_eq!(done.expect("ends").last().expect("a message").keys.len(), 1);
}

#[tokio::test]
async fn keys_under_a_kek_that_is_not_there_are_not_passed_over() {
    let mut fixture = with(&["contoso"]).await;
    with_keks(&mut fixture, &[SECOND, FIRST]).await;
    // The root is under the second from now on, contoso under a KEK that is taken away too early.
    let done = to_its_end(rewrap(store(&fixture, "keeper"), 0).await).await;
    done.expect("ends");
    with_keks(&mut fixture, &[FIRST, SECOND]).await;
    let application = fixture.add_tenant("fabrikam");
    fixture
        .register("fabrikam", application, request::secret(SECRET))
        .await;
    with_keks(&mut fixture, &[SECOND]).await;
    let refused = to_its_end(rewrap(store(&fixture, "keeper"), 0).await).await;
    assert_refused(refused, Code::Unavailable, ErrorReason::Sealed);
    assert_eq!(status(&fixture).await.keys.len(), 2);
}

#[tokio::test]
async fn a_shredding_is_told_until_the_kek_is_gone() {
    let mut fixture = with(&["contoso", "fabrikam"]).await;
    let old = status(&fixture).await.kek_id;
    let mut admin = fixture.admin();
    let plain = admin.revoke_organization(request::revoke("fabrikam", 1));
    let plain = plain.await.expect("revokes").into_inner();
    assert_eq!(plain.keks_to_destroy, []);

    let request = shredding("contoso", 1);
    let answer = admin.revoke_organization(request.clone()).await;
    let answer = answer.expect("revokes").into_inner();
    let [kek] = answer.keks_to_destroy.as_slice() else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (&kek.kek_id, kek.present, kek.organizations),
        (&old, true, 1)
    );
    assert!(kek.since.is_some());
    // Once more is once.
    let again = admin.revoke_organization(request.clone()).await;
    let again = again.expect("is known").into_inner();
    assert_eq!(again.organization, answer.organization);
    assert_eq!(again.keks_to_destroy, answer.keks_to_destroy);
    // `since` is worked out from the monotonic clock at each telling.
    let told = |answer: &admin::RevokeOrganizationResponse| {
        let told = answer.outstanding_tokens.clone().expect("is told");
        (
            told.count,
            told.last_expire_time,
            told.holders,
            told.truncated,
        )
    };
    assert_eq!(told(&again), told(&answer));
    let other = admin::RevokeOrganizationRequest {
        shred: false,
        ..request
    };
    let reused = admin.revoke_organization(other).await;
    assert_refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);

    // It outlives a restart, and the broker re-wraps by itself.
    with_keks(&mut fixture, &[SECOND, FIRST]).await;
    let rewrapped = loop {
        let status = status(&fixture).await;
        if !status.keys.contains_key(&old) {
            break status;
        }
    };
    let [kek] = rewrapped.keks_to_destroy.as_slice() else {
        panic!("{rewrapped:?}")
    };
    assert_eq!(
        (&kek.kek_id, kek.present, kek.organizations),
        (&old, false, 1)
    );
    let figures = async |fixture: &Fixture| fixture.ask_metrics("GET /metrics").await;
    while !figures(&fixture)
        .await
        .contains("kodo_broker_keks_to_destroy 1\n")
    {}

    with_keks(&mut fixture, &[SECOND]).await;
    while !status(&fixture).await.keks_to_destroy.is_empty() {}
    let figures = figures(&fixture).await;
    assert!(
        figures.contains("kodo_broker_keks_to_destroy 0\n"),
        "{figures}"
    );
}

#[tokio::test]
async fn a_kek_that_waits_is_listed_for_every_organization_that_was_there() {
    let fixture = with(&["contoso", "fabrikam"]).await;
    let mut admin = fixture.admin();
    for (at, name) in ["contoso", "fabrikam"].into_iter().enumerate() {
        let answer = admin.revoke_organization(shredding(name, 1)).await;
        let listed = answer.expect("revokes").into_inner().keks_to_destroy;
        assert_eq!(listed[0].organizations, at as u64 + 1);
    }
}
