//! The contract's enums as words: what is typed, shown and written as JSON is the same.

use clap::ValueEnum;

use crate::pb::{
    admin::v1::{Cloud, CredentialKind, OrganizationState, WarningReason},
    v1::{IdentitySource, Purpose, Resource},
};

/// A Microsoft cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CloudName {
    /// Worldwide, and GCC.
    Global,
    /// GCC High (US Government L4).
    UsGov,
    /// DoD (US Government L5).
    UsGovDod,
    /// Operated by 21Vianet in China.
    China,
}

/// A Microsoft 365 API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ResourceName {
    /// Microsoft Graph.
    Graph,
    /// Exchange Online (EWS).
    Exchange,
    /// SharePoint Online; needs a certificate credential.
    Sharepoint,
    /// Azure AD Graph, which Microsoft has shut down.
    AzureAdGraph,
}

/// What a token is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PurposeName {
    /// Scheduled work.
    Backup,
    /// A restore, which goes before everything else.
    Restore,
}

impl From<PurposeName> for Purpose {
    fn from(name: PurposeName) -> Self {
        match name {
            PurposeName::Backup => Self::Backup,
            PurposeName::Restore => Self::Restore,
        }
    }
}

impl From<CloudName> for Cloud {
    fn from(name: CloudName) -> Self {
        match name {
            CloudName::Global => Self::Global,
            CloudName::UsGov => Self::UsGov,
            CloudName::UsGovDod => Self::UsGovDod,
            CloudName::China => Self::China,
        }
    }
}

impl From<ResourceName> for Resource {
    fn from(name: ResourceName) -> Self {
        match name {
            ResourceName::Graph => Self::Graph,
            ResourceName::Exchange => Self::Exchange,
            ResourceName::Sharepoint => Self::Sharepoint,
            ResourceName::AzureAdGraph => Self::AzureAdGraph,
        }
    }
}

/// The word for a cloud, as [`CloudName`] has it.
pub(super) fn cloud(value: i32) -> String {
    let cloud = Cloud::try_from(value).ok();
    word(value, cloud.map(|cloud| cloud.as_str_name()), "CLOUD_")
}

/// The word for the state of an organization.
pub(super) fn state(value: i32) -> String {
    let state = OrganizationState::try_from(value).ok();
    word(
        value,
        state.map(|state| state.as_str_name()),
        "ORGANIZATION_STATE_",
    )
}

/// The word for a resource, as [`ResourceName`] has it.
pub(super) fn resource(value: i32) -> String {
    let resource = Resource::try_from(value).ok();
    word(
        value,
        resource.map(|resource| resource.as_str_name()),
        "RESOURCE_",
    )
}

/// The word for a purpose, as [`PurposeName`] has it.
pub(super) fn purpose(value: i32) -> String {
    let purpose = Purpose::try_from(value).ok();
    word(
        value,
        purpose.map(|purpose| purpose.as_str_name()),
        "PURPOSE_",
    )
}

/// The word for the kind of a credential.
pub(super) fn credential_kind(value: i32) -> String {
    let kind = CredentialKind::try_from(value).ok();
    word(
        value,
        kind.map(|kind| kind.as_str_name()),
        "CREDENTIAL_KIND_",
    )
}

/// The word for the source of an identity, as `identity.mode` of the configuration has it.
pub(super) fn identity_source(value: i32) -> String {
    let source = IdentitySource::try_from(value).ok();
    word(
        value,
        source.map(|source| source.as_str_name()),
        "IDENTITY_SOURCE_",
    )
}

/// The name of a warning's reason, in capitals like the reason of an error.
pub(super) fn warning_reason(value: i32) -> String {
    let reason = WarningReason::try_from(value).ok();
    let word = word(
        value,
        reason.map(|reason| reason.as_str_name()),
        "WARNING_REASON_",
    );
    word.to_uppercase().replace('-', "_")
}

/// A newer broker may send a value that this command line has no name for.
fn word(value: i32, name: Option<&str>, prefix: &str) -> String {
    let name = name.map(|name| name.strip_prefix(prefix).unwrap_or(name));
    name.map_or_else(
        || format!("unknown-{value}"),
        |name| name.to_lowercase().replace('_', "-"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_is_shown_as_it_is_typed() {
        for name in CloudName::value_variants() {
            let typed = name.to_possible_value().expect("a value that can be typed");
            assert_eq!(cloud(Cloud::from(*name).into()), typed.get_name());
        }
    }

    #[test]
    fn a_resource_is_shown_as_it_is_typed() {
        for name in ResourceName::value_variants() {
            let typed = name.to_possible_value().expect("a value that can be typed");
            assert_eq!(resource(Resource::from(*name).into()), typed.get_name());
        }
    }

    #[test]
    fn every_resource_can_be_typed() {
        for value in 1..64 {
            if let Ok(resource) = Resource::try_from(value) {
                let mut names = ResourceName::value_variants().iter();
                assert!(
                    names.any(|name| Resource::from(*name) == resource),
                    "{resource:?}"
                );
            }
        }
    }

    #[test]
    fn words_are_short_and_a_newer_value_has_one_too() {
        assert_eq!(state(OrganizationState::Revoked.into()), "revoked");
        assert_eq!(
            credential_kind(CredentialKind::ClientSecret.into()),
            "client-secret"
        );
        assert_eq!(warning_reason(WarningReason::KeyShort.into()), "KEY_SHORT");
        assert_eq!(identity_source(IdentitySource::Mtls.into()), "mtls");
        assert_eq!(cloud(77), "unknown-77");
    }
}
