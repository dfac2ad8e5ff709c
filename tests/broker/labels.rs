//! Organizations by label: an MSP's people and workers have its own customers, and nobody else's.

use kodo_broker::pb::{
    admin::v1 as admin,
    v1::{ErrorReason, Resource},
};
use tonic::Code;

use crate::support::{
    CONTOSO, Fixture, Organizations, SECOND_SECRET, SECRET, Setup, assert_refused, request, token,
};

const POLICY: &str = r#"
    [[grant]]
    callers = ["spiffe://kodo.test/admin"]
    actions = ["register", "get", "list", "update", "rotate", "revoke"]
    organizations = ["*"]
    [[grant]]
    callers = ["spiffe://kodo.test/nw/admin"]
    actions = ["register", "get", "list", "update", "rotate", "revoke"]
    organizations = ["nw-*"]
    labels = ["msp=northwind"]
    [[grant]]
    callers = ["spiffe://kodo.test/nw/worker"]
    actions = ["get_token"]
    organizations = ["*"]
    labels = ["msp=northwind"]
    resources = ["graph"]
    [[grant]]
    callers = ["spiffe://kodo.test/fb/worker"]
    actions = ["get_token"]
    organizations = ["*"]
    labels = ["msp=fabrikam"]
    resources = ["graph"]
"#;
const DENIED: (Code, ErrorReason) = (Code::PermissionDenied, ErrorReason::CallerNotAuthorized);
const UNKNOWN: (Code, ErrorReason) = (Code::NotFound, ErrorReason::OrganizationNotFound);

async fn register(
    by: &mut Organizations,
    id: &str,
    labels: &[(&str, &str)],
) -> Result<admin::Organization, tonic::Status> {
    let request = admin::RegisterOrganizationRequest {
        labels: request::labels(labels),
        ..request::register(id, CONTOSO, request::secret(SECRET))
    };
    let answer = by.register_organization(request).await?.into_inner();
    Ok(answer.organization.expect("the answer has it"))
}

async fn update(
    by: &mut Organizations,
    id: &str,
    revision: u64,
    labels: &[(&str, &str)],
) -> Result<admin::Organization, tonic::Status> {
    let request = request::update(id, revision, labels);
    let answer = by.update_organization(request).await?.into_inner();
    Ok(answer.organization.expect("the answer has it"))
}

async fn listed(by: &mut Organizations, labels: &[(&str, &str)]) -> Vec<String> {
    let request = admin::ListOrganizationsRequest {
        labels: request::labels(labels),
        ..request::list()
    };
    let page = by.list_organizations(request).await.expect("lists");
    let organizations = page.into_inner().organizations.into_iter();
    let mut ids: Vec<_> = organizations.map(|found| found.organization_id).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn an_msp_has_its_own_customers_and_nobody_elses_before_and_after_a_restart() {
    let mut fixture = Setup::new().policy(POLICY.into()).sled().start().await;
    let nw = [("msp", "northwind")];
    let mut msp = fixture.organizations("nw/admin");
    let own = register(&mut msp, "nw-one", &nw).await.expect("registers");
    assert_eq!(own.labels, request::labels(&nw));
    register(&mut fixture.admin(), "nw-two", &[("msp", "fabrikam")])
        .await
        .expect("registers");
    register(
        &mut fixture.admin(),
        "three",
        &[("msp", "northwind"), ("tier", "gold")],
    )
    .await
    .expect("registers");
    register(&mut fixture.admin(), "four", &[])
        .await
        .expect("registers");
    for _ in 0..2 {
        let mut msp = fixture.organizations("nw/admin");
        assert_eq!(listed(&mut msp, &[]).await, ["nw-one"]);
        let all = &mut fixture.admin();
        assert_eq!(
            listed(all, &[]).await,
            ["four", "nw-one", "nw-two", "three"]
        );
        assert_eq!(listed(all, &nw).await, ["nw-one", "three"]);
        assert_eq!(
            listed(all, &[("msp", "northwind"), ("tier", "gold")]).await,
            ["three"]
        );
        let worker = fixture.tokens("nw/worker");
        for id in ["nw-one", "three"] {
            token(&worker, id, Resource::Graph)
                .await
                .expect("is granted");
        }
        for id in ["nw-two", "four", "unknown"] {
            let refused = token(&worker, id, Resource::Graph).await;
            assert_refused(refused, UNKNOWN.0, UNKNOWN.1);
            let refused = msp.get_organization(request::get(id)).await;
            assert_refused(refused, UNKNOWN.0, UNKNOWN.1);
            let refused = update(&mut msp, id, 1, &nw).await;
            assert_refused(refused, UNKNOWN.0, UNKNOWN.1);
            let rotation = request::rotate(id, 1, request::secret(SECOND_SECRET));
            assert_refused(msp.rotate_credential(rotation).await, UNKNOWN.0, UNKNOWN.1);
            let refused = msp.revoke_organization(request::revoke(id, 1)).await;
            assert_refused(refused, UNKNOWN.0, UNKNOWN.1);
        }
        fixture.restart().await;
    }
}

#[tokio::test]
async fn who_registers_by_a_label_has_to_give_it_and_no_other_that_grants_go_by() {
    let fixture = Setup::new().policy(POLICY.into()).start().await;
    let mut msp = fixture.organizations("nw/admin");
    let count = fixture.simulator.request_count();
    for labels in [&[][..], &[("msp", "fabrikam")], &[("team", "blue")]] {
        let refused = register(&mut msp, "nw-one", labels).await;
        let refused = assert_refused(refused, DENIED.0, DENIED.1);
        assert!(refused.message().contains("labels"), "{refused:?}");
    }
    let refused = register(&mut msp, "one", &[("msp", "northwind")]).await;
    assert_refused(refused, DENIED.0, DENIED.1);
    assert_eq!(
        fixture.simulator.request_count(),
        count,
        "nothing was tried"
    );
    let labels = [("msp", "northwind"), ("team", "blue")];
    register(&mut msp, "nw-one", &labels)
        .await
        .expect("registers");
}

#[tokio::test]
async fn who_updates_by_a_label_can_neither_take_nor_give_away() {
    let fixture = Setup::new().policy(POLICY.into()).start().await;
    let nw = ("msp", "northwind");
    let mut msp = fixture.organizations("nw/admin");
    register(&mut msp, "nw-one", &[nw])
        .await
        .expect("registers");
    register(&mut fixture.admin(), "nw-two", &[])
        .await
        .expect("registers");
    for labels in [&[][..], &[("msp", "fabrikam")], &[("team", "blue")]] {
        let refused = update(&mut msp, "nw-one", 1, labels).await;
        assert_refused(refused, DENIED.0, DENIED.1);
    }
    // Not its own, and so not there to be taken.
    assert_refused(
        update(&mut msp, "nw-two", 1, &[nw]).await,
        UNKNOWN.0,
        UNKNOWN.1,
    );
    let changed = update(&mut msp, "nw-one", 1, &[nw, ("team", "blue")]).await;
    assert_eq!(changed.expect("changes").revision, 2);
    // Somebody for whom all are can, and that counts at once, for tokens in memory, too.
    let (ours, theirs) = (fixture.tokens("nw/worker"), fixture.tokens("fb/worker"));
    token(&ours, "nw-one", Resource::Graph)
        .await
        .expect("is granted");
    assert_refused(
        token(&theirs, "nw-one", Resource::Graph).await,
        UNKNOWN.0,
        UNKNOWN.1,
    );
    let given = update(&mut fixture.admin(), "nw-one", 2, &[("msp", "fabrikam")]).await;
    given.expect("changes");
    token(&theirs, "nw-one", Resource::Graph)
        .await
        .expect("is granted");
    assert_refused(
        token(&ours, "nw-one", Resource::Graph).await,
        UNKNOWN.0,
        UNKNOWN.1,
    );
    let refused = msp.get_organization(request::get("nw-one")).await;
    assert_refused(refused, UNKNOWN.0, UNKNOWN.1);
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_once_and_from_the_revision_that_was_seen() {
    let fixture = Fixture::with_contoso().await;
    let mut admin = fixture.admin();
    let before = fixture.organization("contoso").await;
    let mut rename = request::update("contoso", 1, &[("a", "1")]);
    rename.display_name = "Contoso AG".into();
    rename.update_mask = Some(prost_types::FieldMask {
        paths: vec!["display_name".into()],
    });
    for _ in 0..2 {
        let answer = admin
            .update_organization(rename.clone())
            .await
            .expect("changes");
        let renamed = answer.into_inner().organization.expect("the answer has it");
        assert_eq!(
            (renamed.display_name.as_str(), renamed.revision),
            ("Contoso AG", 2)
        );
        assert_eq!(renamed.labels, before.labels);
        assert_eq!(renamed.credential, before.credential);
    }
    let labelled = update(&mut admin, "contoso", 2, &[("a", "1")])
        .await
        .expect("changes");
    assert_eq!(labelled.display_name, "Contoso AG");
    // The old request is known still, and another one of that revision comes too late.
    let repeated = admin
        .update_organization(rename.clone())
        .await
        .expect("is answered");
    let repeated = repeated
        .into_inner()
        .organization
        .expect("the answer has it");
    assert_eq!(repeated, labelled);
    for revision in [1, 2, 4] {
        let late = update(&mut admin, "contoso", revision, &[("a", "2")]).await;
        assert_refused(late, Code::Aborted, ErrorReason::RevisionConflict);
    }
    let mut reused = rename;
    reused.display_name = "Contoso GmbH".into();
    let refused = admin.update_organization(reused).await;
    assert_refused(refused, Code::InvalidArgument, ErrorReason::RequestIdReused);
    assert_eq!(fixture.organization("contoso").await, labelled);
    let revocation = request::revoke("contoso", 3);
    admin
        .revoke_organization(revocation)
        .await
        .expect("revokes");
    let refused = update(&mut admin, "contoso", 4, &[]).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorReason::OrganizationRevoked,
    );
}
