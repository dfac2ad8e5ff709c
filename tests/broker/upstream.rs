//! While Entra is in trouble with one, nobody else notices, and what is there is served.

use kodo_broker::{
    pb::v1::Resource,
    simulator::fault::{Endpoint, Fault},
};

use crate::support::{CONTOSO, Fixture, SECOND_SECRET, SECRET, request, token};

#[tokio::test]
async fn a_hanging_tenant_holds_up_nobody_else() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    let other = fixture.add_tenant("fabrikam");
    fixture
        .register("fabrikam", other, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let held = fixture.hold(CONTOSO);
    let (exchange, sharepoint, ()) = tokio::join!(
        token(&worker, "contoso", Resource::Exchange),
        token(&worker, "contoso", Resource::Sharepoint),
        async {
            held.arrived(2).await;
            // On the same connection, while the others hang.
            token(&worker, "fabrikam", Resource::Exchange)
                .await
                .expect("a token");
            token(&worker, "contoso", Resource::Graph)
                .await
                .expect("the token in memory");
            fixture
                .register("fabrikam-2", other, request::secret(SECOND_SECRET))
                .await;
            held.release();
        },
    );
    exchange.expect("a token, late");
    sharepoint.expect("a token, late");
}

#[tokio::test]
async fn a_valid_token_is_served_while_entra_is_in_trouble() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let held = token(&fixture.worker(), "contoso", Resource::Graph)
        .await
        .expect("a token");
    let fault = Fault::html(503).times(100);
    fixture
        .simulator
        .script(CONTOSO.tenant, Endpoint::Token, fault);
    let mut request = request::token("contoso", Resource::Graph);
    request.min_remaining = Some(prost_types::Duration {
        seconds: 24 * 3600,
        nanos: 0,
    });
    let served = fixture.worker().get_token(request).await.expect("a token");
    assert_eq!(served.into_inner().fingerprint, held.fingerprint);
}
