//! Measures the broker as its callers meet it: as a process of its own, over mutual TLS.
//!
//! `cargo bench --bench token_service` prints all tables but that of other products, which have to be
//! installed first: `benches/peers/install`, then `cargo bench --bench token_service -- peers`.
#![expect(
    clippy::print_stdout,
    reason = "a benchmark prints what it has measured"
)]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};

mod broker;
mod call;
mod compare;
mod cpu;
mod custody;
mod floor;
mod growth;
mod load;
mod neighbours;
mod peers;
mod program;
mod site;
mod stock;
mod table;

use compare::Rounds;
use load::Timing;
use site::Site;

/// Why nothing was measured, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What to measure.
#[derive(Debug, Parser)]
struct Options {
    /// Tables to print.
    #[arg(value_enum, default_values_t = [What::Floor, What::Growth, What::Neighbours])]
    what: Vec<What>,
    /// Rounds of each comparison, at least 7.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(7..=999))]
    rounds: u16,
    /// Milliseconds that one server is measured for in a round.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(100..=10_000))]
    round_ms: u64,
    /// Organizations in the brokers of the growth table.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 100_000])]
    sizes: Vec<usize>,
    /// Organizations in the stores of the custody table.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000])]
    store_sizes: Vec<usize>,
    /// Serves the bare tonic server with the files of this folder: the benchmark calls itself so.
    #[arg(long, hide = true)]
    serve_stock: Option<PathBuf>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// The broker against a bare tonic server.
    Floor,
    /// The broker with few and with many organizations, and its memory.
    Growth,
    /// The broker while tenants of others hang or are throttled.
    Neighbours,
    /// Stores of some sizes: opened, written to, re-wrapped.
    Custody,
    /// The broker against OpenBao, etcd, oidc-provider and MSAL.
    Peers,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.serve_stock {
        Some(folder) => stock::serve(folder),
        None => measure(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn measure(options: &Options) -> Result<(), Failure> {
    let rounds = Rounds {
        count: options.rounds.into(),
        timing: Timing {
            warm_up: Duration::from_millis(100),
            measured: Duration::from_millis(options.round_ms),
        },
    };
    table::print_conditions(rounds);
    let site = Site::new().await?;
    for what in &options.what {
        match what {
            What::Floor => floor::measure(&site, rounds).await?,
            What::Growth => growth::measure(&site, &options.sizes, rounds).await?,
            What::Neighbours => neighbours::measure(&site, rounds).await?,
            What::Custody => custody::measure(&site, &options.store_sizes, rounds).await?,
            What::Peers => peers::measure(&site, rounds).await?,
        }
    }
    Ok(())
}
