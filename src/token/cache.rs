//! The slots and flights of all organizations.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::task::TaskTracker;

use super::{Error, Token, TokenKey, mint::Mint};
use crate::{
    entra::{Lane, Urgency},
    organization::{OrganizationId, Resource},
};

/// Pause between refreshes that nobody waits for, while they fail.
const REFRESH_PAUSE: Duration = Duration::from_secs(60);
/// How often a flight is flown again because its organization changed under way.
const FLIGHTS_MAX: usize = 4;

/// All tokens in memory. Cheap to clone; all clones are one cache.
#[derive(Clone, Debug)]
pub struct TokenCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Lock-free to read, as every hit reads it.
    organizations: papaya::HashMap<OrganizationId, Arc<Organization>>,
    /// Slots of all organizations.
    slots: AtomicUsize,
    slots_max: usize,
    mint: Mint,
    /// Flights under way, waited for when the broker stops.
    flights: TaskTracker,
}

/// The tokens of an organization.
#[derive(Debug, Default)]
struct Organization {
    /// A std mutex per organization: held for a look into a small map, never across an await, so a
    /// slow tenant holds up nobody, itself included.
    tokens: Mutex<Tokens>,
}

#[derive(Debug, Default)]
struct Tokens {
    /// Raised by whatever makes a flight under way worthless.
    epoch: u64,
    /// No longer in the map: whoever still holds it must look again.
    detached: bool,
    slots: HashMap<Resource, Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    token: Option<Arc<Token>>,
    flight: Option<Flight>,
    /// Before this, no refresh is begun ahead of need: the last flight was begun a moment ago, and if
    /// the token is still the old one, it has failed or is slow.
    no_refresh_before: Option<Instant>,
}

/// Where a token that is obtained elsewhere will land, if its organization stays as it is.
#[derive(Debug)]
pub struct Landing {
    organization: Arc<Organization>,
    epoch: u64,
}

type Outcome = Result<Arc<Token>, Error>;
type Flight = watch::Receiver<Option<Outcome>>;

enum Found {
    Token(Arc<Token>),
    Flight(Flight, Arc<Organization>),
}

impl TokenCache {
    /// An empty cache of at most `slots_max` tokens.
    #[must_use]
    pub fn new(mint: Mint, slots_max: usize, flights: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            organizations: papaya::HashMap::new(),
            slots: AtomicUsize::new(0),
            slots_max,
            mint,
            flights,
        }))
    }

    /// A token that lives at least `needed` longer, if Entra gives such; see [`Token::serves`].
    /// Cancel-safe: a flight goes on without its callers.
    ///
    /// # Errors
    /// [`Error`] of the flight, the same for all who waited for it.
    pub async fn token(&self, key: &TokenKey, needed: Duration) -> Outcome {
        for _ in 0..FLIGHTS_MAX {
            let (mut flight, organization) = match self.find(key, needed)? {
                Found::Token(token) => return Ok(token),
                Found::Flight(flight, organization) => (flight, organization),
            };
            let outcome = match flight.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Err(Error::Interrupted)),
                // The task ended without an outcome: it panicked, or the broker stops.
                Err(_) => Err(Error::Interrupted),
            };
            match outcome {
                // Forgotten between landing and now.
                Ok(_) if organization.lock().detached => {}
                Err(error) if error.spares_valid_token() => return self.valid(key).ok_or(error),
                outcome => return outcome,
            }
        }
        Err(Error::Interrupted)
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
            return;
        }
    }

    /// Throws away the outcome of flights under way: the credential was replaced. Tokens obtained
    /// with the old one stay; they are as good as before, and dropping them would put the next call
    /// at the mercy of how fast Entra's replicas learn of the new one.
    pub fn supersede(&self, id: &OrganizationId) {
        if let Some(organization) = self.0.organizations.pin().get(id) {
            organization.lock().epoch += 1;
        }
    }

    /// Prepares for [`Self::publish`]. To be called before the change that the token proves is stored.
    #[must_use]
    pub fn landing(&self, id: &OrganizationId) -> Landing {
        let organization = self.organization(id);
        let epoch = organization.lock().epoch;
        Landing {
            organization,
            epoch,
        }
    }

    /// Takes a token that was obtained elsewhere: the proof of a new credential. Where the organization
    /// was forgotten or its credential replaced since the landing was prepared, it is dropped.
    pub fn publish(&self, landing: &Landing, resource: &Resource, token: Token) {
        let mut tokens = landing.organization.lock();
        let is_current = !tokens.detached && tokens.epoch == landing.epoch;
        if is_current && self.0.make_room(&tokens, resource).is_ok() {
            let slot = tokens.slots.entry(resource.clone()).or_default();
            slot.token = Some(Arc::new(token));
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
            tokens.slots.retain(|_, slot| {
                slot.is_flying()
                    || slot
                        .token
                        .as_ref()
                        .is_some_and(|token| !token.has_expired(now))
            });
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

    fn organization(&self, id: &OrganizationId) -> Arc<Organization> {
        let organizations = self.0.organizations.pin();
        match organizations.get(id) {
            Some(organization) => organization.clone(),
            None => organizations
                .get_or_insert_with(id.clone(), Arc::default)
                .clone(),
        }
    }

    /// The token, or the flight that will bring it, begun now if there is none.
    fn find(&self, key: &TokenKey, needed: Duration) -> Result<Found, Error> {
        loop {
            let organization = self.organization(&key.organization);
            let mut tokens = organization.lock();
            if tokens.detached {
                continue;
            }
            let epoch = tokens.epoch;
            if let Err(full) = self.0.make_room(&tokens, &key.resource) {
                self.0.detach_if_empty(&mut tokens, &key.organization);
                return Err(full);
            }
            let slot = tokens.slots.entry(key.resource.clone()).or_default();
            let now = Instant::now();
            let ready = slot.token.clone().filter(|token| token.serves(needed, now));
            if let Some(token) = &ready
                && !slot.wants_refresh(token, now)
            {
                return Ok(Found::Token(token.clone()));
            }
            let flight = match &slot.flight {
                Some(flight) if slot.is_flying() => flight.clone(),
                _ => {
                    let (landing, flight) = watch::channel(None);
                    slot.flight = Some(flight.clone());
                    slot.no_refresh_before = Some(now + REFRESH_PAUSE);
                    let inner = self.0.clone();
                    let (key, flown) = (key.clone(), organization.clone());
                    let flying = async move { inner.fly(&flown, &key, epoch, landing).await };
                    self.0.flights.spawn(flying);
                    flight
                }
            };
            drop(tokens);
            return Ok(match ready {
                Some(token) => Found::Token(token),
                None => Found::Flight(flight, organization),
            });
        }
    }

    /// A token that has not expired, however little is left.
    fn valid(&self, key: &TokenKey) -> Option<Arc<Token>> {
        let organization = self.0.organizations.pin().get(&key.organization)?.clone();
        let tokens = organization.lock();
        let token = tokens.slots.get(&key.resource)?.token.as_ref()?;
        (!token.has_expired(Instant::now())).then(|| token.clone())
    }
}

impl Inner {
    /// Gets a token and lands it, unless the organization has changed meanwhile.
    async fn fly(
        &self,
        organization: &Organization,
        key: &TokenKey,
        mut epoch: u64,
        landing: watch::Sender<Option<Outcome>>,
    ) {
        let mut outcome = Err(Error::Interrupted);
        for _ in 0..FLIGHTS_MAX {
            let minted = self
                .mint
                .token(key, None, &Urgency::new(Lane::Caller))
                .await
                .map(Arc::new);
            let mut tokens = organization.lock();
            if tokens.epoch == epoch {
                outcome = minted;
                self.land(&mut tokens, key, &outcome);
                break;
            }
            epoch = tokens.epoch;
        }
        if let Err(error) = &outcome {
            tracing::warn!(organization = %key.organization, resource = key.resource.name(), %error, "no token");
        }
        // Nobody may be waiting any more; the token is in its slot all the same.
        let _ = landing.send(Some(outcome));
    }

    fn land(&self, tokens: &mut Tokens, key: &TokenKey, outcome: &Outcome) {
        // Of a detached organization nothing is kept: nobody would find it.
        if tokens.detached {
            return;
        }
        let Some(slot) = tokens.slots.get_mut(&key.resource) else {
            return;
        };
        slot.flight = None;
        match outcome {
            Ok(token) => {
                slot.token = Some(token.clone());
                slot.no_refresh_before = None;
            }
            // A slot without a token is not kept: unknown organizations must not fill the memory.
            Err(_) if slot.token.is_none() => {
                tokens.slots.remove(&key.resource);
                self.slots.fetch_sub(1, Ordering::Relaxed);
                self.detach_if_empty(tokens, &key.organization);
            }
            Err(_) => {}
        }
    }

    /// Takes an organization without slots out of the map, under its lock.
    fn detach_if_empty(&self, tokens: &mut Tokens, id: &OrganizationId) {
        if tokens.slots.is_empty() {
            tokens.detached = true;
            self.organizations.pin().remove(id);
        }
    }

    /// Counts the slot of a resource, if it is a further one.
    fn make_room(&self, tokens: &Tokens, resource: &Resource) -> Result<(), Error> {
        if tokens.slots.contains_key(resource) {
            return Ok(());
        }
        if self.slots.fetch_add(1, Ordering::Relaxed) >= self.slots_max {
            self.slots.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Full);
        }
        Ok(())
    }
}

impl Organization {
    fn lock(&self) -> MutexGuard<'_, Tokens> {
        // Nothing that can panic happens under the lock.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Whether to begin a refresh although the token still serves: early enough that nobody waits.
    fn wants_refresh(&self, token: &Token, now: Instant) -> bool {
        let paused = self.no_refresh_before.is_some_and(|until| now < until);
        token.refresh_at <= now && !paused && !self.is_flying()
    }

    /// Whether a flight is under way. One whose task is gone without an outcome is not.
    fn is_flying(&self) -> bool {
        self.flight
            .as_ref()
            .is_some_and(|flight| flight.has_changed().is_ok())
    }
}

#[cfg(test)]
mod tests;
