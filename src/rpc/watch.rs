//! `WatchToken`: tokens as they come, until there will be no more.

use std::{pin::Pin, sync::Arc};

use futures_util::stream::unfold;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{
    admission::Admitted,
    get_token::message,
    listener::Peer,
    peer_of,
    records::Asked,
    status,
    token_service::{TokenService, Wanted},
    unary::Handed,
    usage::UnderWay,
};
use crate::{
    audit::Outcome,
    organization::Access,
    pb::v1::{GetTokenRequest, WatchTokenRequest, WatchTokenResponse},
    token::{Token, watch::Watch},
};

/// The RPC in records and figures.
pub(super) const WATCH_TOKEN: &str = "WatchToken";

/// Tokens as they come.
pub(super) type TokenStream =
    Pin<Box<dyn Stream<Item = Result<WatchTokenResponse, Status>> + Send>>;

/// A stream under way.
struct Following {
    service: TokenService,
    peer: Peer,
    asked: Asked,
    wanted: Wanted,
    watch: Watch,
    /// Tokens that are on their way out.
    handed: Handed,
    /// Of the policy.
    changes: watch::Receiver<()>,
    /// Give the places back when the stream ends: that of the caller, and that of the broker.
    _under_way: UnderWay,
    _place: OwnedSemaphorePermit,
}

impl TokenService {
    /// Begins a stream.
    pub(super) fn follow(
        &self,
        request: Request<WatchTokenRequest>,
    ) -> Result<Response<TokenStream>, Status> {
        let peer = peer_of(&request)?;
        let mut asked = Asked::default();
        let begun = match peer.caller() {
            Ok(caller) => {
                let (admission, now) = (self.admission(), Instant::now());
                match admission.admit(&peer, caller, WATCH_TOKEN, now) {
                    Ok(admitted) => {
                        let begun = self.begin(&peer, &admitted, request.into_inner(), &mut asked);
                        if let Err(refused) = &begun {
                            let (records, outcome) = (&self.records, Err(refused));
                            records.record(&peer, caller, WATCH_TOKEN, &asked, outcome)?;
                        }
                        // Each token has a record of its own.
                        begun
                    }
                    Err(over) => Err(over),
                }
            }
            Err(unidentified) => Err(unidentified.into()),
        };
        if let Err(refused) = &begun {
            self.metrics.called(WATCH_TOKEN, status::reason(refused));
        }
        let begun = begun?;
        let handed = begun.handed.clone();
        let tokens = unfold(Some(begun), |following| async {
            let mut following = following?;
            let next = following.next().await;
            // After an error there is nothing more.
            let rest = next.is_ok().then_some(following);
            Some((next, rest))
        });
        let mut response = Response::new(Box::pin(tokens) as TokenStream);
        response.extensions_mut().insert(handed);
        Ok(response)
    }

    fn begin(
        &self,
        peer: &Peer,
        admitted: &Admitted<'_>,
        request: WatchTokenRequest,
        asked: &mut Asked,
    ) -> Result<Following, Status> {
        // Listened to before it is asked: no change is missed.
        let changes = self.policy.changes();
        let wanted = self.understand(admitted, &request.into(), asked)?;
        let lane = wanted.purpose.into();
        let place = Arc::clone(&self.streams).try_acquire_owned();
        Ok(Following {
            service: self.clone(),
            peer: peer.clone(),
            asked: asked.clone(),
            watch: self.tokens.watch(wanted.key.clone(), wanted.needed, lane),
            wanted,
            handed: Handed::default(),
            changes,
            _under_way: admitted.begin()?,
            _place: place.map_err(|_| status::too_many_streams())?,
        })
    }
}

impl From<WatchTokenRequest> for GetTokenRequest {
    /// A stream asks for its tokens as a call asks for one.
    fn from(request: WatchTokenRequest) -> Self {
        Self {
            organization_id: request.organization_id,
            resource: request.resource,
            sharepoint_host: request.sharepoint_host,
            min_remaining: request.min_remaining,
            purpose: request.purpose,
            access: request.access,
            job_id: request.job_id,
        }
    }
}

impl Following {
    /// The next token, recorded and counted, as is the end.
    async fn next(&mut self) -> Result<WatchTokenResponse, Status> {
        let token = self.wait().await;
        let service = &self.service;
        let caller = self.peer.caller()?;
        let outcome = token.as_ref().map(|token| Some(token.as_ref()));
        let records = &service.records;
        records.record(&self.peer, caller, WATCH_TOKEN, &self.asked, outcome)?;
        let counted = token
            .as_ref()
            .map_or_else(status::reason, |_| Outcome::Done.as_str());
        service.metrics.called(WATCH_TOKEN, counted);
        Ok(WatchTokenResponse {
            token: Some(message(&*token?, service.clock)),
        })
    }

    async fn wait(&mut self) -> Result<Arc<Token>, Status> {
        let stop = self.service.stop.clone();
        loop {
            let seen = self.service.deliveries.seen();
            let token = tokio::select! {
                token = self.watch.next() => Some(token?),
                Ok(()) = self.changes.changed() => None,
                () = stop.cancelled() => return Err(status::shutting_down()),
            };
            // Asked again for each token, and when the policy has changed: a stream whose grant is gone
            // ends then, and not with the next token, which comes in an hour.
            let (caller, wanted) = (self.peer.caller()?, &self.wanted);
            self.service.allow(
                caller,
                &wanted.key,
                Some(wanted.purpose),
                Access::Application,
                wanted.job_id.as_ref(),
            )?;
            let Some(token) = token else {
                continue;
            };
            match self.service.deliveries.begin(self.peer.route(), seen) {
                Some(delivery) => {
                    self.handed.add(delivery);
                    return Ok(token);
                }
                None => self.watch.repeat(),
            }
        }
    }
}
