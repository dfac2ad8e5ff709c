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
    admission::{Admission, Admitted},
    deny,
    fields::Fields,
    get_token::message,
    listener::Peer,
    peer_of,
    records::{Asked, Records},
    status,
    unary::Handed,
    watch::TokenStream,
    within,
};
use crate::{
    authz::{self, Action, Caller, LivePolicy},
    clock::Clock,
    jobs::{self, Jobs},
    metrics::{Cache, Metrics},
    organization::{Access, Purpose, job::JobId, label_index::LabelIndex},
    pb::v1::{
        ErrorReason, GetTokenRequest, GetTokenResponse, ReportTokenRequest, ReportTokenResponse,
        WatchTokenRequest, token_service_server,
    },
    token::{
        Token, TokenKey,
        cache::TokenCache,
        delivery::{Deliveries, Delivery},
    },
};

/// The RPC in records and figures.
pub(super) const GET_TOKEN: &str = "GetToken";
/// How often a token is looked for because tokens were taken back, of whomever, while it was.
const LOOKS_MAX: usize = 8;

/// Hands out tokens.
#[derive(Clone, Debug)]
pub struct TokenService {
    /// What callers may do.
    pub policy: Arc<LivePolicy>,
    /// Which labels organizations have.
    pub labels: Arc<LabelIndex>,
    /// Which jobs run.
    pub jobs: Arc<Jobs>,
    /// Where tokens come from.
    pub tokens: TokenCache,
    /// Those on their way out.
    pub deliveries: Deliveries,
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
    /// A place for each call that may wait for a token.
    pub waiting: Arc<Semaphore>,
    /// A place for each stream of tokens that there may be.
    pub streams: Arc<Semaphore>,
    /// Ends the streams.
    pub stop: CancellationToken,
}

/// A token that a request asks for.
pub(super) struct Wanted {
    pub(super) key: TokenKey,
    /// How long it must live.
    pub(super) needed: Duration,
    pub(super) purpose: Purpose,
    pub(super) job_id: Option<JobId>,
}

#[async_trait]
impl token_service_server::TokenService for TokenService {
    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        let peer = peer_of(&request)?;
        let (token, delivery) = self.hand_out(&peer, request.into_inner(), None).await?;
        let handed = Handed::default();
        handed.add(delivery);
        let mut response = Response::new(message(&token, self.clock));
        response.extensions_mut().insert(handed);
        Ok(response)
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
    ) -> Result<(Arc<Token>, Delivery), Status> {
        let began = Instant::now();
        let limit = self.call_timeout.min(deadline.unwrap_or(Duration::MAX));
        let mut asked = Asked::default();
        let found = match peer.caller() {
            Ok(caller) => match self.admission().admit(peer, caller, GET_TOKEN, began) {
                Ok(admitted) => {
                    let found = self.find(peer, &admitted, request, limit, &mut asked).await;
                    let (records, rpc) = (&self.records, GET_TOKEN);
                    let recorded = match &found {
                        Ok((token, ..)) => {
                            records.record_hand_out(peer, caller, rpc, &asked, token)
                        }
                        Err(status) => records.record(peer, caller, rpc, &asked, Err(status)),
                    };
                    recorded.map_err(Status::from).and(found)
                }
                // On record, if that is due.
                Err(over) => Err(over),
            },
            Err(unidentified) => Err(unidentified.into()),
        };
        match &found {
            Ok((.., cache)) => self.metrics.token_handed_out(*cache, began.elapsed()),
            Err(status) => self.metrics.called(GET_TOKEN, status::reason(status)),
        }
        found.map(|(token, delivery, _)| (token, delivery))
    }

    async fn find(
        &self,
        peer: &Peer,
        admitted: &Admitted<'_>,
        request: GetTokenRequest,
        limit: Duration,
        asked: &mut Asked,
    ) -> Result<(Arc<Token>, Delivery, Cache), Status> {
        let wanted = self.understand(admitted, &request, asked)?;
        let lane = wanted.purpose.into();
        for _ in 0..LOOKS_MAX {
            let seen = self.deliveries.seen();
            let mut token = pin!(self.tokens.token(&wanted.key, wanted.needed, lane));
            // A hit is there at once, and needs no timer.
            let (token, cache) = match poll_fn(|cx| Poll::Ready(token.as_mut().poll(cx))).await {
                Poll::Ready(token) => (token?, Cache::Hit),
                Poll::Pending => {
                    let _under_way = admitted.begin()?;
                    // To be refused at once is better than to wait behind all those.
                    let Ok(_place) = self.waiting.try_acquire() else {
                        return Err(status::too_many_calls());
                    };
                    let token = within(limit, ErrorReason::IdpUnreachable, token).await??;
                    (token, Cache::Miss)
                }
            };
            if let Some(delivery) = self.deliveries.begin(peer.route(), seen) {
                return Ok((token, delivery, cache));
            }
        }
        Err(status::shutting_down())
    }

    /// What lets callers in.
    pub(super) fn admission(&self) -> Admission<'_> {
        Admission {
            policy: &self.policy,
            records: &self.records,
            metrics: &self.metrics,
        }
    }

    /// Which token a request is about, if the caller may have it.
    pub(super) fn understand(
        &self,
        admitted: &Admitted<'_>,
        request: &GetTokenRequest,
        asked: &mut Asked,
    ) -> Result<Wanted, Status> {
        let mut fields = Fields::default();
        *asked = Asked::read(
            &mut fields,
            &request.organization_id,
            request.resource,
            &request.sharepoint_host,
        );
        if let Some(organization) = &asked.organization {
            admitted.asks_about(organization);
        }
        let needed = fields.min_remaining(request.min_remaining, self.margin);
        let purpose = fields.purpose(request.purpose);
        let access = fields.access(request.access);
        asked.job_id = fields.job_id(&request.job_id);
        let (Some(key), Some(needed), Some(purpose), Some(access), true) =
            (asked.key(), needed, purpose, access, fields.is_clean())
        else {
            return Err(fields.into_status());
        };
        let job_id = asked.job_id.clone();
        let caller = admitted.caller();
        self.allow(caller, &key, Some(purpose), access, job_id.as_ref())?;
        if access == Access::Delegated {
            return Err(status::no_delegated_access());
        }
        Ok(Wanted {
            key,
            needed,
            purpose,
            job_id,
        })
    }

    /// Whether the policy lets the caller have the token, for a purpose and a job or for any.
    pub(super) fn allow(
        &self,
        caller: &Caller,
        key: &TokenKey,
        purpose: Option<Purpose>,
        access: Access,
        job_id: Option<&JobId>,
    ) -> Result<(), Status> {
        let (organization, resource) = (&key.organization, &key.resource);
        let asked = jobs::Asked {
            worker: (caller.id(), caller.name()),
            organization,
            resource,
            purpose,
            job_id,
        };
        let wanted = authz::Wanted {
            resource,
            purpose,
            access,
            job_runs: &|| self.jobs.cover(&asked),
        };
        let allowed = self
            .policy
            .check_token_of(caller, organization, wanted, &self.labels);
        allowed.map_err(|denied| deny(caller.id(), Action::GetToken, Some(organization), denied))
    }
}

#[cfg(test)]
mod tests;
