//! Tables, as Markdown has them and people can read them.

use std::{fmt::Write as _, process::Command, thread};

use crate::compare::{Series, Spread};

/// What every row about a server that answers calls has.
pub(crate) const MEASURED: [&str; 4] = ["CPU µs/call", "calls/s", "p50 µs", "p99 µs"];
/// What every row about a ratio has. Each is a median with the quartiles.
pub(crate) const RATIOS: [&str; 4] = ["CPU", "calls/s", "p50", "p99"];

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            columns: columns.into_iter().map(str::to_owned).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row: Vec<_> = cells.into_iter().collect();
        assert_eq!(row.len(), self.columns.len(), "a row fills its table");
        self.rows.push(row);
    }

    pub(crate) fn print(&self, title: &str) {
        let width = |at: usize| {
            let cells = self.rows.iter().chain([&self.columns]);
            cells.map(|row| row[at].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let mut line = String::from("|");
            for (cell, width) in cells.iter().zip(&widths) {
                let _ = write!(line, " {cell:width$} |");
            }
            line
        };
        println!("\n### {title}\n\n{}", line(&self.columns));
        let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
        println!("{}", line(&rules));
        for row in &self.rows {
            println!("{}", line(row));
        }
    }
}

/// The cells of [`MEASURED`]: medians.
pub(crate) fn measured(series: &Series) -> [String; 4] {
    [
        format!("{:.1}", series.of(|sample| sample.cpu).median),
        format!("{:.0}", series.of(|sample| sample.rate).median),
        format!("{:.0}", series.of(|sample| sample.p50).median),
        format!("{:.0}", series.of(|sample| sample.p99).median),
    ]
}

/// The cells of [`RATIOS`].
pub(crate) fn ratios(series: &Series, base: &Series) -> [String; 4] {
    [
        ratio(series.over(base, |sample| sample.cpu)),
        ratio(series.over(base, |sample| sample.rate)),
        ratio(series.over(base, |sample| sample.p50)),
        ratio(series.over(base, |sample| sample.p99)),
    ]
}

pub(crate) fn ratio(spread: Spread) -> String {
    format!(
        "{:.2} ({:.2}–{:.2})",
        spread.median, spread.low, spread.high
    )
}

/// What somebody needs to repeat the run.
pub(crate) fn print_conditions(rounds: crate::compare::Rounds) {
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    println!(
        "cargo bench --bench token_service -- {}\n",
        arguments.join(" ")
    );
    let cores = thread::available_parallelism().map_or(0, Into::into);
    println!(
        "- {cores} cores ({}), {}",
        processor(),
        output("uname", &["-sr"])
    );
    println!(
        "- {}, kodo-broker {}",
        output("rustc", &["--version"]),
        env!("CARGO_PKG_VERSION")
    );
    println!(
        "- {}",
        locked(&[
            "tonic",
            "hyper",
            "h2",
            "tokio",
            "rustls",
            "aws-lc-rs",
            "prost"
        ])
    );
    println!(
        "- {} rounds by turns of {:?} after {:?} of warm-up; medians, ratios are medians of the rounds' \
         ratios with their quartiles",
        rounds.count, rounds.timing.measured, rounds.timing.warm_up
    );
    println!(
        "- CPU is the server process's, user and system; load comes from one thread on the same cores"
    );
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    line.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':']))
        .to_owned()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| format!("{program} unknown"),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// The versions of dependencies.
fn locked(names: &[&str]) -> String {
    let lock = include_str!("../../Cargo.lock");
    let version = |name: &&str| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(format!("{name} {}", rest.split_once('"')?.0))
    };
    names
        .iter()
        .filter_map(version)
        .collect::<Vec<_>>()
        .join(", ")
}
