//! The main job: what goes in once comes out as tokens, and Entra is asked no more than it must be.

use std::time::{Duration, SystemTime};

use kodo_broker::{
    clock::Clock,
    pb::{admin::v1::CredentialKind, v1::Resource},
};

use crate::support::{CONTOSO, Fixture, RESOURCES, SECRET, Setup, claims, pki, request, token};

fn time(time: Option<prost_types::Timestamp>) -> SystemTime {
    let time = time.expect("the time is told");
    SystemTime::try_from(time).expect("a time")
}

#[tokio::test]
async fn every_kind_of_credential_gets_tokens() {
    let fixture = Fixture::start().await;
    let first = pki::application();
    let cases = [
        (
            "by-secret",
            request::secret(SECRET),
            CredentialKind::ClientSecret,
        ),
        ("by-pem", request::pem(first), CredentialKind::Certificate),
        (
            "by-pfx",
            request::pkcs12(first, "pass wörd"),
            CredentialKind::Certificate,
        ),
        (
            "by-open-pfx",
            request::pkcs12(first, ""),
            CredentialKind::Certificate,
        ),
    ];
    for (id, credential, kind) in cases {
        let organization = fixture.register(id, CONTOSO, credential).await;
        let info = organization.credential.expect("it has a credential");
        assert_eq!((info.kind(), info.version), (kind, 1), "{id}");
        let token = token(&fixture.worker(), id, Resource::Exchange).await;
        assert_eq!(token.expect(id).client_id, CONTOSO.client.to_string());
    }
}

#[tokio::test]
async fn a_token_is_for_its_tenant_application_and_api() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    let urls = [
        "https://graph.microsoft.com",
        "https://outlook.office365.com",
        "https://contoso.sharepoint.com",
        "https://graph.windows.net",
    ];
    for (resource, url) in RESOURCES.into_iter().zip(urls) {
        let asked = Clock::system().now();
        let token = token(&fixture.worker(), "contoso", resource)
            .await
            .expect(url);
        let claims = claims(&token);
        assert_eq!(claims["tid"], CONTOSO.tenant.to_string());
        assert_eq!(claims["appid"], CONTOSO.client.to_string());
        // Entra puts a slash behind some of them.
        let audience = claims["aud"].as_str().expect("an audience");
        assert_eq!(audience.trim_end_matches('/'), url);
        assert_eq!(token.resource_url, url);
        assert_eq!(token.token_type, "Bearer");
        assert_eq!(token.credential_version, 1);
        assert_eq!(token.fingerprint.len(), 64);
        let (refresh, expire) = (time(token.refresh_time), time(token.expire_time));
        assert!(asked < refresh && refresh < expire, "{url}");
        let life = expire.duration_since(asked).expect("it ends later");
        let minutes = life.as_secs() / 60;
        assert!((59..=90).contains(&minutes), "{minutes} minutes");
    }
}

#[tokio::test]
async fn a_token_comes_from_memory_until_it_lives_too_short() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    let after_registration = fixture.simulator.request_count();
    let worker = fixture.worker();
    let mut fingerprints = Vec::new();
    for resource in RESOURCES {
        let token = token(&worker, "contoso", resource).await.expect("a token");
        fingerprints.push(token.fingerprint);
    }
    // Graph's is the proof of the registration.
    assert_eq!(fixture.simulator.request_count(), after_registration + 3);
    for (resource, fingerprint) in RESOURCES.into_iter().zip(&fingerprints) {
        for seconds in [0, 1, 3000] {
            let mut request = request::token("contoso", resource);
            request.min_remaining = Some(prost_types::Duration { seconds, nanos: 0 });
            let token = worker.clone().get_token(request).await.expect("a token");
            assert_eq!(token.into_inner().fingerprint, *fingerprint);
        }
    }
    assert_eq!(fixture.simulator.request_count(), after_registration + 3);
}

/// Pauses tokio's clock once everything is connected, lets time pass, and asks again.
#[tokio::test]
async fn a_token_with_less_life_than_needed_is_replaced() {
    let clock = Clock::starting_at(Clock::system().now());
    let fixture = Setup::new().clock(clock).start().await;
    let hour = Duration::from_secs(3600);
    let directory = fixture.simulator.directory();
    directory.change_tenant(CONTOSO.tenant, |tenant| tenant.token_lifetime = hour..=hour);
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let first = token(&worker, "contoso", Resource::Graph)
        .await
        .expect("a token");
    let count = fixture.simulator.request_count();

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();

    let mut request = request::token("contoso", Resource::Graph);
    request.min_remaining = Some(prost_types::Duration {
        seconds: 3500,
        nanos: 0,
    });
    let enough = worker
        .clone()
        .get_token(request.clone())
        .await
        .expect("a token");
    assert_eq!(enough.into_inner().fingerprint, first.fingerprint);
    request.min_remaining = Some(prost_types::Duration {
        seconds: 3550,
        nanos: 0,
    });
    let longer = worker.clone().get_token(request).await.expect("a token");
    assert_ne!(longer.into_inner().fingerprint, first.fingerprint);
    assert_eq!(fixture.simulator.request_count(), count + 1);
}
