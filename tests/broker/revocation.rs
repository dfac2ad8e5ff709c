//! Revoking is final: once it is answered, no token of the organization leaves the broker.

use kodo_broker::pb::{
    admin::v1::OrganizationState,
    v1::{ErrorReason, Resource},
};
use tokio::sync::oneshot;
use tonic::Code;

use crate::support::{CONTOSO, Fixture, RESOURCES, SECRET, Setup, assert_refused, request, token};

/// Fails unless the organization `contoso` gets no token of any kind, and Entra hears of none.
async fn assert_gets_nothing(fixture: &Fixture) {
    let count = fixture.simulator.request_count();
    for resource in RESOURCES {
        let refused = token(&fixture.worker(), "contoso", resource).await;
        assert_refused(
            refused,
            Code::FailedPrecondition,
            ErrorReason::OrganizationRevoked,
        );
    }
    assert_eq!(fixture.simulator.request_count(), count);
}

#[tokio::test]
async fn a_revoked_organization_gets_no_token_for_anything() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    fixture
        .register("another", CONTOSO, request::certificate())
        .await;
    for resource in RESOURCES {
        token(&fixture.worker(), "contoso", resource)
            .await
            .expect("a token");
    }
    let revoked = fixture
        .admin()
        .revoke_organization(request::revoke("contoso", 1))
        .await;
    revoked.expect("revokes");
    assert_gets_nothing(&fixture).await;
    // One with the same application is none of its business.
    token(&fixture.worker(), "another", Resource::Graph)
        .await
        .expect("a token");
}

#[tokio::test]
async fn a_flight_under_way_brings_no_token() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    let held = fixture.hold(CONTOSO);
    let asking = token(&worker, "contoso", Resource::Exchange);
    let revoking = async {
        held.arrived(1).await;
        let revocation = request::revoke("contoso", 1);
        let revoked = fixture.admin().revoke_organization(revocation).await;
        held.release();
        revoked
    };
    let (asked, revoked) = tokio::join!(asking, revoking);
    revoked.expect("revokes");
    assert_refused(
        asked,
        Code::FailedPrecondition,
        ErrorReason::OrganizationRevoked,
    );
    assert_gets_nothing(&fixture).await;
}

#[tokio::test]
async fn a_rotation_under_way_does_not_bring_it_back() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let held = fixture.hold(CONTOSO);
    let (mut rotator, mut revoker) = (fixture.admin(), fixture.admin());
    let rotating = rotator.rotate_credential(request::rotate("contoso", 1, request::certificate()));
    let revoking = async {
        held.arrived(1).await;
        let revoked = revoker
            .revoke_organization(request::revoke("contoso", 1))
            .await;
        held.release();
        revoked
    };
    let (rotated, revoked) = tokio::join!(rotating, revoking);
    revoked.expect("revokes");
    assert_refused(
        rotated,
        Code::FailedPrecondition,
        ErrorReason::OrganizationRevoked,
    );
    assert_gets_nothing(&fixture).await;
}

/// Its registration was sent twice, and the second one still waits for Entra when it is revoked.
#[tokio::test]
async fn a_late_proof_of_its_credential_is_not_served() {
    let fixture = Fixture::start().await;
    let (mut one, mut other, mut revoker) = (fixture.admin(), fixture.admin(), fixture.admin());
    let registration = request::register("contoso", CONTOSO, request::secret(SECRET));
    let (registered, once_registered) = oneshot::channel();
    let held = fixture.hold(CONTOSO);
    let first = async {
        let outcome = one.register_organization(registration.clone()).await;
        outcome.expect("registers");
        registered.send(()).expect("is waited for");
    };
    let second = async {
        held.arrived(1).await;
        let held_longer = fixture.hold(CONTOSO);
        let revoking = async {
            held_longer.arrived(1).await;
            held.release();
            once_registered.await.expect("is told");
            let revocation = request::revoke("contoso", 1);
            revoker
                .revoke_organization(revocation)
                .await
                .expect("revokes");
            held_longer.release();
        };
        tokio::join!(other.register_organization(registration.clone()), revoking).0
    };
    let ((), second) = tokio::join!(first, second);
    let told = second.expect("is answered").into_inner().organization;
    assert_eq!(told, Some(fixture.organization("contoso").await));
    assert_gets_nothing(&fixture).await;
}

#[tokio::test]
async fn it_is_shown_without_a_credential() {
    let fixture = Fixture::start().await;
    let before = fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    let revocation = request::revoke("contoso", 1);
    let response = fixture
        .admin()
        .revoke_organization(revocation)
        .await
        .expect("revokes");
    let told = response.into_inner().organization.expect("is told");
    assert_eq!(told.state(), OrganizationState::Revoked);
    assert_eq!((told.credential.as_ref(), told.revision), (None, 2));
    assert!(told.revoke_time.is_some());
    assert_eq!(told.tenant_id, before.tenant_id);
    assert_eq!(fixture.organization("contoso").await, told);
    let page = fixture
        .admin()
        .list_organizations(request::list())
        .await
        .expect("lists");
    assert_eq!(page.into_inner().organizations, [told]);
}

#[tokio::test]
async fn a_repeated_revocation_is_answered_again() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let mut admin = fixture.admin();
    let revocation = request::revoke("contoso", 1);
    let first = admin
        .revoke_organization(revocation.clone())
        .await
        .expect("revokes");
    let first = first.into_inner().organization;
    for _ in 0..10 {
        let again = admin
            .revoke_organization(revocation.clone())
            .await
            .expect("is answered");
        assert_eq!(again.into_inner().organization, first);
    }
    // Another request has nothing left to revoke.
    let another = admin
        .revoke_organization(request::revoke("contoso", 2))
        .await;
    assert_refused(
        another,
        Code::FailedPrecondition,
        ErrorReason::OrganizationRevoked,
    );
}

#[tokio::test]
async fn nothing_brings_it_back() {
    let fixture = Fixture::start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let mut admin = fixture.admin();
    admin
        .revoke_organization(request::revoke("contoso", 1))
        .await
        .expect("revokes");
    let count = fixture.simulator.request_count();
    let register = request::register("contoso", CONTOSO, request::secret(SECRET));
    let again = admin.register_organization(register).await;
    assert_refused(
        again,
        Code::AlreadyExists,
        ErrorReason::OrganizationAlreadyExists,
    );
    let rotation = request::rotate("contoso", 2, request::secret(SECRET));
    let rotated = admin.rotate_credential(rotation).await;
    assert_refused(
        rotated,
        Code::FailedPrecondition,
        ErrorReason::OrganizationRevoked,
    );
    assert_eq!(fixture.simulator.request_count(), count);
    assert_gets_nothing(&fixture).await;
}

#[tokio::test]
async fn it_stays_revoked_over_a_restart() {
    let mut fixture = Setup::new().sled().start().await;
    fixture
        .register("contoso", CONTOSO, request::certificate())
        .await;
    fixture
        .register("another", CONTOSO, request::certificate())
        .await;
    let revocation = request::revoke("contoso", 1);
    let revoked = fixture
        .admin()
        .revoke_organization(revocation)
        .await
        .expect("revokes");
    let told = revoked.into_inner().organization.expect("is told");
    fixture.restart().await;
    assert_eq!(fixture.organization("contoso").await, told);
    assert_gets_nothing(&fixture).await;
    token(&fixture.worker(), "another", Resource::Graph)
        .await
        .expect("a token");
}
