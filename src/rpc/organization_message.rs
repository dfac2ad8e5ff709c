//! Organizations and warnings on their way out.

use crate::{
    credential::{CredentialInfo, CredentialKind},
    hex::Hex,
    organization::{Cloud, Organization, State},
    pb::admin::v1::{self as admin, WarningReason},
    registration::Warning,
    vault::{Vault, shred::Retired},
};

/// A KEK that a vault has on its list of those to destroy.
pub(super) fn kek_to_destroy(retired: &Retired, vault: &Vault) -> admin::KekToDestroy {
    admin::KekToDestroy {
        present: retired.kek_id == vault.kek_id(),
        kek_id: retired.kek_id.as_str().to_owned(),
        organizations: retired.organizations,
        since: retired.since.map(Into::into),
    }
}

impl From<Organization> for admin::Organization {
    fn from(organization: Organization) -> Self {
        let (state, revoke_time) = match organization.state {
            State::Active => (admin::OrganizationState::Active, None),
            State::Revoked(at) => (admin::OrganizationState::Revoked, Some(at.into())),
        };
        let cloud = match organization.cloud {
            Cloud::Global => admin::Cloud::Global,
            Cloud::UsGov => admin::Cloud::UsGov,
            Cloud::UsGovDod => admin::Cloud::UsGovDod,
            Cloud::China => admin::Cloud::China,
        };
        let root = organization.sharepoint_root_host;
        Self {
            organization_id: organization.id.to_string(),
            display_name: organization.display_name,
            tenant_id: organization.tenant_id.to_string(),
            cloud: cloud.into(),
            client_id: organization.client_id.to_string(),
            credential: organization.credential.map(Into::into),
            sharepoint_root_host: root.map(|host| host.to_string()).unwrap_or_default(),
            sharepoint_hosts: organization
                .sharepoint_hosts
                .iter()
                .map(ToString::to_string)
                .collect(),
            state: state.into(),
            revision: organization.revision,
            create_time: Some(organization.create_time.into()),
            update_time: Some(organization.update_time.into()),
            revoke_time,
            labels: organization
                .labels
                .iter()
                .map(|label| (label.key().to_owned(), label.value().to_owned()))
                .collect(),
        }
    }
}

impl From<CredentialInfo> for admin::CredentialInfo {
    fn from(info: CredentialInfo) -> Self {
        let kind = match info.kind {
            CredentialKind::ClientSecret => admin::CredentialKind::ClientSecret,
            CredentialKind::Certificate => admin::CredentialKind::Certificate,
        };
        let hex = |bytes: &[u8]| Hex(bytes).to_string();
        Self {
            kind: kind.into(),
            version: info.version,
            expire_time: info.expires.map(Into::into),
            certificate_sha256: info.thumbprints.map(|t| hex(&t.sha256)).unwrap_or_default(),
            certificate_sha1: info.thumbprints.map(|t| hex(&t.sha1)).unwrap_or_default(),
        }
    }
}

impl From<Warning> for admin::Warning {
    fn from(warning: Warning) -> Self {
        let (reason, message) = match warning {
            Warning::SharePointNeedsCertificate => (
                WarningReason::SharepointNeedsCertificate,
                "SharePoint refuses app-only tokens obtained with a client secret; tokens for Graph and Exchange work, those for SharePoint need a certificate: rotate to one",
            ),
            Warning::SharePointHostUnknown => (
                WarningReason::SharepointHostUnknown,
                "the SharePoint root host could not be found through Graph; grant the application Sites.Read.All, or register with sharepoint_root_host",
            ),
            Warning::CredentialExpiresSoon => (
                WarningReason::CredentialExpiresSoon,
                "the credential ends within 30 days; rotate it",
            ),
            Warning::CredentialExpiryUnknown => (
                WarningReason::CredentialExpiryUnknown,
                "the end of the client secret is not known; send expire_time as the Azure portal shows it",
            ),
            Warning::KeyShort => (
                WarningReason::KeyShort,
                "the RSA key has fewer than 3072 bits; take a longer one with the next rotation",
            ),
        };
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}
