//! A token as a worker holds it, and what it is asked for with.

use std::{
    mem,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    Error,
    life::{BrokerTime, Life},
};
use crate::{
    pb::v1::{GetTokenResponse, Purpose, Resource},
    secret::AccessToken,
};

/// What else to say about the wanted token. The default says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenOptions {
    /// Only with [`Resource::Sharepoint`]: one of the organization's SharePoint hosts. `None`: its
    /// root host.
    pub sharepoint_host: Option<String>,
    /// The token must live at least this long, at most 24 hours. `None`: 5 minutes. If Entra gives
    /// none that long, [`Token::expire_time`] says so.
    pub min_remaining: Option<Duration>,
    /// What the token is wanted for: [`Purpose::Restore`] goes first where requests have to queue.
    /// [`Purpose::Unspecified`] is a backup.
    pub purpose: Purpose,
    /// The job that the token is for: 1 to 64 letters, digits, `-`, `_` and `.`. It goes on record, and
    /// where the broker's policy asks for a job grant, one of this job has to cover the token. `None`:
    /// whichever job covers it. A token that is held serves all jobs of this process.
    pub job_id: Option<String>,
    /// How long the caller waits at most, retries included. `None`: the `timeout_seconds` of the
    /// [`ConnectionConfig`](super::ConnectionConfig).
    pub timeout: Option<Duration>,
}

/// A token and how long to use it. Its `Debug` does not show the token.
#[derive(Debug)]
#[non_exhaustive]
pub struct Token {
    /// The token, for an `Authorization: Bearer` header.
    pub access_token: AccessToken,
    /// When the token ends, by the broker's clock. [`Token::remaining`] does not depend on how right
    /// the clock of this machine is.
    pub expire_time: SystemTime,
    /// When [`Client::token`](super::Client::token) begins to ask for the next one, by the broker's
    /// clock. Before `expire_time`.
    pub refresh_time: SystemTime,
    /// Base URL of the API in the organization's cloud, for example `https://graph.microsoft.com`.
    pub resource_url: String,
    /// Client id of the application that the token was issued to.
    pub client_id: String,
    /// Version of the credential that the token was obtained with.
    pub credential_version: u64,
    /// SHA-256 of the token as 64 hex digits: safe to log, and its name in support cases.
    pub fingerprint: String,
    /// What it is a token of.
    pub(super) key: Key,
    pub(super) life: Life,
}

/// What there is one current token of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) organization_id: String,
    pub(super) resource: Resource,
    /// Empty for the root host, as on the wire.
    pub(super) sharepoint_host: String,
}

impl Token {
    /// The organization that the token is of.
    #[must_use]
    pub fn organization_id(&self) -> &str {
        &self.key.organization_id
    }

    /// The API that the token is for.
    #[must_use]
    pub fn resource(&self) -> Resource {
        self.key.resource
    }

    /// How long the token can still be used: zero when it has ended. It counts from when the broker
    /// was asked, so that a wrong clock on this machine makes it no longer.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.life.remaining(Instant::now())
    }

    /// Fails if the answer lacks what the contract promises, or has come too late.
    pub(super) fn from_response(
        key: Key,
        mut response: GetTokenResponse,
        broker: &BrokerTime,
    ) -> Result<Self, Error> {
        // Out of the message first: whatever fails below, it no longer holds the token.
        let access_token = AccessToken::new(mem::take(&mut response.access_token));
        let is_empty = access_token.expose().is_empty(); // to check it
        if is_empty {
            return Err(Error::incomplete_answer("access_token"));
        }
        let time = |time: Option<prost_types::Timestamp>, field| {
            let time = time.and_then(|time| SystemTime::try_from(time).ok());
            time.ok_or_else(|| Error::incomplete_answer(field))
        };
        let expire_time = time(response.expire_time, "expire_time")?;
        let refresh_time = time(response.refresh_time, "refresh_time")?;
        let life = broker.life(expire_time, refresh_time);
        if life.remaining(Instant::now()).is_zero() {
            return Err(Error::ended_token());
        }
        Ok(Self {
            access_token,
            expire_time,
            refresh_time,
            resource_url: response.resource_url,
            client_id: response.client_id,
            credential_version: response.credential_version,
            fingerprint: response.fingerprint,
            key,
            life,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::Clock;

    fn response() -> GetTokenResponse {
        GetTokenResponse {
            access_token: "canary".into(),
            token_type: "Bearer".into(),
            expire_time: Some(prost_types::Timestamp {
                seconds: 2000,
                nanos: 0,
            }),
            refresh_time: Some(prost_types::Timestamp {
                seconds: 1000,
                nanos: 0,
            }),
            credential_version: 3,
            ..Default::default()
        }
    }

    fn parsed(response: GetTokenResponse, now: SystemTime) -> Result<Token, Error> {
        let key = Key {
            organization_id: "contoso".into(),
            resource: Resource::Graph,
            sharepoint_host: String::new(),
        };
        let broker = BrokerTime::new(Clock::starting_at(now), Instant::now(), None);
        Token::from_response(key, response, &broker)
    }

    /// Takes something out of an answer.
    type Break = fn(&mut GetTokenResponse);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// A token that lives from now on for an hour.
    pub(crate) fn token(access_token: &str, fingerprint: &str, expire_time: SystemTime) -> Token {
        let response = GetTokenResponse {
            access_token: access_token.into(),
            expire_time: Some(expire_time.into()),
            refresh_time: Some((expire_time - Duration::from_secs(1800)).into()),
            resource_url: "https://graph.microsoft.com".into(),
            fingerprint: fingerprint.into(),
            ..response()
        };
        parsed(response, expire_time - Duration::from_secs(3600)).expect("a complete answer")
    }

    #[test]
    fn debug_of_a_token_does_not_show_it() {
        let token = parsed(response(), at(500)).expect("a complete answer");
        let shown = format!("{token:?} {token:#?}");
        assert!(
            shown.contains("[redacted]") && !shown.contains("canary"),
            "{shown}"
        );
        assert_eq!(token.access_token.expose(), "canary"); // to see that it is there
    }

    #[test]
    fn an_answer_without_token_or_times_is_an_error() {
        let broken: [(&str, Break); 3] = [
            ("access_token", |answer| answer.access_token.clear()),
            ("expire_time", |answer| answer.expire_time = None),
            ("refresh_time", |answer| answer.refresh_time = None),
        ];
        for (field, break_it) in broken {
            let mut response = response();
            break_it(&mut response);
            let error = parsed(response, at(500)).expect_err(field);
            assert!(error.message().contains(field), "{error}");
        }
    }

    #[test]
    fn an_ended_token_is_an_error() {
        let error = parsed(response(), at(2000)).expect_err("it has ended");
        assert!(error.message().contains("clock"), "{error}");
    }
}
