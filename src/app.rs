//! The composition root: the only place that names implementations. Builds the parts, binds, serves,
//! and stops in order.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    audit::Audit,
    clock::Clock,
    config::{self, Config, LimitsConfig, ListenAddress},
    entra, kek,
    lockdown::{self, Guards, Lockdown},
    metrics::Metrics,
    rpc::{
        self, Health,
        callers::Identification,
        connection::Door,
        cores::{Cores, Listeners, Serving},
        identity_service::IdentityService,
        listener::Acceptor,
        metrics_endpoint,
        probes::Probes,
        records::Records,
        seal::Seal,
        surface::Surface,
    },
    store, telemetry, tls,
    token::delivery::Deliveries,
    vault,
};

pub mod audit;
mod engine;
pub mod offline;
mod opening;
pub mod policy;
mod reload;

use engine::Upstream;
use opening::{Attempt as _, Opening, Sealed, cause, keep_trying};
use reload::Reloader;

/// Exit code of a configuration that cannot be used (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;

/// What the figures tell.
const SEALED: &str = "Whether every call is refused since the store is not open: 1 or 0";

const AUDIT_LINE: &str = "Number of the last line of the audit log that is on the disk";
const AUDIT_DAMAGED: &str =
    "Whether something was wrong with the audit log when the broker started: 1 or 0";
const AUDIT_NOT_COPIED: &str =
    "Lines of the audit log that the collector beside the broker did not take";
const AUDIT_FAILING: &str =
    "Whether calls are refused since the audit log cannot be written: 1 or 0";

/// A broker that serves.
#[derive(Debug)]
pub struct Broker {
    /// Where callers are served.
    pub address: ListenAddress,
    /// Where operators are served, if not there.
    pub admin_address: Option<ListenAddress>,
    /// Where the health service is served.
    pub health_address: Option<SocketAddr>,
    /// Where the figures are served.
    pub metrics_address: Option<SocketAddr>,
    /// Why it was sealed when it started, if it was. It opens by itself where that can be.
    pub sealed: Option<Error>,
    health: Option<Health>,
    audit: Audit,
    /// Has changed files taken at once.
    reload: Arc<Notify>,
    cores: Cores,
    probes: Probes,
    /// Stops the listeners and lets calls finish.
    stop: CancellationToken,
    /// Ends the threads that serve, and stops what must outlive calls. Also when the broker is dropped.
    end: DropGuard,
    tasks: TaskTracker,
    drain: Duration,
}

/// Why a broker does not start, or starts sealed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A guard of the process.
    #[error("{0}. --insecure-dev starts without, for development")]
    Lockdown(#[from] lockdown::Error),
    /// The configuration or the policy.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Logging.
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    /// Another way to tell callers apart than the broker was started with.
    #[error(
        "identity.mode, and whether there is [server.tls], are in force after a restart: what was read before stays until then"
    )]
    OtherMode,
    /// Files that are replaced without an end.
    #[error("the files change from one reading to the next")]
    Unsettled,
    /// Certificates and keys of the listener.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The HTTPS client.
    #[error(transparent)]
    Http(#[from] entra::http::BuildError),
    /// The key encryption key.
    #[error(transparent)]
    Kek(#[from] kek::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What is in the store.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// An address that cannot be bound, or the system refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Serving ended by itself.
    #[error("serving has ended: {0}")]
    Serving(String),
}

impl Broker {
    /// Starts a broker. It serves when this returns; what it guards is open, or the broker is sealed.
    ///
    /// # Errors
    /// [`Error`], of the configuration and of the system only; nothing is left running then.
    pub async fn start(config: &Config, clock: Clock) -> Result<Self, Error> {
        // Whatever an operator has to put right before anything can be served comes first.
        warn_of_plaintext(config);
        let metrics = Arc::new(Metrics::new());
        let reloader = Reloader::begin(config, clock, &metrics).await?;
        let upstream = Upstream::new(config, clock, &metrics)?;
        let listeners = Listeners::bind(&config.server.listen, config.server.threads())?;
        let (admin, admin_address) = bind_admin(config)?;
        let audit = open_audit(config, clock)?;
        let (end, tasks) = (CancellationToken::new(), TaskTracker::new());
        // Ends, too, where the broker is dropped without being stopped.
        let stop = end.child_token();
        // Whatever was started ends if what follows fails.
        let end_guard = end.clone().drop_guard();
        let probes = Probes::start(config.server.threads() > 0, &end).await?;
        let (health, health_address) = start_health(config, &probes, &end).await?;
        follow_audit(&audit, health.as_ref(), &metrics, &tasks, &end);
        let metrics_address = start_metrics(config, &metrics, &probes, &end).await?;
        let records = Records::start(audit.clone(), clock, &tasks, &end);
        let limits = &affordable(&config.server.limits);
        let seal = Seal::new(records.clone(), metrics.clone());
        let deliveries = Deliveries::default();
        let identity = identity_service(config, &reloader, &metrics);
        let door = sealed_door(config, &seal, identity, &audit, &deliveries);
        let address = listeners.address.clone();
        tell_of_seal(&door, &metrics);
        let identification = identification(config, &reloader, &metrics);
        // Each with its own places: workers cannot take those of operators.
        let serving = |surface| Serving {
            acceptor: Acceptor::new(reloader.tls(), identification.clone(), limits),
            door: door.clone(),
            surface,
            stop: stop.clone(),
            end: end.clone(),
        };
        let cores = Cores::start(surfaces(listeners, admin, serving), &tasks).await?;
        let opening = Opening {
            config: config.clone(),
            clock,
            policy: reloader.policy(),
            upstream,
            records,
            deliveries,
            audit: audit.clone(),
            metrics,
            tasks: tasks.clone(),
            stop: stop.clone(),
            end,
        };
        let opening = Sealed::new(opening, seal, door, health.clone());
        let sealed = first_attempt(opening, &tasks, &stop).await;
        let reload = Arc::<Notify>::default();
        tasks.spawn(reloader.follow(reload.clone(), health.clone(), stop.clone()));
        tracing::info!(%address, ?admin_address, ?health_address, ?metrics_address, "serving");
        Ok(Self {
            address,
            admin_address,
            health_address,
            metrics_address,
            sealed,
            health,
            audit,
            reload,
            cores,
            probes,
            stop,
            end: end_guard,
            tasks,
            drain: limits.drain(),
        })
    }

    /// Stops: not ready, no new connections, accepted calls and flights under way finish, within the
    /// configured time. What has not finished by then ends.
    ///
    /// # Errors
    /// [`Error::Serving`] if a thread that served had panicked.
    pub async fn stop(mut self) -> Result<(), Error> {
        if let Some(health) = &self.health {
            health.set_stopping().await;
        }
        self.stop.cancel();
        // A peer may never answer; the time limit is ours.
        let deadline = Instant::now() + self.drain;
        let served = timeout_at(deadline, self.cores.all_ended()).await;
        drop(self.end);
        self.tasks.close();
        let finished = timeout_at(deadline, self.tasks.wait()).await;
        // Nobody records any more.
        let recorded = timeout_at(deadline, self.audit.close()).await;
        let answered = timeout_at(deadline, self.probes.ended()).await;
        let late = served.is_err() || finished.is_err();
        if late || recorded.is_err() || answered.is_err() {
            tracing::warn!("stopped before everything had finished");
        }
        let joined = self.cores.join().await;
        joined.map_err(|error| Error::Serving(error.to_string()))
    }

    /// Has files that have changed taken at once, rather than within a second.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Waits until serving ends by itself, which it should not.
    pub async fn ended(&mut self) -> Error {
        self.cores.one_ended().await;
        Error::Serving("a thread that serves callers is gone".to_owned())
    }
}

fn identity_service(
    config: &Config,
    reloader: &Reloader,
    metrics: &Arc<Metrics>,
) -> IdentityService {
    IdentityService {
        mode: config.identity.mode,
        policy: reloader.policy(),
        metrics: metrics.clone(),
    }
}

fn identification(
    config: &Config,
    reloader: &Reloader,
    metrics: &Arc<Metrics>,
) -> Arc<Identification> {
    let (tls, policy) = (reloader.tls(), reloader.policy());
    Identification::new(&config.identity, tls, policy, metrics.clone())
}

/// Lets callers in, to be told that it is sealed.
fn sealed_door(
    config: &Config,
    seal: &Seal,
    identity: IdentityService,
    audit: &Audit,
    deliveries: &Deliveries,
) -> Door {
    let server = &config.server;
    let (audited, out) = (audit.clone(), deliveries.clone());
    Door::new(
        seal.clone(),
        identity,
        server.reflection,
        &server.limits,
        audited,
        out,
    )
}

/// Few calls that take long: they need no threads of their own.
fn bind_admin(config: &Config) -> io::Result<(Option<Listeners>, Option<ListenAddress>)> {
    let Some(address) = &config.server.admin_listen else {
        return Ok((None, None));
    };
    let listeners = Listeners::bind(address, 0)?;
    let address = listeners.address.clone();
    Ok((Some(listeners), Some(address)))
}

/// What is served where.
fn surfaces(
    listeners: Listeners,
    admin: Option<Listeners>,
    serving: impl Fn(Surface) -> Serving,
) -> Vec<(Listeners, Serving)> {
    match admin {
        None => vec![(listeners, serving(Surface::Everything))],
        Some(admin) => vec![
            (listeners, serving(Surface::Tokens)),
            (admin, serving(Surface::Admin)),
        ],
    }
}

/// Tries to open what the broker guards, and again and again if that may help. Why it is sealed, if it
/// is.
async fn first_attempt(
    mut opening: Sealed,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Option<Error> {
    let sealed = opening.attempt().await.err();
    if sealed.as_ref().is_some_and(|error| cause(error).may_pass()) {
        let trying = stop.clone().run_until_cancelled_owned(keep_trying(opening));
        tasks.spawn(trying);
    }
    sealed
}

fn tell_of_seal(door: &Door, metrics: &Metrics) {
    let is_sealed = door.is_sealed();
    metrics.gauge("sealed", SEALED, move || is_sealed().into());
}

fn warn_of_plaintext(config: &Config) {
    if config.server.tls.is_none() {
        let (mode, listen) = (config.identity.mode.name(), &config.server.listen);
        tracing::warn!(mode, %listen, "NO TLS: tokens and secrets cross this address as they are");
    }
}

/// The limits, with no more connections than the system lets us have.
fn affordable(limits: &LimitsConfig) -> LimitsConfig {
    let open_files = lockdown::raise_open_files();
    let affordable = limits.within(open_files);
    if affordable.connections_max < limits.connections_max {
        let (max, wanted) = (affordable.connections_max, limits.connections_max);
        tracing::warn!(
            open_files,
            max,
            wanted,
            "fewer connections than server.limits.connections_max: raise the hard limit of open files (LimitNOFILE=, ulimit -Hn)"
        );
    }
    affordable
}

fn open_audit(config: &Config, clock: Clock) -> Result<Audit, Error> {
    if config.audit.file.is_none() {
        tracing::warn!(
            "NO AUDIT LOG: nothing will tell who was given which token; set audit.file in the configuration"
        );
        return Ok(Audit::off());
    }
    Ok(Audit::open(&config.audit, clock)?)
}

/// Has readiness and a figure tell whether the audit log can be written.
fn follow_audit(
    audit: &Audit,
    health: Option<&Health>,
    metrics: &Metrics,
    tasks: &TaskTracker,
    end: &CancellationToken,
) {
    let (Some(works), Some(last_line)) = (audit.works(), audit.last_line()) else {
        return;
    };
    metrics.gauge("audit_line", AUDIT_LINE, move || {
        usize::try_from(last_line()).unwrap_or(usize::MAX)
    });
    if let Some(not_copied) = audit.not_copied() {
        metrics.gauge("audit_not_copied", AUDIT_NOT_COPIED, move || {
            usize::try_from(not_copied()).unwrap_or(usize::MAX)
        });
    }
    let told = audit.clone();
    metrics.gauge("audit_damaged", AUDIT_DAMAGED, move || {
        told.is_damaged().into()
    });
    let (anchored, ending) = (audit.clone(), end.clone());
    tasks.spawn(async move { ending.run_until_cancelled(anchored.follow()).await });
    let failing = works.clone();
    metrics.gauge("audit_failing", AUDIT_FAILING, move || {
        (!*failing.borrow()).into()
    });
    if let Some(health) = health.cloned() {
        let (mut works, end) = (works, end.clone());
        let following = async move {
            loop {
                let recording = *works.borrow_and_update();
                health.set_recording(recording).await;
                if works.changed().await.is_err() {
                    return;
                }
            }
        };
        tasks.spawn(async move { end.run_until_cancelled(following).await });
    }
}

async fn start_metrics(
    config: &Config,
    metrics: &Arc<Metrics>,
    probes: &Probes,
    end: &CancellationToken,
) -> Result<Option<SocketAddr>, Error> {
    let Some(listen) = config.server.metrics_listen else {
        return Ok(None);
    };
    let (metrics, tasks, end) = (metrics.clone(), probes.tasks.clone(), end.clone());
    let starting = async move {
        let listener = rpc::bind(listen).await?;
        let address = listener.local_addr()?;
        metrics_endpoint::serve(listener, metrics, &tasks, end);
        Ok(Some(address))
    };
    probes.run(starting).await
}

async fn start_health(
    config: &Config,
    probes: &Probes,
    end: &CancellationToken,
) -> Result<(Option<Health>, Option<SocketAddr>), Error> {
    let Some(listen) = config.server.health_listen else {
        return Ok((None, None));
    };
    let (tasks, end) = (probes.tasks.clone(), end.clone());
    let starting = async move {
        let listener = rpc::bind(listen).await?;
        let address = listener.local_addr()?;
        let (health, serving) = Health::serve(listener, &tasks, end).await?;
        tasks.spawn(serving);
        Ok((Some(health), Some(address)))
    };
    probes.run(starting).await
}

/// `kodo-broker serve`: runs until SIGTERM or SIGINT. A second signal ends it at once; SIGHUP has changed
/// files taken at once.
#[must_use]
pub fn serve_command(config: &Path, guards: Guards) -> ExitCode {
    match guarded(config, guards) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code says it too.
            let _ = writeln!(io::stderr(), "error: {error}");
            exit_code(&error)
        }
    }
}

fn guarded(config: &Path, guards: Guards) -> Result<(), Error> {
    // First of all: whatever is read from here on is guarded.
    let lockdown = Lockdown::put_up(guards)?;
    let config = Config::load(config)?;
    telemetry::init(&config.log)?;
    lockdown.tell();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(&config))
}

async fn serve(config: &Config) -> Result<(), Error> {
    // Listened for once and from the beginning: one that comes between two waits is not lost.
    let mut signals = Signals::listen()?;
    let mut hangups = signal(SignalKind::hangup())?;
    let mut broker = tokio::select! {
        started = Broker::start(config, Clock::system()) => started?,
        // A large store takes a while to open.
        () = signals.next() => return Ok(()),
    };
    loop {
        tokio::select! {
            () = signals.next() => break,
            _ = hangups.recv() => broker.reload(),
            error = broker.ended() => return Err(error),
        }
    }
    tracing::info!("stopping");
    tokio::select! {
        stopped = broker.stop() => stopped,
        () = signals.next() => Ok(()),
    }
}

/// SIGTERM and SIGINT, from when they are listened for.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn exit_code(error: &Error) -> ExitCode {
    match error {
        Error::Lockdown(_)
        | Error::Config(_)
        | Error::Telemetry(_)
        | Error::Tls(_)
        | Error::OtherMode
        | Error::Unsettled
        | Error::Http(_)
        | Error::Kek(_) => ExitCode::from(EXIT_CONFIG),
        Error::Store(_) | Error::Vault(_) | Error::Io(_) | Error::Serving(_) => ExitCode::FAILURE,
    }
}
