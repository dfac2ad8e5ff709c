//! The real token endpoint, over HTTPS.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use url::Url;

use super::{
    Error, Grant, Principal, RejectionKind, TokenEndpoint, TokenRequest, Trouble, Urgency,
    authority::Authorities,
    client_assertion, graph,
    http::{Answer, Http},
    wire,
};
use crate::{
    clock::Clock,
    credential::Credential,
    organization::{Cloud, SharePointHost, TenantId, TenantName},
    secret::AccessToken,
};

/// How long to wait where Entra throttles and does not say: what it says where it does.
pub(super) const THROTTLED: Duration = Duration::from_secs(60);

/// Entra over HTTPS.
#[derive(Debug)]
pub struct Client {
    http: Http,
    authorities: Authorities,
    clock: Clock,
}

#[derive(Deserialize)]
struct OpenidConfiguration {
    token_endpoint: Url,
}

impl Client {
    /// A client of the authorities.
    #[must_use]
    pub fn new(http: Http, authorities: Authorities, clock: Clock) -> Self {
        Self {
            http,
            authorities,
            clock,
        }
    }
}

#[async_trait]
impl TokenEndpoint for Client {
    async fn request_token(&self, request: TokenRequest<'_>) -> Result<Grant, Error> {
        let principal = request.principal;
        let url = self
            .authorities
            .of(principal.cloud)
            .token_url(principal.tenant_id);
        let client_id = principal.client_id.to_string();
        let scope = request.audience.scope();
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", &client_id),
            ("scope", &scope),
        ];
        let assertion;
        if let Some(claims) = request.claims {
            form.push(("claims", claims.as_json()));
        }
        match request.credential {
            // Exposed: this is what the secret is for.
            Credential::ClientSecret { value, .. } => form.push(("client_secret", value.expose())),
            Credential::Certificate(certificate) => {
                let now = self.clock.unix_seconds();
                assertion = client_assertion::sign(certificate, principal.client_id, &url, now)?;
                form.push(("client_assertion_type", client_assertion::TYPE));
                form.push(("client_assertion", &assertion));
            }
        }
        let answer = self.http.post_form(url, &form).await?;
        if !answer.status.is_success() {
            return Err(refusal(answer));
        }
        let host = answer.host;
        wire::grant(&answer.body).map_err(|reason| Error::AnswerInvalid { host, reason })
    }

    async fn sharepoint_root_host(
        &self,
        principal: Principal,
        graph_token: &AccessToken,
        _: &Urgency,
    ) -> Result<SharePointHost, Error> {
        let url = self.authorities.of(principal.cloud).root_site_url();
        let answer = self.http.get(url, Some(graph_token)).await?;
        graph::root_host(principal.cloud, answer)
    }

    /// From the OpenID configuration (OpenID Connect Discovery 1.0 §4) that the tenant's authority
    /// publishes for everybody.
    async fn tenant_id(&self, cloud: Cloud, tenant: &TenantName) -> Result<TenantId, Error> {
        let url = match tenant {
            TenantName::Id(id) => return Ok(*id),
            TenantName::Domain(_) => self.authorities.of(cloud).openid_configuration_url(tenant),
        };
        let answer = self.http.get(url, None).await?;
        if !answer.status.is_success() {
            return Err(refusal(answer));
        }
        let invalid = || Error::AnswerInvalid {
            host: answer.host.clone(),
            reason: "its OpenID configuration names no tenant",
        };
        let configuration: OpenidConfiguration =
            serde_json::from_slice(&answer.body).map_err(|_| invalid())?;
        // `…/{tenant id}/oauth2/v2.0/token`. Only the id is taken from it, never the host.
        let segments = configuration
            .token_endpoint
            .path_segments()
            .ok_or_else(invalid)?;
        let ids: Vec<_> = segments
            .filter_map(|segment| TenantId::parse(segment).ok())
            .collect();
        match ids.as_slice() {
            [id] => Ok(*id),
            _ => Err(invalid()),
        }
    }
}

/// What an answer other than 2xx means: the status first, as it decides whether waiting helps.
fn refusal(answer: Answer) -> Error {
    let status = answer.status;
    let throttled = Error::Throttled {
        retry_after: answer.retry_after.unwrap_or(THROTTLED),
    };
    if status.as_u16() == 429 {
        return throttled;
    }
    let in_trouble = |trouble| Error::Unreachable {
        host: answer.host.clone(),
        trouble,
        reason: format!("it answers {}", status.as_u16()).into(),
        retry_after: answer.retry_after,
    };
    if status.is_server_error() {
        return in_trouble(Trouble::Server);
    }
    if status.as_u16() == 408 {
        return in_trouble(Trouble::Timeout);
    }
    match wire::rejection(&answer.body).map(|rejection| rejection.of_status(status.as_u16())) {
        Some(rejection) => match rejection.kind {
            RejectionKind::Throttled => throttled,
            RejectionKind::Transient => in_trouble(Trouble::Transient),
            _ => Error::Rejected(rejection.into()),
        },
        None => Error::AnswerInvalid {
            host: answer.host,
            reason: if status.is_redirection() {
                "it redirects, and redirects are not followed"
            } else {
                "it refuses without saying why as OAuth does"
            },
        },
    }
}
