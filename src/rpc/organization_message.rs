//! Organizations and warnings on their way out.

use crate::{
    clock::Clock,
    credential::{CredentialInfo, CredentialKind},
    hex::Hex,
    organization::{Cloud, Organization, Resource, State},
    pb::{
        admin::v1::{self as admin, WarningReason},
        v1,
    },
    registration::Warning,
    token::exposure::{Exposure, Holder},
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

/// Holders that are told of at most; the rest is counted.
const HOLDERS_MAX: usize = 200;

/// What is out there of an organization.
pub(super) fn outstanding(exposure: Exposure, clock: Clock) -> admin::OutstandingTokens {
    let truncated = exposure.holders.len() > HOLDERS_MAX || exposure.unnamed > 0;
    let holder = |holder: Holder| {
        let (resource, host) = match holder.resource {
            Resource::Graph => (v1::Resource::Graph, None),
            Resource::Exchange => (v1::Resource::Exchange, None),
            Resource::SharePoint(host) => (v1::Resource::Sharepoint, host),
            Resource::AzureAdGraph => (v1::Resource::AzureAdGraph, None),
        };
        admin::TokenHolder {
            resource: resource.into(),
            sharepoint_host: host.unwrap_or_default(),
            caller: holder.caller.to_string(),
            count: holder.count,
            last_expire_time: Some(clock.wall(holder.ends_at).into()),
        }
    };
    let holders = exposure.holders.into_iter().take(HOLDERS_MAX);
    admin::OutstandingTokens {
        count: exposure.count,
        last_expire_time: exposure.ends_at.map(|end| clock.wall(end).into()),
        holders: holders.map(holder).collect(),
        truncated,
        since: Some(clock.wall(exposure.since).into()),
    }
}

impl From<Organization> for admin::Organization {
    fn from(organization: Organization) -> Self {
        use admin::OrganizationState as Told;
        let (state, revoke_time, suspension) = match organization.state {
            State::Active => (Told::Active, None, None),
            State::Suspended(suspension) => (Told::Suspended, None, Some(suspension)),
            State::Revoked(at) => (Told::Revoked, Some(at.into()), None),
        };
        let (suspend_time, suspend_reason) = suspension
            .map(|suspension| (Some(suspension.at.into()), suspension.reason))
            .unwrap_or_default();
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
            suspend_time,
            suspend_reason,
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
