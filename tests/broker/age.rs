//! Connections end at an age, and their clients show their certificates again. Nobody notices.

use std::time::Duration;

use kodo_broker::{clock::Clock, pb::v1::Resource, simulator::pki::Leaf};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support::{CONTOSO, SECRET, Setup, pki, request, shown, token};

const AGE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_connection_is_told_to_go_at_its_age_and_calls_under_way_finish() {
    let setup = Setup::new().config("[server.limits]\nconnection_age_max_seconds = 1");
    let fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let hold = fixture.hold(CONTOSO);
    let mut calling = JoinSet::new();
    calling.spawn({
        let worker = worker.clone();
        async move { token(&worker, "contoso", Resource::Exchange).await }
    });
    hold.arrived(1).await;

    // A later connection, on which nothing is asked.
    let stream = shown::connect(fixture.address(), Some(&pki::caller("worker"))).await;
    let began = Instant::now();
    let (_requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let ended = timeout(SOON, connection).await.expect("it ends");
    // Which is what h2 makes of a GOAWAY without an error and an end after it.
    ended.expect("in good order");
    let lived = began.elapsed();
    assert!((AGE..AGE * 4).contains(&lived), "{lived:?}");

    // So the first one was told, too, and waits for its call only.
    hold.release();
    let got = timeout(SOON, calling.join_next()).await;
    let got = got.expect("it is answered").expect("the one call");
    got.expect("no panic").expect("a token");
    let began = Instant::now();
    while began.elapsed() < AGE * 3 {
        let got = token(&worker, "contoso", Resource::Exchange).await;
        got.expect("a token, over one connection after the other");
    }
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_of_its_caller() {
    let fixture = Setup::new().start().await;
    let life = Duration::from_secs(3);
    let leaf = Leaf::workload(&pki::spiffe_id("worker"));
    let caller = pki::issue(&Leaf {
        not_after: Clock::system().now() + life,
        ..leaf
    });
    let stream = shown::connect(fixture.address(), Some(&caller)).await;
    let began = Instant::now();
    let (_requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let ended = timeout(SOON, connection).await.expect("it ends");
    ended.expect("in good order");
    // Certificates tell whole seconds.
    assert!(began.elapsed() < life * 3, "{:?}", began.elapsed());
}
