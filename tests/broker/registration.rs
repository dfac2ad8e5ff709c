//! What an operator gives, leaves out, or only wants to try.

use kodo_broker::pb::{
    admin::v1::{self as admin, WarningReason},
    v1::{ErrorReason, Resource},
};
use tonic::Code;

use crate::support::{CONTOSO, Fixture, SECRET, assert_refused, claims, request, token};

fn warned(response: &admin::RegisterOrganizationResponse) -> Vec<WarningReason> {
    let warnings = response.warnings.iter();
    warnings.map(admin::Warning::reason).collect()
}

#[tokio::test]
async fn sharepoint_needs_a_certificate_and_says_so_without_asking_entra() {
    let fixture = Fixture::start().await;
    let request = request::register("contoso", CONTOSO, request::secret(SECRET));
    let response = fixture.admin().register_organization(request).await;
    let warned = warned(&response.expect("registers").into_inner());
    assert!(
        warned.contains(&WarningReason::SharepointNeedsCertificate),
        "{warned:?}"
    );
    assert!(
        warned.contains(&WarningReason::CredentialExpiryUnknown),
        "{warned:?}"
    );
    let count = fixture.simulator.request_count();
    let refused = token(&fixture.worker(), "contoso", Resource::Sharepoint).await;
    assert_refused(
        refused,
        Code::FailedPrecondition,
        ErrorReason::CertificateRequired,
    );
    assert_eq!(fixture.simulator.request_count(), count);
}

#[tokio::test]
async fn the_root_host_is_the_given_one_or_what_graph_tells() {
    let fixture = Fixture::start().await;
    let found = fixture
        .register("found", CONTOSO, request::certificate())
        .await;
    assert_eq!(found.sharepoint_root_host, "contoso.sharepoint.com");

    let directory = fixture.simulator.directory();
    directory.change_tenant(CONTOSO.tenant, |tenant| {
        tenant.sharepoint_hosts = vec!["renamed.sharepoint.com".into()];
    });
    let mut request = request::register("given", CONTOSO, request::certificate());
    request.sharepoint_root_host = "Renamed.sharepoint.com".into();
    request.sharepoint_hosts = vec!["renamed-my.sharepoint.com".into()];
    let response = fixture.admin().register_organization(request).await;
    let given = response
        .expect("registers")
        .into_inner()
        .organization
        .expect("is told");
    assert_eq!(given.sharepoint_root_host, "renamed.sharepoint.com");

    let worker = fixture.worker();
    let root = token(&worker, "given", Resource::Sharepoint)
        .await
        .expect("a token");
    assert_eq!(claims(&root)["aud"], "https://renamed.sharepoint.com");
    let mut request = request::token("given", Resource::Sharepoint);
    request.sharepoint_host = "renamed-MY.sharepoint.com".into();
    let listed = worker
        .clone()
        .get_token(request.clone())
        .await
        .expect("a token");
    assert_eq!(
        listed.into_inner().resource_url,
        "https://renamed-my.sharepoint.com"
    );
    let count = fixture.simulator.request_count();
    request.sharepoint_host = "renamed-admin.sharepoint.com".into();
    let unlisted = worker.clone().get_token(request).await;
    assert_refused(
        unlisted,
        Code::FailedPrecondition,
        ErrorReason::SharepointHostNotListed,
    );
    assert_eq!(fixture.simulator.request_count(), count);
}

#[tokio::test]
async fn a_domain_is_resolved_once_and_stored_as_the_tenants_id() {
    let fixture = Fixture::start().await;
    let mut request = request::register("contoso", CONTOSO, request::secret(SECRET));
    request.tenant = "Contoso.onMicrosoft.com".into();
    let response = fixture.admin().register_organization(request).await;
    let organization = response.expect("registers").into_inner().organization;
    assert_eq!(
        organization.expect("is told").tenant_id,
        CONTOSO.tenant.to_string()
    );
    assert_eq!(
        fixture.organization("contoso").await.tenant_id,
        CONTOSO.tenant.to_string()
    );
    for request in fixture.simulator.requests() {
        assert_eq!(request.tenant, CONTOSO.tenant.to_string());
    }
}

#[tokio::test]
async fn a_request_to_validate_only_proves_and_stores_nothing() {
    let fixture = Fixture::start().await;
    let mut request = request::register("contoso", CONTOSO, request::certificate());
    request.validate_only = true;
    let mut admin = fixture.admin();
    let response = admin.register_organization(request.clone()).await;
    let organization = response
        .expect("is valid")
        .into_inner()
        .organization
        .expect("is told");
    assert_eq!(
        (organization.revision, organization.organization_id.as_str()),
        (1, "contoso")
    );
    assert_eq!(fixture.simulator.request_count(), 1);
    let absent = admin.get_organization(request::get("contoso")).await;
    assert_refused(absent, Code::NotFound, ErrorReason::OrganizationNotFound);

    // The request id was not used up either.
    request.validate_only = false;
    admin
        .register_organization(request)
        .await
        .expect("registers");
    let mut rotation = request::rotate("contoso", 1, request::secret(SECRET));
    rotation.validate_only = true;
    let response = admin.rotate_credential(rotation).await.expect("is valid");
    let would_be = response.into_inner().organization.expect("is told");
    assert_eq!(would_be.credential.expect("has one").version, 2);
    let stored = fixture.organization("contoso").await;
    assert_eq!(
        (stored.revision, stored.credential.expect("has one").version),
        (1, 1)
    );
}

#[tokio::test]
async fn an_organization_without_an_id_gets_one_that_its_request_finds_again() {
    let fixture = Fixture::start().await;
    let request = request::register("", CONTOSO, request::secret(SECRET));
    let mut ids = Vec::new();
    for _ in 0..2 {
        let response = fixture.admin().register_organization(request.clone()).await;
        let organization = response.expect("registers").into_inner().organization;
        ids.push(organization.expect("is told").organization_id);
    }
    assert_eq!(ids[0], ids[1]);
    assert!(ids[0].starts_with("org-"), "{}", ids[0]);
    token(&fixture.worker(), &ids[0], Resource::Graph)
        .await
        .expect("a token");
}

#[tokio::test]
async fn pages_hold_every_organization_once() {
    let fixture = Fixture::start().await;
    let mut expected = Vec::new();
    for number in 0..23 {
        let id = format!("org-number-{number:02}");
        fixture
            .register(&id, CONTOSO, request::secret(SECRET))
            .await;
        expected.push(id);
    }
    let count = fixture.simulator.request_count();
    for page_size in [0, 1, 7, 23, 500] {
        let mut listed = Vec::new();
        let mut request = admin::ListOrganizationsRequest {
            page_size,
            page_token: String::new(),
            ..Default::default()
        };
        loop {
            let page = fixture.admin().list_organizations(request.clone()).await;
            let page = page.expect("a page").into_inner();
            let size = if page_size == 0 { 50 } else { page_size };
            assert!(page.organizations.len() <= usize::try_from(size).expect("small"));
            listed.extend(
                page.organizations
                    .into_iter()
                    .map(|found| found.organization_id),
            );
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        listed.sort();
        assert_eq!(listed, expected, "pages of {page_size}");
    }
    assert_eq!(fixture.simulator.request_count(), count);
}
