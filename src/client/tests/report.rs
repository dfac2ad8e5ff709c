use std::{sync::Arc, time::Duration};

use super::broker::{Answer, Broker, fingerprint, number, settle};
use crate::{
    client::{ClaimsChallenge, Client, Refusal, Token, TokenOptions, Verdict, cache::RENEWAL},
    pb::v1::{self, ReportTokenResponse, Resource},
};

const UNAUTHORIZED: Refusal = Refusal::Unauthorized {
    claims_challenge: None,
};

async fn token(client: &Client) -> Arc<Token> {
    let token = client.token("contoso", Resource::Graph, TokenOptions::default());
    token.await.expect("a token")
}

fn say(broker: &Broker, verdict: v1::Verdict) {
    *broker.verdict.lock().expect("no panic") = ReportTokenResponse {
        verdict: verdict.into(),
        missing_roles: vec!["Mail.ReadWrite".into()],
        roles: vec!["User.Read.All".into()],
        retry_delay: Some(prost_types::Duration {
            seconds: 40,
            nanos: 0,
        }),
    };
}

#[tokio::test(start_paused = true)]
async fn a_report_says_which_token_was_refused_how() {
    let (broker, client) = Broker::start().await;
    let token = token(&client).await;
    say(&broker, v1::Verdict::Replaced);
    let challenge = ClaimsChallenge::new("eyJhIjp7fX0=").expect("a challenge");
    for refusal in [
        Refusal::Unauthorized {
            claims_challenge: Some(challenge),
        },
        UNAUTHORIZED,
        Refusal::Forbidden,
    ] {
        assert!(client.report(&token, refusal).await.is_ok());
    }
    let reports = broker.reports.lock().expect("no panic").clone();
    let told = |index: usize| {
        (
            reports[index].http_status,
            &*reports[index].claims_challenge,
        )
    };
    assert_eq!(told(0), (401, "eyJhIjp7fX0="));
    assert_eq!(told(1), (401, ""));
    assert_eq!(told(2), (403, ""));
    for report in &reports {
        assert_eq!(report.organization_id, "contoso");
        assert_eq!(report.resource(), Resource::Graph);
        assert_eq!(report.fingerprint, fingerprint(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_says_what_to_do_and_which_token_comes_next() {
    let present = || vec!["User.Read.All".to_owned()];
    let too_soon = Verdict::TooSoon {
        retry_after: Duration::from_secs(40),
    };
    let missing = Verdict::RolesMissing {
        missing: vec!["Mail.ReadWrite".into()],
        present: present(),
    };
    let all_there = Verdict::RolesPresent { present: present() };
    for (sent, refusal, verdict, asks_again) in [
        (v1::Verdict::Replaced, UNAUTHORIZED, Verdict::Replaced, true),
        (
            v1::Verdict::AlreadyReplaced,
            UNAUTHORIZED,
            Verdict::AlreadyReplaced,
            true,
        ),
        (v1::Verdict::TooSoon, UNAUTHORIZED, too_soon, true),
        (
            v1::Verdict::AlreadyReplaced,
            Refusal::Forbidden,
            Verdict::AlreadyReplaced,
            true,
        ),
        (
            v1::Verdict::RolesMissing,
            Refusal::Forbidden,
            missing,
            false,
        ),
        (
            v1::Verdict::RolesUnknown,
            Refusal::Forbidden,
            Verdict::RolesUnknown,
            false,
        ),
        (
            v1::Verdict::RolesPresent,
            Refusal::Forbidden,
            all_there,
            false,
        ),
    ] {
        let (broker, client) = Broker::start().await;
        let token = token(&client).await;
        say(&broker, sent);
        let reported = client.report(&token, refusal).await;
        assert_eq!(reported.expect("a verdict"), verdict);
        number(&client).await;
        let asked = broker.asked();
        assert_eq!(asked, if asks_again { 2 } else { 1 }, "{verdict:?}");
        // Whatever came is kept again.
        number(&client).await;
        assert_eq!(broker.asked(), asked, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_what_was_asked_before_the_report_does_not_bring_the_token_back() {
    let (broker, client) = Broker::start().await;
    let refused = token(&client).await;
    say(&broker, v1::Verdict::Replaced);
    // A refresh is under way, whose answer will be the token that is refused meanwhile.
    tokio::time::advance(Duration::from_secs(1800)).await;
    broker.shut();
    assert_eq!(number(&client).await, 1);
    settle().await;
    assert_eq!(broker.asked(), 2);
    broker.answers([Answer::Token(2)]);
    let reporting = client.report(&refused, UNAUTHORIZED);
    let opening = async {
        settle().await;
        broker.open();
    };
    let (verdict, ()) = tokio::join!(reporting, opening);
    assert_eq!(verdict.expect("a verdict"), Verdict::Replaced);
    assert_eq!(number(&client).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_report_without_answer_is_an_error_and_the_token_is_given_as_before() {
    let (broker, client) = Broker::start().await;
    let token = token(&client).await;
    broker.shut();
    let error = client.report(&token, UNAUTHORIZED).await;
    assert!(error.expect_err("no answer").message().contains("in time"));
    broker.open();
    for _ in 0..3 {
        assert_eq!(number(&client).await, 1);
    }
    assert_eq!(broker.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_of_a_newer_broker_is_an_error() {
    let (broker, client) = Broker::start().await;
    let token = token(&client).await;
    for verdict in [0, 99] {
        broker.verdict.lock().expect("no panic").verdict = verdict;
        let error = client.report(&token, Refusal::Forbidden).await;
        assert!(error.expect_err("unknown").message().contains("verdict"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fingerprint_is_enough_for_a_report() {
    let (broker, client) = Broker::start().await;
    assert_eq!(number(&client).await, 1);
    say(&broker, v1::Verdict::Replaced);
    let host = Some("contoso-my.sharepoint.com");
    let (one, sharepoint) = (fingerprint(1), Resource::Sharepoint);
    let other = client.report_fingerprint("contoso", sharepoint, host, &one, UNAUTHORIZED);
    assert!(other.await.is_ok());
    let told = broker.reports.lock().expect("no panic")[0].clone();
    assert_eq!(Some(&*told.sharepoint_host), host);
    // It is another API's: what is held of this one stays.
    number(&client).await;
    assert_eq!(broker.asked(), 1);
    let this = client.report_fingerprint("contoso", Resource::Graph, None, &one, UNAUTHORIZED);
    assert!(this.await.is_ok());
    number(&client).await;
    assert_eq!(broker.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_lacks_roles_is_used_on_until_there_is_another() {
    let (broker, client) = Broker::start().await;
    broker.answers([Answer::Token(1), Answer::Token(2)]);
    let token = token(&client).await;
    say(&broker, v1::Verdict::RolesMissing);
    let verdict = client.report(&token, Refusal::Forbidden).await;
    assert!(matches!(verdict, Ok(Verdict::RolesMissing { .. })));
    assert_eq!(number(&client).await, 1);
    tokio::time::advance(RENEWAL).await;
    assert_eq!(number(&client).await, 1);
    settle().await;
    assert_eq!(number(&client).await, 2);
}
