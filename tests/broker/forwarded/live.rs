//! What changes while a proxy says who callers are, in plaintext: the policy and the trust domains. And two
//! addresses, both for proxies.

use std::{fs, time::Duration};

use kodo_broker::pb::v1::identity_service_client::IdentityServiceClient;
use tokio::time::{Instant, timeout};

use super::*;

/// How long a change may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(2);
/// For what has no bound but must come.
const SOON: Duration = Duration::from_secs(30);

fn grant(caller: &str) -> String {
    format!(
        "[[grant]]\ncallers = [\"{caller}\"]\nactions = [\"get_token\"]\norganizations = [\"*\"]\n\
         resources = [\"graph\"]\n"
    )
}

fn operator() -> String {
    let operator = pki::spiffe_id("admin");
    format!(
        "[[grant]]\ncallers = [\"{operator}\"]\nactions = [\"register\", \"list\"]\norganizations = [\"*\"]\n"
    )
}

/// Puts a file in the place of another in one step.
fn replace(fixture: &Fixture, name: &str, content: &str) {
    let (next, file) = (fixture.path("next"), fixture.path(name));
    fs::write(&next, content).expect("a writable folder");
    fs::rename(next, file).expect("the same folder");
}

async fn who(
    channel: &Channel,
    headers: &[(&'static str, &str)],
) -> Result<WhoAmIResponse, Status> {
    let mut identity = IdentityServiceClient::new(channel.clone());
    let answer = identity.who_am_i(with(WhoAmIRequest {}, headers)).await?;
    Ok(answer.into_inner())
}

async fn until_refused(channel: &Channel, headers: &[(&'static str, &str)]) -> Status {
    let began = Instant::now();
    loop {
        match token(channel, headers).await {
            Ok(()) => assert!(began.elapsed() < IN_FORCE, "it is not in force"),
            Err(refused) => return refused,
        }
    }
}

#[tokio::test]
async fn a_changed_policy_is_in_force_for_callers_that_a_proxy_named_before() {
    let (worker, other) = (pki::spiffe_id("worker"), pki::spiffe_id("other"));
    let before = grant(&worker) + &grant(&other) + &operator();
    let fixture = Setup::new()
        .policy(before)
        .identity("mode = \"xfcc\"")
        .start()
        .await;
    registered(&fixture, &[(XFCC, &element("admin"))]).await;
    let channel = proxy(&fixture);
    let (worker, other) = (element("worker"), element("other"));
    let (worker, other) = ([(XFCC, worker.as_str())], [(XFCC, other.as_str())]);
    for caller in [&worker, &other] {
        token(&channel, caller).await.expect("a token");
    }
    assert_eq!(who(&channel, &other).await.expect("named").grants.len(), 1);
    let message = request::watch("contoso", Resource::Graph);
    let mut watching = Tokens::new(channel.clone());
    let stream = watching.watch_token(with(message, &other)).await;
    let mut stream = stream.expect("a stream").into_inner();
    stream.message().await.expect("a token").expect("a token");

    let after = grant(&pki::spiffe_id("worker")) + &operator();
    replace(&fixture, "policy.toml", &after);
    let refused: Result<(), _> = Err(until_refused(&channel, &other).await);
    assert_refused(refused, Code::NotFound, ErrorReason::OrganizationNotFound);
    let ended = timeout(SOON, stream.message()).await.expect("it ends");
    assert_refused(ended, Code::NotFound, ErrorReason::OrganizationNotFound);
    let named = who(&channel, &other).await.expect("still named");
    assert!(named.grants.is_empty(), "{named:?}");
    let named = who(&channel, &worker).await.expect("named");
    assert_eq!(named.grants.len(), 1, "{named:?}");
    token(&channel, &worker).await.expect("its grant stays");
}

#[tokio::test]
async fn a_proxy_names_callers_of_every_trust_domain_of_ours() {
    let theirs = "spiffe://partner.test/worker";
    let fixture = Setup::new()
        .policy(grant(theirs) + &grant(&pki::spiffe_id("worker")) + &operator())
        .identity("mode = \"xfcc\"\n[[identity.federated]]\ntrust_domain = \"partner.test\"")
        .start()
        .await;
    registered(&fixture, &[(XFCC, &element("admin"))]).await;
    let channel = proxy(&fixture);
    let ask = async |id: &str| token(&channel, &[(XFCC, format!("URI={id}").as_str())]).await;
    ask(theirs).await.expect("their worker");
    let ours = ask(&pki::spiffe_id("worker")).await;
    ours.expect("our worker");
    let refused = ask("spiffe://elsewhere.test/worker").await;
    assert_refused(
        refused,
        Code::Unauthenticated,
        ErrorReason::PeerIdentityInvalid,
    );
}

#[tokio::test]
async fn operators_have_a_socket_of_their_own_and_everybody_may_ask_who_they_are() {
    let user = nix::unistd::getuid().as_raw();
    let fixture = Setup::new()
        .identity(&format!(
            "mode = \"xfcc\"\ntrusted_proxies = [\"uid:{user}\"]"
        ))
        .listen("unix:{folder}/proxy.sock")
        .server("admin_listen = \"unix:{folder}/admin.sock\"")
        .start()
        .await;
    let at = |name: &str| {
        let socket = fixture.path(name);
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()));
        endpoint.expect("a path").connect_lazy()
    };
    let (workers, operators) = (at("proxy.sock"), at("admin.sock"));
    let admin = element("admin");
    let admin = [(XFCC, admin.as_str())];
    for channel in [&workers, &operators] {
        let named = who(channel, &admin).await.expect("named");
        assert_eq!(named.spiffe_id, pki::spiffe_id("admin"));
    }
    let list = async |channel: &Channel| {
        let mut organizations = Organizations::new(channel.clone());
        let listed = organizations.list_organizations(with(request::list(), &admin));
        listed.await.map(drop)
    };
    list(&operators).await.expect("lists");
    let elsewhere = list(&workers).await.expect_err("another socket");
    assert_eq!(elsewhere.code(), Code::Unimplemented, "{elsewhere:?}");
    let elsewhere = token(&operators, &admin).await.expect_err("another socket");
    assert_eq!(elsewhere.code(), Code::Unimplemented, "{elsewhere:?}");
}
