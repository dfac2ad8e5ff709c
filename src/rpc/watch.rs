//! `WatchToken`: tokens as they come, until there will be no more.

use std::{pin::Pin, sync::Arc};

use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{
    caller,
    fields::Fields,
    status,
    token_service::{Asked, TokenService},
};
use crate::{
    pb::v1::{WatchTokenRequest, WatchTokenResponse},
    token::{Error, Token, watch::Watch},
};

/// Tokens as they come.
pub(super) type TokenStream =
    Pin<Box<dyn Stream<Item = Result<WatchTokenResponse, Status>> + Send>>;

/// A stream under way.
struct Following {
    service: TokenService,
    asked: Asked,
    watch: Watch,
    /// Gives the place back when the stream ends.
    _place: OwnedSemaphorePermit,
}

impl TokenService {
    pub(super) fn follow(
        &self,
        request: Request<WatchTokenRequest>,
    ) -> Result<Response<TokenStream>, Status> {
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
        let place = Arc::clone(&self.streams).try_acquire_owned();
        let following = Following {
            service: self.clone(),
            watch: self.tokens.watch(asked.key.clone(), needed, lane),
            asked,
            _place: place.map_err(|_| status::too_many_streams())?,
        };
        let tokens = futures_util::stream::unfold(Some(following), |following| async {
            let mut following = following?;
            let next = following.next().await;
            // After an error there is nothing more.
            let rest = next.is_ok().then_some(following);
            Some((next, rest))
        });
        Ok(Response::new(Box::pin(tokens)))
    }
}

impl Following {
    async fn next(&mut self) -> Result<WatchTokenResponse, Status> {
        let stop = self.service.stop.clone();
        let token: Option<Result<Arc<Token>, Error>> =
            stop.run_until_cancelled(self.watch.next()).await;
        let token = token.ok_or_else(status::shutting_down)??;
        // Asked again for each token: the policy may have changed since the stream began.
        self.service.allow(&self.asked)?;
        Ok(WatchTokenResponse {
            token: Some(self.service.message(&token)),
        })
    }
}
