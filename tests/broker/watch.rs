//! `WatchToken` over the wire.

use kodo_broker::pb::v1::{ErrorReason, GetTokenResponse, Resource, WatchTokenResponse};
use tokio::task::JoinSet;
use tonic::{Code, Status, Streaming};

use crate::support::{
    CONTOSO, Fixture, SECOND_SECRET, SECRET, Setup, Tokens, assert_refused, request, token,
};

type Stream = Streaming<WatchTokenResponse>;

async fn watch(worker: &Tokens, id: &str) -> Result<Stream, Status> {
    let request = request::watch(id, Resource::Graph);
    Ok(worker.clone().watch_token(request).await?.into_inner())
}

async fn next(stream: &mut Stream) -> Result<GetTokenResponse, Status> {
    let next = stream.message().await?;
    let token = next.expect("it ends with an error only").token;
    Ok(token.expect("always set"))
}

#[tokio::test]
async fn the_current_token_comes_at_once_and_the_next_when_it_was_reported() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let mut stream = watch(&worker, "contoso").await.expect("a stream");
    let first = next(&mut stream).await.expect("a token");
    let got = token(&worker, "contoso", Resource::Graph).await;
    assert_eq!(got.expect("a token").fingerprint, first.fingerprint);
    let report = request::report("contoso", Resource::Graph, &first.fingerprint, 401);
    worker
        .clone()
        .report_token(report)
        .await
        .expect("a verdict");
    let second = next(&mut stream).await.expect("the next token");
    assert_ne!(first.fingerprint, second.fingerprint);
}

#[tokio::test]
async fn a_stream_ends_with_the_reason_when_the_organization_is_revoked() {
    let fixture = Fixture::with_contoso().await;
    let mut stream = watch(&fixture.worker(), "contoso").await.expect("a stream");
    next(&mut stream).await.expect("a token");
    let revocation = request::revoke("contoso", 1);
    let revoked = fixture.admin().revoke_organization(revocation).await;
    revoked.expect("revokes");
    let (code, reason) = (Code::FailedPrecondition, ErrorReason::OrganizationRevoked);
    assert_refused(next(&mut stream).await, code, reason);
}

#[tokio::test]
async fn a_leaked_credential_is_followed_by_a_token_of_the_next() {
    let fixture = Fixture::with_contoso().await;
    let mut stream = watch(&fixture.worker(), "contoso").await.expect("a stream");
    next(&mut stream).await.expect("a token");
    let mut rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    rotation.forget_tokens = true;
    fixture
        .admin()
        .rotate_credential(rotation)
        .await
        .expect("rotates");
    let token = next(&mut stream).await.expect("the next token");
    assert_eq!(token.credential_version, 2);
}

#[tokio::test]
async fn a_stream_that_cannot_begin_says_why() {
    let fixture = Fixture::with_contoso().await;
    for (caller, id, code, reason) in [
        (
            "worker",
            "unknown",
            Code::NotFound,
            ErrorReason::OrganizationNotFound,
        ),
        (
            "stranger",
            "contoso",
            Code::NotFound,
            ErrorReason::OrganizationNotFound,
        ),
    ] {
        let outcome = match watch(&fixture.tokens(caller), id).await {
            Ok(mut stream) => next(&mut stream).await,
            Err(status) => Err(status),
        };
        assert_refused(outcome, code, reason);
    }
    fixture.change(CONTOSO, |application| application.secrets.clear());
    let mut request = request::watch("contoso", Resource::Exchange);
    request.purpose = kodo_broker::pb::v1::Purpose::Restore.into();
    let stream = fixture.worker().watch_token(request).await;
    let mut stream = stream.expect("a stream").into_inner();
    let (code, reason) = (Code::FailedPrecondition, ErrorReason::CredentialRejected);
    assert_refused(next(&mut stream).await, code, reason);
    assert!(stream.message().await.expect("the end").is_none());
}

#[tokio::test]
async fn streams_end_when_the_broker_stops_and_it_does_not_wait_for_them() {
    let mut fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = watch(&worker, "contoso").await.expect("a stream");
        next(&mut stream).await.expect("a token");
        streams.push(stream);
    }
    let ends: JoinSet<_> = streams
        .into_iter()
        .map(|mut stream| async move { next(&mut stream).await })
        .collect();
    let began = tokio::time::Instant::now();
    let ((), ends) = tokio::join!(fixture.stop_broker(), ends.join_all());
    // Far below the time that calls are given to finish.
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    for end in ends {
        assert_refused(end, Code::Unavailable, ErrorReason::ShuttingDown);
    }
}

#[tokio::test]
async fn there_are_as_many_streams_as_there_may_be() {
    let setup = Setup::new().config("[tokens]\nstreams_max = 3");
    let fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(watch(&worker, "contoso").await.expect("a stream"));
    }
    let further = watch(&worker, "contoso").await;
    assert_refused(further, Code::ResourceExhausted, ErrorReason::LimitReached);
    // One that has ended gives its place back.
    streams.pop();
    loop {
        match watch(&worker, "contoso").await {
            Ok(_) => break,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}
