//! `TokenService`: what workers call.

use std::{sync::Arc, time::Duration};

use spiffe::SpiffeId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use super::{caller, deny, fields::Fields, watch::TokenStream, within};
use crate::{
    authz::{Action, Policy},
    clock::Clock,
    hex::Hex,
    pb::v1::{
        ErrorReason, GetTokenRequest, GetTokenResponse, ReportTokenRequest, ReportTokenResponse,
        WatchTokenRequest, token_service_server,
    },
    token::{Token, TokenKey, cache::TokenCache},
};

/// Hands out tokens.
#[derive(Clone, Debug)]
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
    /// A place for each stream of tokens that there may be.
    pub streams: Arc<Semaphore>,
    /// Ends the streams.
    pub stop: CancellationToken,
}

/// Who asks for which token.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) caller: SpiffeId,
    pub(super) key: TokenKey,
}

#[async_trait]
impl token_service_server::TokenService for TokenService {
    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let key = fields.token_key(
            &request.organization_id,
            request.resource,
            &request.sharepoint_host,
        );
        let needed = fields.min_remaining(request.min_remaining, self.margin);
        let lane = fields.lane(request.purpose);
        let (Some(key), Some(needed), Some(lane), true) = (key, needed, lane, fields.is_clean())
        else {
            return Err(fields.into_status());
        };
        let asked = Asked { caller, key };
        self.allow(&asked)?;
        let token = within(
            self.call_timeout,
            ErrorReason::IdpUnreachable,
            self.tokens.token(&asked.key, needed, lane),
        )
        .await??;
        Ok(Response::new(self.message(&token)))
    }

    type WatchTokenStream = TokenStream;

    async fn watch_token(
        &self,
        request: Request<WatchTokenRequest>,
    ) -> Result<Response<TokenStream>, Status> {
        self.follow(request)
    }

    async fn report_token(
        &self,
        request: Request<ReportTokenRequest>,
    ) -> Result<Response<ReportTokenResponse>, Status> {
        self.judge(request)
    }
}

impl TokenService {
    /// Whether the policy lets the caller have the token.
    pub(super) fn allow(&self, Asked { caller, key }: &Asked) -> Result<(), Status> {
        let (organization, resource) = (&key.organization, &key.resource);
        let allowed = self.policy.check_token(caller, organization, resource);
        allowed.map_err(|denied| deny(caller, Action::GetToken, Some(organization), denied))
    }

    pub(super) fn message(&self, token: &Token) -> GetTokenResponse {
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
