//! Memory of failure: who asks again too early is answered from here, not by Entra.
//!
//! - A refusal is remembered for a minute, then for two, at most for five: a thousand workers of a
//!   broken organization cost Entra next to nothing, and cannot have the tenant locked. A new
//!   credential ends it at once (the slot forgets its failure).
//! - Trouble on the way is remembered for a second at first, then twice as long each time up to a
//!   minute, with jitter. During an outage ([`Outage`]) only one key a second tries at all; once the
//!   authority answers again, every key may at once, under the cap on what goes to Entra.
//! - Where Entra says how long to wait, that is how long.
//!
//! The delays are [`backon`]'s. Its retrying is not used: a flight ends with its failure, so that those
//! who wait learn of it, and the next one begins when somebody asks, or the schedule says.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use super::Error;
use crate::{
    entra::{self, outage::Outage},
    organization::Cloud,
};

/// How long trouble on the way is remembered, first and at most, before jitter.
const TROUBLE_MIN: Duration = Duration::from_secs(1);
const TROUBLE_MAX: Duration = Duration::from_secs(30);
/// How long a refusal is remembered, first and at most, before jitter.
const REFUSAL_MIN: Duration = Duration::from_secs(45);
const REFUSAL_MAX: Duration = Duration::from_secs(200);
/// How long a refusal is remembered that may be over in a moment: the credential is so new that not
/// all of Entra knows it.
const PROPAGATION: Duration = Duration::from_secs(5);
/// Those who ask too early are told to wait at least so long…
const ADVICE_MIN: Duration = Duration::from_secs(1);
/// …and, where it may be over at any moment, no longer than this: their asking costs Entra nothing.
const ADVICE_MAX: Duration = Duration::from_secs(5);

/// Why there is no token, and until when nobody asks again.
#[derive(Debug)]
pub(super) struct Failure {
    error: Error,
    kind: Kind,
    /// Before this, Entra is not asked again.
    pub(super) retry_at: Instant,
    /// Gives the delay of the next failure of this kind.
    delays: ExponentialBackoff,
    /// Which outage it belongs to, if to any.
    outage: Option<(Cloud, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Entra said no.
    Refusal,
    /// Entra could not be asked, or did not answer as it should.
    Trouble,
    /// Entra said when.
    Throttle,
}

impl Failure {
    /// What to remember of an error that followed on `before`. `None` where nothing is: what the
    /// vault says is near and cheap, as is that the queue to Entra is full, and both may change at any
    /// moment.
    pub(super) fn of(
        error: &Error,
        before: Option<Self>,
        cloud: Option<Cloud>,
        outage: &Outage,
    ) -> Option<Self> {
        let kind = Kind::of(error)?;
        let now = Instant::now();
        let mut delays = match before {
            Some(before) if before.kind == kind => before.delays,
            _ => kind.delays(),
        };
        let delay = delays.next().unwrap_or(REFUSAL_MAX);
        let delay = error.retry_after().unwrap_or(delay);
        Some(Self {
            error: error.clone(),
            kind,
            retry_at: now + delay,
            delays,
            outage: cloud
                .filter(|_| kind == Kind::Trouble)
                .map(|cloud| (cloud, outage.recoveries(cloud))),
        })
    }

    /// The same, remembered only for the moment that a new credential may take to be known.
    pub(super) fn for_propagation(mut self) -> Self {
        self.retry_at = self.retry_at.min(Instant::now() + PROPAGATION);
        self
    }

    /// The answer to whoever asks too early; `None` once Entra may be asked again.
    pub(super) fn answer(&self, now: Instant, outage: &Outage) -> Option<Error> {
        if !self.holds(now, outage) {
            return None;
        }
        let left = self.retry_at.saturating_duration_since(now);
        let left = left.max(ADVICE_MIN);
        Some(match self.kind {
            Kind::Refusal => self.error.clone(),
            Kind::Throttle => self.error.clone().with_retry_after(left),
            Kind::Trouble => self.error.clone().with_retry_after(left.min(ADVICE_MAX)),
        })
    }

    /// Whether it keeps a request from being made.
    pub(super) fn holds(&self, now: Instant, outage: &Outage) -> bool {
        (now < self.retry_at || self.is_of_outage(outage)) && !self.is_over(outage)
    }

    /// Whether it is trouble with an authority that answers nobody.
    pub(super) fn is_of_outage(&self, outage: &Outage) -> bool {
        self.outage.is_some_and(|(cloud, _)| outage.is_out(cloud))
    }

    /// Whether it was trouble with an authority that has answered since.
    fn is_over(&self, outage: &Outage) -> bool {
        self.outage
            .is_some_and(|(cloud, recoveries)| outage.recoveries(cloud) != recoveries)
    }

    /// Whether this key may be the one that tries whether the authority answers again.
    pub(super) fn may_probe(&self, outage: &Outage) -> bool {
        self.outage
            .is_some_and(|(cloud, _)| outage.may_probe(cloud))
    }

    /// Whether it mends by itself, so that it is worth trying again without being asked.
    pub(super) fn mends_by_itself(&self) -> bool {
        self.kind != Kind::Refusal
    }
}

impl Kind {
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::HostUnknown => Some(Self::Refusal),
            Error::Entra(entra::Error::Rejected(_)) => Some(Self::Refusal),
            Error::Entra(entra::Error::Throttled { .. }) => Some(Self::Throttle),
            Error::Entra(entra::Error::Unreachable { .. } | entra::Error::AnswerInvalid { .. }) => {
                Some(Self::Trouble)
            }
            Error::Entra(entra::Error::Assertion | entra::Error::Busy)
            | Error::NotFound
            | Error::Revoked(_)
            | Error::Suspended(_)
            | Error::CertificateRequired
            | Error::HostNotListed
            | Error::Vault(_)
            | Error::Full
            | Error::Interrupted => None,
        }
    }

    fn delays(self) -> ExponentialBackoff {
        let (min, max) = match self {
            Self::Refusal => (REFUSAL_MIN, REFUSAL_MAX),
            Self::Trouble | Self::Throttle => (TROUBLE_MIN, TROUBLE_MAX),
        };
        // Jitter adds up to as much again.
        ExponentialBuilder::new()
            .with_min_delay(min)
            .with_max_delay(max)
            .without_max_times()
            .with_jitter()
            .build()
    }
}
