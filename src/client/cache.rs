//! The tokens that this process holds, and what is under way for each.
//!
//! It is a map behind a mutex that is never held across an `await`: an answer from memory is a
//! look-up by borrowed texts, two readings of a clock and the count of a reference.
//!
//! At most [`CAPACITY`] tokens are held. Where another one would be too many, those that have ended
//! go, and then the tenth that ends soonest: nothing is lost but a call to the broker.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Error, Token, flight::Flight, retry::Pauses, token::Key};
use crate::pb::v1::{Purpose, Resource};

/// How many tokens a client holds at most: about 25 MB of them.
pub(super) const CAPACITY: usize = 10_000;
/// How much of its life a token has left at least where the caller does not say: as the broker has
/// it, unless its operator chose otherwise.
pub(super) const MARGIN: Duration = Duration::from_secs(5 * 60);
/// Shortest time between two requests for a token that is there already, before jitter.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest time between two requests for a token that is due, while they fail, before jitter.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long the broker is given to get another token, while the one that is held is good for
/// something.
pub(super) const RENEWAL: Duration = Duration::from_secs(5);

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) organization_id: &'a str,
    pub(super) resource: Resource,
    /// Empty for the root host.
    pub(super) sharepoint_host: &'a str,
    /// Least life, where the caller says so.
    pub(super) min_remaining: Option<Duration>,
    pub(super) purpose: Purpose,
    /// Empty for any.
    pub(super) job_id: &'a str,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slots {
    by_organization: HashMap<String, Vec<Slot>>,
    count: usize,
    capacity: usize,
}

/// All that is known of one key.
#[derive(Debug)]
pub(super) struct Slot {
    resource: Resource,
    sharepoint_host: String,
    held: Option<Held>,
    /// The call under way.
    pub(super) flight: Option<Flight>,
    /// The fingerprint of a token that an API refused and that is being, or was, replaced.
    refused: Option<String>,
    /// Raised with every report: an answer to what was asked before may bring the refused token.
    pub(super) epoch: u64,
    /// Before this, nothing is asked while there is a token that will do.
    ask_after: Instant,
    /// Until then, a valid token will do even with less life than wanted: the broker could not be
    /// reached just now.
    lenient_until: Instant,
    pauses: Option<Pauses>,
}

/// A token and what it was asked for with.
#[derive(Debug)]
struct Held {
    token: Arc<Token>,
    /// The most life that was wanted of it. If it has less, there was none with more.
    asked: Duration,
    /// When to ask for the next one.
    refresh_at: Instant,
}

/// What memory has to say.
#[derive(Debug)]
pub(super) enum Found {
    /// This one will do.
    Current(Arc<Token>),
    /// This one will do, and it is time to ask for the next.
    Due(Arc<Token>),
    /// None will do.
    Nothing,
}

impl Wanted<'_> {
    /// Least life that will do.
    pub(super) fn needed(&self) -> Duration {
        self.min_remaining.unwrap_or(MARGIN)
    }

    pub(super) fn key(&self) -> Key {
        Key {
            organization_id: self.organization_id.to_owned(),
            resource: self.resource,
            sharepoint_host: self.sharepoint_host.to_owned(),
        }
    }
}

impl Slots {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            by_organization: HashMap::new(),
            count: 0,
            capacity,
        }
    }

    /// What there is for a caller.
    pub(super) fn find(&self, wanted: &Wanted<'_>, now: Instant) -> Found {
        let slot = self.slot(
            wanted.organization_id,
            wanted.resource,
            wanted.sharepoint_host,
        );
        slot.map_or(Found::Nothing, |slot| slot.find(wanted.needed(), now))
    }

    /// The token of a key, if it has not ended.
    pub(super) fn valid(&self, wanted: &Wanted<'_>, now: Instant) -> Option<Arc<Token>> {
        let slot = self.slot(
            wanted.organization_id,
            wanted.resource,
            wanted.sharepoint_host,
        )?;
        slot.valid(now).map(|(held, _)| Arc::clone(&held.token))
    }

    /// The slot of a key, made if need be.
    pub(super) fn slot_mut(&mut self, key: &Key, now: Instant) -> &mut Slot {
        let known = self.slot(&key.organization_id, key.resource, &key.sharepoint_host);
        if known.is_none() {
            if self.count >= self.capacity {
                self.make_room(now);
            }
            self.count += 1;
            let slots = self.by_organization.entry(key.organization_id.clone());
            slots.or_default().push(Slot::new(key, now));
        }
        let slots = self.by_organization.get_mut(&key.organization_id);
        let slot = slots.and_then(|slots| slots.iter_mut().find(|slot| slot.is_of(key)));
        slot.expect("it was there or has just been made")
    }

    /// The slot of a key, if there is one.
    pub(super) fn known_mut(&mut self, key: &Key) -> Option<&mut Slot> {
        let slots = self.by_organization.get_mut(&key.organization_id)?;
        slots.iter_mut().find(|slot| slot.is_of(key))
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn slot(&self, organization_id: &str, resource: Resource, host: &str) -> Option<&Slot> {
        let slots = self.by_organization.get(organization_id)?;
        slots
            .iter()
            .find(|slot| slot.resource == resource && slot.sharepoint_host == host)
    }

    /// Leaves out what has ended, or else the tenth that ends soonest. What is under way stays: there
    /// is no more of it than there are callers.
    fn make_room(&mut self, now: Instant) {
        self.retain(|slot| slot.valid(now).is_some());
        if self.count < self.capacity {
            return;
        }
        let slots = self.by_organization.values().flatten();
        let mut ends: Vec<_> = slots.filter_map(Slot::expires_at).collect();
        let tenth = ends.len() / 10;
        if tenth < ends.len() {
            let (_, &mut last, _) = ends.select_nth_unstable(tenth);
            self.retain(|slot| slot.expires_at().is_some_and(|end| end > last));
        }
    }

    fn retain(&mut self, keep: impl Fn(&Slot) -> bool) {
        let count = &mut self.count;
        self.by_organization.retain(|_, slots| {
            let before = slots.len();
            slots.retain(|slot| slot.flight.is_some() || keep(slot));
            *count -= before - slots.len();
            !slots.is_empty()
        });
    }
}

impl Slot {
    fn new(key: &Key, now: Instant) -> Self {
        Self {
            resource: key.resource,
            sharepoint_host: key.sharepoint_host.clone(),
            held: None,
            flight: None,
            refused: None,
            epoch: 0,
            ask_after: now,
            lenient_until: now,
            pauses: None,
        }
    }

    fn is_of(&self, key: &Key) -> bool {
        self.resource == key.resource && self.sharepoint_host == key.sharepoint_host
    }

    fn valid(&self, now: Instant) -> Option<(&Held, Duration)> {
        let held = self.held.as_ref()?;
        let remaining = held.token.life.remaining(now);
        (!remaining.is_zero()).then_some((held, remaining))
    }

    fn expires_at(&self) -> Option<Instant> {
        let held = self.held.as_ref()?;
        Some(held.token.life.expires_at)
    }

    fn find(&self, needed: Duration, now: Instant) -> Found {
        let Some((held, remaining)) = self.valid(now) else {
            return Found::Nothing;
        };
        let is_due = now >= held.refresh_at;
        let may_ask = now >= self.ask_after;
        let is_longest = needed <= held.asked && !(is_due && may_ask);
        if remaining < needed && !is_longest && now >= self.lenient_until {
            return Found::Nothing;
        }
        let token = Arc::clone(&held.token);
        let is_asked_for = self.flight.as_ref().is_some_and(Flight::is_under_way);
        if is_due && may_ask && !is_asked_for {
            Found::Due(token)
        } else {
            Found::Current(token)
        }
    }

    /// Keeps an answer of the broker to what was asked in `epoch`, unless it is one that was refused
    /// since.
    pub(super) fn keep(&mut self, token: &Arc<Token>, asked: Duration, epoch: u64, now: Instant) {
        let is_refused = self.refused.as_ref() == Some(&token.fingerprint);
        if is_refused && epoch != self.epoch {
            return;
        }
        self.pauses = None;
        self.lenient_until = now;
        // The broker may have no newer one for now.
        self.ask_after = now + PAUSE_MIN;
        match &mut self.held {
            // The same token again, with its life measured anew, is the same token.
            Some(held) if held.token.fingerprint == token.fingerprint => {
                held.asked = held.asked.max(asked);
                held.refresh_at = held.token.life.refresh_at;
            }
            held => {
                *held = Some(Held {
                    token: Arc::clone(token),
                    asked,
                    refresh_at: token.life.refresh_at,
                });
            }
        }
    }

    /// Remembers that the broker gave no token.
    pub(super) fn fail(&mut self, error: &Error, now: Instant) {
        if error.is_withdrawal() {
            self.held = None;
            return;
        }
        let pauses = self
            .pauses
            .get_or_insert_with(|| Pauses::between(PAUSE_MIN, PAUSE_MAX));
        let pause = pauses.after(error).unwrap_or(PAUSE_MAX);
        self.ask_after = now + pause;
        if error.is_temporary() {
            self.lenient_until = now + pause.min(PAUSE_MAX);
        } else if let Some(held) = &mut self.held {
            // Who wants more life than this one has is to learn of the error.
            held.asked = Duration::ZERO;
        }
    }

    /// Forgets a token that an API has refused, and lets no answer to an earlier question bring it
    /// back.
    pub(super) fn refuse(&mut self, fingerprint: &str) {
        self.forget(fingerprint);
        self.refused = Some(fingerprint.to_owned());
        self.epoch += 1;
        // Who comes now is not to wait for what was asked before.
        self.flight = None;
    }

    /// The broker says that the refused token remains the current one.
    pub(super) fn accept(&mut self, fingerprint: &str) {
        if self.refused.as_deref() == Some(fingerprint) {
            self.refused = None;
        }
    }

    /// Has a token that stays in use replaced soon: the broker asks for another one just now.
    pub(super) fn renew(&mut self, fingerprint: &str, now: Instant) {
        let held = self.held.as_mut();
        if let Some(held) = held.filter(|held| held.token.fingerprint == fingerprint) {
            held.refresh_at = held.refresh_at.min(now + RENEWAL);
        }
    }

    /// Forgets a token if it is the one that is held.
    fn forget(&mut self, fingerprint: &str) {
        let is_held = |held: &Held| held.token.fingerprint == fingerprint;
        if self.held.as_ref().is_some_and(is_held) {
            self.held = None;
        }
    }
}
