//! Access tokens: kept while they live, asked for once however many wait, renewed before anybody waits.
//!
//! # A key and its slot
//! A key is (organization, resource). Each key has one slot:
//!
//! ```text
//!             asked for                 landed                    due, or reported
//!  (no slot) ───────────► flying ─────────────────► token ◄─────────────────────────► token + flying
//!                           │  ▲                      │                                  │
//!                    failed │  │ asked again, and     │ expired, or idle                 │ failed
//!                           ▼  │ the time has come    ▼                                  ▼
//!                         failure                  (swept)                        token + failure
//! ```
//!
//! - At most one *flight* (`flight.rs`) is under way for a key: the request for its next token, in a task
//!   of its own, so that a caller who goes away cancels nobody. All who wait for it share its outcome,
//!   good or bad, and each keeps its own deadline.
//! - A token is handed out while it has as much life left as the caller needs ([`Token::serves`]); an
//!   expired one never, whatever hangs; a valid one with too little left if Entra cannot be reached.
//! - It is renewed when [`refresh`] says so: around what Entra advises, else around half of its life,
//!   and served meanwhile. What nobody asked for in two lives is not renewed.
//! - One without any role is told of in the log and renewed soon: consent shows in a new token only.
//! - A failure (`failure.rs`) is remembered: who asks too early is answered from memory.
//! - An API's refusal of a token is decided on once for all workers ([`report`]).
//!
//! - Who was handed which token until when is known ([`exposure`]) as long as the token lives.
//!
//! # What makes a revocation final
//! Each organization has an *epoch*. Rotating and forgetting raise it, and a flight that lands in
//! another epoch than it began in is thrown away and flown again: it reads the vault anew, and so
//! finds the new credential, or that there is none.
//!
//! Inside, time is tokio's. This module knows neither gRPC nor HTTP nor disk.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::Instant;

use crate::{
    entra::{self, Grant, cloud::Audience},
    organization::{ClientId, Organization, OrganizationId, Resource},
    secret::AccessToken,
    vault,
};

pub mod cache;
pub mod delivery;
pub mod exposure;
mod failure;
mod flight;
pub mod holders;
mod kept;
pub mod mint;
pub mod refresh;
pub mod report;
pub mod roles;
mod slot;
pub mod watch;

use holders::Holders;

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// Whose token.
    pub organization: OrganizationId,
    /// For which API.
    pub resource: Resource,
}

/// A token with its times.
#[derive(Debug)]
pub struct Token {
    /// The token.
    pub access_token: AccessToken,
    /// The API that it is for.
    pub audience: Audience,
    /// The application that it was issued to.
    pub client_id: ClientId,
    /// The credential that it was obtained with.
    pub credential_version: u64,
    /// SHA-256 of it: its name in logs.
    pub fingerprint: [u8; 32],
    /// When it was asked for.
    issued_at: Instant,
    /// From when on it is renewed, and a worker should ask again.
    pub refresh_at: Instant,
    /// When it ends.
    pub expires_at: Instant,
    /// Who was given it.
    pub holders: Holders,
}

/// Why there is no token. Shared by all who wait for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No organization has this id.
    #[error("there is no such organization")]
    NotFound,
    /// The organization was revoked.
    #[error("the organization was revoked")]
    Revoked(SystemTime),
    /// The organization is suspended.
    #[error("the organization is suspended")]
    Suspended(SystemTime),
    /// SharePoint was asked for, and there is only a client secret.
    #[error("SharePoint refuses app-only tokens obtained with a client secret")]
    CertificateRequired,
    /// The SharePoint host is none of the organization's.
    #[error("the SharePoint host is none of the organization's")]
    HostNotListed,
    /// The root host is not known, and Graph did not tell it.
    #[error("the SharePoint root host is not known, and Graph does not tell it")]
    HostUnknown,
    /// Entra gave none.
    #[error(transparent)]
    Entra(#[from] entra::Error),
    /// The vault failed.
    #[error("{0}")]
    Vault(Arc<vault::Error>),
    /// There are as many tokens in memory as there may be.
    #[error("the token cache is full")]
    Full,
    /// The flight ended without an outcome, or its organization changed again and again.
    #[error("the request for the token was interrupted")]
    Interrupted,
}

impl Token {
    /// The token of a grant. `jitter` (0 to 1) moves its renewal: see [`refresh`]. Its life counts from when it was asked for, since how long the answer
    /// was under way is not known: it is never taken to live longer than it does.
    #[must_use]
    pub fn new(
        grant: Grant,
        asked_at: Instant,
        audience: Audience,
        organization: &Organization,
        jitter: f64,
    ) -> Self {
        let life = grant.expires_in;
        let mut refresh = refresh::after(life, grant.refresh_in, jitter);
        if roles::of(&grant.access_token).is_some_and(|roles| roles.is_empty()) {
            tracing::warn!(organization = %organization.id, audience = audience.url(), "a token without any role: has an administrator consented?");
            refresh = refresh.min(refresh::ROLELESS);
        }
        Self {
            fingerprint: fingerprint(&grant.access_token),
            access_token: grant.access_token,
            audience,
            client_id: organization.client_id,
            credential_version: organization
                .credential
                .as_ref()
                .map_or(0, |info| info.version),
            issued_at: asked_at,
            refresh_at: asked_at + refresh,
            expires_at: asked_at + life,
            holders: Holders::default(),
        }
    }

    /// Whether the token may be handed out at `now` to a caller who needs it to live `needed` longer.
    ///
    /// Entra may not give tokens that live so long. So that such callers do not cause a request
    /// each, a token that never lived long enough serves for half of its life, and a fresh one always.
    #[must_use]
    pub fn serves(&self, needed: Duration, now: Instant) -> bool {
        /// So young that another request would hardly give a longer life.
        const FRESH: Duration = Duration::from_secs(30);
        let left = self.expires_at.saturating_duration_since(now);
        let life = self.life();
        let fresh = now.saturating_duration_since(self.issued_at) < FRESH;
        !left.is_zero() && (left >= needed || fresh || (life < needed && left >= life / 2))
    }

    /// How long it lives in all.
    #[must_use]
    pub fn life(&self) -> Duration {
        self.expires_at - self.issued_at
    }

    /// Whether the token has ended.
    #[must_use]
    pub fn has_expired(&self, now: Instant) -> bool {
        self.expires_at <= now
    }
}

impl Error {
    /// Whether a valid token may be handed out although its successor could not be had: the trouble
    /// is on the way, and nobody has said that the organization gets no tokens.
    #[must_use]
    pub fn spares_valid_token(&self) -> bool {
        match self {
            Self::Entra(error) => !matches!(error, entra::Error::Rejected(_)),
            Self::Vault(_) | Self::Full | Self::Interrupted | Self::HostUnknown => true,
            Self::NotFound
            | Self::Revoked(_)
            | Self::Suspended(_)
            | Self::CertificateRequired
            | Self::HostNotListed => false,
        }
    }
}

impl Error {
    /// How long Entra says to wait.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Entra(entra::Error::Throttled { retry_after }) => Some(*retry_after),
            Self::Entra(entra::Error::Unreachable { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }

    /// The same, with how long to wait from now on.
    fn with_retry_after(mut self, wait: Duration) -> Self {
        match &mut self {
            Self::Entra(entra::Error::Throttled { retry_after }) => *retry_after = wait,
            Self::Entra(entra::Error::Unreachable { retry_after, .. }) => *retry_after = Some(wait),
            _ => {}
        }
        self
    }
}

fn fingerprint(token: &AccessToken) -> [u8; 32] {
    // Exposed: the fingerprint is a digest of the token.
    let digest = digest(&SHA256, token.expose().as_bytes());
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

impl From<vault::Error> for Error {
    fn from(error: vault::Error) -> Self {
        match error {
            vault::Error::NotFound => Self::NotFound,
            other => Self::Vault(Arc::new(other)),
        }
    }
}
