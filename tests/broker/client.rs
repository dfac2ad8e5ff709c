//! The worker's library with the real broker.

use std::{sync::Arc, time::Duration};

use kodo_broker::{
    client::{Client, Error, Origin, Refusal, Token, TokenOptions, Verdict, Watch},
    pb::v1::{ErrorReason, Purpose, Resource},
    simulator,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{CONTOSO, Fixture, SECOND_SECRET, SECRET, Setup, request, token};

const UNAUTHORIZED: Refusal = Refusal::Unauthorized {
    claims_challenge: None,
};

async fn fixture() -> Fixture {
    registered(Setup::new()).await
}

async fn registered(setup: Setup) -> Fixture {
    let fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    fixture
}

async fn graph(client: &Client) -> Result<Arc<Token>, Error> {
    let options = TokenOptions::default();
    client.token("contoso", Resource::Graph, options).await
}

async fn next(watch: &mut Watch) -> Result<Arc<Token>, Error> {
    watch.next().await.expect("it ends with an error only")
}

#[tokio::test]
async fn a_token_is_got_once_and_is_the_brokers() {
    let fixture = fixture().await;
    let client = fixture.client().await;
    let first = graph(&client).await.expect("a token");
    let plain = token(&fixture.worker(), "contoso", Resource::Graph).await;
    let plain = plain.expect("a token");
    assert_eq!(first.fingerprint, plain.fingerprint);
    // Exposed: to see that it is the same.
    assert_eq!(first.access_token.expose(), plain.access_token);
    let second = graph(&client).await.expect("a token");
    assert!(Arc::ptr_eq(&first, &second));
    assert!(!format!("{client:?}").contains(&plain.access_token));
}

#[tokio::test]
async fn the_broker_tells_its_time_with_each_answer() {
    let fixture = fixture().await;
    let answer = fixture
        .worker()
        .get_token(request::token("contoso", Resource::Graph))
        .await;
    // What the library measures a token's life by.
    let answer = answer.expect("a token");
    let date = answer.metadata().get("date").expect("a date");
    let date = httpdate::parse_http_date(date.to_str().expect("ASCII"));
    let stream = fixture
        .worker()
        .watch_token(request::watch("contoso", Resource::Graph))
        .await;
    assert!(date.is_ok() && stream.expect("a stream").metadata().contains_key("date"));
}

#[tokio::test]
async fn callers_at_the_same_time_share_a_call_and_who_leaves_takes_nothing_away() {
    let fixture = fixture().await;
    let client = fixture.client().await;
    let before = fixture.simulator.request_count();
    let hold = fixture.hold(CONTOSO);
    let impatient = TokenOptions {
        timeout: Some(Duration::from_millis(1)),
        ..Default::default()
    };
    let exchange = client.token("contoso", Resource::Exchange, impatient);
    let error = exchange.await.expect_err("it is held back");
    // Said by whichever of the two ends notices first.
    assert_eq!(error.code(), Code::DeadlineExceeded);
    let mut callers = JoinSet::new();
    for _ in 0..500 {
        let client = client.clone();
        callers.spawn(async move {
            let options = TokenOptions::default();
            let token = client.token("contoso", Resource::Exchange, options).await;
            token.expect("a token").fingerprint.clone()
        });
    }
    hold.arrived(1).await;
    hold.release();
    let mut fingerprints = callers.join_all().await;
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 1);
    assert_eq!(fixture.simulator.request_count(), before + 1);
}

#[tokio::test]
async fn a_restore_asks_beside_a_backup_and_entra_is_asked_once() {
    let fixture = fixture().await;
    let client = fixture.client().await;
    let before = fixture.simulator.request_count();
    let hold = fixture.hold(CONTOSO);
    let got = |purpose| {
        let client = client.clone();
        async move {
            let options = TokenOptions {
                purpose,
                ..Default::default()
            };
            let token = client.token("contoso", Resource::Exchange, options).await;
            token.expect("a token").fingerprint.clone()
        }
    };
    let release = async {
        hold.arrived(1).await;
        hold.release();
    };
    let (backup, restore, ()) = tokio::join!(got(Purpose::Backup), got(Purpose::Restore), release);
    assert_eq!(backup, restore);
    assert_eq!(fixture.simulator.request_count(), before + 1);
}

#[tokio::test]
async fn a_refusal_has_its_reason() {
    let fixture = fixture().await;
    let client = fixture.client().await;
    let options = TokenOptions::default();
    let unknown = client.token("unknown", Resource::Graph, options).await;
    let reason = unknown.expect_err("refused").reason();
    assert_eq!(reason, Some(ErrorReason::OrganizationNotFound));
    fixture.change(CONTOSO, |application| application.secrets.clear());
    let options = TokenOptions::default();
    let rejected = client.token("contoso", Resource::Exchange, options).await;
    let error = rejected.expect_err("refused");
    assert_eq!(error.reason(), Some(ErrorReason::CredentialRejected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_under_load_costs_nobody_a_call() {
    let mut fixture = registered(Setup::new().sled()).await;
    fixture.keep_address();
    let client = fixture.client().await;
    // Past the library's memory, so that each is a call.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut workers = JoinSet::new();
    for _ in 0..16 {
        let (client, stopped) = (client.clone(), stopped.clone());
        workers.spawn(async move {
            let mut count = 0;
            while !*stopped.borrow() {
                let unknown = client.report_fingerprint(
                    "contoso",
                    Resource::Graph,
                    None,
                    "0000000000000000000000000000000000000000000000000000000000000000",
                    UNAUTHORIZED,
                );
                unknown.await.expect("no call fails");
                graph(&client).await.expect("no call fails");
                count += 1;
            }
            count
        });
    }
    for _ in 0..3 {
        fixture.restart().await;
        // Connected again.
        graph(&fixture.client().await).await.expect("it serves");
    }
    stop.send(true).expect("they listen");
    for count in workers.join_all().await {
        assert!(count > 0);
    }
}

#[tokio::test]
async fn a_broker_that_is_gone_is_told_as_such_and_a_token_that_is_held_is_given() {
    let mut fixture = fixture().await;
    let client = fixture.client().await;
    let held = graph(&client).await.expect("a token");
    fixture.stop_broker().await;
    assert!(Arc::ptr_eq(
        &held,
        &graph(&client).await.expect("it is held")
    ));
    let options = TokenOptions {
        timeout: Some(Duration::from_millis(300)),
        ..Default::default()
    };
    let lost = client.token("contoso", Resource::Exchange, options).await;
    assert_eq!(lost.expect_err("gone").origin(), Origin::Connection);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_and_the_next_one_comes() {
    let fixture = fixture().await;
    let client = fixture.client().await;
    let first = graph(&client).await.expect("a token");
    let before = fixture.simulator.request_count();
    let mut reports = JoinSet::new();
    for _ in 0..100 {
        let (client, first) = (client.clone(), Arc::clone(&first));
        reports.spawn(async move { client.report(&first, UNAUTHORIZED).await });
    }
    let mut verdicts = Vec::new();
    for verdict in reports.join_all().await {
        verdicts.push(verdict.expect("a verdict"));
    }
    let replaced = |verdict: &&Verdict| **verdict == Verdict::Replaced;
    assert_eq!(verdicts.iter().filter(replaced).count(), 1);
    let second = graph(&client).await.expect("the next token");
    assert_ne!(first.fingerprint, second.fingerprint);
    assert_eq!(fixture.simulator.request_count(), before + 1);
    let verdict = client.report(&second, UNAUTHORIZED).await;
    let Verdict::TooSoon { retry_after } = verdict.expect("a verdict") else {
        panic!("it was replaced just now")
    };
    assert!(retry_after <= Duration::from_secs(60));
    // There is no other: it goes on being given, and kept.
    let third = graph(&client).await.expect("a token");
    assert_eq!(third.fingerprint, second.fingerprint);
    assert!(Arc::ptr_eq(&third, &graph(&client).await.expect("a token")));
}

#[tokio::test]
async fn a_403_tells_missing_roles_and_a_token_with_them_comes_after_consent() {
    let fixture = fixture().await;
    let client = fixture.client().await;
    let grant = |names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        fixture.change(CONTOSO, |application| {
            let resource = simulator::resource::Resource::Exchange;
            application.roles.insert(resource, names);
        });
    };
    grant(&["Mail.Read"]);
    let options = TokenOptions::default();
    let poor = client.token("contoso", Resource::Exchange, options).await;
    let poor = poor.expect("a token");
    grant(&["Mail.Read", "full_access_as_app"]);
    let verdict = client.report(&poor, Refusal::Forbidden).await;
    let missing = Verdict::RolesMissing {
        missing: vec!["full_access_as_app".into()],
        present: vec!["Mail.Read".into()],
    };
    assert_eq!(verdict.expect("a verdict"), missing);
    // The library goes on with it until the broker has another one.
    while client
        .report(&poor, Refusal::Forbidden)
        .await
        .expect("a verdict")
        == missing
    {
        tokio::task::yield_now().await;
    }
    let options = TokenOptions::default();
    let rich = client.token("contoso", Resource::Exchange, options).await;
    let rich = rich.expect("a token");
    assert_ne!(rich.fingerprint, poor.fingerprint);
    let verdict = client.report(&rich, Refusal::Forbidden).await;
    assert!(
        matches!(verdict, Ok(Verdict::RolesPresent { .. })),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn a_watch_follows_a_report_a_rotation_and_a_restart_and_ends_with_the_revocation() {
    let mut fixture = registered(Setup::new().sled()).await;
    fixture.keep_address();
    let client = fixture.client().await;
    let options = TokenOptions::default();
    let mut watch = client.watch("contoso", Resource::Graph, options);
    let first = next(&mut watch).await.expect("a token");
    client
        .report(&first, UNAUTHORIZED)
        .await
        .expect("a verdict");
    let second = next(&mut watch).await.expect("the next token");
    assert_ne!(first.fingerprint, second.fingerprint);
    assert!(Arc::ptr_eq(
        &second,
        &graph(&client).await.expect("it is held")
    ));

    let rotate = |revision, secret| {
        let mut rotation = request::rotate("contoso", revision, request::secret(secret));
        rotation.forget_tokens = true;
        rotation
    };
    let rotation = rotate(1, SECOND_SECRET);
    let rotated = fixture.admin().rotate_credential(rotation).await;
    rotated.expect("rotates");
    let third = next(&mut watch).await.expect("the next token");
    assert_eq!(third.credential_version, 2);

    fixture.restart().await;
    let rotated = fixture.admin().rotate_credential(rotate(2, SECRET)).await;
    rotated.expect("rotates");
    let fourth = loop {
        let token = next(&mut watch).await.expect("the next token");
        // Opened again before the rotation, the stream may tell of one in between.
        if token.credential_version == 3 {
            break token;
        }
    };
    assert_eq!(
        watch.current().map(|token| &token.fingerprint),
        Some(&fourth.fingerprint)
    );

    let revocation = request::revoke("contoso", 3);
    let revoked = fixture.admin().revoke_organization(revocation).await;
    revoked.expect("revokes");
    let error = next(&mut watch).await.expect_err("there is no next token");
    assert_eq!(error.reason(), Some(ErrorReason::OrganizationRevoked));
    assert!(watch.next().await.is_none());
    // The library has forgotten it too.
    let error = graph(&client).await.expect_err("it is revoked");
    assert_eq!(error.reason(), Some(ErrorReason::OrganizationRevoked));
}
