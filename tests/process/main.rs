//! Everything that runs the real executable: as an operator does, with files, signals and exit codes.
//!
//! `KODO_LONG=1` makes the runs that have a length longer, `KODO_SEED=1` makes those that draw numbers others.

mod audit;
mod canary;
mod certificate;
mod clock_steps;
mod command_line;
mod custody;
mod dev;
mod example;
mod guards;
mod identity;
mod image;
mod jobs;
mod kill;
mod memory;
#[path = "../store/numbers.rs"]
mod numbers;
mod policy;
mod program;
mod reload;
mod rewrap;
mod rollback;
mod scale;
mod sealed;
mod secrecy;
#[path = "../store/shim.rs"]
mod shim;
mod site;
mod streams;
mod tokens;

use numbers::{is_long_run, seed};
