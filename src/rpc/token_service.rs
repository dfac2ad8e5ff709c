//! `TokenService`: what workers call.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio_stream::Stream;
use tonic::{Request, Response, Status, async_trait};

use super::{caller, deny, fields::Fields, within};
use crate::{
    authz::{Action, Policy},
    clock::Clock,
    hex::Hex,
    pb::v1::{
        ErrorReason, GetTokenRequest, GetTokenResponse, ReportTokenRequest, ReportTokenResponse,
        WatchTokenRequest, WatchTokenResponse, token_service_server,
    },
    token::{Token, TokenKey, cache::TokenCache},
};

/// Hands out tokens.
#[derive(Debug)]
pub struct TokenService {
    /// What callers may do.
    pub policy: Arc<Policy>,
    /// Where tokens come from.
    pub tokens: TokenCache,
    /// Tells when they end.
    pub clock: Clock,
    /// Least life of a token where the caller asks for none.
    pub margin: Duration,
    /// How long a call may take.
    pub call_timeout: Duration,
}

/// Tokens as they come, until there will be no more.
type TokenStream = Pin<Box<dyn Stream<Item = Result<WatchTokenResponse, Status>> + Send>>;

#[async_trait]
impl token_service_server::TokenService for TokenService {
    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let organization = fields.organization_id(&request.organization_id);
        let resource = fields.resource(request.resource, &request.sharepoint_host);
        let needed = fields.min_remaining(request.min_remaining, self.margin);
        let (Some(organization), Some(resource), Some(needed), true) =
            (organization, resource, needed, fields.is_clean())
        else {
            return Err(fields.refused());
        };
        let allowed = self.policy.check_token(&caller, &organization, &resource);
        allowed.map_err(|denied| deny(&caller, Action::GetToken, Some(&organization), denied))?;
        let key = TokenKey {
            organization,
            resource,
        };
        let token = within(
            self.call_timeout,
            ErrorReason::IdpUnreachable,
            self.tokens.token(&key, needed),
        )
        .await??;
        Ok(Response::new(self.message(&token)))
    }

    type WatchTokenStream = TokenStream;

    async fn watch_token(
        &self,
        _: Request<WatchTokenRequest>,
    ) -> Result<Response<TokenStream>, Status> {
        Err(Status::unimplemented("comes next"))
    }

    async fn report_token(
        &self,
        _: Request<ReportTokenRequest>,
    ) -> Result<Response<ReportTokenResponse>, Status> {
        Err(Status::unimplemented("comes next"))
    }
}

impl TokenService {
    fn message(&self, token: &Token) -> GetTokenResponse {
        GetTokenResponse {
            // Exposed: handing it to an authorized caller is what it is for.
            access_token: token.access_token.expose().to_owned(),
            token_type: "Bearer".to_owned(),
            expire_time: Some(self.clock.wall(token.expires_at).into()),
            refresh_time: Some(self.clock.wall(token.refresh_at).into()),
            resource_url: token.audience.url().to_owned(),
            client_id: token.client_id.to_string(),
            credential_version: token.credential_version,
            fingerprint: Hex(&token.fingerprint).to_string(),
        }
    }
}
