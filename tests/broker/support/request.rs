//! Requests as a sensible caller makes them; tests change what they are about.

use std::{collections::BTreeMap, time::Duration};

use kodo_broker::{
    clock::Clock,
    pb::{admin::v1 as admin, v1},
    simulator::pki::Identity,
};
use uuid::Uuid;

use super::{Application, pki};

/// Registers an organization, with a request id of its own.
pub(crate) fn register(
    id: &str,
    application: Application,
    credential: admin::Credential,
) -> admin::RegisterOrganizationRequest {
    admin::RegisterOrganizationRequest {
        request_id: Uuid::new_v4().to_string(),
        organization_id: id.into(),
        display_name: format!("The {id} company"),
        tenant: application.tenant.to_string(),
        cloud: admin::Cloud::Global.into(),
        client_id: application.client.to_string(),
        credential: Some(credential),
        ..Default::default()
    }
}

pub(crate) fn rotate(
    id: &str,
    revision: u64,
    credential: admin::Credential,
) -> admin::RotateCredentialRequest {
    admin::RotateCredentialRequest {
        request_id: Uuid::new_v4().to_string(),
        organization_id: id.into(),
        revision,
        credential: Some(credential),
        validate_only: false,
        forget_tokens: false,
    }
}

/// Gives an organization these labels.
pub(crate) fn update(
    id: &str,
    revision: u64,
    labels: &[(&str, &str)],
) -> admin::UpdateOrganizationRequest {
    admin::UpdateOrganizationRequest {
        request_id: Uuid::new_v4().to_string(),
        organization_id: id.into(),
        revision,
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["labels".into()],
        }),
        labels: self::labels(labels),
        ..Default::default()
    }
}

/// Tells that a worker does a job on Graph, for an hour.
pub(crate) fn job(id: &str, job_id: &str, worker: &str) -> admin::CreateJobGrantRequest {
    admin::CreateJobGrantRequest {
        request_id: Uuid::new_v4().to_string(),
        organization_id: id.into(),
        job_id: job_id.into(),
        workers: format!("spiffe://{}/{worker}", pki::TRUST_DOMAIN),
        resources: vec![v1::Resource::Graph.into()],
        purpose: v1::Purpose::Backup.into(),
        end_time: Some((Clock::system().now() + Duration::from_secs(3600)).into()),
    }
}

pub(crate) fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).into(), (*value).into());
    labels.iter().map(owned).collect()
}

pub(crate) fn revoke(id: &str, revision: u64) -> admin::RevokeOrganizationRequest {
    admin::RevokeOrganizationRequest {
        request_id: Uuid::new_v4().to_string(),
        organization_id: id.into(),
        revision,
        shred: false,
    }
}

pub(crate) fn suspend(id: &str, revision: u64) -> admin::SuspendOrganizationRequest {
    admin::SuspendOrganizationRequest {
        request_id: Uuid::new_v4().to_string(),
        organization_id: id.into(),
        revision,
        reason: "the customer asked for it".into(),
    }
}

pub(crate) fn resume(id: &str, revision: u64) -> admin::ResumeOrganizationRequest {
    admin::ResumeOrganizationRequest {
        request_id: Uuid::new_v4().to_string(),
        organization_id: id.into(),
        revision,
        verify_credential: false,
    }
}

pub(crate) fn get(id: &str) -> admin::GetOrganizationRequest {
    admin::GetOrganizationRequest {
        organization_id: id.into(),
    }
}

/// All organizations, as far as a page holds them.
pub(crate) fn list() -> admin::ListOrganizationsRequest {
    admin::ListOrganizationsRequest::default()
}

pub(crate) fn token(id: &str, resource: v1::Resource) -> v1::GetTokenRequest {
    v1::GetTokenRequest {
        organization_id: id.into(),
        resource: resource.into(),
        ..Default::default()
    }
}

pub(crate) fn watch(id: &str, resource: v1::Resource) -> v1::WatchTokenRequest {
    v1::WatchTokenRequest {
        organization_id: id.into(),
        resource: resource.into(),
        ..Default::default()
    }
}

pub(crate) fn report(
    id: &str,
    resource: v1::Resource,
    fingerprint: &str,
    http_status: u32,
) -> v1::ReportTokenRequest {
    v1::ReportTokenRequest {
        organization_id: id.into(),
        resource: resource.into(),
        fingerprint: fingerprint.into(),
        http_status,
        ..Default::default()
    }
}

pub(crate) fn secret(value: &str) -> admin::Credential {
    of_kind(admin::credential::Kind::ClientSecret(
        admin::ClientSecretCredential {
            value: value.into(),
            expire_time: None,
        },
    ))
}

/// The certificate that every application of the simulator has.
pub(crate) fn certificate() -> admin::Credential {
    pem(pki::application())
}

pub(crate) fn pem(identity: &Identity) -> admin::Credential {
    of_kind(admin::credential::Kind::PemCertificate(
        admin::PemCertificateCredential {
            pem: identity.bundle_pem(),
        },
    ))
}

pub(crate) fn pkcs12(identity: &Identity, password: &str) -> admin::Credential {
    of_kind(admin::credential::Kind::Pkcs12Certificate(
        admin::Pkcs12CertificateCredential {
            pfx: pki::pkcs12(identity, password),
            password: password.into(),
        },
    ))
}

fn of_kind(kind: admin::credential::Kind) -> admin::Credential {
    admin::Credential { kind: Some(kind) }
}
