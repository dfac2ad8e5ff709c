//! How many requests may be under way at once, and whose turn it is.
//!
//! A request holds a *place* from when it is called up until it ends. There are
//! [`Limits::concurrent_max`] of them, of which one tenant may hold an eighth. Who finds none free
//! queues.
//!
//! **Whose turn it is.** The turn of a request is due some time after it came: a restore's at once, a
//! caller's after 10 s, a renewal's after 60 s, a probe's after 120 s; and who is due first goes first.
//! So a restore goes before callers, callers before renewals and these before probes, while a lower lane
//! only waits and never starves: it goes before whoever came so much later. A request that is moved to a
//! faster lane takes its new turn at once. The queue passes over tenants that hold their share.
//!
//! **Who hangs.** A request that goes on for 2 s gives its place back and is counted as slow from
//! then on, of which there may be four times as many; while there are, it keeps its place. Its tenant is
//! not trusted from then on until it has answered promptly: it is sent one request at a time, and all such
//! tenants together may hold a quarter of the places. So that an outage of everything ends quickly, they
//! may hold one more with each that answers promptly, and half as many with each that hangs again, though
//! never less than that quarter.
//!
//! Semaphores (tokio's, tower's) know neither lanes nor shares, and governor counts requests per time
//! rather than those under way; hence this.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{Lane, Urgency};
use crate::organization::{Cloud, TenantName};

/// How long a request may take before it is slow. Entra answers within 0.1 to 1 s.
pub(super) const SLOW: Duration = Duration::from_secs(2);
/// How long it is remembered that a tenant hung, if nobody asks for it.
const MISTRUST: Duration = Duration::from_secs(600);
/// So many tenants with nothing under way are remembered for that.
const MISTRUSTED_MAX: usize = 10_000;

/// What there may be at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests under way.
    pub concurrent_max: usize,
    /// Requests that wait for their turn.
    pub queued_max: usize,
}

/// What there is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that wait for their turn.
    pub queued: usize,
    /// Requests that hold a place.
    pub under_way: usize,
    /// Requests that go on for so long that they have given their place back.
    pub slow: usize,
}

/// Whose share of the places a request takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Payer {
    pub(super) cloud: Cloud,
    pub(super) tenant: TenantName,
}

/// The queue is full.
#[derive(Debug)]
pub(super) struct Full;

/// Gives out places.
#[derive(Debug)]
pub(super) struct Budget {
    limits: Limits,
    /// No lock is held over an await.
    state: Mutex<State>,
}

/// A place, or the wait for one. Dropping it gives up either.
#[derive(Debug)]
pub(super) struct Place {
    budget: Arc<Budget>,
    payer: Payer,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Waits for its turn, or has been called up and does not know yet.
    Queued(Turn),
    Held,
    Slow,
}

/// A turn in the queue: who is due first, and among these who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    due: Instant,
    ticket: u64,
}

#[derive(Debug, Default)]
struct State {
    load: Load,
    tickets: u64,
    accounts: HashMap<Payer, Account>,
    /// The next turn of each payer that may have a place more.
    next: BTreeMap<Turn, Payer>,
    /// The same of those that are not trusted.
    next_on_trial: BTreeMap<Turn, Payer>,
    /// Places that these hold.
    on_trial: usize,
    /// Places that they may hold, as what they did with theirs has earned them.
    on_trial_max: usize,
    /// Accounts that are kept only for their mistrust.
    mistrusted: usize,
}

/// What one payer has.
#[derive(Debug, Default)]
struct Account {
    under_way: usize,
    slow: usize,
    waiting: BTreeMap<Turn, oneshot::Sender<()>>,
    /// Its entry in [`State::next`] or [`State::next_on_trial`].
    next: Option<Turn>,
    /// Whether its place counts as one on trial.
    on_trial: bool,
    /// When a request was slow and none has been prompt since.
    mistrusted_at: Option<Instant>,
}

impl Limits {
    /// Places of one tenant.
    fn share(&self) -> usize {
        (self.concurrent_max / 8).max(1)
    }

    /// Requests of one tenant that may wait.
    fn queued_share(&self) -> usize {
        (self.queued_max / 16).max(1)
    }

    fn slow_max(&self) -> usize {
        self.concurrent_max * 4
    }

    /// Least places of all tenants together that are not trusted.
    fn on_trial_min(&self) -> usize {
        (self.concurrent_max / 4).max(1)
    }
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::new(State {
                on_trial_max: limits.on_trial_min(),
                ..State::default()
            }),
        }
    }

    pub(super) fn load(&self) -> Load {
        self.state().load
    }

    /// Waits for a place. Who stops waiting leaves the queue at once.
    pub(super) async fn place(
        self: &Arc<Self>,
        payer: Payer,
        urgency: &Urgency,
    ) -> Result<Place, Full> {
        let arrived = Instant::now();
        let mut lanes = urgency.subscribe();
        let due = |lane| arrived + patience(lane);
        let (mut place, mut called) = self.queue(payer, due(*lanes.borrow_and_update()))?;
        loop {
            tokio::select! {
                biased;
                // The sender is gone only once it has been used.
                _ = &mut called => {
                    place.stage = Stage::Held;
                    return Ok(place);
                }
                Ok(()) = lanes.changed() => place.change_turn(due(*lanes.borrow_and_update())),
            }
        }
    }

    fn queue(
        self: &Arc<Self>,
        payer: Payer,
        due: Instant,
    ) -> Result<(Place, oneshot::Receiver<()>), Full> {
        let mut state = self.state();
        let account = state.accounts.get(&payer);
        let waiting = account.map_or(0, |account| account.waiting.len());
        let at_once = state.load.under_way < self.limits.concurrent_max
            && account.is_none_or(|account| {
                account.may_have_more(self.limits)
                    && (account.mistrusted_at.is_none() || state.on_trial < state.on_trial_max)
            });
        if !at_once
            && (state.load.queued >= self.limits.queued_max
                || waiting >= self.limits.queued_share())
        {
            return Err(Full);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        let turn = Turn { due, ticket };
        let (call, called) = oneshot::channel();
        state.load.queued += 1;
        state.change(&payer, self.limits, |account, _| {
            account.waiting.insert(turn, call);
        });
        state.call_up(self.limits);
        drop(state);
        let place = Place {
            budget: self.clone(),
            payer,
            stage: Stage::Queued(turn),
        };
        Ok((place, called))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done where a panic could have been.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The request has gone on for [`SLOW`]: gives the place back if there is room among the slow ones,
    /// and says whether it did.
    pub(super) fn give_back(&mut self) -> bool {
        let limits = self.budget.limits;
        let mut state = self.budget.state();
        let room = state.load.slow < limits.slow_max();
        if room {
            state.load.under_way -= 1;
            state.load.slow += 1;
            self.stage = Stage::Slow;
        }
        let mut on_trial = false;
        state.change(&self.payer, limits, |account, _| {
            on_trial = account.on_trial;
            account.mistrusted_at = Some(Instant::now());
            if room {
                account.under_way -= 1;
                account.slow += 1;
            }
        });
        if on_trial {
            state.on_trial_max = limits.on_trial_min().max(state.on_trial_max / 2);
        }
        state.call_up(limits);
        room
    }

    /// The request was answered, well before it was slow: its tenant does not hang.
    pub(super) fn prompt(self) {
        let limits = self.budget.limits;
        let mut state = self.budget.state();
        let mut on_trial = false;
        state.change(&self.payer, limits, |account, _| {
            on_trial = account.on_trial;
            account.mistrusted_at = None;
        });
        if on_trial {
            state.on_trial_max = limits.concurrent_max.min(state.on_trial_max + 1);
        }
        // The rest is done by dropping it.
    }

    fn change_turn(&mut self, due: Instant) {
        let Stage::Queued(turn) = &mut self.stage else {
            return;
        };
        let mut state = self.budget.state();
        state.change(&self.payer, self.budget.limits, |account, _| {
            // Unless it has been called up in the meantime.
            if let Some(call) = account.waiting.remove(turn) {
                turn.due = due;
                account.waiting.insert(*turn, call);
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let limits = self.budget.limits;
        let mut state = self.budget.state();
        state.change(&self.payer, limits, |account, load| match self.stage {
            Stage::Queued(turn) if account.waiting.remove(&turn).is_some() => load.queued -= 1,
            Stage::Queued(_) | Stage::Held => {
                account.under_way -= 1;
                load.under_way -= 1;
            }
            Stage::Slow => {
                account.slow -= 1;
                load.slow -= 1;
            }
        });
        state.call_up(limits);
    }
}

impl State {
    /// Changes an account, and keeps in order what hangs on it.
    fn change(
        &mut self,
        payer: &Payer,
        limits: Limits,
        change: impl FnOnce(&mut Account, &mut Load),
    ) {
        let account = self.accounts.entry(payer.clone()).or_default();
        self.mistrusted -= usize::from(account.is_kept_for_mistrust());
        change(account, &mut self.load);
        if account.on_trial && (account.under_way == 0 || account.mistrusted_at.is_none()) {
            account.on_trial = false;
            self.on_trial -= 1;
        }
        if let Some(turn) = account.next.take() {
            self.next.remove(&turn);
            self.next_on_trial.remove(&turn);
        }
        if account.may_have_more(limits)
            && let Some(turn) = account.waiting.keys().next()
        {
            account.next = Some(*turn);
            match account.mistrusted_at {
                None => self.next.insert(*turn, payer.clone()),
                Some(_) => self.next_on_trial.insert(*turn, payer.clone()),
            };
        }
        if !account.is_idle() {
            return;
        }
        if account.mistrusted_at.is_none() {
            self.accounts.remove(payer);
            return;
        }
        self.mistrusted += 1;
        if self.mistrusted > MISTRUSTED_MAX {
            self.forgive();
        }
    }

    /// Calls up whoever is due, as long as there are places.
    fn call_up(&mut self, limits: Limits) {
        while self.load.under_way < limits.concurrent_max
            && let Some((turn, payer)) = self.pop_next()
        {
            self.load.queued -= 1;
            self.load.under_way += 1;
            let mut on_trial = false;
            self.change(&payer, limits, |account, _| {
                account.under_way += 1;
                // It had none: who is not trusted has one at a time.
                account.on_trial = account.mistrusted_at.is_some();
                on_trial = account.on_trial;
                if let Some(call) = account.waiting.remove(&turn) {
                    // Who has gone gives the place back as it is dropped.
                    let _ = call.send(());
                }
            });
            self.on_trial += usize::from(on_trial);
        }
    }

    fn pop_next(&mut self) -> Option<(Turn, Payer)> {
        let trusted = self.next.keys().next();
        let on_trial = self.next_on_trial.keys().next();
        match (trusted, on_trial) {
            (trusted, Some(on_trial))
                if self.on_trial < self.on_trial_max
                    && trusted.is_none_or(|turn| on_trial < turn) =>
            {
                self.next_on_trial.pop_first()
            }
            _ => self.next.pop_first(),
        }
    }

    /// Forgets mistrust that is old, or all of it if none is.
    fn forgive(&mut self) {
        for age in [MISTRUST, Duration::ZERO] {
            let fresh = |at: Instant| at.elapsed() < age;
            self.accounts.retain(|_, account| {
                !account.is_kept_for_mistrust() || account.mistrusted_at.is_some_and(fresh)
            });
            let kept = self.accounts.values();
            self.mistrusted = kept
                .filter(|account| account.is_kept_for_mistrust())
                .count();
            if self.mistrusted < MISTRUSTED_MAX {
                return;
            }
        }
    }
}

impl Account {
    fn may_have_more(&self, limits: Limits) -> bool {
        let share = match self.mistrusted_at {
            Some(_) => 1,
            None => limits.share(),
        };
        self.under_way + self.slow < share
    }

    fn is_idle(&self) -> bool {
        self.under_way + self.slow == 0 && self.waiting.is_empty()
    }

    fn is_kept_for_mistrust(&self) -> bool {
        self.is_idle() && self.mistrusted_at.is_some()
    }
}

/// How long after it came the turn of a request is due.
fn patience(lane: Lane) -> Duration {
    Duration::from_secs(match lane {
        Lane::Restore => 0,
        Lane::Caller => 10,
        Lane::Refresh => 60,
        Lane::Probe => 120,
    })
}

#[cfg(test)]
mod tests;
