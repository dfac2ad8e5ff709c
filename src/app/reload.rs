//! Takes what has changed while the broker serves: the broker's certificate and key, the CAs of callers,
//! the policy, the log filter, and where in the configuration they are named. Where a proxy speaks in
//! plaintext, that is the trust domains, the policy and the log filter.
//!
//! All of it is read each time and taken as one set, or not at all; what cannot be used leaves the set
//! before in force, and is told. The content is looked at, not a watch on the file: a mounted secret
//! changes by a link that is put elsewhere. It is read twice, so that no set is taken that is half
//! of before and half of after such a change.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::{
    authz::{LivePolicy, Policy},
    clock::Clock,
    config::{self, Config, TlsSource},
    metrics::{Metrics, Reload},
    rpc::{Health, peer},
    telemetry::Filter,
    tls::{self, LiveTls, Material, WorkloadApi},
};

mod alarm;
mod expiry;

use alarm::Alarm;
use expiry::Expiry;

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often they are read in a row to find them at rest.
const READINGS_MAX: u32 = 4;

/// Where everything comes from.
#[derive(Clone)]
struct Origin {
    config: Config,
    workload_api: Option<Arc<WorkloadApi>>,
}

/// One reading of everything.
struct Reading {
    config: Config,
    tls: tls::Found,
    policy: String,
    digest: [u8; 32],
}

/// What is put in force together.
struct Set {
    tls: Material,
    policy: Policy,
    filter: Filter,
    /// The options that only a restart puts in force.
    rest: Option<toml::Table>,
    digest: [u8; 32],
}

/// Looks for changes.
pub(super) struct Reloader {
    origin: Origin,
    tls: Arc<LiveTls>,
    policy: Arc<LivePolicy>,
    metrics: Arc<Metrics>,
    /// Of the set in force.
    digest: [u8; 32],
    rest: Option<toml::Table>,
    alarm: Alarm,
    expiry: Expiry,
}

impl Origin {
    /// Files, or the Workload API, once it has given an SVID.
    async fn open(config: &Config) -> Result<Self, Error> {
        let workload_api = match config.server.tls.as_ref().map(|tls| &tls.source) {
            None | Some(TlsSource::Files { .. }) => None,
            Some(TlsSource::WorkloadApi(at)) => Some(Arc::new(WorkloadApi::connect(at).await?)),
        };
        Ok(Self {
            config: config.clone(),
            workload_api,
        })
    }

    /// Reads the files that the configuration names, and its own file again if it is of one.
    fn read(&self) -> Result<Reading, Error> {
        let mut digest = tls::new_digest();
        let config = match &self.config.file {
            Some(file) => Config::load(file)?,
            None => self.config.clone(),
        };
        let choice = |config: &Config| (config.identity.mode, config.server.tls.is_some());
        if choice(&config) != choice(&self.config) {
            return Err(Error::OtherMode);
        }
        let policy = config::read(&config.policy.file)?;
        for text in [config.text(), &policy] {
            digest.update(&text.len().to_be_bytes());
            digest.update(text.as_bytes());
        }
        let workload_api = self.workload_api.as_deref();
        let tls = tls::Found::read(config.server.tls.as_ref(), &config.identity, workload_api)?;
        tls.digest(&mut digest);
        let digest = digest.finish();
        Ok(Reading {
            config,
            tls,
            policy,
            digest: *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"),
        })
    }

    /// A set at rest that differs from the one in force, if there is one.
    fn changed(&self, in_force: [u8; 32]) -> Result<Option<Set>, Error> {
        let mut reading = self.read()?;
        for _ in 1..READINGS_MAX {
            if reading.digest == in_force {
                return Ok(None);
            }
            let again = self.read()?;
            if again.digest == reading.digest {
                return again.set().map(Some);
            }
            reading = again;
        }
        Err(Error::Unsettled)
    }

    /// Waits until there is something to look at before its time.
    async fn pushed(&self) {
        match &self.workload_api {
            Some(workload_api) => workload_api.changed().await,
            None => std::future::pending().await,
        }
    }
}

impl Reading {
    /// All of it, ready to be put in force.
    fn set(&self) -> Result<Set, Error> {
        let domains = self.config.identity.trust_domains();
        let domains: Vec<_> = domains.map(|(domain, _)| domain.clone()).collect();
        let policy = Policy::parse(&self.policy, &domains);
        Ok(Set {
            tls: self.tls.material(peer::trust_domain_of)?,
            policy: policy.map_err(|reason| config::Error::Malformed {
                file: self.config.policy.file.clone(),
                reason,
            })?,
            filter: Filter::parse(&self.config.log)?,
            rest: self.config.not_reloaded(),
            digest: self.digest,
        })
    }
}

impl Reloader {
    /// Begins with what there is now, which is in force from now on.
    pub(super) async fn begin(
        config: &Config,
        clock: Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Error> {
        let origin = Origin::open(config).await?;
        let set = origin.read()?.set()?;
        let tls = LiveTls::new(set.tls);
        let is_svid = origin.workload_api.is_some();
        Ok(Self {
            origin,
            expiry: Expiry::new(tls.clone(), clock, is_svid, metrics),
            tls,
            policy: LivePolicy::new(set.policy),
            metrics: metrics.clone(),
            digest: set.digest,
            rest: set.rest,
            alarm: Alarm::new(metrics),
        })
    }

    pub(super) fn tls(&self) -> Arc<LiveTls> {
        self.tls.clone()
    }

    pub(super) fn policy(&self) -> Arc<LivePolicy> {
        self.policy.clone()
    }

    /// Looks again and again until `stop`, and at once when it is asked to.
    pub(super) async fn follow(
        mut self,
        asked: Arc<Notify>,
        health: Option<Health>,
        stop: CancellationToken,
    ) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                () = self.origin.pushed() => false,
                () = asked.notified() => true,
                () = stop.cancelled() => break,
            };
            self.look(asked).await;
            self.expiry.look(health.as_ref()).await;
        }
        if let Some(workload_api) = &self.origin.workload_api {
            workload_api.close().await;
        }
    }

    async fn look(&mut self, asked: bool) {
        let (origin, in_force) = (self.origin.clone(), self.digest);
        // A mount that hangs must not hang what else goes on.
        let looking = spawn_blocking(move || origin.changed(in_force));
        let looked = looking.await.map_err(io::Error::other);
        match looked.map_err(Error::from).flatten() {
            Ok(Some(set)) => self.take(set),
            Ok(None) => {
                self.alarm.over();
                if asked {
                    tracing::info!("nothing to reload: no file has changed");
                }
            }
            Err(error) => {
                if self.alarm.raise(&error, asked) {
                    self.metrics.reloaded(Reload::Refused);
                }
            }
        }
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

#[cfg(test)]
mod tests;
