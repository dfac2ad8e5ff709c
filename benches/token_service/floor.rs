//! The broker against what anyone would write: the same message, the same TLS, no broker.

use std::process::Command;

use kodo_broker::pb::v1::Resource;
use prost::Message as _;

use crate::{
    Failure,
    broker::{self, Broker},
    call::Target,
    compare::{Rounds, interleaved},
    load::Load,
    program::Program,
    site::{Site, Store},
    stock,
    table::{MEASURED, RATIOS, Table, measured, ratios},
};

/// Enough for no single one of them to be special.
const ORGANIZATIONS: usize = 1000;
const LOADS: [Load; 5] = [
    Load {
        connections: 8,
        in_flight: 32,
    },
    Load {
        connections: 8,
        in_flight: 256,
    },
    Load {
        connections: 64,
        in_flight: 64,
    },
    Load {
        connections: 64,
        in_flight: 256,
    },
    Load {
        connections: 1,
        in_flight: 1,
    },
];

pub(crate) async fn measure(site: &Site, rounds: Rounds) -> Result<(), Failure> {
    let mut broker = Broker::start(site, "broker", Store::Memory)?;
    broker.register(site, ORGANIZATIONS).await?;
    let target = broker.target(site, broker.organizations(), Resource::Graph);
    let (_stock, stock) = start_stock(site, &target).await?;

    let mut figures = Table::new(
        ["connections × in flight", "server"]
            .into_iter()
            .chain(MEASURED)
            .chain(["foreign cores"]),
    );
    let mut comparison = Table::new(["connections × in flight"].into_iter().chain(RATIOS));
    let targets = [stock, target];
    for load in LOADS {
        let series = tokio::task::block_in_place(|| interleaved(&targets, load, rounds))?;
        for (target, series) in targets.iter().zip(&series) {
            let foreign = format!("{:.2}", series.of(|sample| sample.foreign).median);
            let cells = [load.to_string(), target.name.clone()];
            figures.row(cells.into_iter().chain(measured(series)).chain([foreign]));
        }
        comparison.row(
            [load.to_string()]
                .into_iter()
                .chain(ratios(&series[1], &series[0])),
        );
    }
    figures.print(&format!(
        "Warm GetToken, {ORGANIZATIONS} organizations, and a bare tonic server"
    ));
    comparison.print("The same, broker ÷ bare tonic server");
    Ok(())
}

/// The server that answers as the broker did once.
pub(crate) async fn start_stock(
    site: &Site,
    broker: &Target,
) -> Result<(Program, Target), Failure> {
    let answer = broker::probe(broker).await?;
    println!(
        "- tokens of {} bytes, answers of {} bytes",
        answer.access_token.len(),
        answer.encoded_len()
    );
    site.write(stock::ANSWER, answer.encode_to_vec())?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--serve-stock").arg(site.folder());
    let (program, address) = Program::start(command, "", |line| {
        line.strip_prefix(stock::SERVING)?.parse().ok()
    })?;
    let target = Target {
        name: "bare tonic".to_owned(),
        process: program.id(),
        address,
        ..broker.clone()
    };
    if broker::probe(&target).await? != answer {
        return Err("the bare server does not give the broker's answer".into());
    }
    Ok((program, target))
}
