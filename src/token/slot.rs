//! The slot of one key: what is there, and what to do about a call.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{Error, Token, failure::Failure, refresh};
use crate::entra::{Lane, Urgency, claims::ClaimsChallenge, outage::Outage};

/// What a flight brings, shared by all who wait for it.
pub(super) type Outcome = Result<Arc<Token>, Error>;

/// What is known of one key. What most keys never have is in boxes, so that it does not lie between
/// what every call reads.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) token: Option<Arc<Token>>,
    pub(super) flight: Option<Flight>,
    /// Why there is no newer token.
    pub(super) failure: Option<Box<Failure>>,
    /// The last time that a caller asked.
    pub(super) asked_at: Instant,
    /// Raised by whatever makes the flight under way worthless for this key alone.
    pub(super) voids: u64,
    /// The last token that an API refused.
    pub(super) refusal: Option<Box<Refusal>>,
    /// When a token was last renewed in the hope that it has further roles.
    pub(super) renewed_for_roles_at: Option<Instant>,
}

/// A flight under way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) landing: watch::Receiver<Option<Outcome>>,
    /// Raised by whoever joins it in a hurry.
    pub(super) urgency: Urgency,
}

/// A token that an API refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) fingerprint: [u8; 32],
    /// When it was reported.
    pub(super) at: Instant,
    /// What the next token must satisfy.
    pub(super) claims: Option<ClaimsChallenge>,
}

/// What to do about a call.
pub(super) enum Step {
    /// Hand this out.
    Serve(Arc<Token>),
    /// Wait for the flight under way.
    Join(Flight),
    /// Say so: it is too early to ask Entra again.
    Fail(Error),
    /// Begin a flight; where there is a token, it serves meanwhile.
    Begin(Option<Arc<Token>>),
}

impl Slot {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            token: None,
            flight: None,
            failure: None,
            asked_at: now,
            voids: 0,
            refusal: None,
            renewed_for_roles_at: None,
        }
    }

    /// The token, if it may be handed out to a caller who needs it to live `needed` longer.
    pub(super) fn ready(&self, needed: Duration, now: Instant) -> Option<&Arc<Token>> {
        let token = self.token.as_ref()?;
        (token.serves(needed, now) && !self.is_refused(token)).then_some(token)
    }

    /// What to do about a call.
    pub(super) fn step(
        &mut self,
        needed: Duration,
        lane: Lane,
        now: Instant,
        outage: &Outage,
    ) -> Step {
        self.asked_at = now;
        let ready = self.ready(needed, now).cloned();
        if let Some(flight) = self.flight() {
            return match ready {
                Some(token) => Step::Serve(token),
                None => {
                    flight.urgency.raise(lane);
                    Step::Join(flight.clone())
                }
            };
        }
        let remembered = self.failure.as_ref().and_then(|failure| {
            let answer = failure.answer(now, outage)?;
            (!failure.may_probe(outage)).then_some(answer)
        });
        match (ready, remembered) {
            (Some(token), None) if token.refresh_at <= now => Step::Begin(Some(token)),
            (Some(token), _) => Step::Serve(token),
            (None, None) => Step::Begin(None),
            (None, Some(error)) => match self.valid(now) {
                Some(token) if error.spares_valid_token() => Step::Serve(token),
                _ => Step::Fail(error),
            },
        }
    }

    /// The token, if it has not ended, however little is left and whoever refused it.
    pub(super) fn valid(&self, now: Instant) -> Option<Arc<Token>> {
        self.token
            .as_ref()
            .filter(|token| !token.has_expired(now))
            .cloned()
    }

    /// The flight under way. One whose task is gone without an outcome is none.
    pub(super) fn flight(&self) -> Option<&Flight> {
        self.flight
            .as_ref()
            .filter(|flight| flight.landing.has_changed().is_ok())
    }

    /// Whether an API refused the token.
    pub(super) fn is_refused(&self, token: &Token) -> bool {
        self.refusal
            .as_ref()
            .is_some_and(|refusal| refusal.fingerprint == token.fingerprint)
    }

    /// Whether anybody is still interested in a next token.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        let life = self.token.as_ref().map(|token| token.life());
        !refresh::is_idle(life, self.asked_at, now)
    }

    /// Whether it holds something of use.
    pub(super) fn is_of_use(&self, now: Instant) -> bool {
        self.flight().is_some()
            || self.valid(now).is_some()
            || (self.failure.is_some() && self.is_wanted(now))
    }
}
