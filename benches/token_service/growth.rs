//! Whether a call costs more the more organizations there are, and what a token takes in memory.

use kodo_broker::pb::v1::Resource;
use tokio::time::Instant;

use crate::{
    Failure,
    broker::{self, Broker},
    compare::{Rounds, interleaved},
    cpu,
    load::Load,
    site::{Site, Store},
    table::{MEASURED, Table, measured, ratio},
};

const LOAD: Load = Load {
    connections: 8,
    in_flight: 32,
};

#[expect(
    clippy::cast_precision_loss,
    reason = "memory and counts are far below 2^52"
)]
pub(crate) async fn measure(site: &Site, sizes: &[usize], rounds: Rounds) -> Result<(), Failure> {
    let mut brokers = Vec::new();
    let mut memory = Table::new([
        "organizations",
        "registered in",
        "memory before",
        "after",
        "a token, beyond its own bytes",
    ]);
    for &size in sizes {
        // Records are on disk, as they are in earnest: what is left in memory is what a token takes.
        let mut broker = Broker::start(site, &format!("broker-{size}"), Store::Sled)?;
        // The first one brings connections and caches with it.
        broker.register(site, 1).await?;
        let before = cpu::resident(broker.program.id())?;
        let began = Instant::now();
        broker.register(site, size - 1).await?;
        let took = began.elapsed();
        let after = cpu::resident(broker.program.id())?;
        let target = broker.target(site, broker.organizations(), Resource::Graph);
        let token = broker::probe(&target).await?.access_token.len() as f64;
        let each = (after as f64 - before as f64) / (size - 1).max(1) as f64 - token;
        let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0);
        memory.row([
            size.to_string(),
            format!("{:.1} s", took.as_secs_f64()),
            mebibytes(before),
            mebibytes(after),
            // Of a few, what the allocator rounds up is all that would be seen.
            if size < 10_000 {
                "-".to_owned()
            } else {
                format!("{each:.0} B")
            },
        ]);
        brokers.push((broker, target));
    }
    memory.print("Memory of the process");

    // Asked for one of them, a broker shows what their number alone costs; asked for all at random, also
    // what it costs that their tokens do not fit into the processor's caches.
    let mut rows = Vec::new();
    for (size, (broker, target)) in sizes.iter().zip(&brokers) {
        let one = &broker.organizations()[..1];
        let one = broker.target(site, one, Resource::Graph);
        rows.push((size.to_string(), "one of them", one));
        if *size > 1 {
            rows.push((size.to_string(), "all at random", target.clone()));
        }
    }
    let targets: Vec<_> = rows.iter().map(|(_, _, target)| target.clone()).collect();
    let series = tokio::task::block_in_place(|| interleaved(&targets, LOAD, rounds))?;
    let mut table = Table::new(
        ["organizations", "asked for"]
            .into_iter()
            .chain(MEASURED)
            .chain(["CPU ÷ that of the first"]),
    );
    for ((size, asked_for, _), measured_of_row) in rows.into_iter().zip(&series) {
        let growth = ratio(measured_of_row.over(&series[0], |sample| sample.cpu));
        table.row(
            [size, asked_for.to_owned()]
                .into_iter()
                .chain(measured(measured_of_row))
                .chain([growth]),
        );
    }
    table.print(&format!("Warm GetToken, {LOAD}"));
    Ok(())
}
