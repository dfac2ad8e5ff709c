//! Which host a SharePoint token is for, and with what it is asked for.

use super::*;

fn sharepoint(host: Option<&str>) -> TokenKey {
    key("contoso", Resource::SharePoint(host.map(str::to_owned)))
}

fn host(text: &str) -> SharePointHost {
    SharePointHost::parse(text, Cloud::Global).expect("a host")
}

/// With an organization that has a certificate and these hosts.
async fn fixture(root: Option<&str>, others: &[&str]) -> Fixture {
    let fixture = Fixture::new(10, &[]).await;
    let organization = NewOrganization {
        sharepoint_root_host: root.map(host),
        sharepoint_hosts: others.iter().map(|other| host(other)).collect(),
        ..new("contoso")
    };
    fixture.register(organization, certificate()).await;
    fixture
}

impl Fixture {
    /// The URL of the API that a token is for.
    async fn audience(&self, host: Option<&str>) -> Result<String, Error> {
        let token = self
            .cache
            .token(&sharepoint(host), MARGIN, Lane::Caller)
            .await?;
        Ok(token.audience.url().to_owned())
    }

    fn asked(&self) -> Vec<String> {
        self.entra.asked.lock().expect("no panic").clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_secret_gets_no_sharepoint_token_and_entra_is_not_asked() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    for host in [None, Some("contoso.sharepoint.com")] {
        let refused = fixture.audience(host).await;
        assert!(
            matches!(refused, Err(Error::CertificateRequired)),
            "{refused:?}"
        );
    }
    assert_eq!(fixture.entra.calls(), 0);
    assert!(fixture.get("contoso").await.is_ok(), "Graph it gets");
}

#[tokio::test(start_paused = true)]
async fn only_hosts_of_the_organization_get_tokens() {
    let fixture = fixture(
        Some("contoso.sharepoint.com"),
        &["contoso-my.sharepoint.com"],
    )
    .await;
    for (asked, url) in [
        (None, "https://contoso.sharepoint.com"),
        (
            Some("contoso.sharepoint.com"),
            "https://contoso.sharepoint.com",
        ),
        (
            Some("contoso-my.sharepoint.com"),
            "https://contoso-my.sharepoint.com",
        ),
        (
            Some("Contoso-MY.SharePoint.com"),
            "https://contoso-my.sharepoint.com",
        ),
    ] {
        assert_eq!(fixture.audience(asked).await.expect("a token"), url);
    }
    let calls = fixture.entra.calls();
    // An empty one is no host: the rim takes it for the root's.
    for foreign in [
        "fabrikam.sharepoint.com",
        "contoso.sharepoint.com.evil.example",
        "contoso-admin.sharepoint.com",
        "contoso.sharepoint.us",
        "evil.example/contoso.sharepoint.com",
        "contoso.sharepoint.com ",
        "contoso.sharepoint.com:443",
    ] {
        let refused = fixture.audience(Some(foreign)).await;
        assert!(matches!(refused, Err(Error::HostNotListed)), "{foreign}");
    }
    assert_eq!(fixture.entra.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_root_host_is_asked_of_graph() {
    let fixture = fixture(None, &["contoso-my.sharepoint.com"]).await;
    let url = fixture.audience(None).await.expect("a token");
    assert_eq!(url, "https://found.sharepoint.com");
    assert_eq!(
        fixture.asked(),
        [
            "https://graph.microsoft.com",
            "https://found.sharepoint.com"
        ]
    );
    // It is for the root alone: a host by name must be listed.
    let named = fixture.audience(Some("found.sharepoint.com")).await;
    assert!(matches!(named, Err(Error::HostNotListed)), "{named:?}");
    let listed = fixture.audience(Some("contoso-my.sharepoint.com")).await;
    assert_eq!(
        listed.expect("a token"),
        "https://contoso-my.sharepoint.com"
    );
}

#[tokio::test(start_paused = true)]
async fn a_root_host_that_graph_does_not_tell_is_unknown() {
    let fixture = fixture(None, &[]).await;
    *fixture.entra.root_host.lock().expect("no panic") = Some(Answer::Rejected);
    let refused = fixture.audience(None).await;
    assert!(matches!(refused, Err(Error::HostUnknown)), "{refused:?}");
    // Which is remembered for a while.
    let refused = fixture.audience(None).await;
    assert!(matches!(refused, Err(Error::HostUnknown)), "{refused:?}");
    assert_eq!(fixture.entra.calls(), 1);
    advance(Duration::from_secs(100)).await;
    // Trouble on the way is no answer.
    *fixture.entra.root_host.lock().expect("no panic") = Some(Answer::Unreachable);
    let failed = fixture.audience(None).await;
    let unreachable = matches!(failed, Err(Error::Entra(entra::Error::Unreachable { .. })));
    assert!(unreachable, "{failed:?}");
    advance(Duration::from_secs(10)).await;
    // Neither is a refusal of the Graph token.
    *fixture.entra.root_host.lock().expect("no panic") = None;
    fixture.entra.will(&[Answer::Rejected]);
    let failed = fixture.audience(None).await;
    let rejected = matches!(failed, Err(Error::Entra(entra::Error::Rejected(_))));
    assert!(rejected, "{failed:?}");
}
