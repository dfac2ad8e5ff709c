//! The embedded store loses nothing: killed, cut from power, on a disk that fails or is full.
//!
//! What happens to a store happens in a process of its own: this executable once more, in a role.
//! `KODO_LONG=1` makes the runs longer, `KODO_SEED=1` makes them others.

mod damage;
mod faults;
mod full;
mod growth;
mod kill;
mod load;
mod numbers;
mod operations;
mod power_cut;
mod role;
mod shim;

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

#[expect(clippy::print_stderr, reason = "the output of a test run")]
fn report(line: &str) {
    eprintln!("{line}");
}
