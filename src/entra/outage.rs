//! Whether a cloud's Entra is in an outage, as far as its answers tell.
//!
//! During an outage every key backs off further and further, and when Entra is back each would learn of
//! it only when its turn comes. So one attempt a second is allowed to whoever asks first, and the first
//! answer tells all the others that they may try again at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::organization::Cloud;

/// So many failures in a row, without an answer between them, make an outage…
const FAILURES_MIN: u32 = 3;
/// …once the last answer is so long ago.
const SILENCE_MIN: Duration = Duration::from_secs(5);
/// How often an attempt may be made during an outage.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of each cloud. Clones share it.
#[derive(Clone, Debug)]
pub struct Outage(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// No lock is held over an await.
    clouds: Mutex<BTreeMap<Cloud, Standing>>,
    /// The recoveries of all clouds together.
    recovered: watch::Sender<u64>,
    /// What stands for the last answer before there is one.
    began: Instant,
}

#[derive(Debug)]
struct Standing {
    /// Since the last answer.
    failures: u32,
    answered_at: Instant,
    probed_at: Option<Instant>,
    recoveries: u64,
}

impl Outage {
    /// No cloud is in an outage.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            clouds: Mutex::default(),
            recovered: watch::Sender::new(0),
            began: Instant::now(),
        }))
    }

    /// Whether the cloud's Entra is in an outage.
    #[must_use]
    pub fn is_out(&self, cloud: Cloud) -> bool {
        self.with(cloud, |standing| standing.is_out())
    }

    /// Whether somebody may try although the failures of their key tell them to wait: once a second
    /// during an outage, never outside one. Who is told `true` has used up that second.
    #[must_use]
    pub fn may_probe(&self, cloud: Cloud) -> bool {
        self.with(cloud, |standing| {
            let now = Instant::now();
            let due = |at: Instant| now.duration_since(at) >= PROBE_INTERVAL;
            let may = standing.is_out() && standing.probed_at.is_none_or(due);
            if may {
                standing.probed_at = Some(now);
            }
            may
        })
    }

    /// How many outages of the cloud have ended. Who keeps it with a failure knows by a greater number
    /// that they may try again at once.
    #[must_use]
    pub fn recoveries(&self, cloud: Cloud) -> u64 {
        self.with(cloud, |standing| standing.recoveries)
    }

    /// Changes whenever the outage of any cloud ends.
    #[must_use]
    pub fn recovered(&self) -> watch::Receiver<u64> {
        self.0.recovered.subscribe()
    }

    /// The cloud's Entra gave no usable answer.
    pub(super) fn failed(&self, cloud: Cloud) {
        self.with(cloud, |standing| {
            standing.failures = standing.failures.saturating_add(1);
        });
    }

    /// The cloud's Entra gave an answer, good or bad.
    pub(super) fn answered(&self, cloud: Cloud) {
        let over = self.with(cloud, |standing| {
            let over = standing.is_out();
            standing.recoveries += u64::from(over);
            standing.failures = 0;
            standing.answered_at = Instant::now();
            standing.probed_at = None;
            over
        });
        if over {
            self.0.recovered.send_modify(|count| *count += 1);
        }
    }

    fn with<T>(&self, cloud: Cloud, act: impl FnOnce(&mut Standing) -> T) -> T {
        let clouds: Result<MutexGuard<'_, _>, _> = self.0.clouds.lock();
        // Nothing is left half done where a panic could have been.
        let mut clouds = clouds.unwrap_or_else(PoisonError::into_inner);
        act(clouds.entry(cloud).or_insert(Standing {
            failures: 0,
            answered_at: self.0.began,
            probed_at: None,
            recoveries: 0,
        }))
    }
}

impl Default for Outage {
    fn default() -> Self {
        Self::new()
    }
}

impl Standing {
    fn is_out(&self) -> bool {
        self.failures >= FAILURES_MIN && self.answered_at.elapsed() >= SILENCE_MIN
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const GLOBAL: Cloud = Cloud::Global;
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_outage_takes_failures_and_silence() {
        let outage = Outage::new();
        advance(SILENCE_MIN).await;
        for _ in 1..FAILURES_MIN {
            outage.failed(GLOBAL);
            assert!(!outage.is_out(GLOBAL));
        }
        outage.failed(GLOBAL);
        assert!(outage.is_out(GLOBAL));
        assert!(!outage.is_out(Cloud::China), "another cloud");

        outage.answered(GLOBAL);
        for _ in 0..100 {
            outage.failed(GLOBAL);
        }
        assert!(!outage.is_out(GLOBAL), "it answered a moment ago");
        advance(SILENCE_MIN).await;
        assert!(outage.is_out(GLOBAL));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_is_told_once_to_everybody() {
        let outage = Outage::new();
        let mut recovered = outage.recovered();
        outage.answered(GLOBAL);
        assert!(!recovered.has_changed().unwrap(), "there was no outage");
        for round in 1..=3 {
            for _ in 0..FAILURES_MIN {
                outage.failed(GLOBAL);
            }
            advance(SILENCE_MIN).await;
            outage.answered(GLOBAL);
            outage.answered(GLOBAL);
            assert_eq!(*recovered.borrow_and_update(), round);
            assert_eq!(outage.recoveries(GLOBAL), round);
            assert_eq!(outage.recoveries(Cloud::UsGov), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_a_second_is_allowed_during_an_outage() {
        let outage = Outage::new();
        assert!(!outage.may_probe(GLOBAL), "there is no outage");
        for _ in 0..FAILURES_MIN {
            outage.failed(GLOBAL);
        }
        advance(SILENCE_MIN).await;
        let mut allowed = 0;
        for _ in 0..100 {
            allowed += u32::from(outage.may_probe(GLOBAL));
            advance(SECOND / 10).await;
        }
        assert_eq!(allowed, 10);
        outage.answered(GLOBAL);
        assert!(!outage.may_probe(GLOBAL));
    }
}
