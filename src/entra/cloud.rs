//! Where each Microsoft cloud lives. All hosts that a secret or token is sent to, or asked for, come
//! from here: callers name a resource, never a host, scope or URL.
//!
//! Sources: Microsoft Graph "national cloud deployments", Entra "national clouds", CSS-Exchange's
//! endpoint table (2026-02); SharePoint and Azure AD Graph hosts are known from third-party code.

use std::borrow::Cow;

use crate::organization::{Cloud, Resource, SharePointHost};

/// The API that a token is for: an https URL without a path, which is also what Entra calls it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audience(Cow<'static, str>);

impl Audience {
    /// Microsoft Graph of a cloud.
    #[must_use]
    pub fn graph(cloud: Cloud) -> Self {
        Self::fixed(match cloud {
            Cloud::Global => "https://graph.microsoft.com",
            Cloud::UsGov => "https://graph.microsoft.us",
            Cloud::UsGovDod => "https://dod-graph.microsoft.us",
            Cloud::China => "https://microsoftgraph.chinacloudapi.cn",
        })
    }

    /// Exchange Online of a cloud.
    #[must_use]
    pub fn exchange(cloud: Cloud) -> Self {
        Self::fixed(match cloud {
            Cloud::Global => "https://outlook.office365.com",
            Cloud::UsGov => "https://outlook.office365.us",
            Cloud::UsGovDod => "https://outlook-dod.office365.us",
            Cloud::China => "https://partner.outlook.cn",
        })
    }

    /// The retired Azure AD Graph of a cloud.
    #[must_use]
    pub fn azure_ad_graph(cloud: Cloud) -> Self {
        Self::fixed(match cloud {
            Cloud::Global => "https://graph.windows.net",
            Cloud::UsGov | Cloud::UsGovDod => "https://graph.microsoftazure.us",
            Cloud::China => "https://graph.chinacloudapi.cn",
        })
    }

    /// A SharePoint host.
    #[must_use]
    pub fn sharepoint(host: &SharePointHost) -> Self {
        Self(Cow::Owned(format!("https://{host}")))
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

    /// The one with this base URL, as [`Self::url`] gave it; `None` if no cloud has it.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Self> {
        let host = url.strip_prefix("https://")?;
        Cloud::ALL.into_iter().find_map(|cloud| {
            let fixed = [Self::graph, Self::exchange, Self::azure_ad_graph].map(|of| of(cloud));
            let sharepoint = SharePointHost::parse(host, cloud);
            let mut known = fixed
                .into_iter()
                .chain(sharepoint.iter().map(Self::sharepoint));
            known.find(|audience| audience.url() == url)
        })
    }

    const fn fixed(url: &'static str) -> Self {
        Self(Cow::Borrowed(url))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::organization::TenantId;

    fn tenant() -> TenantId {
        TenantId::parse("8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a").expect("a GUID")
    }

    #[test]
    fn an_audience_is_found_again_by_its_url_and_nothing_else_is() {
        for cloud in Cloud::ALL {
            let host = format!("contoso{}", cloud.sharepoint_suffix());
            let host = SharePointHost::parse(&host, cloud).expect("a host");
            for audience in [
                Audience::graph(cloud),
                Audience::exchange(cloud),
                Audience::azure_ad_graph(cloud),
                Audience::sharepoint(&host),
            ] {
                assert_eq!(Audience::of_url(audience.url()), Some(audience));
            }
        }
        for url in [
            "",
            "graph.microsoft.com",
            "http://graph.microsoft.com",
            "https://graph.microsoft.com/",
            "https://GRAPH.microsoft.com",
            "https://Contoso.sharepoint.com",
            "https://evil.example",
        ] {
            assert_eq!(Audience::of_url(url), None, "{url}");
        }
    }

    #[test]
    fn every_cloud_has_its_own_hosts() {
        let rows = Cloud::ALL.map(|cloud| {
            let login = super::super::authority::Authority::microsoft(cloud).token_url(tenant());
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
}
