//! `ReportToken`: an API refused a token.

use tonic::{Request, Response, Status};

use super::{
    caller,
    fields::Fields,
    token_service::{Asked, TokenService},
};
use crate::{
    pb::v1::{self, ReportTokenRequest, ReportTokenResponse},
    token::report::Verdict,
};

impl TokenService {
    pub(super) fn judge(
        &self,
        request: Request<ReportTokenRequest>,
    ) -> Result<Response<ReportTokenResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let key = fields.token_key(
            &request.organization_id,
            request.resource,
            &request.sharepoint_host,
        );
        let fingerprint = fields.fingerprint(&request.fingerprint);
        let refused = fields.refused(request.http_status, &request.claims_challenge);
        let (Some(key), Some(fingerprint), Some(refused), true) =
            (key, fingerprint, refused, fields.is_clean())
        else {
            return Err(fields.into_status());
        };
        let asked = Asked { caller, key };
        self.allow(&asked)?;
        let verdict = self.tokens.report(&asked.key, &fingerprint, refused);
        let Asked { caller, key } = &asked;
        tracing::info!(
            %caller,
            organization = %key.organization,
            resource = key.resource.name(),
            fingerprint = request.fingerprint,
            http_status = request.http_status,
            ?verdict,
            "a token was refused by its API"
        );
        Ok(Response::new(verdict.into()))
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
