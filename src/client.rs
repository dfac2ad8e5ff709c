//! The broker's client: for workers [`Client`], for operators [`Operator`].
//!
//! It is thin. It connects with a client certificate, turns every failure into an [`Error`] with
//! the broker's reason, and keeps nothing: ask for a token whenever one is needed, the broker
//! answers from memory.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use kodo_broker::client::{Client, ConnectionConfig, Error, TokenOptions};
//! use kodo_broker::pb::v1::{ErrorReason, Resource};
//!
//! # async fn example() -> Result<(), Error> {
//! let config = ConnectionConfig::load("/etc/kodo/connection.toml")?;
//! let client = Client::connect(&config).await?;
//! // One operation of this worker may take eleven minutes.
//! let options = TokenOptions {
//!     min_remaining: Some(Duration::from_secs(660)),
//!     ..Default::default()
//! };
//! match client.token("contoso", Resource::Graph, options).await {
//!     Ok(token) => println!("use {} until {:?}", token.fingerprint, token.refresh_time),
//!     Err(error) if error.reason() == Some(ErrorReason::CredentialExpired) => {
//!         println!("fail the task, the tenant must act: {error}");
//!     }
//!     Err(error) => match error.retry_after() {
//!         Some(delay) => println!("try again in {delay:?}: {error}"),
//!         None => return Err(error),
//!     },
//! }
//! # Ok(())
//! # }
//! ```

mod connection;
mod error;
mod operator;

use std::{
    mem,
    time::{Duration, SystemTime},
};

use self::connection::Connection;
pub use self::{
    connection::ConnectionConfig,
    error::{Error, FieldViolation, Help, Origin},
    operator::Operator,
};
use crate::{
    pb::v1::{
        GetTokenRequest, GetTokenResponse, Purpose, Resource,
        token_service_client::TokenServiceClient,
    },
    secret::AccessToken,
};

/// Gets access tokens. Cheap to clone: clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
}

/// What else to say about the wanted token. The default says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenOptions {
    /// Only with [`Resource::Sharepoint`]: one of the organization's SharePoint hosts. `None`: its
    /// root host.
    pub sharepoint_host: Option<String>,
    /// The token must live at least this long, at most 24 hours. `None`: 5 minutes. If Entra gives
    /// none that long, [`Token::expire_time`] says so.
    pub min_remaining: Option<Duration>,
}

/// A token and how long to use it. Its `Debug` does not show the token.
#[derive(Debug)]
#[non_exhaustive]
pub struct Token {
    /// The token, for an `Authorization: Bearer` header.
    pub access_token: AccessToken,
    /// When the token ends.
    pub expire_time: SystemTime,
    /// When to ask the broker again. Before `expire_time`.
    pub refresh_time: SystemTime,
    /// Base URL of the API in the organization's cloud, for example `https://graph.microsoft.com`.
    pub resource_url: String,
    /// Client id of the application that the token was issued to.
    pub client_id: String,
    /// Version of the credential that the token was obtained with.
    pub credential_version: u64,
    /// SHA-256 of the token as 64 hex digits: safe to log, and its name in support cases.
    pub fingerprint: String,
}

impl Client {
    /// Connects as the worker whose certificate the configuration names. The connection is made
    /// now, and again by itself whenever it is lost.
    ///
    /// # Errors
    ///
    /// [`Origin::Configuration`] if a file cannot be used, [`Origin::Connection`] if the broker
    /// cannot be reached or its certificate is not accepted. That the broker refuses the client
    /// certificate may show only at the first call, because of how TLS 1.3 works.
    pub async fn connect(config: &ConnectionConfig) -> Result<Self, Error> {
        let connection = Connection::open(config).await?;
        Ok(Self { connection })
    }

    /// Returns an access token of an organization for an API.
    ///
    /// # Errors
    ///
    /// Every reason that the comment of `GetToken` in `token_service.proto` lists, and
    /// [`Origin::Connection`] if there was no answer.
    pub async fn token(
        &self,
        organization_id: &str,
        resource: Resource,
        options: TokenOptions,
    ) -> Result<Token, Error> {
        let request = self.connection.request(GetTokenRequest {
            organization_id: organization_id.to_owned(),
            resource: resource.into(),
            sharepoint_host: options.sharepoint_host.unwrap_or_default(),
            min_remaining: options.min_remaining.map(duration),
            purpose: Purpose::Unspecified.into(),
        });
        let mut service = TokenServiceClient::new(self.connection.channel.clone());
        let response = service.get_token(request).await?;
        Token::from_response(response.into_inner())
    }
}

impl Token {
    /// Fails if the answer lacks what the contract promises.
    fn from_response(mut response: GetTokenResponse) -> Result<Self, Error> {
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
        Ok(Self {
            access_token,
            expire_time: time(response.expire_time, "expire_time")?,
            refresh_time: time(response.refresh_time, "refresh_time")?,
            resource_url: response.resource_url,
            client_id: response.client_id,
            credential_version: response.credential_version,
            fingerprint: response.fingerprint,
        })
    }
}

/// On the wire, a duration has signed seconds. One that does not fit is far beyond what the broker
/// accepts, and it says so.
fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn debug_of_a_token_does_not_show_it() {
        let token = Token::from_response(response()).expect("a complete answer");
        let shown = format!("{token:?} {token:#?}");
        assert!(
            shown.contains("[redacted]") && !shown.contains("canary"),
            "{shown}"
        );
        assert_eq!(token.access_token.expose(), "canary"); // to see that it is there
    }

    #[test]
    fn an_answer_without_token_or_times_is_an_error() {
        for (field, response) in [
            (
                "access_token",
                GetTokenResponse {
                    access_token: String::new(),
                    ..response()
                },
            ),
            (
                "expire_time",
                GetTokenResponse {
                    expire_time: None,
                    ..response()
                },
            ),
            (
                "refresh_time",
                GetTokenResponse {
                    refresh_time: None,
                    ..response()
                },
            ),
        ] {
            let error = Token::from_response(response).expect_err(field);
            assert!(error.message().contains(field), "{error}");
        }
    }

    #[test]
    fn a_duration_keeps_its_parts_on_the_wire() {
        let wire = duration(Duration::from_millis(1500));
        assert_eq!((wire.seconds, wire.nanos), (1, 500_000_000));
        assert_eq!(duration(Duration::MAX).seconds, i64::MAX);
    }
}
