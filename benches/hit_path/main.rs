//! Counts the instructions of a warm `GetToken`, which no neighbour on the machine can change, and
//! compares them with `benches/hit_path/instructions`.
//!
//! `cargo bench --bench hit_path` fails if the count has moved by more than the tolerance, in either
//! direction: one that is lower is a gain to be kept. `cargo bench --bench hit_path -- --renew` writes
//! what it counts. It needs `valgrind`.
//!
//! The benchmark runs itself under callgrind, which counts in one function only: aws-lc gathers entropy
//! at the start, and takes as many instructions for it as chance has it. Another processor or compiler
//! moves the count by some percent: that is for `--renew` too.
#![expect(
    clippy::print_stdout,
    reason = "a benchmark prints what it has measured"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::Parser;

mod path;

/// That of the broker, so that what it costs is counted.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Why nothing was counted, or that it is not what it was, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

const CALLS: u64 = 4000;
/// The median counts: maps have other seeds in each run, which moves a single one by 1.5 %.
const RUNS: usize = 7;
const TOLERANCE_PERCENT: u64 = 3;
const RECORD: &str = "benches/hit_path/instructions";

#[derive(Debug, Parser)]
struct Options {
    /// Writes the count instead of comparing it.
    #[arg(long)]
    renew: bool,
    /// Makes the calls and ends: the benchmark calls itself so, under callgrind.
    #[arg(long, hide = true)]
    walk: bool,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = if options.walk {
        path::Path::new().and_then(counted)
    } else {
        guard(options.renew)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn guard(renew: bool) -> Result<(), Failure> {
    let mut counts = (0..RUNS).map(|_| count()).collect::<Result<Vec<_>, _>>()?;
    counts.sort_unstable();
    let each = counts[RUNS / 2] / CALLS;
    println!("a warm GetToken, from its message to that of the answer: {each} instructions");
    if renew {
        return Ok(fs::write(record(), format!("{each}\n"))?);
    }
    let known: u64 = fs::read_to_string(record())?.trim().parse()?;
    let moved = each.abs_diff(known) * 100;
    if moved > known * TOLERANCE_PERCENT {
        let reason = format!(
            "that is more than {TOLERANCE_PERCENT} % off {known}, the count in {RECORD}. If the change is wanted, \
             or comes with another compiler or dependency: cargo bench --bench hit_path -- --renew"
        );
        return Err(reason.into());
    }
    println!("it was {known}; {TOLERANCE_PERCENT} % more or less pass");
    Ok(())
}

fn record() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORD)
}

/// The function that callgrind counts in, by its name.
#[inline(never)]
fn counted(mut path: path::Path) -> Result<(), Failure> {
    path.walk(CALLS).map(drop)
}

/// Instructions of all calls.
fn count() -> Result<u64, Failure> {
    let folder = tempfile::tempdir()?;
    let profile: PathBuf = folder.path().join("profile");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=hit_path::counted"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(std::env::current_exe()?)
        .arg("--walk")
        .output();
    let run = run.map_err(|error| format!("valgrind: {error}; install it"))?;
    if !run.status.success() {
        let said = [run.stdout, run.stderr].concat();
        return Err(String::from_utf8_lossy(&said).into());
    }
    match total(&profile)? {
        0 => Err("callgrind has not found the function to count in".into()),
        total => Ok(total),
    }
}

fn total(profile: &Path) -> Result<u64, Failure> {
    let text = fs::read_to_string(profile)?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:"));
    Ok(line.ok_or("callgrind tells no total")?.trim().parse()?)
}
