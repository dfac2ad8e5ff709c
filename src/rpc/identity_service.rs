//! `IdentityService`: who a caller is to the broker.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{peer_of, status};
use crate::{
    audit::Outcome,
    authz::LivePolicy,
    config::IdentityMode,
    metrics::Metrics,
    pb::v1::{CallerGrant, IdentitySource, WhoAmIRequest, WhoAmIResponse, identity_service_server},
};

/// Tells callers who they are. It is not on record: what is told is about nobody else.
#[derive(Clone, Debug)]
pub struct IdentityService {
    /// On whose word callers are who they are.
    pub mode: IdentityMode,
    /// What callers may do.
    pub policy: Arc<LivePolicy>,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

#[async_trait]
impl identity_service_server::IdentityService for IdentityService {
    async fn who_am_i(
        &self,
        request: Request<WhoAmIRequest>,
    ) -> Result<Response<WhoAmIResponse>, Status> {
        let peer = peer_of(&request)?;
        let answer = match peer.caller() {
            Ok(caller) => Ok(WhoAmIResponse {
                spiffe_id: caller.name().to_owned(),
                source: IdentitySource::from(self.mode).into(),
                grants: grants(&self.policy.current().described(caller.id())),
            }),
            Err(unidentified) => Err(unidentified.into()),
        };
        let outcome = answer
            .as_ref()
            .map_or_else(status::reason, |_| Outcome::Done.as_str());
        self.metrics.called("WhoAmI", outcome);
        answer.map(Response::new)
    }
}

fn grants(described: &[(usize, String)]) -> Vec<CallerGrant> {
    let grants = described.iter();
    grants
        .map(|(line, text)| CallerGrant {
            // A policy has far fewer lines than that: its file is bounded.
            line: u32::try_from(*line).unwrap_or(u32::MAX),
            text: text.clone(),
        })
        .collect()
}

impl From<IdentityMode> for IdentitySource {
    fn from(mode: IdentityMode) -> Self {
        match mode {
            IdentityMode::Mtls => Self::Mtls,
            IdentityMode::Xfcc => Self::Xfcc,
            IdentityMode::Linkerd => Self::Linkerd,
        }
    }
}
