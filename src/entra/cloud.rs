//! Where each Microsoft cloud lives. All hosts that a secret or token is sent to, or asked for, come
//! from here: callers name a resource, never a host, scope or URL.
//!
//! Sources: Microsoft Graph "national cloud deployments", Entra "national clouds", CSS-Exchange's
//! endpoint table (2026-02); SharePoint and Azure AD Graph hosts are known from third-party code.

use std::collections::BTreeMap;

use url::Url;

use crate::organization::{Cloud, Resource, SharePointHost, TenantId, TenantName};

/// The API that a token is for: an https URL without a path, which is also what Entra calls it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audience(String);

/// Where a cloud's login and Graph are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    login: Url,
    graph: Url,
}

/// The authorities of all clouds.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    /// Those that the operator put in the place of Microsoft's.
    replaced: BTreeMap<Cloud, Authority>,
}

impl Audience {
    /// Microsoft Graph of a cloud.
    #[must_use]
    pub fn graph(cloud: Cloud) -> Self {
        Self::of_host(match cloud {
            Cloud::Global => "graph.microsoft.com",
            Cloud::UsGov => "graph.microsoft.us",
            Cloud::UsGovDod => "dod-graph.microsoft.us",
            Cloud::China => "microsoftgraph.chinacloudapi.cn",
        })
    }

    /// Exchange Online of a cloud.
    #[must_use]
    pub fn exchange(cloud: Cloud) -> Self {
        Self::of_host(match cloud {
            Cloud::Global => "outlook.office365.com",
            Cloud::UsGov => "outlook.office365.us",
            Cloud::UsGovDod => "outlook-dod.office365.us",
            Cloud::China => "partner.outlook.cn",
        })
    }

    /// The retired Azure AD Graph of a cloud.
    #[must_use]
    pub fn azure_ad_graph(cloud: Cloud) -> Self {
        Self::of_host(match cloud {
            Cloud::Global => "graph.windows.net",
            Cloud::UsGov | Cloud::UsGovDod => "graph.microsoftazure.us",
            Cloud::China => "graph.chinacloudapi.cn",
        })
    }

    /// A SharePoint host.
    #[must_use]
    pub fn sharepoint(host: &SharePointHost) -> Self {
        Self::of_host(host.as_str())
    }

    /// Of the resources whose host the cloud alone decides; `None` for SharePoint.
    #[must_use]
    pub fn of(cloud: Cloud, resource: &Resource) -> Option<Self> {
        match resource {
            Resource::Graph => Some(Self::graph(cloud)),
            Resource::Exchange => Some(Self::exchange(cloud)),
            Resource::AzureAdGraph => Some(Self::azure_ad_graph(cloud)),
            Resource::SharePoint(_) => None,
        }
    }

    fn of_host(host: &str) -> Self {
        Self(format!("https://{host}"))
    }

    /// The API's base URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0
    }

    /// The scope to ask for: client credentials take exactly one resource and `/.default`.
    #[must_use]
    pub fn scope(&self) -> String {
        format!("{}/.default", self.0)
    }
}

impl Authority {
    /// Microsoft's own.
    #[must_use]
    pub fn microsoft(cloud: Cloud) -> Self {
        let login = match cloud {
            Cloud::Global => "https://login.microsoftonline.com",
            Cloud::UsGov | Cloud::UsGovDod => "https://login.microsoftonline.us",
            Cloud::China => "https://login.partner.microsoftonline.cn",
        };
        Self {
            login: Url::parse(login).expect("a constant"),
            graph: Url::parse(Audience::graph(cloud).url()).expect("a constant"),
        }
    }

    /// Another one, `None` unless both are https URLs without user, query and fragment.
    #[must_use]
    pub fn replaced_by(login: Url, graph: Url) -> Option<Self> {
        let plain = |url: &Url| {
            url.scheme() == "https"
                && url.host().is_some()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        (plain(&login) && plain(&graph)).then_some(Self { login, graph })
    }

    /// Whether both hosts are loopback addresses (`localhost` is a name, and may be anything).
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        [&self.login, &self.graph]
            .into_iter()
            .all(|url| match url.host() {
                Some(url::Host::Ipv4(address)) => address.is_loopback(),
                Some(url::Host::Ipv6(address)) => address.is_loopback(),
                Some(url::Host::Domain(_)) | None => false,
            })
    }

    /// The v2.0 token endpoint of a tenant.
    #[must_use]
    pub fn token_url(&self, tenant: TenantId) -> Url {
        below(&self.login, &format!("{tenant}/oauth2/v2.0/token"))
    }

    /// The OpenID configuration of a tenant, by id or domain.
    #[must_use]
    pub fn openid_configuration_url(&self, tenant: &TenantName) -> Url {
        let tenant = match tenant {
            TenantName::Id(id) => id.to_string(),
            TenantName::Domain(domain) => domain.clone(),
        };
        below(
            &self.login,
            &format!("{tenant}/v2.0/.well-known/openid-configuration"),
        )
    }

    /// Graph's description of the root SharePoint site.
    #[must_use]
    pub fn root_site_url(&self) -> Url {
        let mut url = below(&self.graph, "v1.0/sites/root");
        url.set_query(Some("$select=webUrl,siteCollection"));
        url
    }
}

impl Authorities {
    /// Uses another authority for a cloud.
    pub fn replace(&mut self, cloud: Cloud, authority: Authority) {
        self.replaced.insert(cloud, authority);
    }

    /// The authority of a cloud.
    #[must_use]
    pub fn of(&self, cloud: Cloud) -> Authority {
        self.replaced
            .get(&cloud)
            .cloned()
            .unwrap_or_else(|| Authority::microsoft(cloud))
    }
}

/// A URL below another. What goes in is typed already; that it changed nothing but the path is
/// checked all the same, since a secret goes there.
fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let path = format!("{}/{path}", base.path().trim_end_matches('/'));
    url.set_path(&path);
    assert!(
        url.path() == path && url.origin() == base.origin(),
        "ids and domains hold nothing that a URL gives a meaning to"
    );
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        TenantId::parse("8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a").expect("a GUID")
    }

    #[test]
    fn every_cloud_has_its_own_hosts() {
        let rows = Cloud::ALL.map(|cloud| {
            let login = Authority::microsoft(cloud).token_url(tenant());
            [
                login.host_str().unwrap_or_default().to_owned(),
                Audience::graph(cloud).scope(),
                Audience::exchange(cloud).scope(),
                Audience::azure_ad_graph(cloud).scope(),
                cloud.sharepoint_suffix().to_owned(),
            ]
            .join(" ")
        });
        assert_eq!(
            rows,
            [
                "login.microsoftonline.com https://graph.microsoft.com/.default https://outlook.office365.com/.default https://graph.windows.net/.default .sharepoint.com",
                "login.microsoftonline.us https://graph.microsoft.us/.default https://outlook.office365.us/.default https://graph.microsoftazure.us/.default .sharepoint.us",
                "login.microsoftonline.us https://dod-graph.microsoft.us/.default https://outlook-dod.office365.us/.default https://graph.microsoftazure.us/.default .sharepoint-mil.us",
                "login.partner.microsoftonline.cn https://microsoftgraph.chinacloudapi.cn/.default https://partner.outlook.cn/.default https://graph.chinacloudapi.cn/.default .sharepoint.cn",
            ]
        );
    }

    #[test]
    fn only_addresses_count_as_loopback() {
        let authority = |login: &str| {
            Authority::replaced_by(
                Url::parse(login).expect("a URL"),
                Url::parse("https://127.0.0.1:2").expect("a URL"),
            )
        };
        assert!(authority("https://127.0.0.1:1").is_some_and(|a| a.is_loopback()));
        assert!(authority("https://[::1]:1").is_some_and(|a| a.is_loopback()));
        for other in [
            "https://localhost:1",
            "https://10.0.0.1",
            "https://127.0.0.1.evil.example",
        ] {
            assert!(
                authority(other).is_some_and(|a| !a.is_loopback()),
                "{other}"
            );
        }
        for bad in [
            "http://127.0.0.1",
            "https://user@127.0.0.1",
            "https://127.0.0.1?x",
            "https://127.0.0.1#x",
        ] {
            assert!(authority(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn urls_stay_below_the_authority() {
        let base = Url::parse("https://127.0.0.1:1/prefix/").expect("a URL");
        let authority = Authority::replaced_by(base.clone(), base).expect("plain");
        assert_eq!(
            authority.token_url(tenant()).as_str(),
            "https://127.0.0.1:1/prefix/8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a/oauth2/v2.0/token"
        );
        let domain = TenantName::parse("contoso.onmicrosoft.com").expect("a domain");
        assert_eq!(
            authority.openid_configuration_url(&domain).path(),
            "/prefix/contoso.onmicrosoft.com/v2.0/.well-known/openid-configuration"
        );
    }
}
