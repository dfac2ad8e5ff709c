//! Who a caller is where a trusted proxy says so, call by call.

use std::fs;

use kodo_broker::pb::v1::{
    ErrorReason, IdentitySource, Resource, WhoAmIRequest, WhoAmIResponse,
    identity_service_client::IdentityServiceClient,
};
use serde_json::Value;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::support::{
    CONTOSO, Fixture, Organizations, SECRET, Setup, Tokens, assert_refused, pki, reason, request,
};

mod corpus;
mod live;

use corpus::Case;

const XFCC: &str = "x-forwarded-client-cert";
const LINKERD: &str = "l5d-client-id";

/// A connection as a proxy opens one.
fn proxy(fixture: &Fixture) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", fixture.address()));
    endpoint.expect("an address is a URL").connect_lazy()
}

/// What Envoy adds for a caller.
fn element(path: &str) -> String {
    format!(
        "By=spiffe://kodo.test/broker;Hash=00;URI={}",
        pki::spiffe_id(path)
    )
}

/// A request with headers.
fn with<T>(message: T, headers: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        let value = value.parse().expect("visible ASCII");
        request.metadata_mut().append(*name, value);
    }
    request
}

async fn registered(fixture: &Fixture, headers: &[(&'static str, &str)]) {
    let message = request::register("contoso", CONTOSO, request::secret(SECRET));
    let mut admin = Organizations::new(proxy(fixture));
    let registered = admin.register_organization(with(message, headers)).await;
    registered.expect("registers");
}

async fn token(channel: &Channel, headers: &[(&'static str, &str)]) -> Result<(), Status> {
    let message = request::token("contoso", Resource::Graph);
    let got = Tokens::new(channel.clone())
        .get_token(with(message, headers))
        .await?;
    assert!(!got.into_inner().access_token.is_empty());
    Ok(())
}

#[tokio::test]
async fn each_call_of_a_connection_is_of_whom_the_proxy_names() {
    let fixture = Setup::new()
        .identity("mode = \"xfcc\"\nxfcc_by = \"spiffe://kodo.test/broker\"")
        .start()
        .await;
    registered(&fixture, &[(XFCC, &element("admin"))]).await;
    let channel = proxy(&fixture);
    let (worker, stranger) = (element("worker"), element("stranger"));
    for _ in 0..3 {
        token(&channel, &[(XFCC, &worker)]).await.expect("a token");
        let refused = token(&channel, &[(XFCC, &stranger)]).await;
        assert_refused(refused, Code::NotFound, ErrorReason::OrganizationNotFound);
        for headers in [
            &[][..],
            &[(
                LINKERD,
                "worker.kodo.serviceaccount.identity.linkerd.kodo.test",
            )],
            &[(XFCC, worker.as_str()), (XFCC, worker.as_str())],
        ] {
            let refused = token(&channel, headers).await;
            assert_refused(
                refused,
                Code::Unauthenticated,
                ErrorReason::PeerIdentityInvalid,
            );
        }
    }
}

#[tokio::test]
async fn a_proxy_on_this_machine_is_known_by_its_user() {
    let user = nix::unistd::getuid().as_raw();
    let another = user + 1;
    for (trusted, is_trusted) in [(user, true), (another, false)] {
        let identity = format!("mode = \"linkerd\"\ntrusted_proxies = [\"uid:{trusted}\"]");
        let setup = Setup::new().identity(&identity);
        let fixture = setup.listen("unix:{folder}/proxy.sock").start().await;
        let socket = fixture.path("proxy.sock");
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()));
        let channel = endpoint.expect("a path").connect_lazy();
        let worker = "worker.kodo.serviceaccount.identity.linkerd.kodo.test";
        let refused = token(&channel, &[(LINKERD, worker)]).await;
        if is_trusted {
            // Somebody, whom no grant names.
            assert_refused(refused, Code::NotFound, ErrorReason::OrganizationNotFound);
        } else {
            assert_refused(
                refused,
                Code::Unauthenticated,
                ErrorReason::PeerIdentityInvalid,
            );
        }
    }
}

/// Whom the broker takes a request for.
async fn who(
    channel: &Channel,
    headers: &[(&'static str, Vec<u8>)],
) -> Result<WhoAmIResponse, Status> {
    let mut request = Request::new(WhoAmIRequest {});
    for (name, value) in headers {
        let value = MetadataValue::try_from(value.as_slice()).expect("no control characters");
        request.metadata_mut().append(*name, value);
    }
    let mut identity = IdentityServiceClient::new(channel.clone());
    Ok(identity.who_am_i(request).await?.into_inner())
}

/// Asks for every case, twice: what was seen before is not read again.
async fn assert_named(channel: &Channel, cases: &[Case], source: IdentitySource) {
    for _ in 0..2 {
        for case in cases {
            match (who(channel, &case.headers).await, &case.caller) {
                (Ok(named), Some(caller)) => {
                    assert_eq!(
                        (&named.spiffe_id, named.source()),
                        (caller, source),
                        "{case:?}"
                    );
                }
                (Err(refused), None) => assert_unidentified(&refused, case),
                (answer, _) => panic!("{case:?}: {answer:?}"),
            }
        }
    }
}

#[track_caller]
fn assert_unidentified(refused: &Status, case: &Case) {
    assert_eq!(
        (refused.code(), reason(refused)),
        (
            Code::Unauthenticated,
            Some(ErrorReason::PeerIdentityInvalid)
        ),
        "{case:?}"
    );
}

/// The figure that begins so.
async fn figure(fixture: &Fixture, line: &str) -> usize {
    let figures = fixture.ask_metrics("GET /metrics").await;
    let found = figures
        .lines()
        .find_map(|figure| figure.strip_prefix(line)?.strip_prefix(' '));
    found.map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test]
async fn a_proxy_in_the_same_pod_is_known_by_its_address() {
    let identity = "mode = \"linkerd\"\ntrusted_proxies = [\"self\"]";
    let fixture = Setup::new().identity(identity).start().await;
    let name = "worker.kodo.serviceaccount.identity.linkerd.kodo.test";
    for (from, is_own) in [("127.0.0.1", true), ("127.0.0.2", false)] {
        let endpoint = Endpoint::from_shared(format!("http://{}", fixture.address()));
        let from = from.parse().expect("an address");
        let endpoint = endpoint.expect("a URL").local_address(Some(from));
        let named = who(&endpoint.connect_lazy(), &[(LINKERD, name.into())]).await;
        match named {
            Ok(named) => assert!(is_own, "{named:?}"),
            Err(refused) => {
                assert!(!is_own, "{refused:?}");
                assert_eq!(reason(&refused), Some(ErrorReason::PeerIdentityInvalid));
            }
        }
    }
}

#[tokio::test]
async fn each_callers_hand_outs_are_on_record_before_they_leave() {
    let setup = Setup::new().config("[audit]\nfile = \"{folder}/audit.jsonl\"");
    let fixture = setup.identity("mode = \"xfcc\"\nxfcc_by = \"spiffe://kodo.test/broker\"");
    let fixture = fixture.start().await;
    registered(&fixture, &[(XFCC, &element("admin"))]).await;
    let channel = proxy(&fixture);
    let on_record = || {
        let text = fs::read_to_string(fixture.path("audit.jsonl")).expect("it is there");
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let of_tokens = lines.filter(|line| line["rpc"] == "GetToken");
        let of_tokens = of_tokens.inspect(|line| assert_eq!(line["on_word_of"], "xfcc"));
        let told = of_tokens.map(|line| format!("{} {}", line["caller"], line["outcome"]));
        told.collect::<Vec<_>>()
    };
    let mut expected = Vec::new();
    for number in 0..40 {
        // Hits and refusals in turn, all over one connection.
        let path = if number % 2 == 0 {
            "worker"
        } else {
            "eu/admin"
        };
        let answered = token(&channel, &[(XFCC, &element(path))]).await;
        let outcome = if path == "worker" {
            "OK"
        } else {
            "ORGANIZATION_NOT_FOUND"
        };
        assert_eq!(answered.is_ok(), outcome == "OK");
        let line = format!("\"{}\" \"{outcome}\"", pki::spiffe_id(path));
        // The same token given again is told later, once.
        if outcome != "OK" || !expected.contains(&line) {
            expected.push(line);
        }
        assert_eq!(on_record(), expected);
    }
}

fn setup() -> Setup {
    Setup::new().server("metrics_listen = \"127.0.0.1:0\"")
}

#[tokio::test]
async fn every_header_of_an_envoy_comes_to_whom_the_envoy_means() {
    let cases = corpus::xfcc();
    assert!(cases.len() >= 500, "{}", cases.len());
    let identity = format!("mode = \"xfcc\"\nxfcc_by = \"{}\"", corpus::PROXY);
    let fixture = setup().identity(&identity).start().await;
    assert_named(&proxy(&fixture), &cases, IdentitySource::Xfcc).await;
    let refused = cases.iter().filter(|case| case.caller.is_none()).count();
    let mut counted = 0;
    for reason in [
        "header_missing",
        "header_repeated",
        "header_too_long",
        "header_malformed",
        "header_by_another_proxy",
        "header_not_one_uri",
        "no_spiffe_id",
        "foreign_trust_domain",
    ] {
        let line = format!("kodo_broker_callers_unidentified_total{{reason=\"{reason}\"}}");
        let count = figure(&fixture, &line).await;
        assert!(count > 0, "{reason}");
        counted += count;
    }
    assert_eq!(counted, 2 * refused);
}

#[tokio::test]
async fn every_header_of_a_linkerd_proxy_comes_to_whom_the_proxy_means() {
    let cases = corpus::linkerd();
    assert!(cases.len() >= 200, "{}", cases.len());
    let fixture = setup().identity("mode = \"linkerd\"").start().await;
    assert_named(&proxy(&fixture), &cases, IdentitySource::Linkerd).await;
    let ignored = format!("kodo_broker_identity_headers_ignored_total{{header=\"{XFCC}\"}}");
    assert_eq!(figure(&fixture, &ignored).await, 2);
}

#[tokio::test]
async fn whoever_is_no_trusted_proxy_is_nobody_whatever_the_header_says() {
    for (mode, cases) in [("xfcc", corpus::xfcc()), ("linkerd", corpus::linkerd())] {
        let identity =
            format!("mode = \"{mode}\"\ntrusted_proxies = [\"127.0.0.2\", \"10.0.0.0/8\"]");
        let fixture = setup().identity(&identity).start().await;
        let channel = proxy(&fixture);
        for case in &cases {
            match who(&channel, &case.headers).await {
                Err(refused) if reason(&refused).is_some() => assert_unidentified(&refused, case),
                // The connection is not left open for long.
                Err(refused) => assert_eq!(refused.code(), Code::Unavailable, "{case:?}"),
                Ok(named) => panic!("{case:?}: {named:?}"),
            }
        }
    }
}

#[tokio::test]
async fn where_certificates_count_headers_are_counted_and_nothing_else() {
    let fixture = setup().start().await;
    let stranger = fixture.connect(Some(&pki::caller("stranger")));
    let nobody = fixture.connect(Some(&pki::issue(&Default::default())));
    let (mut of_envoy, mut of_linkerd) = (0, 0);
    for case in corpus::xfcc().iter().chain(&corpus::linkerd()) {
        let named = who(&stranger, &case.headers)
            .await
            .expect("its certificate names it");
        assert_eq!(named.spiffe_id, pki::spiffe_id("stranger"), "{case:?}");
        assert_eq!(named.source(), IdentitySource::Mtls);
        assert!(named.grants.is_empty());
        let has = |header| case.headers.iter().any(|(name, _)| *name == header);
        of_envoy += usize::from(has(XFCC));
        of_linkerd += usize::from(has(LINKERD));
    }
    for (header, count) in [(XFCC, of_envoy), (LINKERD, of_linkerd)] {
        let line = format!("kodo_broker_identity_headers_ignored_total{{header=\"{header}\"}}");
        assert_eq!(figure(&fixture, &line).await, count);
    }
    let case = Case {
        headers: vec![(XFCC, element("worker").into())],
        caller: None,
    };
    let refused = who(&nobody, &case.headers)
        .await
        .expect_err("no certificate names it");
    assert_unidentified(&refused, &case);
}
