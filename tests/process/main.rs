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

/// Whether there is time for the long form of a test.
#[expect(
    clippy::disallowed_methods,
    reason = "tests/run asks for long runs in the environment"
)]
fn is_long_run() -> bool {
    std::env::var_os("KODO_LONG").is_some()
}

/// What a test draws its numbers from: its own seed, unless the run has another.
#[expect(
    clippy::disallowed_methods,
    reason = "who runs the tests says so in the environment"
)]
fn seed(own: u64) -> u64 {
    let other = std::env::var("KODO_SEED").ok();
    other.map_or(own, |seed| {
        seed.parse::<u64>().expect("KODO_SEED is a number") ^ own
    })
}
