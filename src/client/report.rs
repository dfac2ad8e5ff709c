//! What to do about a token that an API refuses.

use std::time::Duration;

use tokio::time::Instant;

use super::{ClaimsChallenge, Error, connection, flight::Shared, retry, token::Key};
use crate::pb::v1::{
    self, ReportTokenRequest, ReportTokenResponse, token_service_client::TokenServiceClient,
};

/// How an API refused a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// HTTP 401: the token is not accepted.
    Unauthorized {
        /// What the API demands, if it says so:
        /// [`ClaimsChallenge::from_www_authenticate`] reads it out of the answer.
        claims_challenge: Option<ClaimsChallenge>,
    },
    /// HTTP 403: the token is accepted, but does not allow this.
    Forbidden,
}

/// What the broker makes of a report, and so what to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The token is out of circulation and another one is being asked for. Get it, and repeat the
    /// call to the API.
    Replaced,
    /// The token is no longer the current one: another worker was faster, or it was due. As
    /// [`Verdict::Replaced`].
    AlreadyReplaced,
    /// The token before this one was replaced less than a minute ago: the API is at fault, or
    /// something that a new token does not mend. Try the API again later.
    TooSoon {
        /// How long to wait.
        retry_after: Duration,
    },
    /// The token lacks roles that backup and restore need. An administrator of the tenant has to
    /// consent to them. In case that was done since, another token is being asked for, which
    /// comes within seconds; this one stays in use until then.
    RolesMissing {
        /// Names of the application permissions that are missing, as `Mail.ReadWrite`.
        missing: Vec<String>,
        /// Those that the token has.
        present: Vec<String>,
    },
    /// The token has every role that is needed: the refusal is about this one object. Another token
    /// would not help.
    RolesPresent {
        /// The roles that it has.
        present: Vec<String>,
    },
    /// The token is in a form that tells nothing of its roles. Ask the tenant's administrator.
    RolesUnknown,
}

impl Refusal {
    fn http_status(&self) -> u32 {
        match self {
            Self::Unauthorized { .. } => 401,
            Self::Forbidden => 403,
        }
    }

    fn claims_challenge(&self) -> String {
        match self {
            Self::Unauthorized {
                claims_challenge: Some(challenge),
            } => challenge.as_str().to_owned(),
            Self::Unauthorized { .. } | Self::Forbidden => String::new(),
        }
    }
}

impl Verdict {
    fn from_response(response: ReportTokenResponse) -> Result<Self, Error> {
        let unknown = || Error::incomplete_answer("verdict");
        let verdict = v1::Verdict::try_from(response.verdict).map_err(|_| unknown())?;
        Ok(match verdict {
            v1::Verdict::Unspecified => return Err(unknown()),
            v1::Verdict::Replaced => Self::Replaced,
            v1::Verdict::AlreadyReplaced => Self::AlreadyReplaced,
            v1::Verdict::TooSoon => Self::TooSoon {
                retry_after: response
                    .retry_delay
                    .and_then(|delay| delay.try_into().ok())
                    .ok_or_else(|| Error::incomplete_answer("retry_delay"))?,
            },
            v1::Verdict::RolesMissing => Self::RolesMissing {
                missing: response.missing_roles,
                present: response.roles,
            },
            v1::Verdict::RolesPresent => Self::RolesPresent {
                present: response.roles,
            },
            v1::Verdict::RolesUnknown => Self::RolesUnknown,
        })
    }
}

/// Tells the broker, and what is held in memory.
pub(super) async fn report(
    shared: &Shared,
    key: &Key,
    fingerprint: &str,
    refusal: &Refusal,
) -> Result<Verdict, Error> {
    // At once, so that no other task of this process goes on with it. A token that got 403 may be
    // good for everything else.
    if matches!(refusal, Refusal::Unauthorized { .. })
        && let Some(slot) = shared.slots().known_mut(key)
    {
        slot.refuse(fingerprint);
    }
    let outcome = call(shared, key, fingerprint, refusal).await;
    if let Some(slot) = shared.slots().known_mut(key) {
        match &outcome {
            Ok(Verdict::Replaced | Verdict::AlreadyReplaced) => slot.refuse(fingerprint),
            Ok(Verdict::RolesMissing { .. }) => slot.renew(fingerprint, Instant::now()),
            // The broker will give it again: not to keep it then would be a call for each use.
            Ok(_) | Err(_) => slot.accept(fingerprint),
        }
    }
    outcome
}

async fn call(
    shared: &Shared,
    key: &Key,
    fingerprint: &str,
    refusal: &Refusal,
) -> Result<Verdict, Error> {
    let connection = &shared.connection;
    let deadline = Instant::now() + connection.timeout;
    // To report twice is harmless: the second learns that the token has been replaced.
    let response = retry::call(
        connection.max_attempts,
        || deadline,
        |left| async move {
            let message = ReportTokenRequest {
                organization_id: key.organization_id.clone(),
                resource: key.resource.into(),
                sharepoint_host: key.sharepoint_host.clone(),
                fingerprint: fingerprint.to_owned(),
                http_status: refusal.http_status(),
                claims_challenge: refusal.claims_challenge(),
            };
            let mut service = TokenServiceClient::new(connection.channel.clone());
            let response = service
                .report_token(connection::within(message, left))
                .await?;
            Ok(response.into_inner())
        },
    );
    Verdict::from_response(response.await?)
}
