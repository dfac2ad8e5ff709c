//! Operators at an address of their own.

use kodo_broker::pb::v1::Resource;
use tonic::Code;

use crate::support::{
    CONTOSO, Fixture, Organizations, SECRET, Setup, Tokens, endpoint, pki, request, token,
};

async fn with_two_addresses() -> Fixture {
    let setup = Setup::new().server("admin_listen = \"127.0.0.1:0\"");
    let fixture = setup.start().await;
    assert_ne!(fixture.address(), fixture.admin_address());
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    fixture
}

#[tokio::test]
async fn each_address_serves_its_own_callers_only() {
    let fixture = with_two_addresses().await;
    let (worker, admin) = (pki::caller("worker"), pki::caller("admin"));
    let got = token(&fixture.worker(), "contoso", Resource::Graph).await;
    got.expect("a token, where workers are served");

    let elsewhere = endpoint(fixture.admin_address(), Some(&worker)).connect_lazy();
    let refused = token(&Tokens::new(elsewhere), "contoso", Resource::Graph).await;
    let refused = refused.expect_err("not where operators are served");
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    assert!(refused.message().contains("server.listen"), "{refused:?}");

    let elsewhere = endpoint(fixture.address(), Some(&admin)).connect_lazy();
    let mut elsewhere = Organizations::new(elsewhere);
    let refused = elsewhere.list_organizations(request::list()).await;
    let refused = refused.expect_err("not where workers are served");
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    assert!(
        refused.message().contains("server.admin_listen"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_address_of_operators_asks_for_a_certificate_too_and_ends_with_the_broker() {
    let mut fixture = with_two_addresses().await;
    let address = fixture.admin_address();
    let nobody = Organizations::new(endpoint(address, None).connect_lazy());
    let refused = nobody.clone().list_organizations(request::list()).await;
    refused.expect_err("no certificate, no connection");
    fixture.stop_broker().await;
    let gone = tokio::net::TcpStream::connect(address).await;
    gone.expect_err("nobody listens there any more");
}
