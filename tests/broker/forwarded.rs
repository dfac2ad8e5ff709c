//! Who a caller is where a trusted proxy says so, call by call.

use kodo_broker::pb::v1::{ErrorReason, Resource};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use crate::support::{
    CONTOSO, Fixture, Organizations, SECRET, Setup, Tokens, assert_refused, pki, request,
};

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
