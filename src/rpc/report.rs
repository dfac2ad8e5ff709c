//! `ReportToken`: an API refused a token.

use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{
    admission::Admitted, fields::Fields, peer_of, records::Asked, status,
    token_service::TokenService,
};
use crate::{
    audit::Outcome,
    organization::Access,
    pb::v1::{self, ReportTokenRequest, ReportTokenResponse},
    token::report::Verdict,
};

/// The RPC in records and figures.
pub(super) const REPORT_TOKEN: &str = "ReportToken";

impl TokenService {
    /// What is made of a report, recorded and counted.
    pub(super) fn judge(
        &self,
        request: Request<ReportTokenRequest>,
    ) -> Result<Response<ReportTokenResponse>, Status> {
        let peer = peer_of(&request)?;
        let mut asked = Asked::default();
        let judged = match peer.caller() {
            Ok(caller) => {
                let (admission, now) = (self.admission(), Instant::now());
                match admission.admit(&peer, caller, REPORT_TOKEN, now) {
                    Ok(admitted) => {
                        let judged = self.decide(&admitted, &request.into_inner(), &mut asked);
                        let outcome = judged.as_ref().map(|_| None);
                        self.records
                            .record(&peer, caller, REPORT_TOKEN, &asked, outcome)
                            .map_err(Status::from)
                            .and(judged)
                    }
                    Err(over) => Err(over),
                }
            }
            Err(unidentified) => Err(unidentified.into()),
        };
        let counted = judged
            .as_ref()
            .map_or_else(status::reason, |_| Outcome::Done.as_str());
        self.metrics.called(REPORT_TOKEN, counted);
        judged.map(Response::new)
    }

    fn decide(
        &self,
        admitted: &Admitted<'_>,
        request: &ReportTokenRequest,
        asked: &mut Asked,
    ) -> Result<ReportTokenResponse, Status> {
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
        let caller = admitted.caller();
        let fingerprint = fields.fingerprint(&request.fingerprint);
        let refused = fields.refused(request.http_status, &request.claims_challenge);
        let (Some(key), Some(fingerprint), Some(refused), true) =
            (asked.key(), fingerprint, refused, fields.is_clean())
        else {
            return Err(fields.into_status());
        };
        // Whatever it was got for.
        self.allow(caller, &key, None, Access::Application, None)?;
        let verdict = self.tokens.report(&key, &fingerprint, refused);
        tracing::info!(
            caller = caller.name(),
            organization = %key.organization,
            resource = key.resource.name(),
            fingerprint = request.fingerprint,
            http_status = request.http_status,
            ?verdict,
            "a token was refused by its API"
        );
        Ok(verdict.into())
    }
}

impl From<Verdict> for ReportTokenResponse {
    fn from(verdict: Verdict) -> Self {
        let mut response = Self::default();
        let kind = match verdict {
            Verdict::Replaced => v1::Verdict::Replaced,
            Verdict::AlreadyReplaced => v1::Verdict::AlreadyReplaced,
            Verdict::TooSoon(wait) => {
                response.retry_delay = prost_types::Duration::try_from(wait).ok();
                v1::Verdict::TooSoon
            }
            Verdict::RolesMissing { missing, roles } => {
                response.missing_roles = missing.into_iter().map(str::to_owned).collect();
                response.roles = roles;
                v1::Verdict::RolesMissing
            }
            Verdict::RolesPresent(roles) => {
                response.roles = roles;
                v1::Verdict::RolesPresent
            }
            Verdict::RolesUnknown => v1::Verdict::RolesUnknown,
        };
        response.verdict = kind.into();
        response
    }
}
