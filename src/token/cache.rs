//! The slots of all organizations.
//!
//! The map is papaya's, which is read without a lock. moka, which is a whole cache, does not fit: its
//! clock cannot be paused, so that none of this could be tested in time; what it evicts would cost Entra a
//! request; and a value that is being computed is neither fenced by an invalidation, as a revocation
//! needs, nor independent of the caller who began it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{
    Error, Token, TokenKey,
    flight::Source,
    mint::Mint,
    refresh::{Renewals, Schedule},
    slot::{Flight, Outcome, Slot, Step},
};
use crate::{
    entra::{Lane, Urgency, outage::Outage},
    organization::{OrganizationId, Resource},
};

/// How often a caller looks again because the organization changed while it waited.
pub(super) const FLIGHTS_MAX: usize = 4;
/// All tokens in memory. Cheap to clone; all clones are one cache.
#[derive(Clone, Debug)]
pub struct TokenCache(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    /// Lock-free to read, as every hit reads it.
    organizations: papaya::HashMap<OrganizationId, Arc<Organization>>,
    /// Slots of all organizations.
    slots: AtomicUsize,
    pub(super) limits: Limits,
    pub(super) mint: Mint,
    pub(super) outage: Outage,
    schedule: Schedule,
    /// Flights under way, waited for when the broker stops.
    pub(super) flights: TaskTracker,
    /// Where flights run: callers are served by threads that have better things to do than to sign
    /// assertions.
    pub(super) runtime: Handle,
}

/// What a cache may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens in memory.
    pub slots_max: usize,
    /// How long after a change of the credential a refusal may be due to it.
    pub propagation: Duration,
}

/// The tokens of an organization.
#[derive(Debug, Default)]
pub(super) struct Organization {
    /// A std mutex per organization: held for a look at a few slots, never across an await, so a
    /// slow tenant holds up nobody, itself included.
    tokens: Mutex<Tokens>,
    /// Told whenever something happens to a slot.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Raised by whatever makes every flight under way worthless.
    pub(super) epoch: u64,
    /// No longer in the map: whoever still holds it must look again.
    pub(super) detached: bool,
    /// When the credential was last seen to change.
    pub(super) changed_at: Option<Instant>,
    /// Few: an organization has four resources, and a host or two of SharePoint.
    slots: SmallVec<[(Resource, Slot); 2]>,
}

/// Where a token that is obtained elsewhere will land, if its organization stays as it is.
#[derive(Debug)]
pub struct Landing {
    organization: Arc<Organization>,
    epoch: u64,
}

enum Found {
    Token(Arc<Token>),
    Flight(Flight, Arc<Organization>),
}

impl TokenCache {
    /// An empty cache, and the work of renewing its tokens, which is to be run. Flights run on the runtime that this is called on.
    #[must_use]
    pub fn new(
        mint: Mint,
        outage: Outage,
        limits: Limits,
        flights: TaskTracker,
    ) -> (Self, Renewals) {
        let (schedule, renewals) = Schedule::new();
        let cache = Self(Arc::new(Inner {
            organizations: papaya::HashMap::new(),
            slots: AtomicUsize::new(0),
            limits,
            mint,
            outage,
            schedule,
            flights,
            runtime: Handle::current(),
        }));
        (cache.clone(), renewals(cache))
    }

    /// A token that lives at least `needed` longer, if Entra gives such; see [`Token::serves`].
    /// `lane` is how urgent that is. Cancel-safe: a flight goes on without its callers.
    ///
    /// # Errors
    /// [`Error`] of the flight, the same for all who waited for it.
    pub async fn token(&self, key: &TokenKey, needed: Duration, lane: Lane) -> Outcome {
        if let Some(token) = self.hit(key, needed) {
            return Ok(token);
        }
        for _ in 0..FLIGHTS_MAX {
            let (mut flight, organization) = match self.find(key, needed, lane)? {
                Found::Token(token) => return Ok(token),
                Found::Flight(flight, organization) => (flight, organization),
            };
            let outcome = match flight.landing.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Err(Error::Interrupted)),
                // The task ended without an outcome: it panicked, or the broker stops.
                Err(_) => Err(Error::Interrupted),
            };
            match outcome {
                // Forgotten while we waited: whatever it brought is of another time.
                Ok(_) | Err(Error::Interrupted) if organization.lock().detached => {}
                // One that was kept from before the broker started may be too old for this caller.
                Ok(token) if token.serves(needed, Instant::now()) => return Ok(token),
                Ok(_) => {}
                Err(error) if error.spares_valid_token() => return self.valid(key).ok_or(error),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Interrupted)
    }

    /// The way of almost every call: the token is there, and nothing is to be done about it.
    fn hit(&self, key: &TokenKey, needed: Duration) -> Option<Arc<Token>> {
        let organizations = self.0.organizations.pin();
        let mut tokens = organizations.get(&key.organization)?.lock();
        let now = Instant::now();
        let slot = tokens.slot_mut(&key.resource)?;
        let token = slot.ready(needed, now)?.clone();
        slot.asked_at = now;
        (now < token.refresh_at).then_some(token)
    }

    /// Drops the organization's tokens, and the outcome of any flight under way.
    pub fn forget(&self, id: &OrganizationId) {
        let organizations = self.0.organizations.pin();
        while let Some(organization) = organizations.get(id) {
            let mut tokens = organization.lock();
            // Left the map while we waited for the lock: what is there now is another.
            if tokens.detached {
                continue;
            }
            tokens.epoch += 1;
            tokens.detached = true;
            self.0
                .slots
                .fetch_sub(tokens.slots.len(), Ordering::Relaxed);
            // Whoever waits for one of its flights still has a receiver of it.
            tokens.slots.clear();
            organizations.remove(id);
            organization.changed.notify_waiters();
            return;
        }
    }

    /// Throws away the outcome of flights under way, and what failed before: the credential was
    /// replaced. Tokens obtained with the old one stay; they are as good as before, and dropping them
    /// would put the next call at the mercy of how fast Entra's replicas learn of the new one.
    pub fn supersede(&self, id: &OrganizationId) {
        if let Some(organization) = self.0.organizations.pin().get(id) {
            let mut tokens = organization.lock();
            tokens.changed_at = Some(Instant::now());
            tokens.begin_anew();
            organization.changed.notify_waiters();
        }
    }

    /// Throws away what flights under way bring and what failed before: the organization gets tokens
    /// again, and who asks from now on must not be told what was true before.
    pub fn resume(&self, id: &OrganizationId) {
        if let Some(organization) = self.0.organizations.pin().get(id) {
            organization.lock().begin_anew();
        }
    }

    /// Prepares for [`Self::publish`]. To be called before the change that the token proves is stored.
    #[must_use]
    pub fn landing(&self, id: &OrganizationId) -> Landing {
        let organization = self.0.organization(id);
        let epoch = organization.lock().epoch;
        Landing {
            organization,
            epoch,
        }
    }

    /// Takes a token that was obtained elsewhere: the proof of a new credential. Where the organization
    /// was changed or forgotten since `landing`, it is dropped.
    pub fn publish(&self, landing: &Landing, key: &TokenKey, token: Token) {
        let mut tokens = landing.organization.lock();
        let is_current = !tokens.detached && tokens.epoch == landing.epoch;
        if is_current && self.0.make_room(&tokens, &key.resource).is_ok() {
            let now = Instant::now();
            tokens.changed_at = Some(now);
            let slot = tokens.slot_or_new(&key.resource, now);
            let token = Arc::new(token);
            self.0.settle(slot, key, token.clone());
            self.0.keep(key, &token);
            landing.organization.changed.notify_waiters();
        }
    }

    /// Drops slots that hold nothing of use any more. To be called now and then.
    pub fn sweep(&self) {
        let now = Instant::now();
        let organizations = self.0.organizations.pin();
        for (id, organization) in &organizations {
            let mut tokens = organization.lock();
            // No longer in the map: its place may be another's by now.
            if tokens.detached {
                continue;
            }
            let before = tokens.slots.len();
            tokens.slots.retain(|(_, slot)| slot.is_of_use(now));
            self.0
                .slots
                .fetch_sub(before - tokens.slots.len(), Ordering::Relaxed);
            self.0.detach_if_empty(&mut tokens, id);
        }
    }

    /// Slots in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.slots.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token, or the flight that will bring it, begun now if there is none.
    fn find(&self, key: &TokenKey, needed: Duration, lane: Lane) -> Result<Found, Error> {
        loop {
            let organization = self.0.organization(&key.organization);
            let mut tokens = organization.lock();
            if tokens.detached {
                continue;
            }
            if let Err(full) = self.0.make_room(&tokens, &key.resource) {
                self.0.detach_if_empty(&mut tokens, &key.organization);
                return Err(full);
            }
            let now = Instant::now();
            let slot = tokens.slot_or_new(&key.resource, now);
            return match slot.step(needed, lane, now, &self.0.outage) {
                Step::Serve(token) => Ok(Found::Token(token)),
                Step::Join(flight) => Ok(Found::Flight(flight, organization.clone())),
                Step::Fail(error) => Err(error),
                Step::Begin(Some(token)) => {
                    let urgency = Urgency::new(Lane::Refresh);
                    self.begin(&organization, slot, key, urgency, Source::Entra);
                    Ok(Found::Token(token))
                }
                Step::Begin(None) => {
                    let source = Source::first(slot);
                    let flight = self.begin(&organization, slot, key, Urgency::new(lane), source);
                    Ok(Found::Flight(flight, organization.clone()))
                }
            };
        }
    }

    /// Begins a flight for a slot, under the lock of its organization.
    pub(super) fn begin(
        &self,
        organization: &Arc<Organization>,
        slot: &mut Slot,
        key: &TokenKey,
        urgency: Urgency,
        source: Source,
    ) -> Flight {
        let (landing, landed) = watch::channel(None);
        let flight = Flight {
            landing: landed,
            urgency: urgency.clone(),
        };
        slot.flight = Some(flight.clone());
        let (inner, key, flown) = (self.0.clone(), key.clone(), organization.clone());
        let flying = async move { inner.fly(&flown, &key, source, &urgency, landing).await };
        self.0.flights.spawn_on(flying, &self.0.runtime);
        flight
    }

    /// A token that has not expired, however little is left.
    fn valid(&self, key: &TokenKey) -> Option<Arc<Token>> {
        let organizations = self.0.organizations.pin();
        let tokens = organizations.get(&key.organization)?.lock();
        tokens.slot(&key.resource)?.valid(Instant::now())
    }

    /// What the schedule says is due: renews the token, or tries again what failed.
    pub(super) fn look_after(&self, key: &TokenKey) {
        let organizations = self.0.organizations.pin();
        let Some(organization) = organizations.get(&key.organization) else {
            return;
        };
        let mut tokens = organization.lock();
        let now = Instant::now();
        let Some(slot) = tokens.slot_mut(&key.resource) else {
            return;
        };
        // A flight has a look arranged for when it lands. What is not wanted is left to end.
        if slot.flight().is_some() || !slot.is_wanted(now) {
            return;
        }
        match &slot.failure {
            Some(failure) if failure.holds(now, &self.0.outage) => {
                if !failure.may_probe(&self.0.outage) {
                    return self.0.look_again(slot, key, now);
                }
            }
            Some(_) => {}
            None => match &slot.token {
                Some(token) if token.refresh_at <= now => {}
                // Landed since that was arranged.
                _ => return,
            },
        }
        let urgency = Urgency::new(Lane::Refresh);
        self.begin(organization, slot, key, urgency, Source::Entra);
    }

    pub(super) fn outage(&self) -> &Outage {
        &self.0.outage
    }
}

impl Inner {
    /// Arranges for a slot that failed to be looked at again, if that may help.
    pub(super) fn look_again(&self, slot: &Slot, key: &TokenKey, now: Instant) {
        let Some(failure) = &slot.failure else {
            return;
        };
        if !slot.is_wanted(now) || !(failure.mends_by_itself() || slot.valid(now).is_some()) {
            return;
        }
        if failure.is_of_outage(&self.outage) {
            self.schedule.after_outage(key);
        } else {
            self.schedule.at(key, failure.retry_at);
        }
    }

    /// Takes a new token into its slot.
    pub(super) fn settle(&self, slot: &mut Slot, key: &TokenKey, token: Arc<Token>) {
        self.schedule.at(key, token.refresh_at);
        slot.token = Some(token);
        slot.failure = None;
    }

    /// The organization's entry, a new one if there is none.
    pub(super) fn organization(&self, id: &OrganizationId) -> Arc<Organization> {
        let organizations = self.organizations.pin();
        match organizations.get(id) {
            Some(organization) => organization.clone(),
            None => organizations
                .get_or_insert_with(id.clone(), Arc::default)
                .clone(),
        }
    }

    /// Drops a slot, under the lock of its organization.
    pub(super) fn drop_slot(&self, tokens: &mut Tokens, key: &TokenKey) {
        let before = tokens.slots.len();
        tokens
            .slots
            .retain(|(resource, _)| *resource != key.resource);
        self.slots
            .fetch_sub(before - tokens.slots.len(), Ordering::Relaxed);
        self.detach_if_empty(tokens, &key.organization);
    }

    /// Takes an organization without slots out of the map, under its lock.
    pub(super) fn detach_if_empty(&self, tokens: &mut Tokens, id: &OrganizationId) {
        if tokens.slots.is_empty() {
            tokens.detached = true;
            self.organizations.pin().remove(id);
        }
    }

    /// Counts the slot of a resource, if it is a further one.
    fn make_room(&self, tokens: &Tokens, resource: &Resource) -> Result<(), Error> {
        if tokens.slot(resource).is_some() {
            return Ok(());
        }
        if self.slots.fetch_add(1, Ordering::Relaxed) >= self.limits.slots_max {
            self.slots.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Full);
        }
        Ok(())
    }
}

impl Organization {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tokens> {
        // Nothing that can panic happens under the lock.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tokens {
    /// Makes flights under way, and failures of before, worthless.
    fn begin_anew(&mut self) {
        self.epoch += 1;
        for (_, slot) in &mut self.slots {
            slot.failure = None;
        }
    }

    pub(super) fn slot(&self, resource: &Resource) -> Option<&Slot> {
        let mut slots = self.slots.iter();
        slots.find_map(|(of, slot)| (of == resource).then_some(slot))
    }

    pub(super) fn slot_mut(&mut self, resource: &Resource) -> Option<&mut Slot> {
        let mut slots = self.slots.iter_mut();
        slots.find_map(|(of, slot)| (of == resource).then_some(slot))
    }

    fn slot_or_new(&mut self, resource: &Resource, now: Instant) -> &mut Slot {
        let at = self.slots.iter().position(|(of, _)| of == resource);
        let at = at.unwrap_or_else(|| {
            self.slots.push((resource.clone(), Slot::new(now)));
            self.slots.len() - 1
        });
        &mut self.slots[at].1
    }
}

#[cfg(test)]
mod tests;
