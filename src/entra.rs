//! Seam: Microsoft Entra, as far as the broker needs it.
//!
//! Facts behind this module: client credentials grant (RFC 6749 §4.4) at the v2.0 token endpoint of
//! one tenant, authenticated by client secret or by a client assertion (RFC 7523) signed with the
//! application's certificate. See Microsoft's pages "client credentials flow" and "certificate
//! credentials".

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    credential::Credential,
    organization::{ClientId, Cloud, Purpose, SharePointHost, TenantId, TenantName},
    secret::AccessToken,
};

pub mod authority;
pub mod budget;
pub mod claims;
pub mod client;
pub mod client_assertion;
pub mod cloud;
mod graph;
pub mod http;
pub mod outage;
pub mod paced;
mod pause;
pub mod rejection;
pub mod wire;

use claims::ClaimsChallenge;
use cloud::Audience;
pub use rejection::{Rejection, RejectionKind};

/// Gets tokens from Entra, and what only a token can tell.
#[async_trait]
pub trait TokenEndpoint: fmt::Debug + Send + Sync {
    /// Exchanges a credential for an access token: one request, bounded in time. Cancel-safe.
    async fn request_token(&self, request: TokenRequest<'_>) -> Result<Grant, Error>;

    /// The root host of the tenant's SharePoint, asked of Graph with a Graph token.
    async fn sharepoint_root_host(
        &self,
        principal: Principal,
        graph_token: &AccessToken,
        urgency: &Urgency,
    ) -> Result<SharePointHost, Error>;

    /// The id of a tenant that may be named by one of its domains.
    async fn tenant_id(&self, cloud: Cloud, tenant: &TenantName) -> Result<TenantId, Error>;
}

/// What a token is asked for with.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    /// Who asks.
    pub principal: Principal,
    /// What it proves that with.
    pub credential: &'a Credential,
    /// The API that the token is for.
    pub audience: &'a Audience,
    /// What that API demands of the token beyond.
    pub claims: Option<&'a ClaimsChallenge>,
    /// Who goes first where requests queue.
    pub urgency: &'a Urgency,
}

/// Which requests go first where they queue for their turn, from the last to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Nobody waits for a token: something is tried out.
    Probe,
    /// A token that still serves is renewed.
    Refresh,
    /// Somebody waits.
    Caller,
    /// Somebody waits for their data.
    Restore,
}

impl From<Purpose> for Lane {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Backup => Self::Caller,
            Purpose::Restore => Self::Restore,
        }
    }
}

/// The lane of a request, shared with it: it can be moved to a faster one while it queues.
#[derive(Clone, Debug)]
pub struct Urgency(Arc<watch::Sender<Lane>>);

/// Who asks for a token: an application in a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The cloud.
    pub cloud: Cloud,
    /// The directory.
    pub tenant_id: TenantId,
    /// The application.
    pub client_id: ClientId,
}

/// What the token endpoint gave.
#[derive(Debug)]
pub struct Grant {
    /// The token.
    pub access_token: AccessToken,
    /// How long it lives from the answer on.
    pub expires_in: Duration,
    /// After how long it should be renewed, if Entra said so.
    pub refresh_in: Option<Duration>,
}

/// Why there is no token. Shared by all who wait for it, hence cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Entra refuses; somebody has to change something.
    #[error("{0}")]
    Rejected(Arc<Rejection>),
    /// Entra throttles this application.
    #[error("Entra throttles this application; try again in {} s", retry_after.as_secs())]
    Throttled {
        /// How long to wait.
        retry_after: Duration,
    },
    /// No usable connection, no answer in time, or an error of the server.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// Which host.
        host: Arc<str>,
        /// What kind of trouble it is.
        trouble: Trouble,
        /// Why, without URLs and bodies.
        reason: Arc<str>,
        /// How long to wait, if it said so.
        retry_after: Option<Duration>,
    },
    /// An answer that no correct token endpoint gives.
    #[error("{host} gave an unusable answer: {reason}")]
    AnswerInvalid {
        /// Which host.
        host: Arc<str>,
        /// Why, without anything of the answer's text.
        reason: &'static str,
    },
    /// The client assertion could not be signed: a defect, since keys are checked at intake.
    #[error("the client assertion could not be signed")]
    Assertion,
    /// More requests wait for their turn than may. None was sent.
    #[error("too many requests to Entra wait for their turn already")]
    Busy,
}

/// What keeps a host from answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// An error of the server, HTTP status 5xx.
    Server,
    /// It says that it is in trouble for the moment, in the shape of a refusal.
    Transient,
}

impl Urgency {
    /// The urgency of a new request.
    #[must_use]
    pub fn new(lane: Lane) -> Self {
        Self(Arc::new(watch::Sender::new(lane)))
    }

    /// The lane that it is in now.
    #[must_use]
    pub fn lane(&self) -> Lane {
        *self.0.borrow()
    }

    /// Moves the request to this lane, unless it is in a faster one.
    pub fn raise(&self, lane: Lane) {
        self.0.send_if_modified(|current| {
            let raised = *current < lane;
            *current = lane.max(*current);
            raised
        });
    }

    /// The lane with what comes of it, for a queue.
    fn subscribe(&self) -> watch::Receiver<Lane> {
        self.0.subscribe()
    }
}

impl Error {
    /// Whether the same request may be sent once more at once: after an error of the server that does
    /// not say how long to wait, and after no answer in time. That is what Microsoft's own libraries do.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable {
                trouble: Trouble::Server | Trouble::Timeout,
                retry_after: None,
                ..
            }
        )
    }

    /// The same, with the version of the credential that was refused.
    #[must_use]
    pub fn of_credential(self, version: u64) -> Self {
        match self {
            Self::Rejected(rejection) => {
                let mut rejection = Arc::unwrap_or_clone(rejection);
                rejection.credential_version = Some(version);
                Self::Rejected(Arc::new(rejection))
            }
            other => other,
        }
    }
}
