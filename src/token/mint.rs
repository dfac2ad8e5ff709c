//! Gets one new token: reads the credential, picks the audience, asks Entra.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Error, Token, TokenKey};

use crate::{
    clock::Clock,
    credential::Credential,
    entra::{
        self, Principal, TokenEndpoint, TokenRequest, Urgency, claims::ClaimsChallenge,
        cloud::Audience,
    },
    organization::{Cloud, Organization, OrganizationId, Resource, SharePointHost, State},
    vault::{Application, Vault},
};

/// Why there is no token, and whose cloud did not give it, if it came to that.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// The cloud of the organization.
    pub cloud: Option<Cloud>,
}

/// Gets tokens with the credentials of the vault.
#[derive(Debug)]
pub struct Mint {
    vault: Arc<Vault>,
    endpoint: Arc<dyn TokenEndpoint>,
    clock: Clock,
    /// Gives 0 to 1, another number each time.
    jitter: fn() -> f64,
}

impl Mint {
    /// A mint over a vault and a token endpoint. `jitter` gives 0 to 1, another number each time.
    #[must_use]
    pub fn new(
        vault: Arc<Vault>,
        endpoint: Arc<dyn TokenEndpoint>,
        clock: Clock,
        jitter: fn() -> f64,
    ) -> Self {
        Self {
            vault,
            endpoint,
            clock,
            jitter,
        }
    }

    /// Gets a new token.
    ///
    /// # Errors
    /// Every [`Error`] but [`Error::Full`] and [`Error::Interrupted`].
    pub async fn token(
        &self,
        key: &TokenKey,
        claims: Option<&ClaimsChallenge>,
        urgency: &Urgency,
    ) -> Result<Token, Failed> {
        let before = |error: Error| Failed { error, cloud: None };
        let found = self.vault.application(&key.organization).await;
        let found = found.map_err(|error| before(error.into()))?;
        let application = found.ok_or(before(Error::NotFound))?;
        let cloud = Some(application.organization.cloud);
        let token = self.ask(&application, key, claims, urgency).await;
        token.map_err(|error| Failed { error, cloud })
    }

    /// The token that was kept in the store, if there is one that has not ended.
    pub(super) async fn kept(&self, key: &TokenKey) -> Option<Token> {
        let (organization, resource) = (&key.organization, &key.resource);
        let kept = self
            .vault
            .kept_token(organization, resource, self.clock.now());
        match kept.await {
            Ok(kept) => Token::from_kept(kept?, self.clock),
            Err(error) => {
                // Whoever waits learns of it, if it keeps the credential from being read as well.
                tracing::warn!(%organization, resource = resource.name(), %error, "cannot look for a kept token");
                None
            }
        }
    }

    /// Keeps a token in the store. Without it, only a restart is dearer.
    pub(super) async fn keep(&self, key: &TokenKey, token: &Token) {
        let (organization, resource) = (&key.organization, &key.resource);
        let kept = token.to_kept(self.clock);
        if let Err(error) = self.vault.keep_token(organization, resource, &kept).await {
            tracing::warn!(%organization, resource = resource.name(), %error, "a token is not kept for the next start");
        }
    }

    /// Has the store forget what it keeps of an organization: a token that an API refused must not come
    /// back with a restart. The others of the organization are asked for once more then.
    pub(super) async fn discard(&self, organization: &OrganizationId) {
        if let Err(error) = self.vault.forget_tokens(organization).await {
            tracing::warn!(%organization, %error, "a refused token stays in the store");
        }
    }

    async fn ask(
        &self,
        application: &Application,
        key: &TokenKey,
        claims: Option<&ClaimsChallenge>,
        urgency: &Urgency,
    ) -> Result<Token, Error> {
        let organization = &application.organization;
        match &organization.state {
            State::Active => {}
            State::Suspended(suspension) => return Err(Error::Suspended(suspension.at)),
            State::Revoked(at) => return Err(Error::Revoked(*at)),
        }
        let missing = crate::vault::Error::Corrupt("an active organization without a credential");
        let credential = application.credential.as_ref().ok_or(missing)?;
        let audience = self
            .audience(organization, credential, &key.resource, urgency)
            .await?;
        let request = TokenRequest {
            principal: organization.principal(),
            credential,
            audience: &audience,
            claims,
            urgency,
        };
        let asked_at = Instant::now();
        let grant = self.endpoint.request_token(request).await;
        let version = organization
            .credential
            .as_ref()
            .map_or(0, |info| info.version);
        let grant = grant.map_err(|error| error.of_credential(version))?;
        let jitter = (self.jitter)();
        Ok(Token::new(grant, asked_at, audience, organization, jitter))
    }

    async fn audience(
        &self,
        organization: &Organization,
        credential: &Credential,
        resource: &Resource,
        urgency: &Urgency,
    ) -> Result<Audience, Error> {
        let Resource::SharePoint(host) = resource else {
            let audience = Audience::of(organization.cloud, resource);
            return audience.ok_or(Error::HostUnknown);
        };
        // Entra would issue the token; SharePoint would then refuse it, in words that tell nobody why.
        if !matches!(credential, Credential::Certificate(_)) {
            return Err(Error::CertificateRequired);
        }
        let host = match host {
            Some(host) => organization
                .sharepoint_host(host)
                .ok_or(Error::HostNotListed)?,
            None => match &organization.sharepoint_root_host {
                Some(root) => root.clone(),
                None => {
                    self.look_up_root_host(organization, credential, urgency)
                        .await?
                }
            },
        };
        Ok(Audience::sharepoint(&host))
    }

    async fn look_up_root_host(
        &self,
        organization: &Organization,
        credential: &Credential,
        urgency: &Urgency,
    ) -> Result<SharePointHost, Error> {
        let principal = organization.principal();
        let request = TokenRequest {
            principal,
            credential,
            audience: &Audience::graph(organization.cloud),
            claims: None,
            urgency,
        };
        let grant = self.endpoint.request_token(request).await?;
        let host = self
            .endpoint
            .sharepoint_root_host(principal, &grant.access_token, urgency)
            .await;
        host.map_err(|error| match error {
            entra::Error::AnswerInvalid { .. } | entra::Error::Rejected(_) => Error::HostUnknown,
            other => other.into(),
        })
    }
}

impl Organization {
    /// Who asks Entra for its tokens.
    #[must_use]
    pub fn principal(&self) -> Principal {
        Principal {
            cloud: self.cloud,
            tenant_id: self.tenant_id,
            client_id: self.client_id,
        }
    }

    /// One of its SharePoint hosts, by name.
    fn sharepoint_host(&self, name: &str) -> Option<SharePointHost> {
        let mut hosts = self
            .sharepoint_root_host
            .iter()
            .chain(&self.sharepoint_hosts);
        hosts
            .find(|host| host.as_str().eq_ignore_ascii_case(name))
            .cloned()
    }
}
