//! Who a caller is: one SPIFFE ID of the client certificate, and nothing else that is said.

use kodo_broker::{
    pb::v1::{ErrorReason, Resource},
    simulator::pki::{CertificateAuthority, Identity, Leaf},
};
use tonic::{Code, Status};

use crate::support::{
    CONTOSO, Fixture, Organizations, SECRET, Tokens, assert_refused, pki, reason, request, token,
};

/// What a caller with this certificate is answered.
async fn call_as(fixture: &Fixture, identity: Option<&Identity>) -> Status {
    let channel = fixture.connect(identity);
    let listed = Organizations::new(channel.clone())
        .list_organizations(request::list())
        .await;
    let got = token(&Tokens::new(channel), "contoso", Resource::Graph).await;
    let got = got.expect_err("no token without an identity");
    let listed = listed.expect_err("no list without an identity");
    // Without a reason there was no connection, and what a client makes of that is its own matter.
    assert_eq!(reason(&listed), reason(&got));
    got
}

#[tokio::test]
async fn a_certificate_without_an_acceptable_identity_is_unauthenticated() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = pki::spiffe_id("worker");
    let uris: [&[&str]; 10] = [
        &[],
        &[&worker, "spiffe://kodo.test/admin"],
        &[&worker, &worker],
        &["spiffe://another.test/worker"],
        &["spiffe://kodo.test.evil/worker"],
        &["spiffe://kodo.test"],
        &["spiffe://kodo.test/worker/"],
        &["spiffe://kodo.test/../worker"],
        &["https://kodo.test/worker"],
        &["SPIFFE://kodo.test/worker"],
    ];
    for uris in uris {
        let leaf = Leaf {
            // Names mean nothing.
            common_name: worker.clone(),
            dns_names: vec!["worker".into()],
            uris: uris.iter().map(ToString::to_string).collect(),
            ..Leaf::default()
        };
        let refused = call_as(&fixture, Some(&pki::issue(&leaf))).await;
        assert_eq!(
            (refused.code(), reason(&refused)),
            (
                Code::Unauthenticated,
                Some(ErrorReason::PeerIdentityInvalid)
            ),
            "{uris:?}"
        );
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_the_callers_to_have_does_not_connect() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let leaf = Leaf::workload(&pki::spiffe_id("worker"));
    let another_ca = CertificateAuthority::new("tests").expect("a CA can be made");
    let cases = [
        ("none", None),
        (
            "of another CA of that name",
            Some(another_ca.issue(&leaf).expect("issues")),
        ),
        (
            "expired",
            Some(pki::issue(&Leaf {
                not_after: leaf.not_before,
                ..leaf.clone()
            })),
        ),
        (
            "not valid yet",
            Some(pki::issue(&Leaf {
                not_before: leaf.not_after,
                ..leaf.clone()
            })),
        ),
        (
            "of a CA",
            Some(pki::issue(&Leaf {
                is_ca: true,
                ..leaf.clone()
            })),
        ),
    ];
    for (name, identity) in cases {
        let refused = call_as(&fixture, identity.as_ref()).await;
        // The handshake fails, which a client calls unavailable or, late, unknown or cancelled.
        assert!(
            matches!(
                refused.code(),
                Code::Unavailable | Code::Unknown | Code::Cancelled
            ),
            "{name}: {refused:?}"
        );
        assert_eq!(reason(&refused), None, "{name}");
    }
    let right = pki::issue(&leaf);
    let channel = fixture.connect(Some(&right));
    token(&Tokens::new(channel), "contoso", Resource::Graph)
        .await
        .expect("a token");
}

#[tokio::test]
async fn no_header_says_who_a_caller_is() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = pki::spiffe_id("worker");
    let forwarded = format!("By=spiffe://kodo.test/broker;URI={worker}");
    for (name, value) in [
        ("x-forwarded-client-cert", forwarded.as_str()),
        (
            "l5d-client-id",
            "worker.default.serviceaccount.identity.linkerd.cluster.local",
        ),
        ("x-spiffe-id", worker.as_str()),
        ("authorization", "Bearer worker"),
    ] {
        let mut request = tonic::Request::new(request::token("contoso", Resource::Graph));
        let value = value.parse().expect("visible ASCII");
        request.metadata_mut().insert(name, value);
        let refused = fixture.tokens("stranger").get_token(request).await;
        assert_refused(refused, Code::NotFound, ErrorReason::OrganizationNotFound);
    }
}
