//! A closed loop of calls, on one thread: so many connections, so many calls in flight,
//! and the next one as soon as one is answered. Every answer is checked.

use std::{
    cell::{Cell, RefCell},
    ops::RangeInclusive,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, timeout},
};

use crate::{
    Failure,
    call::{Calls, PATIENCE, Protocol, Sender, Target, connect},
    cpu,
};

/// Shortest and longest latency that is told apart.
const LATENCY_NS: RangeInclusive<u64> = 1_000..=60_000_000_000;

/// How many connections, and how many calls in flight over all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
}

/// How long a round is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// CPU time of the server for each call, in microseconds.
    pub(crate) cpu: f64,
    /// Calls in a second.
    pub(crate) rate: f64,
    /// Latencies in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Cores that neither the server nor this process kept busy.
    pub(crate) foreign: f64,
}

/// What the callers of a load share. They are on one thread.
struct Tally {
    latencies: RefCell<Histogram<u64>>,
    stopped: Cell<bool>,
}

/// Asks the server for a round.
pub(crate) fn run(target: &Target, load: Load, timing: Timing) -> Result<Sample, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let round = async { LocalSet::new().run_until(round(target, load, timing)).await };
    let outcome: Result<Sample, Failure> = runtime.block_on(round);
    outcome.map_err(|error| format!("{} under {load}: {error}", target.name).into())
}

async fn round(target: &Target, load: Load, timing: Timing) -> Result<Sample, Failure> {
    let tally = Rc::new(Tally {
        latencies: RefCell::new(Histogram::new_with_bounds(
            *LATENCY_NS.start(),
            *LATENCY_NS.end(),
            3,
        )?),
        stopped: Cell::new(false),
    });
    // Connections end when these are dropped.
    let mut connections = JoinSet::new();
    let mut callers = JoinSet::new();
    let senders = senders(target, load, &mut connections).await?;
    for (number, sender) in senders.into_iter().enumerate() {
        let (calls, tally) = (target.calls.clone(), tally.clone());
        callers.spawn_local(call_until_stopped(sender, calls, tally, number));
    }
    let (server, own) = (
        cpu::Clock::of(target.process)?,
        cpu::Clock::of(std::process::id())?,
    );
    undisturbed(timing.warm_up, &mut callers).await?;
    tally.latencies.borrow_mut().reset();
    let (began, busy, by_server, by_us) = (
        Instant::now(),
        cpu::machine_busy()?,
        server.now()?,
        own.now()?,
    );
    undisturbed(timing.measured, &mut callers).await?;
    let by_server = server.now()?.saturating_sub(by_server);
    let by_us = own.now()?.saturating_sub(by_us);
    let (took, busy) = (began.elapsed(), cpu::machine_busy()?.saturating_sub(busy));
    let latencies = tally.latencies.borrow().clone();
    tally.stopped.set(true);
    let finished = async {
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        Ok::<_, Failure>(())
    };
    timeout(PATIENCE, finished).await??;
    sample(
        &latencies,
        took,
        by_server,
        busy.saturating_sub(by_server + by_us),
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a second are far below 2^52"
)]
fn sample(
    latencies: &Histogram<u64>,
    took: Duration,
    by_server: Duration,
    by_others: Duration,
) -> Result<Sample, Failure> {
    let calls = latencies.len() as f64;
    if latencies.is_empty() {
        return Err("not one call was answered".into());
    }
    let quantile = |q| latencies.value_at_quantile(q) as f64 / 1e3;
    Ok(Sample {
        cpu: by_server.as_secs_f64() * 1e6 / calls,
        rate: calls / took.as_secs_f64(),
        p50: quantile(0.5),
        p99: quantile(0.99),
        foreign: by_others.as_secs_f64() / took.as_secs_f64(),
    })
}

/// A sender for each call in flight.
async fn senders(
    target: &Target,
    load: Load,
    connections: &mut JoinSet<()>,
) -> Result<Vec<Sender>, Failure> {
    let connected = match target.protocol {
        Protocol::Http2 => load.connections,
        Protocol::Http1 => load.in_flight,
    };
    let mut senders = Vec::new();
    for _ in 0..connected {
        senders.push(connect(target, connections).await?);
    }
    for number in connected..load.in_flight {
        senders.extend(senders[number % connected].share());
    }
    Ok(senders)
}

/// Waits; a caller that ends before it is told to has failed.
async fn undisturbed(
    time: Duration,
    callers: &mut JoinSet<Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        Some(caller) = callers.join_next() => {
            caller??;
            Err("a caller has ended".into())
        }
    }
}

async fn call_until_stopped(
    mut sender: Sender,
    calls: Arc<Calls>,
    tally: Rc<Tally>,
    number: usize,
) -> Result<(), Failure> {
    let mut chance = Chance::new(number);
    while !tally.stopped.get() {
        let body = calls.bodies[chance.below(calls.bodies.len())].clone();
        let began = Instant::now();
        sender.call(&calls, body).await?;
        let nanoseconds = u64::try_from(began.elapsed().as_nanos())?;
        tally.latencies.borrow_mut().record(nanoseconds)?;
    }
    Ok(())
}

/// Cheap numbers without a pattern (xorshift64).
struct Chance(u64);

impl Chance {
    fn new(seed: usize) -> Self {
        Self((seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the modulus is a length")]
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {}", self.connections, self.in_flight)
    }
}
