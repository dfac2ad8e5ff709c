//! What is made of an API's refusal of a token: decided once for all workers that hold it.
//!
//! A thousand workers hold one token. When an API stops taking it, each of them reports that; the first
//! report has it replaced, the others learn that it was. A worker that reports what is not the token's
//! fault must not make Entra mint without end: of each key one token a minute is replaced and not more.
//! The refused token is not lost meanwhile: where Entra cannot be reached it is still the best there is.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    TokenKey,
    cache::TokenCache,
    flight::Source,
    roles,
    slot::{Refusal, Slot},
};
use crate::entra::{Lane, Urgency, claims::ClaimsChallenge};

/// Least time between two replacements of a key's token because of reports.
pub const REPLACE_INTERVAL: Duration = Duration::from_secs(60);

/// What an API answered.
#[derive(Clone, Debug)]
pub enum Refused {
    /// 401: it does not take the token, and may have said what it wants instead.
    Unauthorized(Option<ClaimsChallenge>),
    /// 403: the token may not do this.
    Forbidden,
}

/// What the broker makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another token is being asked for.
    Replaced,
    /// It is not the current token any more.
    AlreadyReplaced,
    /// Its predecessor was replaced a moment ago; wait so long.
    TooSoon(Duration),
    /// It lacks these roles.
    RolesMissing {
        /// Those that are needed and not there.
        missing: Vec<&'static str>,
        /// Those that it has.
        roles: Vec<String>,
    },
    /// It has all roles that are needed.
    RolesPresent(Vec<String>),
    /// It does not tell its roles.
    RolesUnknown,
}

impl TokenCache {
    /// Decides on a report.
    #[must_use]
    pub fn report(&self, key: &TokenKey, fingerprint: &[u8; 32], refused: Refused) -> Verdict {
        let organization = self.0.organization(&key.organization);
        let mut tokens = organization.lock();
        // Forgotten while we waited for the lock: its place may be another's by now.
        if tokens.detached {
            return Verdict::AlreadyReplaced;
        }
        let now = Instant::now();
        let slot = tokens.slot_mut(&key.resource);
        // One that has ended is no longer handed out either.
        let Some(slot) = slot.filter(|slot| slot.is_current(fingerprint, now)) else {
            self.0.detach_if_empty(&mut tokens, &key.organization);
            return Verdict::AlreadyReplaced;
        };
        match refused {
            Refused::Unauthorized(claims) => {
                if let Some(wait) = slot.too_soon(now) {
                    return Verdict::TooSoon(wait);
                }
                slot.refusal = Some(Box::new(Refusal {
                    fingerprint: *fingerprint,
                    at: now,
                    claims,
                }));
                self.0.discard(key);
                // What is under way may bring what the API does not want either.
                slot.voids += 1;
                slot.failure = None;
                let lane = Lane::Caller;
                match slot.flight() {
                    Some(flight) => flight.urgency.raise(lane),
                    None => {
                        let urgency = Urgency::new(lane);
                        self.begin(&organization, slot, key, urgency, Source::Entra);
                    }
                }
                Verdict::Replaced
            }
            Refused::Forbidden => {
                let verdict = slot.judge_roles(key);
                let hopeful = matches!(verdict, Verdict::RolesMissing { .. });
                if hopeful && slot.too_soon(now).is_none() && slot.flight().is_none() {
                    slot.renewed_for_roles_at = Some(now);
                    let urgency = Urgency::new(Lane::Refresh);
                    self.begin(&organization, slot, key, urgency, Source::Entra);
                }
                verdict
            }
        }
    }
}

impl Slot {
    /// Whether this is the token that is handed out: it is there, has not ended and was not reported.
    fn is_current(&self, fingerprint: &[u8; 32], now: Instant) -> bool {
        let Some(token) = self.valid(now) else {
            return false;
        };
        // Reported before: what replaces it is under way. If that fails, it is handed out again.
        let replacing = self.is_refused(&token) && self.flight().is_some();
        token.fingerprint == *fingerprint && !replacing
    }

    /// How long to wait until a further token is replaced because of a report.
    fn too_soon(&self, now: Instant) -> Option<Duration> {
        let refused_at = self.refusal.as_ref().map(|refusal| refusal.at);
        let last = refused_at.max(self.renewed_for_roles_at)?;
        let wait = (last + REPLACE_INTERVAL).saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }

    fn judge_roles(&self, key: &TokenKey) -> Verdict {
        let token = self.token.as_ref();
        let Some(roles) = token.and_then(|token| roles::of(&token.access_token)) else {
            return Verdict::RolesUnknown;
        };
        let missing = roles::missing(&key.resource, &roles);
        if missing.is_empty() {
            Verdict::RolesPresent(roles)
        } else {
            Verdict::RolesMissing { missing, roles }
        }
    }
}
