//! One call per key: whoever wants a token that is being asked for waits for the same answer.
//!
//! The call runs in a task of its own. A caller that leaves takes nobody's answer away, and each
//! waits no longer than its own time. The task belongs to the client and ends with its last clone.
//!
//! A caller that wants a token for a restore does not wait for what was asked for a backup: it asks
//! again, so that the broker lets it go first, and whoever comes later waits for that call.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    Error, Token,
    cache::{Found, Slot, Slots, Wanted},
    connection::{self, Connection},
    duration,
    life::BrokerTime,
    retry,
    token::{Key, TokenOptions},
};
use crate::{
    clock::Clock,
    pb::v1::{Access, GetTokenRequest, Purpose, token_service_client::TokenServiceClient},
};

/// No caller waits longer, whatever its options say.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

type Outcome = Result<Arc<Token>, Error>;

/// What all clones of a client have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) connection: Connection,
    pub(super) clock: Clock,
    slots: Mutex<Slots>,
    /// Flights; dropping this ends them.
    tasks: Mutex<JoinSet<()>>,
}

/// A call under way, as those who wait for it see it.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    demand: Arc<Demand>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// What is asked for, and how long somebody waits.
#[derive(Debug)]
struct Demand {
    key: Key,
    min_remaining: Option<Duration>,
    needed: Duration,
    purpose: Purpose,
    job_id: String,
    /// Moves on when somebody joins who has more time.
    deadline: Mutex<Instant>,
    epoch: u64,
}

impl Shared {
    pub(super) fn new(connection: Connection, clock: Clock, capacity: usize) -> Self {
        Self {
            connection,
            clock,
            slots: Mutex::new(Slots::new(capacity)),
            tasks: Mutex::new(JoinSet::new()),
        }
    }

    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        // What a panic may have left undone is a token that is asked for once more.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a caller waits.
    pub(super) fn patience(&self, options: &TokenOptions) -> Duration {
        let timeout = options.timeout.unwrap_or(self.connection.timeout);
        timeout.min(TIMEOUT_MAX)
    }

    /// What to hand to [`Self::keep`] with what is asked now.
    pub(super) fn epoch(&self, key: &Key) -> u64 {
        self.slots().known_mut(key).map_or(0, |slot| slot.epoch)
    }

    /// Keeps a token that came without a flight.
    pub(super) fn keep(&self, token: &Arc<Token>, asked: Duration, epoch: u64) {
        let now = Instant::now();
        let mut slots = self.slots();
        slots
            .slot_mut(&token.key, now)
            .keep(token, asked, epoch, now);
    }

    /// Forgets what the broker has taken back.
    pub(super) fn withdraw(&self, key: &Key, error: &Error) {
        if let Some(slot) = self.slots().known_mut(key) {
            slot.fail(error, Instant::now());
        }
    }

    /// A token from memory. If it is time to, the next one is asked for, for which nobody waits.
    pub(super) fn held(self: &Arc<Self>, wanted: &Wanted<'_>) -> Option<Arc<Token>> {
        let now = Instant::now();
        let mut slots = self.slots();
        match slots.find(wanted, now) {
            Found::Current(token) => Some(token),
            Found::Due(token) => {
                let slot = slots.slot_mut(&token.key, now);
                self.take_off(slot, wanted, now + self.connection.timeout);
                Some(token)
            }
            Found::Nothing => None,
        }
    }

    /// A token that has to be waited for.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        wanted: &Wanted<'_>,
        deadline: Instant,
    ) -> Result<Arc<Token>, Error> {
        let mut error = Error::out_of_time();
        while Instant::now() < deadline {
            let flight = {
                let now = Instant::now();
                let mut slots = self.slots();
                // It may have come between the caller's look into memory and this one.
                if let Found::Current(token) | Found::Due(token) = slots.find(wanted, now) {
                    return Ok(token);
                }
                let slot = slots.slot_mut(&wanted.key(), now);
                self.board(slot, wanted, deadline)
            };
            match timeout_at(deadline, flight.landed()).await {
                // A task that ended without an outcome went down with its runtime: ask anew.
                Ok(None) => {}
                Ok(Some(Ok(token))) => {
                    let remaining = token.remaining();
                    let was_asked = flight.demand.needed >= wanted.needed();
                    if remaining >= wanted.needed() || (was_asked && !remaining.is_zero()) {
                        return Ok(token);
                    }
                }
                Ok(Some(Err(failed))) => {
                    error = failed;
                    break;
                }
                Err(_) => break,
            }
        }
        // Less life than wanted is better than none, if only the way to the broker is at fault.
        let valid = self.slots().valid(wanted, Instant::now());
        match valid.filter(|_| error.is_temporary()) {
            Some(token) => Ok(token),
            None => Err(error),
        }
    }

    /// The call under way, or else a new one.
    fn board(self: &Arc<Self>, slot: &mut Slot, wanted: &Wanted<'_>, deadline: Instant) -> Flight {
        match slot.flight.as_ref().filter(|flight| flight.is_for(wanted)) {
            Some(flight) => {
                flight.demand.extend(deadline);
                flight.clone()
            }
            None => self.take_off(slot, wanted, deadline),
        }
    }

    fn take_off(
        self: &Arc<Self>,
        slot: &mut Slot,
        wanted: &Wanted<'_>,
        deadline: Instant,
    ) -> Flight {
        let demand = Arc::new(Demand {
            key: wanted.key(),
            min_remaining: wanted.min_remaining,
            needed: wanted.needed(),
            purpose: wanted.purpose,
            job_id: wanted.job_id.to_owned(),
            deadline: Mutex::new(deadline),
            epoch: slot.epoch,
        });
        let (sender, outcome) = watch::channel(None);
        let flight = Flight {
            demand: Arc::clone(&demand),
            outcome,
        };
        let shared = Arc::downgrade(self);
        let (connection, clock) = (self.connection.clone(), self.clock);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let outcome = call(&connection, clock, &demand).await;
            land(&shared, &demand, &outcome);
            sender.send_replace(Some(outcome));
        });
        slot.flight = Some(flight.clone());
        flight
    }
}

impl Flight {
    /// Whether its task is still there.
    pub(super) fn is_under_way(&self) -> bool {
        self.outcome.has_changed().is_ok()
    }

    /// Whether a caller may wait for this one.
    fn is_for(&self, wanted: &Wanted<'_>) -> bool {
        let goes_first = |purpose| purpose == Purpose::Restore;
        self.is_under_way()
            && (goes_first(self.demand.purpose) || !goes_first(wanted.purpose))
            // The broker may say no to the one and yes to the other.
            && self.demand.job_id == wanted.job_id
    }

    /// How the call ended. `None` if its task was cut off.
    async fn landed(&self) -> Option<Outcome> {
        let mut outcome = self.outcome.clone();
        let landed = outcome.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}

impl Demand {
    fn deadline(&self) -> Instant {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, deadline: Instant) {
        let mut current = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        *current = deadline.max(*current);
    }

    fn request(&self) -> GetTokenRequest {
        GetTokenRequest {
            organization_id: self.key.organization_id.clone(),
            resource: self.key.resource.into(),
            sharepoint_host: self.key.sharepoint_host.clone(),
            min_remaining: self.min_remaining.map(duration),
            purpose: self.purpose.into(),
            job_id: self.job_id.clone(),
            access: Access::Application.into(),
        }
    }
}

async fn call(connection: &Connection, clock: Clock, demand: &Demand) -> Outcome {
    retry::call(
        connection.max_attempts,
        || demand.deadline(),
        |left| async move {
            let request = connection::within(demand.request(), left.min(connection.timeout));
            let mut service = TokenServiceClient::new(connection.channel.clone());
            let sent = Instant::now();
            let response = service.get_token(request).await?;
            let broker = BrokerTime::of(clock, sent, response.metadata());
            let token = Token::from_response(demand.key.clone(), response.into_inner(), &broker)?;
            Ok(Arc::new(token))
        },
    )
    .await
}

/// Puts the outcome where the next caller finds it.
fn land(shared: &Weak<Shared>, demand: &Arc<Demand>, outcome: &Outcome) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    let now = Instant::now();
    let mut slots = shared.slots();
    let Some(slot) = slots.known_mut(&demand.key) else {
        return;
    };
    let is_current = |flight: &Flight| Arc::ptr_eq(&flight.demand, demand);
    if slot.flight.as_ref().is_some_and(is_current) {
        slot.flight = None;
    }
    match outcome {
        Ok(token) => slot.keep(token, demand.needed, demand.epoch, now),
        Err(error) => slot.fail(error, now),
    }
}
