//! `ReportToken` over the wire.

use kodo_broker::{
    pb::v1::{ErrorReason, ReportTokenRequest, ReportTokenResponse, Resource, Verdict},
    simulator,
};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::support::{CONTOSO, Fixture, Tokens, assert_refused, claims, request, token};

async fn report(
    worker: &Tokens,
    request: ReportTokenRequest,
) -> Result<ReportTokenResponse, Status> {
    Ok(worker.clone().report_token(request).await?.into_inner())
}

#[tokio::test]
async fn a_thousand_reports_of_one_token_cost_one_request() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let first = token(&worker, "contoso", Resource::Graph)
        .await
        .expect("a token");
    let count = fixture.simulator.request_count();
    let reports: JoinSet<_> = (0..1000)
        .map(|_| {
            let (worker, fingerprint) = (worker.clone(), first.fingerprint.clone());
            async move {
                let request = request::report("contoso", Resource::Graph, &fingerprint, 401);
                report(&worker, request).await.expect("a verdict").verdict()
            }
        })
        .collect();
    let verdicts = reports.join_all().await;
    let replaced = verdicts
        .iter()
        .filter(|verdict| **verdict == Verdict::Replaced);
    assert_eq!(replaced.count(), 1);
    assert!(
        verdicts
            .iter()
            .all(|verdict| { matches!(verdict, Verdict::Replaced | Verdict::AlreadyReplaced) })
    );
    let second = token(&worker, "contoso", Resource::Graph)
        .await
        .expect("a token");
    assert_ne!(first.fingerprint, second.fingerprint);
    assert_eq!(fixture.simulator.request_count(), count + 1);
    let request = request::report("contoso", Resource::Graph, &second.fingerprint, 401);
    let verdict = report(&worker, request).await.expect("a verdict");
    assert_eq!(verdict.verdict(), Verdict::TooSoon);
    let wait = verdict.retry_delay.expect("how long to wait").seconds;
    assert!((1..=60).contains(&wait), "{wait}");
}

#[tokio::test]
async fn a_403_tells_the_roles_that_the_token_lacks() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let whole = token(&worker, "contoso", Resource::Graph)
        .await
        .expect("a token");
    let request = request::report("contoso", Resource::Graph, &whole.fingerprint, 403);
    let verdict = report(&worker, request).await.expect("a verdict");
    assert_eq!(verdict.verdict(), Verdict::RolesPresent);
    let roles: Vec<String> =
        serde_json::from_value(claims(&whole)["roles"].clone()).expect("roles");
    assert_eq!(verdict.roles, roles);
    fixture.change(CONTOSO, |application| {
        let granted = vec!["Mail.Read".to_owned(), "User.Read.All".to_owned()];
        let resource = simulator::resource::Resource::Exchange;
        application.roles.insert(resource, granted);
    });
    let poor = token(&worker, "contoso", Resource::Exchange)
        .await
        .expect("a token");
    let request = request::report("contoso", Resource::Exchange, &poor.fingerprint, 403);
    let verdict = report(&worker, request).await.expect("a verdict");
    assert_eq!(verdict.verdict(), Verdict::RolesMissing);
    assert_eq!(verdict.missing_roles, ["full_access_as_app"]);
    assert_eq!(verdict.roles, ["Mail.Read", "User.Read.All"]);
}

#[tokio::test]
async fn reports_are_for_those_who_may_have_the_token() {
    let fixture = Fixture::with_contoso().await;
    let held = token(&fixture.worker(), "contoso", Resource::Graph)
        .await
        .expect("a token");
    let request = request::report("contoso", Resource::Graph, &held.fingerprint, 401);
    let refused = report(&fixture.tokens("stranger"), request).await;
    assert_refused(refused, Code::NotFound, ErrorReason::OrganizationNotFound);
    // And nothing came of it.
    let still = token(&fixture.worker(), "contoso", Resource::Graph)
        .await
        .expect("a token");
    assert_eq!(still.fingerprint, held.fingerprint);
}
