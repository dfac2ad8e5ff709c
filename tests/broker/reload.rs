//! What changes on disk is in force within two seconds, as a whole or not at all, and no call fails.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::Duration,
};

use kodo_broker::{
    pb::v1::{ErrorReason, Resource},
    simulator::pki::{CertificateAuthority, Identity, Leaf},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::{
    CONTOSO, Fixture, SECRET, Setup, Tokens, assert_refused, pki, reason, request, shown, token,
};

/// How long a change may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(2);
/// For what has no bound but must come.
const SOON: Duration = Duration::from_secs(30);

/// Grants of `worker`, and of another one.
fn policy(callers: &str) -> String {
    format!(
        "[[grant]]\ncallers = [{callers}]\nactions = [\"get_token\"]\norganizations = [\"*\"]\n\
         resources = [\"graph\"]\n\
         [[grant]]\ncallers = [\"spiffe://kodo.test/admin\"]\nactions = [\"register\", \"get\"]\n\
         organizations = [\"*\"]\n"
    )
}

async fn with_contoso(setup: Setup) -> Fixture {
    let setup = setup.server("metrics_listen = \"127.0.0.1:0\"");
    let fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    fixture
}

/// Replaces a file as tools do: in one step.
fn replace(file: &Path, content: &str) {
    let next = file.with_extension("next");
    fs::write(&next, content).expect("a writable folder");
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).expect("a file of ours");
    fs::rename(&next, file).expect("the same folder");
}

/// A figure without labels, or one with them as they stand in the text.
async fn figure(fixture: &Fixture, name: &str) -> u64 {
    let figures = fixture.ask_metrics("GET /metrics").await;
    let mut lines = figures.lines();
    let value = lines.find_map(|line| line.strip_prefix(&format!("kodo_broker_{name} ")));
    value.map_or(0, |value| value.parse().expect("a number"))
}

async fn until_figure(fixture: &Fixture, name: &str, wanted: u64) {
    let reached = async {
        while figure(fixture, name).await != wanted {
            tokio::task::yield_now().await;
        }
    };
    let reached = timeout(SOON, reached).await;
    reached.unwrap_or_else(|_| panic!("{name} is not {wanted}"));
}

const TAKEN: &str = "reloads_total{outcome=\"taken\"}";
const REFUSED: &str = "reloads_total{outcome=\"refused\"}";

#[tokio::test]
async fn a_grant_that_is_removed_is_refused_on_open_connections_within_two_seconds() {
    let both = policy("\"spiffe://kodo.test/worker\", \"spiffe://kodo.test/other\"");
    let fixture = with_contoso(Setup::new().policy(both.clone())).await;
    let (worker, other) = (fixture.worker(), fixture.tokens("other"));
    for caller in [&worker, &other] {
        let got = token(caller, "contoso", Resource::Graph).await;
        got.expect("a token");
    }
    let mut stream = {
        let mut other = other.clone();
        let watching = other.watch_token(request::watch("contoso", Resource::Graph));
        watching.await.expect("a stream").into_inner()
    };
    stream.message().await.expect("a token").expect("a token");

    replace(
        &fixture.path("policy.toml"),
        &policy("\"spiffe://kodo.test/worker\""),
    );
    let began = Instant::now();
    let refused = loop {
        match token(&other, "contoso", Resource::Graph).await {
            Ok(_) if began.elapsed() < SOON => {}
            outcome => break outcome,
        }
    };
    assert_refused(refused, Code::NotFound, ErrorReason::OrganizationNotFound);
    assert!(began.elapsed() < IN_FORCE, "{:?}", began.elapsed());
    let ended = timeout(SOON, stream.message()).await.expect("it ends");
    assert_refused(ended, Code::NotFound, ErrorReason::OrganizationNotFound);
    let got = token(&worker, "contoso", Resource::Graph).await;
    got.expect("the other grant stays");

    replace(&fixture.path("policy.toml"), &both);
    let granted_again = async { while token(&other, "contoso", Resource::Graph).await.is_err() {} };
    timeout(SOON, granted_again)
        .await
        .expect("it is granted again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_under_load_fail_no_call_and_new_connections_see_the_new_certificate() {
    const CONNECTIONS: usize = 24;
    let fixture = with_contoso(Setup::new()).await;
    let end = CancellationToken::new();
    let mut callers = JoinSet::new();
    for number in 0..CONNECTIONS {
        let (end, mut worker) = (end.clone(), fixture.worker());
        // Every other caller connects anew for each call.
        let fresh = number % 2 == 0;
        let endpoint = crate::support::endpoint(fixture.address(), Some(&pki::caller("worker")));
        callers.spawn(async move {
            let mut calls = 0;
            while !end.is_cancelled() {
                if fresh {
                    worker = Tokens::new(endpoint.connect_lazy());
                }
                let got = token(&worker, "contoso", Resource::Graph).await;
                got.unwrap_or_else(|error| panic!("call {calls} of {number}: {error:?}"));
                calls += 1;
            }
            calls
        });
    }
    for reload in 1..=100 {
        let next = pki::issue(&Leaf::loopback("server"));
        replace(&fixture.path("server.key"), &next.key_pem);
        replace(&fixture.path("server.crt"), &next.certificate_pem);
        let worker = format!("\"spiffe://kodo.test/worker\", \"spiffe://kodo.test/n{reload}\"");
        replace(&fixture.path("policy.toml"), &policy(&worker));
        let wanted = shown::of_pem(&next.certificate_pem);
        let began = Instant::now();
        fixture.reload();
        while shown::certificate(fixture.address()).await != wanted {
            assert!(
                began.elapsed() < IN_FORCE,
                "reload {reload} is not in force"
            );
        }
    }
    end.cancel();
    let calls = callers.join_all().await;
    assert!(calls.iter().all(|calls| *calls > 50), "{calls:?}");
    assert_eq!(figure(&fixture, "reload_failed").await, 0);
    assert!(figure(&fixture, TAKEN).await >= 100);
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_everything_as_it_was_and_say_so_once() {
    let fixture = with_contoso(Setup::new()).await;
    let worker = fixture.worker();
    let before = shown::certificate(fixture.address()).await;
    let other = pki::issue(&Leaf::loopback("server"));
    let nobody = policy("\"spiffe://kodo.test/nobody\"");
    let path = |name: &str| fixture.path(name);
    let (certificate, policy_text) = (&pki::server().certificate_pem, read(&path("policy.toml")));
    for (name, bad, good) in [
        // Of another key.
        (
            "server.crt",
            other.certificate_pem.as_str(),
            certificate.as_str(),
        ),
        ("server.key", "no key", &pki::server().key_pem),
        ("ca.pem", "", &pki::authority().certificate_pem()),
        (
            "policy.toml",
            "[[grant]]\ncallers = [\"spiffe://elsewhere.test/a\"]",
            &policy_text,
        ),
    ] {
        let refused = figure(&fixture, REFUSED).await;
        replace(&path(name), bad);
        if name != "policy.toml" {
            // A good file beside a bad one stays out with it.
            replace(&path("policy.toml"), &nobody);
        }
        until_figure(&fixture, "reload_failed", 1).await;
        let got = token(&worker, "contoso", Resource::Graph).await;
        got.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(
            shown::certificate(fixture.address()).await,
            before,
            "{name}"
        );
        let alarms = figure(&fixture, REFUSED).await - refused;
        assert!(alarms <= 1, "{name}: {alarms} alarms");
        replace(&path("policy.toml"), &policy_text);
        replace(&path(name), good);
        until_figure(&fixture, "reload_failed", 0).await;
    }
    assert_eq!(figure(&fixture, TAKEN).await, 0);
    replace(&path("server.key"), &other.key_pem);
    replace(&path("server.crt"), &other.certificate_pem);
    until_figure(&fixture, TAKEN, 1).await;
    assert_ne!(shown::certificate(fixture.address()).await, before);
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("it is there")
}

/// A certificate of another CA for a caller with this id.
fn caller_of(authority: &CertificateAuthority, id: &str) -> Identity {
    authority
        .issue(&Leaf::workload(id))
        .expect("its names are ASCII")
}

#[tokio::test]
async fn a_ca_vouches_for_its_own_trust_domain_only() {
    let partner = CertificateAuthority::new("partner").expect("a CA can be made");
    let grants = policy("\"spiffe://kodo.test/worker\", \"spiffe://partner.test/worker\"");
    let setup = Setup::new()
        .policy(grants)
        .file("partner.pem", &partner.certificate_pem());
    let federated = "[[identity.federated]]\ntrust_domain = \"partner.test\"\n\
                     client_ca_file = \"{folder}/partner.pem\"";
    let fixture = with_contoso(setup.config(federated)).await;
    let ask = |identity: Identity| {
        let worker = Tokens::new(fixture.connect(Some(&identity)));
        async move { token(&worker, "contoso", Resource::Graph).await }
    };
    let (ours, theirs) = ("spiffe://kodo.test/worker", "spiffe://partner.test/worker");
    ask(pki::caller("worker")).await.expect("our worker");
    ask(caller_of(&partner, theirs))
        .await
        .expect("their worker");
    for (what, identity) in [
        ("their CA, our id", caller_of(&partner, ours)),
        ("our CA, their id", pki::issue(&Leaf::workload(theirs))),
    ] {
        let refused = ask(identity).await.expect_err(what);
        assert_eq!(reason(&refused), None, "{what}: the handshake fails");
    }
    // Who is of no trust domain of ours connects with either, and is told so.
    let refused = ask(caller_of(&partner, "spiffe://elsewhere.test/worker")).await;
    assert_refused(
        refused,
        Code::Unauthenticated,
        ErrorReason::PeerIdentityInvalid,
    );
}

#[tokio::test]
async fn connections_of_a_ca_that_is_removed_end_and_those_of_another_stay() {
    let partner = CertificateAuthority::new("partner").expect("a CA can be made");
    let next = CertificateAuthority::new("partner, the next").expect("a CA can be made");
    let (worker_id, theirs) = ("spiffe://kodo.test/worker", "spiffe://partner.test/worker");
    let grants = policy(&format!("\"{worker_id}\", \"{theirs}\""));
    let both = partner.certificate_pem() + &next.certificate_pem();
    let setup = Setup::new()
        .policy(grants)
        .file("partner.pem", &partner.certificate_pem());
    let federated = "[[identity.federated]]\ntrust_domain = \"partner.test\"\n\
                     client_ca_file = \"{folder}/partner.pem\"";
    let fixture = with_contoso(setup.config(federated)).await;
    until_figure(&fixture, "connections", 0).await;
    let ours = fixture.worker();
    let old = Tokens::new(fixture.connect(Some(&caller_of(&partner, theirs))));
    for worker in [&ours, &old] {
        token(worker, "contoso", Resource::Graph)
            .await
            .expect("a token");
    }
    until_figure(&fixture, "connections", 2).await;

    // One more CA ends no connection.
    replace(&fixture.path("partner.pem"), &both);
    until_figure(&fixture, TAKEN, 1).await;
    let new = Tokens::new(fixture.connect(Some(&caller_of(&next, theirs))));
    token(&new, "contoso", Resource::Graph)
        .await
        .expect("a token");
    until_figure(&fixture, "connections", 3).await;

    replace(&fixture.path("partner.pem"), &next.certificate_pem());
    until_figure(&fixture, TAKEN, 2).await;
    // All of that trust domain are made anew; the old CA's cannot be.
    until_figure(&fixture, "connections", 1).await;
    for (worker, admitted) in [(&ours, true), (&new, true), (&old, false)] {
        let got = token(worker, "contoso", Resource::Graph).await;
        assert_eq!(got.is_ok(), admitted, "{got:?}");
    }
}

#[tokio::test]
async fn a_folder_that_is_swapped_by_a_link_is_taken_as_a_whole() {
    let fixture = with_contoso(Setup::new()).await;
    // As Kubernetes mounts a secret: files are links through a link to a folder.
    let at = |name: &str| fixture.path(name);
    let version = |name: &str, identity: &Identity| {
        fs::create_dir(at(name)).expect("a writable folder");
        replace(&at(name).join("server.crt"), &identity.certificate_pem);
        replace(&at(name).join("server.key"), &identity.key_pem);
    };
    version("v0", pki::server());
    symlink("v0", at("data")).expect("a writable folder");
    for name in ["server.crt", "server.key"] {
        symlink(Path::new("data").join(name), at("link")).expect("a writable folder");
        fs::rename(at("link"), at(name)).expect("the same folder");
    }
    for number in 1..=3 {
        let next = pki::issue(&Leaf::loopback("server"));
        let name = format!("v{number}");
        version(&name, &next);
        symlink(&name, at("data.next")).expect("a writable folder");
        fs::rename(at("data.next"), at("data")).expect("the same folder");
        let began = Instant::now();
        let wanted = shown::of_pem(&next.certificate_pem);
        // Nobody asks for it: it is found.
        while shown::certificate(fixture.address()).await != wanted {
            assert!(began.elapsed() < IN_FORCE, "{name} is not in force");
        }
    }
    assert_eq!(figure(&fixture, REFUSED).await, 0);
}
