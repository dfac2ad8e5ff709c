//! The one place that decides how much goes to Entra, and when.
//!
//! [`Paced`] stands before the endpoint that sends the requests and adds, in this order:
//! 1. **Pauses**: who was told to wait, by 429 or by a 5xx with `Retry-After`, sends nothing until the
//!    time is over; who asks meanwhile is told at once what is left of it.
//! 2. **Places** ([`budget`](super::budget)): a total cap, shares of tenants, lanes, and a bounded queue.
//! 3. **One retry**, a second or two later and with a new place, after an error of the server without
//!    `Retry-After` and after a timeout; none during an outage. Nothing else in the broker retries: layers
//!    of retries multiply, and Entra answers those who ask too often with AADSTS50196.
//! 4. **Outages** ([`Outage`]): what each cloud's login answered.
//!
//! Facts behind it: Microsoft's pages "Increase the resilience of authentication in daemon applications"
//! and, in MSAL's documentation, "Retry policies" and "Client and server throttling".

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use backon::{ConstantBuilder, Retryable as _};
use tokio::time::sleep;

use super::{
    Error, Grant, Lane, Principal, TokenEndpoint, TokenRequest, Urgency,
    budget::{Budget, Full, Limits, Load, Payer, Place, SLOW},
    outage::Outage,
    pause::Pauses,
};
use crate::{
    config::EntraConfig,
    organization::{ClientId, Cloud, SharePointHost, TenantId, TenantName},
    secret::AccessToken,
};

/// The least time before the retry; up to as much again is added by chance.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A token endpoint, asked no more than it likes.
#[derive(Debug)]
pub struct Paced {
    inner: Arc<dyn TokenEndpoint>,
    budget: Arc<Budget>,
    pauses: Pauses,
    outage: Outage,
}

/// Who asks whom: what a `Retry-After` holds for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) service: Service,
    pub(super) cloud: Cloud,
    pub(super) tenant: TenantName,
    /// `None` where nobody says who they are.
    pub(super) client_id: Option<ClientId>,
}

/// Who is asked. Each throttles for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Service {
    Login,
    Graph,
}

/// A request under way, as the inner endpoint gives it.
type Sending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

impl Paced {
    /// Paces an endpoint. What it learns of outages is told through `outage`.
    #[must_use]
    pub fn new(inner: Arc<dyn TokenEndpoint>, limits: Limits, outage: Outage) -> Self {
        Self {
            inner,
            budget: Arc::new(Budget::new(limits)),
            pauses: Pauses::default(),
            outage,
        }
    }

    /// How many requests there are at the moment.
    #[must_use]
    pub fn load(&self) -> Load {
        self.budget.load()
    }

    /// Sends a request, and once more where that may help.
    async fn send<'a, T: Send>(
        &self,
        source: &Source,
        urgency: &Urgency,
        request: impl Fn() -> Sending<'a, T> + Send + Sync,
    ) -> Result<T, Error> {
        let once = ConstantBuilder::default()
            .with_delay(RETRY_PAUSE)
            .with_jitter()
            .with_max_times(1);
        let attempt = || self.attempt(source, urgency, &request);
        attempt
            .retry(once)
            .when(|error| error.is_retriable() && !self.outage.is_out(source.cloud))
            .await
    }

    async fn attempt<'a, T: Send>(
        &self,
        source: &Source,
        urgency: &Urgency,
        request: &(impl Fn() -> Sending<'a, T> + Send + Sync),
    ) -> Result<T, Error> {
        self.pauses.check(source)?;
        let payer = Payer {
            cloud: source.cloud,
            tenant: source.tenant.clone(),
        };
        let place = self.budget.place(payer, urgency).await;
        let place = place.map_err(|Full| Error::Busy)?;
        // One may have begun while this request queued.
        self.pauses.check(source)?;
        let outcome = self.hold(place, request()).await;
        if source.service == Service::Login {
            match outcome
                .as_ref()
                .map_or_else(Error::was_answered, |_| Some(true))
            {
                Some(true) => self.outage.answered(source.cloud),
                Some(false) => self.outage.failed(source.cloud),
                None => {}
            }
        }
        if let Err(error) = &outcome {
            self.pauses.heed(source, error);
        }
        outcome
    }

    /// Holds the place while the request goes on, unless that takes long.
    async fn hold<T>(&self, mut place: Place, mut request: Sending<'_, T>) -> Result<T, Error> {
        tokio::select! {
            outcome = &mut request => {
                if outcome.as_ref().map_or_else(Error::was_answered, |_| Some(true)) == Some(true) {
                    place.prompt();
                }
                return outcome;
            }
            () = sleep(SLOW) => {}
        }
        while !place.give_back() {
            tokio::select! {
                outcome = &mut request => return outcome,
                () = sleep(SLOW) => {}
            }
        }
        request.await
    }
}

#[async_trait]
impl TokenEndpoint for Paced {
    async fn request_token(&self, request: TokenRequest<'_>) -> Result<Grant, Error> {
        let source = Source::application(Service::Login, request.principal);
        let send = || self.inner.request_token(request);
        self.send(&source, request.urgency, send).await
    }

    async fn sharepoint_root_host(
        &self,
        principal: Principal,
        graph_token: &AccessToken,
        urgency: &Urgency,
    ) -> Result<SharePointHost, Error> {
        let source = Source::application(Service::Graph, principal);
        let send = || {
            self.inner
                .sharepoint_root_host(principal, graph_token, urgency)
        };
        self.send(&source, urgency, send).await
    }

    async fn tenant_id(&self, cloud: Cloud, tenant: &TenantName) -> Result<TenantId, Error> {
        // Nobody has to be asked for an id that is given.
        if let TenantName::Id(id) = tenant {
            return Ok(*id);
        }
        let source = Source {
            service: Service::Login,
            cloud,
            tenant: tenant.clone(),
            client_id: None,
        };
        let send = || self.inner.tenant_id(cloud, tenant);
        self.send(&source, &Urgency::new(Lane::Caller), send).await
    }
}

impl EntraConfig {
    /// How many requests there may be at once.
    #[must_use]
    pub fn request_limits(&self) -> Limits {
        Limits {
            concurrent_max: self.concurrent_requests_max.get().into(),
            queued_max: usize::try_from(self.queued_requests_max.get()).unwrap_or(usize::MAX),
        }
    }
}

impl Source {
    fn application(service: Service, principal: Principal) -> Self {
        Self {
            service,
            cloud: principal.cloud,
            tenant: TenantName::Id(principal.tenant_id),
            client_id: Some(principal.client_id),
        }
    }
}

impl Error {
    /// Whether it is what Entra answered, rather than nothing that can be used. `None` if nothing was
    /// sent.
    fn was_answered(&self) -> Option<bool> {
        match self {
            Self::Rejected(_) | Self::Throttled { .. } => Some(true),
            Self::Unreachable { .. } | Self::AnswerInvalid { .. } => Some(false),
            Self::Assertion | Self::Busy => None,
        }
    }
}

#[cfg(test)]
mod tests;
