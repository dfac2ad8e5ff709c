//! What each caller takes, over all of its connections, and whether that is more than its policy has
//! for it.
//!
//! The path of a warm token pays one exchange of a number for it, and nothing where there is no limit:
//! a call that is answered in the turn that read it is never under way.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use spiffe::SpiffeId;
use tokio::time::Instant;

use crate::{authz::Limits, organization::OrganizationId};

/// Callers that are remembered. More are those of a trust domain whose certificates are not kept apart;
/// each further connection counts for itself then.
const CALLERS_MAX: usize = 8192;
/// Calls that may come at once are those of so long.
const BURST: Duration = Duration::from_secs(1);
/// When to try again where too many calls are under way: when one of them ends, nobody knows.
const UNDER_WAY_RETRY: Duration = Duration::from_secs(1);
/// How often it is on record that a caller is over its limit.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// How long organizations are counted together.
const WINDOW: Duration = Duration::from_secs(3600);
/// Bits that organizations are counted in: 512 bytes to 128 KB.
const BITS: std::ops::RangeInclusive<usize> = 1 << 12..=1 << 20;

/// All callers of a broker.
#[derive(Debug, Default)]
pub(super) struct Usages(Mutex<HashMap<SpiffeId, Arc<Usage>>>);

/// What one caller takes.
#[derive(Debug)]
pub(super) struct Usage {
    /// Times are counted from here, in nanoseconds.
    began: Instant,
    /// When the next call is due, if calls come evenly (the *theoretical arrival time* of the generic
    /// cell rate algorithm, ITU-T I.371).
    due: AtomicU64,
    under_way: AtomicU32,
    /// Refusals that are not on record yet, and when the last were put there; 0: never.
    untold: AtomicU32,
    told_at: AtomicU64,
    organizations: OnceLock<Distinct>,
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// Which one.
    pub(super) limit: Limit,
    /// When there is room again.
    pub(super) retry_after: Duration,
    /// With calls a second: how many refusals to put on record now, this one included. The others are
    /// told later, so that a flood does not fill the disk.
    pub(super) untold: Option<NonZeroU32>,
}

/// What there are limits of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    CallsPerSecond,
    CallsUnderWay,
}

/// A call under way. Gives its place back when it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Option<Arc<Usage>>);

/// About how many different organizations there were: each sets one of many bits, and so few are set
/// twice that their number tells (*linear counting*, Whang et al. 1990; about 1 % off).
#[derive(Debug)]
struct Distinct {
    hasher: RandomState,
    bits: Box<[AtomicU64]>,
    set: AtomicU32,
    began_at: AtomicU64,
    told: AtomicBool,
}

impl Usages {
    /// That of a caller, the same for all of its connections.
    pub(super) fn of(&self, caller: &SpiffeId) -> Arc<Usage> {
        // Nothing that can panic happens under the lock.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = all.get(caller) {
            return usage.clone();
        }
        if all.len() >= CALLERS_MAX {
            all.retain(|_, usage| Arc::strong_count(usage) > 1 || !usage.is_over());
        }
        let usage = Arc::new(Usage::new());
        if all.len() < CALLERS_MAX {
            all.insert(caller.clone(), usage.clone());
        }
        usage
    }
}

impl Usage {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            due: AtomicU64::new(0),
            under_way: AtomicU32::new(0),
            untold: AtomicU32::new(0),
            told_at: AtomicU64::new(0),
            organizations: OnceLock::new(),
        }
    }

    /// Whether a call may be made now.
    ///
    /// # Errors
    /// [`Reached`], with when it may.
    pub(super) fn call(&self, limits: &Limits, now: Instant) -> Result<(), Reached> {
        let Some(per_second) = limits.calls_per_second else {
            return Ok(());
        };
        let now = self.since_began(now);
        let apart = nanoseconds(BURST) / u64::from(per_second.get());
        // As many as come in that time may come at once.
        let ahead = nanoseconds(BURST) - apart;
        let next = |due: u64| (due <= now + ahead).then(|| due.max(now) + apart);
        let moved = self
            .due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        moved.map(drop).map_err(|due| {
            let wait = Duration::from_nanos(due - ahead - now);
            self.reached(wait, now)
        })
    }

    /// Takes a place for a call that waits.
    ///
    /// # Errors
    /// [`Reached`].
    pub(super) fn begin(self: &Arc<Self>, limits: &Limits) -> Result<UnderWay, Reached> {
        let Some(max) = limits.calls_under_way else {
            return Ok(UnderWay(None));
        };
        let more = |count: u32| (count < max.get()).then_some(count + 1);
        let taken = self
            .under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        match taken {
            Ok(_) => Ok(UnderWay(Some(self.clone()))),
            Err(_) => Err(Reached {
                limit: Limit::CallsUnderWay,
                retry_after: UNDER_WAY_RETRY,
                untold: None,
            }),
        }
    }

    /// Counts an organization that was asked about. Tells once an hour if they are too many.
    pub(super) fn asks_about(
        &self,
        organization: &OrganizationId,
        limits: &Limits,
        now: Instant,
    ) -> Option<NonZeroU32> {
        let limit = limits.organizations_per_hour?;
        let now = self.since_began(now);
        let distinct = self
            .organizations
            .get_or_init(|| Distinct::new(limit.get() as usize, now));
        distinct
            .add(organization, limit.get(), now)
            .then_some(limit)
    }

    fn reached(&self, retry_after: Duration, now: u64) -> Reached {
        self.untold.fetch_add(1, Ordering::Relaxed);
        let told_at = self.told_at.load(Ordering::Relaxed);
        let is_due = told_at == 0 || now >= told_at.saturating_add(nanoseconds(TOLD_EVERY));
        let tells = is_due
            && self
                .told_at
                .compare_exchange(told_at, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        let untold = if tells {
            NonZeroU32::new(self.untold.swap(0, Ordering::Relaxed))
        } else {
            None
        };
        Reached {
            limit: Limit::CallsPerSecond,
            retry_after,
            untold,
        }
    }

    /// Whether it makes no difference any more.
    fn is_over(&self) -> bool {
        let now = self.since_began(Instant::now());
        let counts = |distinct: &Distinct| {
            now < distinct.began_at.load(Ordering::Relaxed) + nanoseconds(WINDOW)
        };
        self.due.load(Ordering::Relaxed) <= now && !self.organizations.get().is_some_and(counts)
    }

    fn since_began(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.began))
    }
}

/// Of five hundred years at most.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(usage) = &self.0 {
            usage.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Distinct {
    fn new(limit: usize, now: u64) -> Self {
        let bits = limit.saturating_mul(2).clamp(*BITS.start(), *BITS.end());
        let words = bits.next_power_of_two() / 64;
        Self {
            hasher: RandomState::new(),
            bits: (0..words).map(|_| AtomicU64::new(0)).collect(),
            set: AtomicU32::new(0),
            began_at: AtomicU64::new(now),
            told: AtomicBool::new(false),
        }
    }

    /// Counts one. Says whether there are more than so many, once in a window.
    fn add(&self, organization: &OrganizationId, limit: u32, now: u64) -> bool {
        self.begin_anew(now);
        let hash = self.hasher.hash_one(organization.as_str());
        let place = usize::try_from(hash % (self.bits.len() as u64 * 64)).unwrap_or_default();
        let (word, bit) = (&self.bits[place / 64], 1 << (place % 64));
        // Mostly it is set already; looking is cheaper than setting.
        if word.load(Ordering::Relaxed) & bit != 0
            || word.fetch_or(bit, Ordering::Relaxed) & bit != 0
        {
            return false;
        }
        let set = self.set.fetch_add(1, Ordering::Relaxed) + 1;
        set > self.bits_of(limit) && !self.told.swap(true, Ordering::Relaxed)
    }

    /// How many bits so many organizations set, as an average.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and the number of bits, which is below 2^20"
    )]
    fn bits_of(&self, organizations: u32) -> u32 {
        let bits = (self.bits.len() * 64) as f64;
        (bits * (1.0 - (-f64::from(organizations) / bits).exp())).ceil() as u32
    }

    fn begin_anew(&self, now: u64) {
        let began_at = self.began_at.load(Ordering::Relaxed);
        if now < began_at.saturating_add(nanoseconds(WINDOW)) {
            return;
        }
        let ours =
            self.began_at
                .compare_exchange(began_at, now, Ordering::Relaxed, Ordering::Relaxed);
        if ours.is_ok() {
            for word in &self.bits {
                word.store(0, Ordering::Relaxed);
            }
            self.set.store(0, Ordering::Relaxed);
            self.told.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
