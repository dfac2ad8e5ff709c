//! The embedded store loses nothing: killed, cut from power, on a disk that fails or is full.
//!
//! What happens to a store happens in a process of its own: this executable once more, in a role.
//! `KODO_LONG=1` makes the runs longer.

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

#[expect(clippy::print_stderr, reason = "the output of a test run")]
fn report(line: &str) {
    eprintln!("{line}");
}
