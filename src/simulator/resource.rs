//! The APIs that tokens are issued for, and the hosts that stand for them in a scope.

use url::Url;

/// An API of Microsoft 365 that the setup guide grants permissions on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Microsoft Graph.
    Graph,
    /// Exchange Online, the audience of EWS.
    Exchange,
    /// SharePoint Online; its host is the tenant's own.
    SharePoint,
    /// Azure AD Graph. The service is shut, yet tokens for it are still issued.
    AzureAdGraph,
}

/// Hosts that are the same for all tenants of a cloud, for every cloud that has one published.
const HOSTS: &[(&str, Resource)] = &[
    ("graph.microsoft.com", Resource::Graph),
    ("graph.microsoft.us", Resource::Graph),
    ("dod-graph.microsoft.us", Resource::Graph),
    ("microsoftgraph.chinacloudapi.cn", Resource::Graph),
    ("graph.svc.sovcloud.fr", Resource::Graph),
    ("graph.svc.sovcloud.de", Resource::Graph),
    ("outlook.office365.com", Resource::Exchange),
    ("outlook.office.com", Resource::Exchange),
    ("outlook.office365.us", Resource::Exchange),
    ("outlook-dod.office365.us", Resource::Exchange),
    ("partner.outlook.cn", Resource::Exchange),
    ("outlook.sovcloud.fr", Resource::Exchange),
    ("outlook.sovcloud.de", Resource::Exchange),
    ("graph.windows.net", Resource::AzureAdGraph),
    ("graph.microsoftazure.us", Resource::AzureAdGraph),
    ("graph.chinacloudapi.cn", Resource::AzureAdGraph),
];

impl Resource {
    /// The application permissions that the setup guide grants on the resource, the value of
    /// `roles` unless an application says otherwise.
    #[must_use]
    pub fn default_roles(self) -> &'static [&'static str] {
        match self {
            Self::Graph => &[
                "Calendars.ReadWrite",
                "Contacts.ReadWrite",
                "Files.ReadWrite.All",
                "Mail.ReadWrite",
                "Mail.Read",
                "Sites.ReadWrite.All",
                "User.Read.All",
            ],
            Self::Exchange => &["full_access_as_app"],
            Self::SharePoint => &[
                "Sites.FullControl.All",
                "User.Read.All",
                "User.ReadWrite.All",
            ],
            Self::AzureAdGraph => &["Directory.Read.All"],
        }
    }

    /// The resource that an identifier URI names in a tenant with these SharePoint hosts.
    pub(super) fn of_identifier(identifier: &str, sharepoint_hosts: &[String]) -> Option<Self> {
        let uri = Url::parse(identifier).ok()?;
        // The identifier is the bare origin, with one slash at most: anything more is another,
        // unknown, resource.
        if uri.scheme() != "https" || uri.port().is_some() || uri.path() != "/" {
            return None;
        }
        let host = uri.host_str()?;
        let well_known = HOSTS.iter().find(|(known, _)| *known == host);
        well_known.map(|(_, resource)| *resource).or_else(|| {
            sharepoint_hosts
                .iter()
                .any(|root| is_site_of(host, root))
                .then_some(Self::SharePoint)
        })
    }
}

/// Whether a host is a tenant's root site, its OneDrive or its administration site.
fn is_site_of(host: &str, root: &str) -> bool {
    let Some((name, suffix)) = root.split_once('.') else {
        return false;
    };
    let Some((label, host_suffix)) = host.split_once('.') else {
        return false;
    };
    let variant = label.strip_prefix(name);
    host_suffix == suffix && matches!(variant, Some("" | "-my" | "-admin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(identifier: &str) -> Option<Resource> {
        Resource::of_identifier(identifier, &["contoso.sharepoint.com".into()])
    }

    #[test]
    fn hosts_of_every_cloud_are_known() {
        assert_eq!(
            resource("https://graph.microsoft.com"),
            Some(Resource::Graph)
        );
        assert_eq!(
            resource("https://partner.outlook.cn"),
            Some(Resource::Exchange)
        );
        assert_eq!(
            resource("https://outlook.office365.com/"),
            Some(Resource::Exchange)
        );
    }

    #[test]
    fn only_the_tenants_own_sharepoint_is_known() {
        for host in ["contoso", "contoso-my", "contoso-admin"] {
            let identifier = format!("https://{host}.sharepoint.com");
            assert_eq!(resource(&identifier), Some(Resource::SharePoint));
        }
        for host in [
            "fabrikam.sharepoint.com",
            "contoso.sharepoint.us",
            "contoso2.sharepoint.com",
        ] {
            assert_eq!(resource(&format!("https://{host}")), None, "{host}");
        }
    }

    #[test]
    fn what_is_not_a_bare_origin_is_unknown() {
        for identifier in [
            "http://graph.microsoft.com",
            "https://graph.microsoft.com/v1.0",
            "https://graph.microsoft.com:444",
            "graph.microsoft.com",
            "",
        ] {
            assert_eq!(resource(identifier), None, "{identifier}");
        }
    }
}
