//! Which tokens are out there: who was handed which until when. An access token cannot be called back,
//! so whoever stops an organization wants to know when it is really over.
//!
//! Told is what this process has handed out. What it handed out before it was started, and what other
//! processes did, is in their audit logs.
//!
//! A hand-out is remembered until its token ends, whatever becomes of the token here: replaced,
//! forgotten, or still handed out. It takes some 50 bytes, next to nothing beside the token itself, and
//! its number is bounded ([`Limits`]): beyond, they are counted without names.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Token, TokenKey};
use crate::organization::{OrganizationId, Resource};

/// Parts that are locked one at a time, so that a sweep holds up nobody for long.
const SHARDS: usize = 64;
/// Names below which it is not worth looking for those that nobody holds any more.
const NAMES_MIN: usize = 1024;

/// How much is remembered with names.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Hand-outs of one organization.
    pub organization_max: usize,
    /// Hand-outs of all of them.
    pub all_max: usize,
    /// Callers.
    pub names_max: usize,
}

/// All hand-outs whose tokens have not ended.
#[derive(Debug)]
pub struct HandOuts {
    shards: Vec<Mutex<HashMap<OrganizationId, Known>>>,
    hasher: RandomState,
    names: Mutex<Names>,
    /// Hand-outs with names.
    named: AtomicUsize,
    limits: Limits,
    /// Nothing before this is known.
    since: Instant,
}

/// What is out there of one organization.
#[derive(Debug, PartialEq, Eq)]
pub struct Exposure {
    /// Pairs of a token that has not ended and a caller who was given it. Where there are [`Self::unnamed`]
    /// ones, at most so many: a pair among them may have been counted more than once.
    pub count: u64,
    /// Those among them whose callers are not known any more, since there were too many.
    pub unnamed: u64,
    /// When the last of them ends, within a second; `None` without any.
    pub ends_at: Option<Instant>,
    /// By resource and caller, those that end last first.
    pub holders: Vec<Holder>,
    /// Nothing from before this is counted.
    pub since: Instant,
}

/// What a caller holds of one resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Holder {
    /// The API.
    pub resource: Resource,
    /// SPIFFE ID of the caller.
    pub caller: Arc<str>,
    /// Tokens.
    pub count: u64,
    /// When the last of them ends.
    pub ends_at: Instant,
}

/// Of one organization.
#[derive(Debug, Default)]
struct Known {
    named: Vec<HandOut>,
    unnamed: u64,
    unnamed_end: u32,
}

/// A token that a caller was given.
#[derive(Debug)]
struct HandOut {
    caller: Arc<str>,
    resource: Resource,
    /// The first bytes of the token's fingerprint.
    token: u32,
    /// Seconds since [`HandOuts::since`], rounded up.
    end: u32,
}

/// The callers' names, each once.
#[derive(Debug, Default)]
struct Names {
    known: HashSet<Arc<str>>,
    /// How many there may be before it is looked for those that nobody holds any more.
    purge_at: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            organization_max: 1024,
            all_max: 1 << 20,
            names_max: 1 << 16,
        }
    }
}

impl Default for HandOuts {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl HandOuts {
    /// Nothing was handed out yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            names: Mutex::default(),
            named: AtomicUsize::new(0),
            limits,
            since: Instant::now(),
        }
    }

    /// Remembers that a caller is given a token. To be called before it is.
    pub fn add(&self, key: &TokenKey, caller: &str, token: &Token) {
        let [a, b, c, d, ..] = token.fingerprint;
        let (token, end) = (
            u32::from_le_bytes([a, b, c, d]),
            self.second(token.expires_at),
        );
        let now = self.now();
        let mut shard = lock(self.shard(&key.organization));
        let known = shard.entry(key.organization.clone()).or_default();
        self.drop_ended(known, now);
        let is_same = |one: &HandOut| {
            one.token == token
                && one.end == end
                && one.resource == key.resource
                && *one.caller == *caller
        };
        if known.named.iter().any(is_same) {
            return;
        }
        let name = (known.named.len() < self.limits.organization_max)
            .then(|| self.name(caller))
            .flatten();
        match name {
            Some(caller) => known.named.push(HandOut {
                caller,
                resource: key.resource.clone(),
                token,
                end,
            }),
            None => {
                known.unnamed += 1;
                known.unnamed_end = known.unnamed_end.max(end);
            }
        }
    }

    /// What is out there of an organization.
    #[must_use]
    pub fn of(&self, id: &OrganizationId) -> Exposure {
        let now = self.now();
        let mut exposure = Exposure {
            count: 0,
            unnamed: 0,
            ends_at: None,
            holders: Vec::new(),
            since: self.since,
        };
        let mut shard = lock(self.shard(id));
        let Some(known) = shard.get_mut(id) else {
            return exposure;
        };
        self.drop_ended(known, now);
        let ends = known.named.iter().map(|one| one.end);
        let end = ends.chain((known.unnamed > 0).then_some(known.unnamed_end));
        exposure.ends_at = end.max().map(|end| self.instant(end));
        exposure.unnamed = known.unnamed;
        exposure.count = known.named.len() as u64 + known.unnamed;
        let mut holders: HashMap<(&Resource, &Arc<str>), (u64, u32)> = HashMap::new();
        for one in &known.named {
            let (count, end) = holders.entry((&one.resource, &one.caller)).or_default();
            *count += 1;
            *end = one.end.max(*end);
        }
        let holders = holders.into_iter();
        exposure.holders = holders
            .map(|((resource, caller), (count, end))| Holder {
                resource: resource.clone(),
                caller: caller.clone(),
                count,
                ends_at: self.instant(end),
            })
            .collect();
        drop(shard);
        // The rest of the order only has it be the same each time.
        exposure.holders.sort_by(|a, b| {
            let by_end = b.ends_at.cmp(&a.ends_at);
            let by_name = || (&a.caller, a.resource.parts()).cmp(&(&b.caller, b.resource.parts()));
            by_end.then_with(by_name)
        });
        exposure
    }

    /// Drops what has ended. To be called now and then.
    pub fn sweep(&self) {
        let now = self.now();
        for shard in &self.shards {
            lock(shard).retain(|_, known| {
                self.drop_ended(known, now);
                !known.named.is_empty() || known.unnamed > 0
            });
        }
    }

    /// Hand-outs that are remembered with names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one copy of a name, if there is room for another hand-out, which is counted.
    fn name(&self, caller: &str) -> Option<Arc<str>> {
        if self.named.fetch_add(1, Ordering::Relaxed) < self.limits.all_max
            && let Some(name) = lock(&self.names).get(caller, self.limits.names_max)
        {
            return Some(name);
        }
        self.named.fetch_sub(1, Ordering::Relaxed);
        None
    }

    fn drop_ended(&self, known: &mut Known, now: u32) {
        let before = known.named.len();
        known.named.retain(|one| one.end > now);
        self.named
            .fetch_sub(before - known.named.len(), Ordering::Relaxed);
        if known.unnamed_end <= now {
            known.unnamed = 0;
        }
    }

    fn shard(&self, id: &OrganizationId) -> &Mutex<HashMap<OrganizationId, Known>> {
        let hash = self.hasher.hash_one(id);
        // The remainder is below the number of shards, whatever is cut off.
        &self.shards[hash as usize % SHARDS]
    }

    /// Whole seconds that have passed.
    fn now(&self) -> u32 {
        u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// The first whole second at which an instant is past.
    fn second(&self, instant: Instant) -> u32 {
        let after = instant.saturating_duration_since(self.since);
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    fn instant(&self, second: u32) -> Instant {
        self.since + Duration::from_secs(second.into())
    }
}

impl Names {
    fn get(&mut self, name: &str, max: usize) -> Option<Arc<str>> {
        if let Some(known) = self.known.get(name) {
            return Some(known.clone());
        }
        if self.known.len() >= self.purge_at.max(NAMES_MIN).min(max) {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.purge_at = self.known.len() * 2;
        }
        if self.known.len() >= max {
            return None;
        }
        let name = Arc::<str>::from(name);
        self.known.insert(name.clone());
        Some(name)
    }
}

impl Resource {
    /// Its name, and its host where it has one.
    fn parts(&self) -> (&str, Option<&str>) {
        let host = match self {
            Self::SharePoint(host) => host.as_deref(),
            Self::Graph | Self::Exchange | Self::AzureAdGraph => None,
        };
        (self.name(), host)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic happens under the locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
