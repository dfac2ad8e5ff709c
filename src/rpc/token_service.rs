//! `TokenService`: what workers call.

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use super::{
    deny,
    fields::Fields,
    get_token::message,
    listener::Peer,
    peer_of,
    records::{Asked, Records},
    status,
    watch::TokenStream,
    within,
};
use crate::{
    authz::{Action, Caller, LivePolicy},
    clock::Clock,
    entra::Lane,
    metrics::{Cache, Metrics},
    pb::v1::{
        ErrorReason, GetTokenRequest, GetTokenResponse, ReportTokenRequest, ReportTokenResponse,
        WatchTokenRequest, token_service_server,
    },
    token::{Token, TokenKey, cache::TokenCache},
};

/// The RPC in records and figures.
pub(super) const GET_TOKEN: &str = "GetToken";

/// Hands out tokens.
#[derive(Clone, Debug)]
pub struct TokenService {
    /// What callers may do.
    pub policy: Arc<LivePolicy>,
    /// Where tokens come from.
    pub tokens: TokenCache,
    /// Tells when they end.
    pub clock: Clock,
    /// Where hand-outs are recorded.
    pub records: Arc<Records>,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// Least life of a token where the caller asks for none.
    pub margin: Duration,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// A place for each stream of tokens that there may be.
    pub streams: Arc<Semaphore>,
    /// Ends the streams.
    pub stop: CancellationToken,
}

#[async_trait]
impl token_service_server::TokenService for TokenService {
    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        let peer = peer_of(&request)?;
        let token = self.hand_out(&peer, request.into_inner(), None).await?;
        Ok(Response::new(message(&token, self.clock)))
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
    /// The token that a request asks for, recorded and counted, as is the refusal. `deadline` is the
    /// caller's.
    pub(super) async fn hand_out(
        &self,
        peer: &Peer,
        request: GetTokenRequest,
        deadline: Option<Duration>,
    ) -> Result<Arc<Token>, Status> {
        let began = Instant::now();
        let limit = self.call_timeout.min(deadline.unwrap_or(Duration::MAX));
        let mut asked = Asked::default();
        let found = match peer.caller() {
            Ok(caller) => {
                let found = self.find(caller, request, limit, &mut asked).await;
                let (records, rpc) = (&self.records, GET_TOKEN);
                let recorded = match &found {
                    Ok((token, _)) => records.record_hand_out(peer, caller, rpc, &asked, token),
                    Err(status) => records.record(peer, caller, rpc, &asked, Err(status)),
                };
                recorded.map_err(Status::from).and(found)
            }
            Err(unidentified) => Err(unidentified.into()),
        };
        match &found {
            Ok((_, cache)) => self.metrics.token_handed_out(*cache, began.elapsed()),
            Err(status) => self.metrics.called(GET_TOKEN, status::reason(status)),
        }
        found.map(|(token, _)| token)
    }

    async fn find(
        &self,
        caller: &Caller,
        request: GetTokenRequest,
        limit: Duration,
        asked: &mut Asked,
    ) -> Result<(Arc<Token>, Cache), Status> {
        let (key, needed, lane) = self.understand(caller, &request, asked)?;
        let mut token = pin!(self.tokens.token(&key, needed, lane));
        // A hit is there at once, and needs no timer.
        match poll_fn(|cx| Poll::Ready(token.as_mut().poll(cx))).await {
            Poll::Ready(token) => Ok((token?, Cache::Hit)),
            Poll::Pending => {
                let token = within(limit, ErrorReason::IdpUnreachable, token).await??;
                Ok((token, Cache::Miss))
            }
        }
    }

    /// Which token a request is about, how long it must live and how urgent it is, if the caller may
    /// have it.
    pub(super) fn understand(
        &self,
        caller: &Caller,
        request: &GetTokenRequest,
        asked: &mut Asked,
    ) -> Result<(TokenKey, Duration, Lane), Status> {
        let mut fields = Fields::default();
        *asked = Asked::read(
            &mut fields,
            &request.organization_id,
            request.resource,
            &request.sharepoint_host,
        );
        let needed = fields.min_remaining(request.min_remaining, self.margin);
        let lane = fields.lane(request.purpose);
        let (Some(key), Some(needed), Some(lane), true) =
            (asked.key(), needed, lane, fields.is_clean())
        else {
            return Err(fields.into_status());
        };
        self.allow(caller, &key)?;
        Ok((key, needed, lane))
    }

    /// Whether the policy lets the caller have the token.
    pub(super) fn allow(&self, caller: &Caller, key: &TokenKey) -> Result<(), Status> {
        let (organization, resource) = (&key.organization, &key.resource);
        let allowed = self.policy.check_token_of(caller, organization, resource);
        allowed.map_err(|denied| deny(caller.id(), Action::GetToken, Some(organization), denied))
    }
}
