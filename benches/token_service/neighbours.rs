//! Whether callers notice that tenants of others hang or are throttled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kodo_broker::{
    pb::v1::Resource,
    simulator::fault::{Endpoint, Fault},
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    Failure,
    broker::{Broker, Organization},
    call::{Target, connect},
    compare::{Rounds, interleaved},
    load::Load,
    site::{Site, Store},
    table::{MEASURED, RATIOS, Table, measured, ratios},
};

const ORGANIZATIONS: usize = 1000;
/// Of each kind: one in a hundred.
const BAD: usize = ORGANIZATIONS / 100;
const HANG: Duration = Duration::from_secs(60);
const RETRY_AFTER_SECONDS: u64 = 60;
/// Each of the bad tenants has so many workers, which call again after this pause.
const WORKERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(100);
/// The kernel spreads connections over the broker's threads by chance, anew for each turn. With a few
/// the luck of that decides on the slowest calls; with many it evens out.
const LOADS: [Load; 2] = [
    Load {
        connections: 64,
        in_flight: 64,
    },
    Load {
        connections: 64,
        in_flight: 256,
    },
];

/// What the workers of the tenants in question have got.
#[derive(Debug, Default)]
struct Outcomes {
    tokens: AtomicU64,
    refusals: AtomicU64,
}

/// A broker with workers of some of its tenants.
struct Arm {
    _broker: Broker,
    /// Calls for everybody else's tokens.
    others: Target,
    outcomes: Arc<Outcomes>,
    /// They end with the arm.
    _workers: JoinSet<Result<(), Failure>>,
}

pub(crate) async fn measure(site: &Site, rounds: Rounds) -> Result<(), Failure> {
    let quiet = start(site, "quiet", |_| ()).await?;
    let bad = start(site, "bad neighbours", |bad| {
        for (number, organization) in bad.iter().enumerate() {
            let fault = if number < BAD {
                Fault::delayed(HANG)
            } else {
                Fault::throttled(Some(RETRY_AFTER_SECONDS))
            };
            let fault = fault.times(u32::MAX);
            site.simulator
                .script(organization.tenant, Endpoint::Token, fault);
        }
    })
    .await?;
    let targets = [quiet.others.clone(), bad.others.clone()];
    let mut figures = Table::new(
        ["connections × in flight", "neighbours"]
            .into_iter()
            .chain(MEASURED),
    );
    let mut comparison = Table::new(["connections × in flight"].into_iter().chain(RATIOS));
    for load in LOADS {
        let series = tokio::task::block_in_place(|| interleaved(&targets, load, rounds))?;
        for (target, series) in targets.iter().zip(&series) {
            let cells = [load.to_string(), target.name.clone()];
            figures.row(cells.into_iter().chain(measured(series)));
        }
        comparison.row(
            [load.to_string()]
                .into_iter()
                .chain(ratios(&series[1], &series[0])),
        );
    }
    let of = |outcomes: &Outcomes| {
        (
            outcomes.tokens.load(Ordering::Relaxed),
            outcomes.refusals.load(Ordering::Relaxed),
        )
    };
    let (quiet, bad) = (of(&quiet.outcomes), of(&bad.outcomes));
    if quiet.0 == 0 || quiet.1 > 0 || bad.0 > 0 || bad.1 == 0 {
        return Err(
            format!("(tokens, refusals) were {quiet:?} when quiet, {bad:?} when not").into(),
        );
    }
    figures.print(&format!(
        "Warm GetToken of 98 in 100 organizations; of the others one half hangs for {HANG:?}, one half gets 429"
    ));
    println!(
        "\n{WORKERS} workers of each of the {} others got {} tokens when quiet, {} refusals when not",
        2 * BAD,
        quiet.0,
        bad.1
    );
    comparison.print("The same, bad neighbours ÷ quiet");
    Ok(())
}

async fn start(
    site: &Site,
    name: &str,
    spoil: impl FnOnce(&[Organization]),
) -> Result<Arm, Failure> {
    let mut broker = Broker::start(site, name, Store::Memory)?;
    broker.register(site, ORGANIZATIONS).await?;
    let (bad, others) = broker.organizations().split_at(2 * BAD);
    spoil(bad);
    let others = broker.target(site, others, Resource::Graph);
    let outcomes = Arc::new(Outcomes::default());
    let mut workers = JoinSet::new();
    for organization in bad {
        // Of which there is no token yet.
        let target = broker.target(site, std::slice::from_ref(organization), Resource::Exchange);
        for _ in 0..WORKERS {
            workers.spawn(work(target.clone(), outcomes.clone()));
        }
    }
    Ok(Arm {
        others,
        outcomes,
        _workers: workers,
        _broker: broker,
    })
}

async fn work(target: Target, outcomes: Arc<Outcomes>) -> Result<(), Failure> {
    let mut connections = JoinSet::new();
    let mut sender = connect(&target, &mut connections).await?;
    loop {
        let answer = sender
            .call(&target.calls, target.calls.bodies[0].clone())
            .await;
        let counter = match answer {
            Ok(_) => &outcomes.tokens,
            Err(_) => &outcomes.refusals,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
}
