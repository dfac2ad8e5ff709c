//! Where each cloud's login and Graph are reached: Microsoft's own hosts, or those that the operator's
//! configuration puts in their place.

use std::collections::BTreeMap;

use url::Url;

use super::cloud::Audience;
use crate::{
    config::{self, EntraConfig},
    organization::{Cloud, TenantId, TenantName},
};

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

impl EntraConfig {
    /// The authorities of all clouds.
    ///
    /// # Errors
    /// [`config::Error::Authority`] for one that is no plain https URL, or not on loopback where it must be.
    pub fn authorities(&self) -> Result<Authorities, config::Error> {
        let mut authorities = Authorities::default();
        let sections = [
            ("loopback_authority", &self.loopback_authority),
            ("unsafe_authority", &self.unsafe_authority),
        ];
        for (section, entries) in sections {
            for (name, config) in entries {
                let cloud = Cloud::from(*name);
                let refused = |reason| config::Error::Authority {
                    section,
                    cloud: cloud.name(),
                    reason,
                };
                let authority =
                    Authority::replaced_by(config.authority_url.clone(), config.graph_url.clone());
                let authority = authority.ok_or(refused(
                    "both URLs must begin with https:// and have no user, query or fragment",
                ))?;
                if section == "loopback_authority" && !authority.is_loopback() {
                    return Err(refused(
                        "both hosts must be loopback addresses like 127.0.0.1",
                    ));
                }
                authorities.replace(cloud, authority);
            }
        }
        Ok(authorities)
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
