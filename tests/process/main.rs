//! Everything that runs the real executable: as an operator does, with files, signals and exit codes.
//!
//! `KODO_LONG=1` makes the runs that have a length longer.

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
