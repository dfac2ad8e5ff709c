//! The nouns of the domain: organizations, their ids, clouds, resources and SharePoint hosts.
//!
//! Everything here is parsed once, at the rim, and cannot be wrong afterwards.

use std::{fmt, sync::Arc, time::SystemTime};

use uuid::Uuid;

pub mod job;
pub mod label;
pub mod label_index;

use label::Labels;

use crate::{credential::CredentialInfo, malformed::Malformed};

/// Longest id of an organization, in bytes.
const ID_BYTES_MAX: usize = 63;

/// Our own id of a registered customer: 1 to 63 of `a-z0-9-`, no `-` at either end.
///
/// It lies where it is used, not behind a pointer: whoever looks an organization up among a hundred
/// thousand waits for memory once less.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrganizationId {
    /// Zeros after its end, which are in no id.
    text: [u8; ID_BYTES_MAX],
    length: u8,
}

/// An Entra directory id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Uuid);

/// An application (client) id in Entra.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Uuid);

/// What an operator may name a tenant by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TenantName {
    /// Its id.
    Id(TenantId),
    /// One of its domains, in lower case.
    Domain(String),
}

/// A Microsoft cloud. It cannot be derived from tenant or login host, so it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cloud {
    /// Worldwide and GCC.
    Global,
    /// GCC High (L4).
    UsGov,
    /// DoD (L5).
    UsGovDod,
    /// 21Vianet.
    China,
}

/// A host of an organization's SharePoint, in lower case, below its cloud's suffix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharePointHost(Arc<str>);

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Microsoft Graph.
    Graph,
    /// Exchange Online (EWS).
    Exchange,
    /// SharePoint Online: a host, or the organization's root host.
    SharePoint(Option<String>),
    /// The retired Azure AD Graph.
    AzureAdGraph,
}

/// What a token is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Scheduled work.
    Backup,
    /// Somebody waits for their data.
    Restore,
}

/// In whose name a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// The application's own.
    Application,
    /// A user's, who has signed in to the application.
    Delegated,
}

/// Whether an organization gets tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Active,
    /// Not for the time being; its credential is kept.
    Suspended(Suspension),
    /// It was revoked for good at this time.
    Revoked(SystemTime),
}

/// Why an organization gets no tokens for the time being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspension {
    /// Since when.
    pub at: SystemTime,
    /// The words of whoever suspended it.
    pub reason: String,
}

/// A registered organization, without its secret.
#[derive(Clone, Debug)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Name for people.
    pub display_name: String,
    /// The Entra directory.
    pub tenant_id: TenantId,
    /// The cloud it is in.
    pub cloud: Cloud,
    /// The application there.
    pub client_id: ClientId,
    /// What is known of the credential; `None` once revoked.
    pub credential: Option<CredentialInfo>,
    /// SharePoint root host, if known.
    pub sharepoint_root_host: Option<SharePointHost>,
    /// Further SharePoint hosts.
    pub sharepoint_hosts: Vec<SharePointHost>,
    /// What its operators group it by.
    pub labels: Labels,
    /// Whether it gets tokens.
    pub state: State,
    /// Goes up by one with every change.
    pub revision: u64,
    /// When it was registered.
    pub create_time: SystemTime,
    /// When it last changed.
    pub update_time: SystemTime,
}

impl OrganizationId {
    /// Parses an id.
    ///
    /// # Errors
    /// [`Malformed`] for anything but 1 to 63 of `a-z0-9-` without `-` at an end.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let fits = (1..=ID_BYTES_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !text.starts_with('-')
            && !text.ends_with('-');
        if !fits {
            return Err(Malformed(
                "must be 1 to 63 characters of a-z, 0-9 and -, not with a - at either end",
            ));
        }
        let mut id = Self {
            text: [0; ID_BYTES_MAX],
            length: text.len() as u8,
        };
        id.text[..text.len()].copy_from_slice(text.as_bytes());
        Ok(id)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let text = &self.text[..usize::from(self.length)];
        std::str::from_utf8(text).expect("letters, digits and hyphens were copied")
    }
}

impl TenantId {
    /// Parses a GUID in its hyphenated form.
    ///
    /// # Errors
    /// [`Malformed`] for any other form, and for the nil GUID.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        guid(text).map(Self).ok_or(Malformed(
            "must be the directory (tenant) id, a GUID like 8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a",
        ))
    }
}

impl ClientId {
    /// Parses a GUID in its hyphenated form.
    ///
    /// # Errors
    /// [`Malformed`] for any other form, and for the nil GUID.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        guid(text).map(Self).ok_or(Malformed(
            "must be the application (client) id, a GUID like 8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a",
        ))
    }
}

impl TenantName {
    /// Parses a tenant id or a domain name.
    ///
    /// # Errors
    /// [`Malformed`] if it is neither. `common`, `organizations` and `consumers` have no dot and so
    /// are no domains: Entra gives app-only tokens for one tenant only.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if let Ok(id) = TenantId::parse(text) {
            return Ok(Self::Id(id));
        }
        if is_dns_name(text) && text.contains('.') {
            return Ok(Self::Domain(text.to_ascii_lowercase()));
        }
        Err(Malformed(
            "must be the directory (tenant) id, a GUID, or a domain of the tenant like contoso.onmicrosoft.com",
        ))
    }
}

impl Cloud {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Global, Self::UsGov, Self::UsGovDod, Self::China];

    /// The name in config files and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::UsGov => "us_gov",
            Self::UsGovDod => "us_gov_dod",
            Self::China => "china",
        }
    }

    /// What every SharePoint host of the cloud ends with.
    #[must_use]
    pub fn sharepoint_suffix(self) -> &'static str {
        match self {
            Self::Global => ".sharepoint.com",
            Self::UsGov => ".sharepoint.us",
            Self::UsGovDod => ".sharepoint-mil.us",
            Self::China => ".sharepoint.cn",
        }
    }
}

impl SharePointHost {
    /// Parses a host name: one DNS label below the cloud's suffix.
    ///
    /// # Errors
    /// [`Malformed`] for anything else, so that no token is ever asked for a foreign host.
    pub fn parse(text: &str, cloud: Cloud) -> Result<Self, Malformed> {
        let host = text.to_ascii_lowercase();
        let label = host.strip_suffix(cloud.sharepoint_suffix());
        match label {
            Some(label) if is_dns_name(label) && !label.contains('.') => Ok(Self(host.into())),
            _ => Err(Malformed(match cloud {
                Cloud::Global => "must be a host like contoso.sharepoint.com",
                Cloud::UsGov => "must be a host like contoso.sharepoint.us",
                Cloud::UsGovDod => "must be a host like contoso.sharepoint-mil.us",
                Cloud::China => "must be a host like contoso.sharepoint.cn",
            })),
        }
    }

    /// The host as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Resource {
    /// The name in policy files and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Graph => "graph",
            Self::Exchange => "exchange",
            Self::SharePoint(_) => "sharepoint",
            Self::AzureAdGraph => "azure_ad_graph",
        }
    }
}

impl fmt::Display for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OrganizationId")
            .field(&self.as_str())
            .finish()
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Display for SharePointHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn guid(text: &str) -> Option<Uuid> {
    // `Uuid` also accepts braces, URNs and no hyphens; Entra's forms do not.
    (text.len() == 36)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
        .filter(|guid| !guid.is_nil())
}

/// Letters, digits and hyphens in labels of 1 to 63 (RFC 1035 §2.3.1), 253 in all.
fn is_dns_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tenants_are_guids_or_domains_and_never_shared_endpoints() {
        for bad in [
            "common",
            "organizations",
            "consumers",
            "",
            "..",
            "a..b",
            "../x",
            "x@evil.com",
            "evil.com#",
            "evil.com/x",
            "evil.com?x",
            "evil.com:1",
            "-a.com",
            "a-.com",
            "{8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a}",
            "00000000-0000-0000-0000-000000000000",
            "exämple.com",
            "a b.com",
            "evil.com%2f",
        ] {
            assert!(TenantName::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            TenantName::parse("Contoso.onMicrosoft.com"),
            Ok(TenantName::Domain("contoso.onmicrosoft.com".into()))
        );
    }

    #[test]
    fn a_sharepoint_host_is_one_label_below_the_suffix_of_its_cloud() {
        for bad in [
            "sharepoint.com",
            ".sharepoint.com",
            "a.b.sharepoint.com",
            "contoso.sharepoint.com.evil.com",
            "contoso.sharepoint.us",
            "evil.com/.sharepoint.com",
            "contoso.sharepoint.com:443",
            "",
        ] {
            assert!(SharePointHost::parse(bad, Cloud::Global).is_err(), "{bad}");
        }
        let host = SharePointHost::parse("Contoso-MY.sharepoint.com", Cloud::Global);
        assert_eq!(
            host.map(|h| h.to_string()).as_deref(),
            Ok("contoso-my.sharepoint.com")
        );
    }

    proptest! {
        #[test]
        fn an_organization_id_is_parsed_exactly_by_its_rule(text in "\\PC{0,70}") {
            let rule = !text.is_empty() && text.len() <= 63
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                && !text.starts_with('-') && !text.ends_with('-');
            prop_assert_eq!(OrganizationId::parse(&text).is_ok(), rule);
        }

        #[test]
        fn a_valid_organization_id_comes_back_unchanged(text in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
            let id = OrganizationId::parse(&text);
            prop_assert_eq!(id.as_ref().map(OrganizationId::as_str), Ok(text.as_str()));
        }

        #[test]
        fn an_accepted_tenant_never_changes_the_path_of_a_url(text in "\\PC{0,60}") {
            if let Ok(TenantName::Domain(domain)) = TenantName::parse(&text) {
                let url = url::Url::parse(&format!("https://login.example/{domain}/x"));
                let path = url.map(|url| url.path().to_owned());
                prop_assert_eq!(path, Ok(format!("/{domain}/x")));
            }
        }

        #[test]
        fn guids_are_accepted_in_one_form_only(bytes in any::<[u8; 16]>()) {
            let guid = Uuid::from_bytes(bytes);
            prop_assume!(!guid.is_nil());
            prop_assert!(TenantId::parse(&guid.hyphenated().to_string()).is_ok());
            prop_assert!(ClientId::parse(&guid.simple().to_string()).is_err());
            prop_assert!(ClientId::parse(&guid.urn().to_string()).is_err());
        }
    }
}
