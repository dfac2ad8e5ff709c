//! Opens what the broker guards, beside the threads that serve already: until that has succeeded, the
//! broker is sealed.
//!
//! Trouble that may pass is met by another attempt, after a pause that grows. An attempt asks for the
//! KEK first and opens the store only then, once: sled writes while it opens. Trouble with the store
//! itself stays until a restart, so that a damaged store is not written to again and again.

use std::{future::Future, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{sync::Semaphore, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Error,
    engine::{self, Engine, Upstream},
};
use crate::{
    anchor::AnchorFile,
    audit::Audit,
    authz::LivePolicy,
    clock::Clock,
    config::{Config, StoreConfig},
    jobs::Jobs,
    kek,
    metrics::Metrics,
    rpc::{
        Health, Services,
        audit_service::AuditService,
        connection::Door,
        job_grant_service::JobGrantService,
        organization_service::OrganizationService,
        records::Records,
        seal::{Cause, Seal},
        store_service::StoreService,
        token_service::TokenService,
    },
    store::{self, Store},
    token::delivery::Deliveries,
    vault::{self, Vault},
};

/// Pause after a failed attempt, first and at most, before jitter, which at most doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// What it takes to make services of a store.
pub(super) struct Opening {
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) policy: Arc<LivePolicy>,
    pub(super) upstream: Upstream,
    pub(super) records: Arc<Records>,
    pub(super) deliveries: Deliveries,
    pub(super) audit: Audit,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: TaskTracker,
    /// Ends streams and long work.
    pub(super) stop: CancellationToken,
    /// Ends what goes on beside the calls.
    pub(super) end: CancellationToken,
}

/// An opening that has not succeeded yet, and what is opened by it.
pub(super) struct Sealed {
    opening: Opening,
    seal: Seal,
    door: Door,
    health: Option<Health>,
    /// Open since an attempt that failed later on. Another process cannot have it meanwhile.
    store: Option<Arc<dyn Store>>,
    /// What was logged last.
    told: Option<String>,
}

impl Sealed {
    /// Nothing is opened yet.
    pub(super) fn new(opening: Opening, seal: Seal, door: Door, health: Option<Health>) -> Self {
        Self {
            opening,
            seal,
            door,
            health,
            store: None,
            told: None,
        }
    }

    /// Logs trouble once, not with every attempt.
    fn tell(&mut self, error: &Error, cause: Cause) {
        let text = error.to_string();
        if self.told.as_ref() == Some(&text) {
            return;
        }
        if cause.may_pass() {
            tracing::error!(%error, "SEALED: every call is refused; tried again until it is mended, without a restart");
        } else {
            tracing::error!(%error, "SEALED: every call is refused; the store is not touched again before a restart: mend it (`kodo-broker store check` looks at it), then restart");
        }
        self.told = Some(text);
    }
}

impl Attempt for Sealed {
    /// The broker serves if it succeeds.
    async fn attempt(&mut self) -> Result<(), Error> {
        match self.opening.unlock(&mut self.store).await {
            Ok((vault, jobs)) => {
                self.door.open(self.opening.services(vault, jobs));
                if let Some(health) = &self.health {
                    health.set_unsealed().await;
                }
                if self.told.is_some() {
                    tracing::info!("UNSEALED: calls are served from now on");
                }
                Ok(())
            }
            Err(error) => {
                let cause = cause(&error);
                if !cause.may_pass() {
                    // Whoever looks after it finds it free.
                    self.store = None;
                }
                self.seal.because(cause);
                self.door.refuse();
                self.tell(&error, cause);
                Err(error)
            }
        }
    }
}

impl Opening {
    /// The KEK, then the store, then what is in it, held to its anchor. What can be missing beside the
    /// store comes first: nothing of the store is touched without it.
    async fn unlock(
        &self,
        store: &mut Option<Arc<dyn Store>>,
    ) -> Result<(Arc<Vault>, Arc<Jobs>), Error> {
        let keys = kek::open(&self.config.kek).await?;
        let file = self.config.store.anchor_file().map(AnchorFile::new);
        let anchor = file.as_ref().map(AnchorFile::read).transpose()?.flatten();
        let store = match store {
            Some(store) => store,
            None => store.insert(open_store(&self.config.store, anchor.is_some()).await?),
        };
        let vault = Arc::new(Vault::open(store.clone(), keys.clone()).await?);
        let jobs = Arc::new(Jobs::open(vault.clone(), self.clock).await?);
        if let Some(file) = file {
            vault.check_anchor(anchor.as_deref())?;
            file.write(&vault.anchor())?;
            // From now on the anchor follows the store.
            self.tasks
                .spawn(file.follow(vault.clone(), self.end.clone()));
        }
        let end = self.end.clone();
        self.tasks
            .spawn(async move { end.run_until_cancelled(keys.follow()).await });
        let failing = store.clone();
        self.metrics.gauge(
            "store_failed",
            "Whether the store takes no changes at present: 1 or 0",
            move || failing.has_failed().into(),
        );
        Ok((vault, jobs))
    }

    fn services(&self, vault: Arc<Vault>, jobs: Arc<Jobs>) -> Services {
        let engine = Engine::start(
            &self.config,
            self.clock,
            vault.clone(),
            &self.upstream,
            &self.tasks,
            &self.end,
        );
        let (end, ending) = (self.end.clone(), engine::sweep_jobs(jobs.clone()));
        self.tasks
            .spawn(async move { end.run_until_cancelled(ending).await });
        self.figures(&engine, &vault, &jobs);
        Services {
            tokens: self.token_service(&engine, &vault, &jobs),
            audit: self.audit_service(&vault),
            jobs: JobGrantService {
                policy: self.policy.clone(),
                jobs,
                vault: vault.clone(),
                clock: self.clock,
                records: self.records.clone(),
                metrics: self.metrics.clone(),
                call_timeout: self.config.server.limits.call_timeout(),
            },
            store: StoreService {
                policy: self.policy.clone(),
                vault: vault.clone(),
                records: self.records.clone(),
                metrics: self.metrics.clone(),
                tasks: self.tasks.clone(),
                stop: self.stop.clone(),
            },
            organizations: self.organization_service(engine, vault),
        }
    }

    /// Figures of what is in memory.
    fn figures(&self, engine: &Engine, vault: &Arc<Vault>, jobs: &Arc<Jobs>) {
        let running = jobs.clone();
        self.metrics.gauge(
            "organizations_with_jobs",
            "Organizations that a job grant is there for",
            move || running.organizations(),
        );
        let counted = engine.tokens.clone();
        self.metrics
            .gauge("tokens", "Tokens in memory", move || counted.len());
        let out = self.records.hand_outs();
        self.metrics.gauge(
            "outstanding_tokens",
            "Pairs of a token that has not ended and a caller who was given it since the broker was started",
            move || out.len(),
        );
        let waiting = vault.clone();
        self.metrics.gauge(
            "keks_to_destroy",
            "KEKs that open older copies of the store for organizations that are to be shredded",
            move || waiting.keks_waited_for(),
        );
    }

    fn token_service(&self, engine: &Engine, vault: &Vault, jobs: &Arc<Jobs>) -> TokenService {
        let (tokens, limits) = (&self.config.tokens, &self.config.server.limits);
        TokenService {
            policy: self.policy.clone(),
            labels: vault.labels().clone(),
            jobs: jobs.clone(),
            tokens: engine.tokens.clone(),
            deliveries: self.deliveries.clone(),
            clock: self.clock,
            records: self.records.clone(),
            metrics: self.metrics.clone(),
            margin: tokens.margin(),
            waiting: Arc::new(Semaphore::new(limits.waiting_calls_max())),
            streams: Arc::new(Semaphore::new(tokens.streams_max())),
            stop: self.stop.clone(),
            call_timeout: limits.call_timeout(),
        }
    }

    fn audit_service(&self, vault: &Vault) -> AuditService {
        AuditService {
            policy: self.policy.clone(),
            labels: vault.labels().clone(),
            file: self.config.audit.file.clone(),
            records: self.records.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock,
            call_timeout: self.config.server.limits.call_timeout(),
            // Each reads as much as the disk gives.
            places: Arc::new(Semaphore::new(1)),
        }
    }

    fn organization_service(&self, engine: Engine, vault: Arc<Vault>) -> OrganizationService {
        OrganizationService {
            policy: self.policy.clone(),
            vault,
            registrar: engine.registrar(&self.upstream, &self.deliveries, self.clock, &self.tasks),
            hand_outs: self.records.hand_outs(),
            clock: self.clock,
            audit: self.audit.clone(),
            records: self.records.clone(),
            metrics: self.metrics.clone(),
            call_timeout: self.config.server.limits.call_timeout(),
        }
    }
}

/// Opens a store. One that has an anchor was there before: if it is gone, by a volume that is not mounted
/// or a path that is mistyped, no other one is made in its place.
async fn open_store(config: &StoreConfig, has_anchor: bool) -> Result<Arc<dyn Store>, Error> {
    let opened = if has_anchor {
        store::open_existing(config).await
    } else {
        store::open(config).await
    };
    Ok(opened?)
}

/// What callers may know of an error, and whether it may pass.
pub(super) fn cause(error: &Error) -> Cause {
    match error {
        // Also where the provider says that asking again does not help: what is wrong there is mended
        // there, and asking costs the store nothing.
        Error::Kek(_) | Error::Vault(vault::Error::Kek(_)) => Cause::Kek,
        Error::Store(store::Error::InUse(_)) => Cause::InUse,
        // Of what is done here, only the anchor's file fails so.
        Error::Io(_) => Cause::Anchor,
        _ => Cause::Store,
    }
}

/// What can be tried more than once.
pub(super) trait Attempt {
    /// Tries once.
    fn attempt(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Tries again and again, each time after a longer pause, until that succeeds or cannot any more.
pub(super) async fn keep_trying(mut what: impl Attempt) {
    let pauses = ExponentialBuilder::new()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .without_max_times()
        .with_jitter()
        .build();
    for pause in pauses {
        sleep(pause).await;
        match what.attempt().await {
            Err(error) if cause(&error).may_pass() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests;
