//! When tokens are renewed: a pure function of their life, and the task that obeys it.
//!
//! Of 15,000 tokens that were all got at once, as after a cold start, the renewals must not come at
//! once: each is due at a random moment around the middle of its life.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_stream::StreamExt as _;
use tokio_util::time::DelayQueue;

use super::{TokenKey, cache::TokenCache};

/// Lives in which nobody asked for a token, after which it is no longer renewed.
const IDLE_LIVES: u32 = 2;
/// When a token without any role should be renewed at the latest: an administrator may be about to
/// consent, and what is granted shows in a new token only.
pub(super) const ROLELESS: Duration = Duration::from_secs(300);
/// How often it is somebody's turn to find out whether an outage is over.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a key without a token is retried without being asked.
const INTEREST: Duration = Duration::from_secs(3600);

/// When a token should be renewed, counted from when it was asked for: what Entra advises, else half
/// of its life, less or more by up to two fifths, as `jitter` (0 to 1) says. By jitter alone it never
/// gets into the last tenth of its life, which is left for retrying.
pub(super) fn after(life: Duration, advised: Option<Duration>, jitter: f64) -> Duration {
    let around = advised.unwrap_or(life / 2);
    let latest = around.max(life.mul_f64(0.9));
    around.mul_f64(0.6 + 0.8 * jitter).min(latest)
}

/// Whether nobody is interested in a token of this life any more.
pub(super) fn is_idle(life: Option<Duration>, asked_at: Instant, now: Instant) -> bool {
    let interest = life.map_or(INTEREST, |life| life * IDLE_LIVES);
    now.saturating_duration_since(asked_at) > interest
}

/// Tells the task which key to look at, and when. Entries are hints: the slot itself knows what is due. A
/// slot has one for each time that it landed and not more, so their number is bounded by the slots'.
#[derive(Clone, Debug)]
pub(super) struct Schedule(mpsc::UnboundedSender<Entry>);

#[derive(Debug)]
enum Entry {
    At(TokenKey, Instant),
    AfterOutage(TokenKey),
}

/// The work of renewing: without it, tokens are renewed only when somebody asks for them.
#[derive(Debug)]
pub struct Renewals {
    cache: TokenCache,
    entries: mpsc::UnboundedReceiver<Entry>,
}

impl Schedule {
    pub(super) fn new() -> (Self, impl FnOnce(TokenCache) -> Renewals) {
        let (sender, entries) = mpsc::unbounded_channel();
        (Self(sender), |cache| Renewals { cache, entries })
    }

    /// Has the key looked at then.
    pub(super) fn at(&self, key: &TokenKey, when: Instant) {
        self.enter(Entry::At(key.clone(), when));
    }

    /// Has the key looked at once an outage is over, or when it is its turn to find out.
    pub(super) fn after_outage(&self, key: &TokenKey) {
        self.enter(Entry::AfterOutage(key.clone()));
    }

    fn enter(&self, entry: Entry) {
        // Nobody takes it once the broker stops.
        let _ = self.0.send(entry);
    }
}

impl Renewals {
    /// Renews what is due, for ever.
    pub async fn run(mut self) {
        let mut due = DelayQueue::new();
        let mut waiting = VecDeque::new();
        let mut recovered = self.cache.outage().recovered();
        let mut turns = interval(PROBE_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(entry) = self.entries.recv() => match entry {
                    Entry::At(key, when) => {
                        due.insert_at(key, when);
                    }
                    Entry::AfterOutage(key) => waiting.push_back(key),
                },
                Some(expired) = due.next() => self.cache.look_after(expired.get_ref()),
                _ = turns.tick(), if !waiting.is_empty() => {
                    if let Some(key) = waiting.pop_front() {
                        self.cache.look_after(&key);
                    }
                }
                // How many go to Entra at a time is bounded there.
                Ok(()) = recovered.changed() => {
                    for key in waiting.drain(..) {
                        self.cache.look_after(&key);
                    }
                }
            }
        }
    }
}
