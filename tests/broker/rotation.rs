//! Replacing a credential: all or nothing, once, and without a token lost.

use kodo_broker::{
    pb::{
        admin::v1 as admin,
        v1::{ErrorReason, GetTokenResponse, Resource},
    },
    simulator::fault::{Endpoint, Fault},
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{
    CONTOSO, Fixture, SECOND_SECRET, SECRET, Setup, WRONG_SECRET, assert_refused, request, token,
};

#[tokio::test]
async fn a_rejected_rotation_changes_nothing() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let before = fixture.organization("contoso").await;
    let held = token(&worker, "contoso", Resource::Exchange)
        .await
        .expect("a token");

    let rotation = request::rotate("contoso", 1, request::secret(WRONG_SECRET));
    let refused = fixture.admin().rotate_credential(rotation).await;
    let status = assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorReason::CredentialRejected,
    );
    assert!(!status.message().contains(WRONG_SECRET));

    assert_eq!(fixture.organization("contoso").await, before);
    let count = fixture.simulator.request_count();
    let served = token(&worker, "contoso", Resource::Exchange)
        .await
        .expect("a token");
    assert_eq!(served.fingerprint, held.fingerprint);
    assert_eq!(fixture.simulator.request_count(), count);
    let new = token(&worker, "contoso", Resource::AzureAdGraph)
        .await
        .expect("a token");
    assert_eq!(new.credential_version, 1);
}

#[tokio::test]
async fn an_accepted_rotation_raises_version_and_revision() {
    let fixture = Fixture::with_contoso().await;
    let before = fixture.organization("contoso").await;
    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    let response = fixture
        .admin()
        .rotate_credential(rotation)
        .await
        .expect("rotates");
    let told = response.into_inner().organization.expect("is told");
    assert_eq!(told, fixture.organization("contoso").await);
    assert_eq!(told.revision, 2);
    assert_eq!(told.credential.expect("has one").version, 2);
    assert_eq!(told.create_time, before.create_time);

    // Entra no longer knows the old one.
    fixture.change(CONTOSO, |application| drop(application.secrets.remove(0)));
    let new = token(&fixture.worker(), "contoso", Resource::AzureAdGraph).await;
    assert_eq!(new.expect("a token").credential_version, 2);
}

#[tokio::test]
async fn tokens_of_the_old_version_stay_served() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let old = token(&worker, "contoso", Resource::Exchange)
        .await
        .expect("a token");
    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    fixture
        .admin()
        .rotate_credential(rotation)
        .await
        .expect("rotates");
    let count = fixture.simulator.request_count();
    let served = token(&worker, "contoso", Resource::Exchange)
        .await
        .expect("a token");
    assert_eq!(served.fingerprint, old.fingerprint);
    assert_eq!(served.credential_version, 1);
    // The proof of the new credential is the new Graph token.
    let graph = token(&worker, "contoso", Resource::Graph)
        .await
        .expect("a token");
    assert_eq!(graph.credential_version, 2);
    assert_eq!(fixture.simulator.request_count(), count);
}

/// A rotation after the credential has leaked.
fn forgetting_rotation() -> admin::RotateCredentialRequest {
    let mut rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    rotation.forget_tokens = true;
    rotation
}

#[tokio::test]
async fn tokens_of_a_leaked_credential_are_handed_out_no_more() {
    let mut fixture = Setup::new().sled().start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    for resource in [Resource::Graph, Resource::Exchange] {
        let old = token(&worker, "contoso", resource).await;
        assert_eq!(old.expect("a token").credential_version, 1);
    }
    let mut admin = fixture.admin();
    let mut validation = forgetting_rotation();
    validation.validate_only = true;
    admin.rotate_credential(validation).await.expect("checks");
    let old = token(&worker, "contoso", Resource::Exchange).await;
    assert_eq!(old.expect("a token").credential_version, 1, "not rotated");

    let rotated = admin.rotate_credential(forgetting_rotation()).await;
    rotated.expect("rotates");
    for resource in [Resource::Graph, Resource::Exchange] {
        let new = token(&worker, "contoso", resource).await;
        assert_eq!(new.expect("a token").credential_version, 2);
    }
    fixture.restart().await;
    for resource in [Resource::Graph, Resource::Exchange] {
        let new = token(&fixture.worker(), "contoso", resource).await;
        assert_eq!(new.expect("a token").credential_version, 2);
    }
}

#[tokio::test]
async fn a_rejected_rotation_forgets_nothing() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let held = token(&worker, "contoso", Resource::Exchange).await;
    let mut rotation = forgetting_rotation();
    rotation.credential = Some(request::secret(WRONG_SECRET));
    let refused = fixture.admin().rotate_credential(rotation).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorReason::CredentialRejected,
    );
    let served = token(&worker, "contoso", Resource::Exchange).await;
    let fingerprint = |token: Result<GetTokenResponse, _>| token.expect("a token").fingerprint;
    assert_eq!(fingerprint(served), fingerprint(held));
}

#[tokio::test]
async fn a_flight_under_way_brings_no_token_of_a_leaked_credential() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let held = fixture.hold(CONTOSO);
    let asking = token(&worker, "contoso", Resource::Exchange);
    let rotating = async {
        held.arrived(1).await;
        fixture.hold(CONTOSO).release();
        let mut admin = fixture.admin();
        let rotated = admin.rotate_credential(forgetting_rotation()).await;
        held.release();
        rotated
    };
    let (asked, rotated) = tokio::join!(asking, rotating);
    rotated.expect("rotates");
    assert_eq!(asked.expect("a token").credential_version, 2);
    let after = token(&worker, "contoso", Resource::Exchange).await;
    assert_eq!(after.expect("a token").credential_version, 2);
}

#[tokio::test]
async fn whether_to_forget_belongs_to_the_request() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let mut admin = fixture.admin();
    let rotation = forgetting_rotation();
    let first = admin.rotate_credential(rotation.clone()).await;
    let first = first.expect("rotates").into_inner();
    let mut other = rotation.clone();
    other.forget_tokens = false;
    let reused = admin.rotate_credential(other).await;
    assert_refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
    let again = admin.rotate_credential(rotation).await;
    assert_eq!(again.expect("is answered").into_inner(), first);
    let new = token(&worker, "contoso", Resource::Graph).await;
    assert_eq!(new.expect("a token").credential_version, 2);
}

#[tokio::test]
async fn a_flight_under_way_ends_with_the_new_version() {
    let fixture = Fixture::with_contoso().await;
    let worker = fixture.worker();
    let held = fixture.hold(CONTOSO);
    let asking = token(&worker, "contoso", Resource::Exchange);
    let rotating = async {
        held.arrived(1).await;
        // What comes from now on passes, and what is held stays so.
        fixture.hold(CONTOSO).release();
        let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
        let rotated = fixture.admin().rotate_credential(rotation).await;
        held.release();
        rotated
    };
    let (asked, rotated) = tokio::join!(asking, rotating);
    rotated.expect("rotates");
    assert_eq!(asked.expect("a token").credential_version, 2);
}

#[tokio::test]
async fn a_stale_revision_is_told_the_current_one() {
    let fixture = Fixture::with_contoso().await;
    let mut admin = fixture.admin();
    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    admin.rotate_credential(rotation).await.expect("rotates");
    let before = fixture.organization("contoso").await;
    let count = fixture.simulator.request_count();
    for revision in [1, 3, u64::MAX] {
        let rotation = request::rotate("contoso", revision, request::secret(SECRET));
        let rotated = admin.rotate_credential(rotation).await;
        let revoked = admin
            .revoke_organization(request::revoke("contoso", revision))
            .await;
        for status in [
            assert_refused(rotated, Code::Aborted, ErrorReason::RevisionConflict),
            assert_refused(revoked, Code::Aborted, ErrorReason::RevisionConflict),
        ] {
            let info = status.get_details_error_info().expect("every error has it");
            assert_eq!(info.metadata["currentRevision"], "2");
        }
    }
    assert_eq!(fixture.organization("contoso").await, before);
    assert_eq!(fixture.simulator.request_count(), count);
}

#[tokio::test]
async fn of_two_rotations_at_once_one_is_done() {
    let fixture = Fixture::with_contoso().await;
    let held = fixture.hold(CONTOSO);
    let (mut one, mut other) = (fixture.admin(), fixture.admin());
    let (one, other, ()) = tokio::join!(
        one.rotate_credential(request::rotate("contoso", 1, request::secret(SECRET))),
        other.rotate_credential(request::rotate(
            "contoso",
            1,
            request::secret(SECOND_SECRET)
        )),
        async {
            held.arrived(2).await;
            held.release();
        },
    );
    let (done, refused) = if one.is_ok() {
        (one, other)
    } else {
        (other, one)
    };
    done.expect("one is done");
    assert_refused(refused, Code::Aborted, ErrorReason::RevisionConflict);
    assert_eq!(fixture.organization("contoso").await.revision, 2);
}

/// A caller whose time is up asks again, while the first request is still under way.
#[tokio::test]
async fn a_request_repeated_before_it_was_answered_is_done_once() {
    let fixture = Fixture::start().await;
    let (mut one, mut other) = (fixture.admin(), fixture.admin());
    let registration = request::register("contoso", CONTOSO, request::secret(SECRET));
    let held = fixture.hold(CONTOSO);
    let (first, second, ()) = tokio::join!(
        one.register_organization(registration.clone()),
        other.register_organization(registration.clone()),
        async {
            held.arrived(2).await;
            held.release();
        },
    );
    let first = first.expect("registers").into_inner();
    assert_eq!(first, second.expect("is answered").into_inner());

    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    let held = fixture.hold(CONTOSO);
    let (first, second, ()) = tokio::join!(
        one.rotate_credential(rotation.clone()),
        other.rotate_credential(rotation.clone()),
        async {
            held.arrived(2).await;
            held.release();
        },
    );
    let first = first.expect("rotates").into_inner();
    assert_eq!(first, second.expect("is answered").into_inner());
    let told = first.organization.expect("is told");
    assert_eq!(told.revision, 2);
    assert_eq!(fixture.organization("contoso").await, told);
    let token = token(&fixture.worker(), "contoso", Resource::Graph).await;
    assert_eq!(token.expect("a token").credential_version, 2);
}

#[tokio::test]
async fn a_late_repetition_undoes_nothing_and_tells_how_it_is_by_now() {
    let fixture = Fixture::start().await;
    let mut admin = fixture.admin();
    let registration = request::register("contoso", CONTOSO, request::secret(SECRET));
    admin
        .register_organization(registration.clone())
        .await
        .expect("registers");
    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    admin
        .rotate_credential(rotation.clone())
        .await
        .expect("rotates");
    let again = admin
        .register_organization(registration)
        .await
        .expect("is answered");
    let current = fixture.organization("contoso").await;
    assert_eq!(again.into_inner().organization.as_ref(), Some(&current));
    assert_eq!(current.revision, 2);
    admin
        .revoke_organization(request::revoke("contoso", 2))
        .await
        .expect("revokes");
    let again = admin
        .rotate_credential(rotation)
        .await
        .expect("is answered");
    let current = fixture.organization("contoso").await;
    assert_eq!(again.into_inner().organization.as_ref(), Some(&current));
    assert_eq!((current.revision, current.credential), (3, None));
}

#[tokio::test]
async fn a_request_repeated_a_thousand_times_is_done_once() {
    let fixture = Fixture::with_contoso().await;
    let mut admin = fixture.admin();
    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    let first = admin
        .rotate_credential(rotation.clone())
        .await
        .expect("rotates");
    let (first, count) = (first.into_inner(), fixture.simulator.request_count());
    for _ in 0..1000 {
        let again = admin
            .rotate_credential(rotation.clone())
            .await
            .expect("is answered");
        assert_eq!(again.into_inner(), first);
    }
    assert_eq!(fixture.simulator.request_count(), count);
    assert_eq!(fixture.organization("contoso").await.revision, 2);
}

#[tokio::test]
async fn a_registration_repeated_is_done_once() {
    let fixture = Fixture::start().await;
    let mut admin = fixture.admin();
    let request = request::register("contoso", CONTOSO, request::certificate());
    let first = admin
        .register_organization(request.clone())
        .await
        .expect("registers");
    let (first, count) = (first.into_inner(), fixture.simulator.request_count());
    for _ in 0..10 {
        let again = admin
            .register_organization(request.clone())
            .await
            .expect("is answered");
        assert_eq!(again.into_inner(), first);
    }
    assert_eq!(fixture.simulator.request_count(), count);
}

#[tokio::test]
async fn a_request_id_is_not_taken_for_different_content() {
    let fixture = Fixture::with_contoso().await;
    let mut admin = fixture.admin();
    let rotation = request::rotate("contoso", 1, request::secret(SECOND_SECRET));
    admin
        .rotate_credential(rotation.clone())
        .await
        .expect("rotates");
    let before = fixture.organization("contoso").await;

    let mut other = rotation.clone();
    other.credential = Some(request::secret(SECRET));
    let reused = admin.rotate_credential(other).await;
    assert_refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
    let mut other = rotation.clone();
    other.revision = 2;
    let reused = admin.rotate_credential(other).await;
    assert_refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
    let mut other = request::revoke("contoso", 2);
    other.request_id = rotation.request_id;
    let reused = admin.revoke_organization(other).await;
    assert_refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
    assert_eq!(fixture.organization("contoso").await, before);
}

#[tokio::test]
async fn a_credential_that_not_all_of_entra_knows_yet_is_tried_again() {
    let fixture = Setup::new().propagation(90).start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let unknown = Fault::rejection(401, "invalid_client", 7_000_215, "Invalid client secret.");
    fixture
        .simulator
        .script(CONTOSO.tenant, Endpoint::Token, unknown.times(2));
    let count = fixture.simulator.request_count();
    let token = token(&fixture.worker(), "contoso", Resource::Exchange).await;
    token.expect("a token, after a while");
    assert_eq!(fixture.simulator.request_count(), count + 3);
}
