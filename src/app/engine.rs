//! What gets tokens, put together: Entra behind its pacing, the vault over its store, the cache over
//! both, and the work that goes on beside the calls.

use std::{sync::Arc, time::Duration};

use tokio::time::interval;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Error;
use crate::{
    clock::Clock,
    config::Config,
    entra::{TokenEndpoint, client::Client, http::Http, outage::Outage, paced::Paced},
    jobs::Jobs,
    metrics::Metrics,
    registration::Registrar,
    token::{
        cache::{Limits, TokenCache},
        delivery::Deliveries,
        mint::Mint,
    },
    vault::Vault,
};

/// How often tokens that have ended are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How often jobs that have ended are dropped: until then they only take room.
const JOBS_SWEEP_INTERVAL: Duration = Duration::from_secs(600);
/// How many kept tokens are looked at each time.
const SWEEP_PAGE: usize = 1000;

/// Entra, as it is asked.
pub(super) struct Upstream {
    entra: Arc<dyn TokenEndpoint>,
    outage: Outage,
}

/// What gets tokens.
pub(super) struct Engine {
    vault: Arc<Vault>,
    pub(super) tokens: TokenCache,
}

impl Upstream {
    /// Nothing is sent yet.
    pub(super) fn new(config: &Config, clock: Clock, metrics: &Metrics) -> Result<Self, Error> {
        let http = Http::new(&config.entra, clock)?;
        let client = Client::new(http, config.entra.authorities()?, clock);
        let outage = Outage::new();
        let limits = config.entra.request_limits();
        let paced = Arc::new(Paced::new(Arc::new(client), limits, outage.clone()));
        let load = paced.clone();
        metrics.gauge(
            "entra_requests_queued",
            "Requests to Entra that wait for their turn",
            move || load.load().queued,
        );
        let load = paced.clone();
        metrics.gauge(
            "entra_requests_under_way",
            "Requests to Entra under way",
            move || {
                let load = load.load();
                load.under_way + load.slow
            },
        );
        Ok(Self {
            entra: paced,
            outage,
        })
    }
}

impl Engine {
    /// Starts the work that goes on until `end`.
    pub(super) fn start(
        config: &Config,
        clock: Clock,
        vault: Arc<Vault>,
        upstream: &Upstream,
        tasks: &TaskTracker,
        end: &CancellationToken,
    ) -> Self {
        let (ending, shredding) = (end.clone(), vault.clone());
        tasks.spawn(async move {
            ending
                .run_until_cancelled(shredding.follow_shredding())
                .await
        });
        let mint = Mint::new(vault.clone(), upstream.entra.clone(), clock, fastrand::f64);
        let limits = Limits {
            slots_max: config.tokens.slots_max(),
            propagation: config.entra.propagation(),
        };
        let (tokens, renewals) =
            TokenCache::new(mint, upstream.outage.clone(), limits, tasks.clone());
        let ending = end.clone();
        tasks.spawn(async move { ending.run_until_cancelled(renewals.run()).await });
        let (ending, sweeping) = (end.clone(), sweep(tokens.clone(), vault.clone(), clock));
        tasks.spawn(async move { ending.run_until_cancelled(sweeping).await });
        Self { vault, tokens }
    }

    /// What changes the vault, and has the cache forget.
    pub(super) fn registrar(
        self,
        upstream: &Upstream,
        deliveries: &Deliveries,
        clock: Clock,
        tasks: &TaskTracker,
    ) -> Registrar {
        let (vault, tokens, entra) = (self.vault, self.tokens, upstream.entra.clone());
        let deliveries = deliveries.clone();
        Registrar::new(vault, entra, tokens, deliveries, clock, tasks.clone())
    }
}

/// Drops what has ended, in memory and in the store, for ever.
async fn sweep(tokens: TokenCache, vault: Arc<Vault>, clock: Clock) {
    let mut ticks = interval(SWEEP_INTERVAL);
    let mut next = None;
    loop {
        ticks.tick().await;
        tokens.sweep();
        let page = vault.sweep_tokens(clock.now(), next.as_ref(), SWEEP_PAGE);
        next = match page.await {
            Ok(swept) => swept.next,
            Err(error) => {
                tracing::warn!(%error, "cannot sweep the kept tokens");
                None
            }
        };
    }
}

/// Drops jobs that have ended, for ever.
pub(super) async fn sweep_jobs(jobs: Arc<Jobs>) {
    let mut ticks = interval(JOBS_SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        if let Err(error) = jobs.sweep().await {
            tracing::warn!(%error, "cannot sweep the job grants");
        }
    }
}
