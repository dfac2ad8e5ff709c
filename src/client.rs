//! The broker's client: for workers [`Client`], for operators [`Operator`].
//!
//! # Get, use, report
//!
//! A worker makes one [`Client`] for its process and asks it for a token *whenever it needs one*:
//! before each request to an API, not once for each job. Nothing is gained by keeping a token beside
//! the client, which answers from memory and knows when the token ends.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use kodo_broker::client::{
//!     ClaimsChallenge, Client, ConnectionConfig, Error, Refusal, TokenOptions, Verdict,
//! };
//! use kodo_broker::pb::v1::{ErrorReason, Resource};
//!
//! # struct Answer { status: u16, www_authenticate: String }
//! # async fn call_graph(base: &str, bearer: &str) -> Answer {
//! #     Answer { status: 200, www_authenticate: String::new() }
//! # }
//! # async fn example() -> Result<(), Error> {
//! let config = ConnectionConfig::load("/etc/kodo/connection.toml")?;
//! let client = Client::connect(&config).await?;
//! // One operation of this worker may take eleven minutes.
//! let options = TokenOptions {
//!     min_remaining: Some(Duration::from_secs(660)),
//!     ..Default::default()
//! };
//!
//! // Get.
//! let token = match client.token("contoso", Resource::Graph, options).await {
//!     Ok(token) => token,
//!     Err(error) if error.reason() == Some(ErrorReason::CredentialExpired) => {
//!         println!("fail the task, the tenant must act: {error}");
//!         return Ok(());
//!     }
//!     Err(error) => match error.retry_after() {
//!         Some(delay) => {
//!             println!("queue the task again in {delay:?}: {error}");
//!             return Ok(());
//!         }
//!         None => return Err(error),
//!     },
//! };
//!
//! // Use. Exposed: it goes into the `Authorization` header.
//! let answer = call_graph(&token.resource_url, token.access_token.expose()).await;
//!
//! // Report.
//! let refusal = match answer.status {
//!     401 => Refusal::Unauthorized {
//!         claims_challenge: ClaimsChallenge::from_www_authenticate(&answer.www_authenticate),
//!     },
//!     403 => Refusal::Forbidden,
//!     _ => return Ok(()),
//! };
//! match client.report(&token, refusal).await? {
//!     Verdict::Replaced | Verdict::AlreadyReplaced => println!("get a token and try again"),
//!     Verdict::TooSoon { retry_after } => println!("try again in {retry_after:?}"),
//!     Verdict::RolesMissing { missing, .. } => println!("fail the task, not granted: {missing:?}"),
//!     Verdict::RolesPresent { .. } => println!("fail this item: it is not accessible"),
//!     other => println!("fail the task: {other:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Work that cannot ask before each request, a long download or a child process, opens a
//! [`Watch`] instead and gets each next token in time:
//!
//! ```no_run
//! # use kodo_broker::client::{Client, Error, TokenOptions};
//! # use kodo_broker::pb::v1::Resource;
//! # async fn example(client: Client) -> Result<(), Error> {
//! let mut watch = client.watch("contoso", Resource::Graph, TokenOptions::default());
//! while let Some(token) = watch.next().await {
//!     let token = token?; // Or the reason that there will be no next one for.
//!     println!("use {} for {:?}", token.fingerprint, token.remaining());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What the client does
//!
//! - It holds each token until there is less than `min_remaining` of it left (5 minutes, unless
//!   [`TokenOptions`] says otherwise), at most 10,000 tokens of about 2 KB. From
//!   [`Token::refresh_time`] on, the first caller has the next one fetched, for which nobody waits.
//!   A token that has ended is never handed out, however wrong the clock of the machine is or
//!   however long anything hangs.
//! - Callers that want the same token at the same time share one call and its outcome. Who leaves
//!   takes nobody's answer away; each waits as long as its own options say. Only a restore does not
//!   wait for what was asked for a backup: the broker lets it go first.
//! - It tries again what the broker says may succeed later (`RetryInfo`), after the time that it
//!   names, and what got no answer, with pauses that double from 50 ms to 5 s: at most
//!   `max_attempts` times, with jitter, and only as long as the caller waits. A broker that
//!   restarts costs a worker time, but no call. Everything else is told at once.
//! - While the broker cannot be reached, a token that is held is given until it ends, with less than
//!   `min_remaining` if need be.
//! - What the broker takes back is forgotten: with the errors `ORGANIZATION_REVOKED`,
//!   `ORGANIZATION_SUSPENDED`, `ORGANIZATION_NOT_FOUND`, `CALLER_NOT_AUTHORIZED` and
//!   `RESOURCE_NOT_ALLOWED`, and with a 401 that was reported.
//!
//! No `Debug` shows a token.

mod cache;
mod caller;
mod challenge;
mod connection;
mod error;
mod flight;
mod life;
mod operator;
mod protection;
mod report;
mod retry;
mod token;
mod watch;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

#[cfg(test)]
pub(crate) use self::token::tests::token as token_for_tests;
use self::{
    cache::{CAPACITY, Wanted},
    connection::Connection,
    flight::Shared,
    token::Key,
};
pub use self::{
    caller::who_am_i,
    challenge::ClaimsChallenge,
    connection::{ConnectionConfig, EncryptedBy},
    error::{Error, FieldViolation, Help, Origin},
    operator::Operator,
    report::{Refusal, Verdict},
    token::{Token, TokenOptions},
    watch::Watch,
};
use crate::{clock::Clock, pb::v1::Resource};

/// Gets access tokens. Cheap to clone: clones share the connection and the tokens.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
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
        Ok(Self::over(connection, Clock::system(), CAPACITY))
    }

    /// Returns an access token of an organization for an API: from memory, where one with enough
    /// life is there.
    ///
    /// # Errors
    ///
    /// Every reason that the comment of `GetToken` in `token_service.proto` lists, and
    /// [`Origin::Connection`] if there was no answer in time.
    pub async fn token(
        &self,
        organization_id: &str,
        resource: Resource,
        options: TokenOptions,
    ) -> Result<Arc<Token>, Error> {
        let wanted = Wanted {
            organization_id,
            resource,
            sharepoint_host: options.sharepoint_host.as_deref().unwrap_or_default(),
            min_remaining: options.min_remaining,
            purpose: options.purpose,
            job_id: options.job_id.as_deref().unwrap_or_default(),
        };
        if let Some(token) = self.shared.held(&wanted) {
            return Ok(token);
        }
        let deadline = Instant::now() + self.shared.patience(&options);
        self.shared.fetch(&wanted, deadline).await
    }

    /// Tells the broker that an API refused a token, and learns what to do. It is decided once for
    /// all workers that hold the token. After a 401 it is forgotten at once, and
    /// [`token`](Self::token) gives, or waits for, the next one.
    ///
    /// # Errors
    ///
    /// Every reason that the comment of `ReportToken` in `token_service.proto` lists, and
    /// [`Origin::Connection`] if there was no answer in time.
    pub async fn report(&self, token: &Token, refusal: Refusal) -> Result<Verdict, Error> {
        report::report(&self.shared, &token.key, &token.fingerprint, &refusal).await
    }

    /// As [`report`](Self::report), where only the fingerprint of the token is at hand: another
    /// process used it, or it was found in a log.
    ///
    /// # Errors
    ///
    /// As [`report`](Self::report).
    pub async fn report_fingerprint(
        &self,
        organization_id: &str,
        resource: Resource,
        sharepoint_host: Option<&str>,
        fingerprint: &str,
        refusal: Refusal,
    ) -> Result<Verdict, Error> {
        let key = Key {
            organization_id: organization_id.to_owned(),
            resource,
            sharepoint_host: sharepoint_host.unwrap_or_default().to_owned(),
        };
        report::report(&self.shared, &key, fingerprint, &refusal).await
    }

    /// Opens a stream of tokens for work that takes long. The tokens are also those that
    /// [`token`](Self::token) then has in memory. No connection is made before
    /// [`Watch::next`] is called.
    #[must_use]
    pub fn watch(&self, organization_id: &str, resource: Resource, options: TokenOptions) -> Watch {
        let key = Key {
            organization_id: organization_id.to_owned(),
            resource,
            sharepoint_host: options.sharepoint_host.clone().unwrap_or_default(),
        };
        Watch::new(Arc::clone(&self.shared), key, options)
    }

    fn over(connection: Connection, clock: Clock, capacity: usize) -> Self {
        Self {
            shared: Arc::new(Shared::new(connection, clock, capacity)),
        }
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
mod tests;
