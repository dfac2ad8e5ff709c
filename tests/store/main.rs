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

use numbers::{is_long_run, seed};

#[expect(clippy::print_stderr, reason = "the output of a test run")]
fn report(line: &str) {
    eprintln!("{line}");
}
