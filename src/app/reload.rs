//! Takes what has changed on disk while the broker serves: the broker's certificate and key, the CAs of
//! callers, the policy, the log filter, and where in the configuration they are named.
//!
//! All of it is read each time and taken as one set, or not at all; what cannot be used leaves the set
//! before in force, and is told. The content is looked at, not a watch on the file: a mounted secret
//! changes by a link that is put elsewhere. It is read twice, so that no set is taken that is half
//! of before and half of after such a change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};

use super::Error;
use crate::{
    authz::{LivePolicy, Policy},
    config::{self, Config},
    metrics::{Metrics, Reload},
    rpc::peer,
    telemetry::Filter,
    tls::{self, LiveTls, Material},
};

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often they are read in a row to find them at rest.
const READINGS_MAX: u32 = 4;
/// Looks in a row that fail before it is told: files may be replaced one after the other.
const DOUBTS: u32 = 2;
/// Least time between two alarms, and between two of the same text.
const ALARM_PAUSE: Duration = Duration::from_secs(10);
const REMINDER_PAUSE: Duration = Duration::from_secs(600);

/// One reading of everything.
pub(super) struct Reading {
    config: Config,
    tls: tls::Found,
    policy: String,
    digest: [u8; 32],
}

/// What is put in force together.
pub(super) struct Set {
    pub(super) tls: Material,
    pub(super) policy: Policy,
    filter: Filter,
    /// The options that only a restart puts in force.
    rest: Option<toml::Table>,
    digest: [u8; 32],
}

/// Looks for changes.
pub(super) struct Reloader {
    config: Config,
    tls: Arc<LiveTls>,
    policy: Arc<LivePolicy>,
    metrics: Arc<Metrics>,
    /// Of the set in force.
    digest: [u8; 32],
    rest: Option<toml::Table>,
    alarm: Alarm,
}

/// Trouble, told as it is worth.
#[derive(Debug, Default)]
struct Alarm {
    /// Looks in a row that failed.
    doubts: u32,
    told: Option<(String, Instant)>,
    /// What the figure shows.
    raised: Arc<AtomicBool>,
}

impl Reading {
    /// Reads the files that a configuration names, and its own file again if it is of one.
    pub(super) fn take(config: &Config) -> Result<Self, Error> {
        let mut digest = tls::new_digest();
        let config = match &config.file {
            Some(file) => {
                let config = Config::load(file)?;
                digest.update(config.text().as_bytes());
                config
            }
            None => config.clone(),
        };
        let policy = config::read(&config.policy.file)?;
        digest.update(&policy.len().to_be_bytes());
        digest.update(policy.as_bytes());
        let tls = tls::Found::read(&config.server.tls, &config.identity)?;
        tls.digest(&mut digest);
        let digest = digest.finish();
        Ok(Self {
            config,
            tls,
            policy,
            digest: *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"),
        })
    }

    /// All of it, ready to be put in force.
    pub(super) fn set(&self) -> Result<Set, Error> {
        let identity = &self.config.identity;
        let domains: Vec<_> = identity
            .trust_domains()
            .map(|(domain, _)| domain.clone())
            .collect();
        let file = &self.config.policy.file;
        Ok(Set {
            tls: self.tls.material(peer::trust_domain_of)?,
            policy: Policy::parse(&self.policy, &domains).map_err(|reason| {
                config::Error::Malformed {
                    file: file.clone(),
                    reason,
                }
            })?,
            filter: Filter::parse(&self.config.log)?,
            rest: self.config.not_reloaded(),
            digest: self.digest,
        })
    }
}

impl Reloader {
    /// Begins with the set in force.
    pub(super) fn new(config: &Config, set: Set, metrics: &Arc<Metrics>) -> Self {
        let alarm = Alarm::default();
        let raised = alarm.raised.clone();
        metrics.gauge(
            "reload_failed",
            "Whether changed files cannot be used, so that what was read before stays in force: 1 or 0",
            move || raised.load(Ordering::Relaxed).into(),
        );
        Self {
            config: config.clone(),
            tls: LiveTls::new(set.tls),
            policy: LivePolicy::new(set.policy),
            metrics: metrics.clone(),
            digest: set.digest,
            rest: set.rest,
            alarm,
        }
    }

    pub(super) fn tls(&self) -> Arc<LiveTls> {
        self.tls.clone()
    }

    pub(super) fn policy(&self) -> Arc<LivePolicy> {
        self.policy.clone()
    }

    /// Looks again and again, and at once when it is asked to.
    pub(super) async fn follow(mut self, asked: Arc<Notify>) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                () = asked.notified() => true,
            };
            match self.look().await {
                Ok(Some(set)) => self.take(set),
                Ok(None) => {
                    self.alarm.over();
                    if asked {
                        tracing::info!("nothing to reload: no file has changed");
                    }
                }
                Err(error) => {
                    if self.alarm.tell(&error, asked) {
                        self.metrics.reloaded(Reload::Refused);
                    }
                }
            }
        }
    }

    /// What is to be put in force, if that has changed.
    async fn look(&self) -> Result<Option<Set>, Error> {
        let (config, in_force) = (self.config.clone(), self.digest);
        // A mount that hangs must not hang what else goes on.
        let looking = spawn_blocking(move || {
            let mut reading = Reading::take(&config)?;
            for _ in 1..READINGS_MAX {
                if reading.digest == in_force {
                    return Ok(None);
                }
                let again = Reading::take(&config)?;
                if again.digest == reading.digest {
                    return again.set().map(Some);
                }
                reading = again;
            }
            Err(Error::Unsettled)
        });
        looking
            .await
            .unwrap_or_else(|error| Err(Error::Io(std::io::Error::other(error))))
    }

    fn take(&mut self, set: Set) {
        self.alarm.over();
        if set.rest != self.rest {
            tracing::warn!(
                "the configuration has changed in options that are in force after a restart only"
            );
        }
        self.policy.replace(set.policy);
        self.tls.replace(set.tls);
        set.filter.apply();
        (self.digest, self.rest) = (set.digest, set.rest);
        self.metrics.reloaded(Reload::Taken);
        tracing::info!("reloaded: the files as they are by now are in force");
    }
}

impl Alarm {
    /// Whether it was told.
    fn tell(&mut self, error: &Error, at_once: bool) -> bool {
        self.doubts = self.doubts.saturating_add(1);
        if self.doubts < DOUBTS && !at_once {
            return false;
        }
        self.raised.store(true, Ordering::Relaxed);
        let text = error.to_string();
        let due = self.told.as_ref().is_none_or(|(told, at)| {
            let pause = if *told == text {
                REMINDER_PAUSE
            } else {
                ALARM_PAUSE
            };
            at.elapsed() >= pause
        });
        if due || at_once {
            tracing::error!(%error, "NOT RELOADED: what was read before stays in force");
            self.told = Some((text, Instant::now()));
        }
        due || at_once
    }

    fn over(&mut self) {
        self.doubts = 0;
        if self.raised.swap(false, Ordering::Relaxed) {
            tracing::info!("the files can be used again");
            // The same trouble is told again if it comes back, but not at once.
            if let Some((text, _)) = &mut self.told {
                text.clear();
            }
        }
    }
}
