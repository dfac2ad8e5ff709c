//! The switches that the scripted answers of the other tests do not show.

use std::io::Read as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;

use super::*;

/// Bytes that come before the body ends, and whether it ends as it should.
async fn read(mut response: Response) -> (Vec<u8>, usize, bool) {
    let (mut body, mut chunks) = (Vec::new(), 0);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                body.extend_from_slice(&chunk);
                chunks += 1;
            }
            ended => return (body, chunks, ended.is_ok()),
        }
    }
}

#[tokio::test]
async fn a_dripping_answer_is_the_proper_one_in_single_bytes() {
    let fixture = Fixture::start().await;
    fixture.script(Fault::answer(200, "0123456789").dripping(Duration::from_millis(5)));
    let (body, chunks, whole) = read(fixture.send_secret(SECRET).await.unwrap()).await;
    assert_eq!((&*body, whole), (b"0123456789".as_slice(), true));
    assert!(chunks > 1, "{chunks}");
    fixture.script(Fault::proper().dripping(Duration::from_nanos(1)));
    let token = json_of(fixture.send_secret(SECRET).await.unwrap()).await;
    assert!(token["access_token"].is_string());
}

#[tokio::test]
async fn an_answer_that_stalls_or_is_cut_has_only_its_beginning() {
    for client in [Client::builder(), Client::builder().http1_only()] {
        let fixture = Fixture::start_with(client).await;
        fixture.script(Fault::proper().cut_after(10));
        let (body, _, whole) = read(fixture.send_secret(SECRET).await.unwrap()).await;
        assert_eq!((body.len(), whole), (10, false));

        fixture.script(Fault::proper().stalled_after(7));
        let mut stalled = fixture.send_secret(SECRET).await.unwrap();
        let begun = stalled.chunk().await.unwrap();
        assert_eq!(begun.map(|chunk| chunk.len()), Some(7));
        let good = fixture.send_secret(SECRET).await.unwrap();
        assert_eq!(good.status(), StatusCode::OK, "others go on");
        fixture.simulator.shutdown().await;
        assert!(stalled.chunk().await.is_err(), "it never came");
    }
}

#[tokio::test]
async fn a_reset_before_reading_leaves_nothing_in_the_journal() {
    for client in [Client::builder(), Client::builder().http1_only()] {
        let fixture = Fixture::start_with(client).await;
        fixture.script(Fault::reset_unread());
        assert!(fixture.send_secret(SECRET).await.is_err());
        assert_eq!(fixture.simulator.request_count(), 0);
        let good = fixture.send_secret(SECRET).await.unwrap();
        assert_eq!(good.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn what_stands_comes_after_the_script_until_it_is_taken_back() {
    let fixture = Fixture::start().await;
    fixture.script(Fault::html(502).always());
    fixture.script(Fault::html(503).always());
    fixture.script(Fault::html(500));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let response = fixture.send_secret(SECRET).await.unwrap();
        statuses.push(response.status().as_u16());
    }
    assert_eq!(statuses, [500, 503, 503, 503]);
    let (tenant, endpoint) = (fixture.tenant, Endpoint::Token);
    assert_eq!(fixture.simulator.unscript(tenant, endpoint), 1);
    let good = fixture.send_secret(SECRET).await.unwrap();
    assert_eq!(good.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_gzip_bomb_is_small_and_expands() {
    let fixture = Fixture::start().await;
    let length = 32 * 1024 * 1024;
    fixture.script(Fault::gzip_bomb(length));
    let response = fixture.send_secret(SECRET).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bomb = response.bytes().await.unwrap();
    assert!(bomb.len() < 64 * 1024, "{}", bomb.len());
    let mut expanded = Vec::new();
    GzDecoder::new(&*bomb).read_to_end(&mut expanded).unwrap();
    assert!(expanded.len() > length);
}

#[tokio::test]
async fn a_date_says_until_when_it_throttles() {
    let fixture = Fixture::start().await;
    let until = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    fixture.script(Fault::throttled_until(until));
    let response = fixture.send_secret(SECRET).await.unwrap();
    let expected = "Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(response.headers()["retry-after"], expected);
}

#[tokio::test]
async fn malformed_bodies_are_what_they_are_called() {
    let fixture = Fixture::start().await;
    let body = async |fault| {
        fixture.script(fault);
        let response = fixture.send_secret(SECRET).await.unwrap();
        response.bytes().await.unwrap()
    };
    assert!(std::str::from_utf8(&body(Fault::invalid_utf8()).await).is_err());
    assert_eq!(body(Fault::deep_json(1_000)).await.len(), 2_000);
    let twice = body(Fault::duplicate_keys()).await;
    let twice = std::str::from_utf8(&twice).unwrap();
    assert_eq!(twice.matches("access_token").count(), 2);
    let member = body(Fault::member("expires_in", json!(-1))).await;
    let member: Value = serde_json::from_slice(&member).unwrap();
    assert_eq!(member["expires_in"], -1);
    assert!(member["access_token"].is_string());
}

#[tokio::test]
async fn long_lived_tokens_say_when_to_be_renewed() {
    let fixture = Fixture::start().await;
    let directory = fixture.simulator.directory();
    let day = Duration::from_secs(24 * 3600);
    directory.change_tenant(fixture.tenant, |tenant| {
        tenant.token_lifetime = day..=day;
        tenant.refresh_after = Some(day / 2);
    });
    let token = json_of(fixture.send_secret(SECRET).await.unwrap()).await;
    assert_eq!(
        (&token["expires_in"], &token["refresh_in"]),
        (&json!(86_400), &json!(43_200))
    );
}

#[tokio::test]
async fn graph_challenges_a_token_from_before_the_revocation() {
    let fixture = Fixture::start().await;
    let graph = format!("{}/v1.0/sites/root", fixture.simulator.graph_url());
    let ask = async |body: &Value| {
        let token = body["access_token"].as_str().unwrap();
        let request = fixture.client.get(&graph).bearer_auth(token);
        request.send().await.unwrap()
    };
    let old = json_of(fixture.send_secret(SECRET).await.unwrap()).await;
    assert_eq!(ask(&old).await.status(), StatusCode::OK);

    let valid_from = Clock::system().now() + Duration::from_millis(1);
    let directory = fixture.simulator.directory();
    directory.change_tenant(fixture.tenant, |tenant| {
        tenant.tokens_valid_from = Some(valid_from);
    });
    let refused = ask(&old).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains("error=\"insufficient_claims\""),
        "{challenge}"
    );
    let claims = challenge.split("claims=\"").nth(1).unwrap();
    let claims = STANDARD.decode(claims.trim_end_matches('"')).unwrap();
    let wanted: Value = serde_json::from_slice(&claims).unwrap();
    assert!(
        wanted["access_token"]["nbf"]["value"].is_string(),
        "{wanted}"
    );

    while Clock::system().now() < valid_from {
        tokio::task::yield_now().await;
    }
    let claims = String::from_utf8(claims).unwrap();
    let proof = [("client_secret", SECRET), ("claims", &claims)];
    let new = json_of(fixture.send(GRAPH, &proof).await.unwrap()).await;
    assert_eq!(ask(&new).await.status(), StatusCode::OK);
    let journalled: Vec<_> = fixture.simulator.requests();
    assert_eq!(journalled[0].claims, None);
    assert_eq!(journalled[1].claims.as_ref(), Some(&claims));
}
