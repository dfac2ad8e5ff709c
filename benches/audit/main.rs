//! How many records become durable each second, by how many callers wait at once, and how fast a log is
//! verified.
//!
//! `cargo bench --bench audit` writes to a temporary folder, or to that of `--folder`: what counts is the
//! disk below it. `--lines 10000000` verifies as many lines.
#![expect(
    clippy::print_stdout,
    reason = "a benchmark prints what it has measured"
)]

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Parser;
use kodo_broker::{
    audit::{
        Audit, Kind, Outcome, Record, TokenRecord,
        key::Keys,
        verify::{self, Trust},
    },
    clock::Clock,
    config::{AuditConfig, Durability},
};
use tokio::{task::JoinSet, time::Instant};

/// That of the broker, so that what it costs is counted.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

type Failure = Box<dyn std::error::Error + Send + Sync>;

const CALLERS: [usize; 5] = [1, 16, 64, 256, 1024];
const MEASURED: Duration = Duration::from_secs(3);
/// Lines that are recorded before somebody waits, where nothing but the lines matters.
const AT_ONCE: u64 = 2000;

#[derive(Debug, Parser)]
struct Options {
    /// Where to write.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How many lines to verify.
    #[arg(long, default_value_t = 1_000_000)]
    lines: u64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let temporary = tempfile::tempdir()?;
    let folder = options
        .folder
        .as_deref()
        .unwrap_or_else(|| temporary.path());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    println!("| callers | records/s | records a group | p50 ms | p99 ms |");
    println!("|---|---|---|---|---|");
    for callers in CALLERS {
        let folder = tempfile::tempdir_in(folder)?;
        runtime.block_on(durable(folder.path(), callers))?;
    }
    let folder = tempfile::tempdir_in(folder)?;
    runtime.block_on(verified(folder.path(), options.lines))
}

fn config(folder: &Path, durability: Durability) -> AuditConfig {
    AuditConfig {
        file: Some(folder.join("audit.jsonl")),
        durability,
        ..AuditConfig::default()
    }
}

fn record(organization: &str) -> Record<'_> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Record {
        kind: Kind::Call,
        time: now,
        rpc: "GetToken",
        caller: "spiffe://kodo.example/backup/worker",
        on_word_of: None,
        job_id: None,
        organization,
        resource: Some("graph"),
        sharepoint_host: None,
        call: None,
        outcome: Outcome::Done,
        reason: None,
        again: None,
        token: Some(TokenRecord {
            fingerprint: &[0xab; 32],
            credential_version: 3,
            expire_time: now,
        }),
    }
}

/// Callers each of whom waits for its record before the next.
async fn durable(folder: &Path, callers: usize) -> Result<(), Failure> {
    let audit = Audit::open(&config(folder, Durability::Sync), Clock::system())?;
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for caller in 0..callers {
        let audit = audit.clone();
        tasks.spawn(async move {
            let name = format!("organization-{caller}");
            let mut waited = Vec::new();
            while began.elapsed() < MEASURED {
                let asked = Instant::now();
                let place = audit.record(&record(&name))?;
                audit.durable(place).await?;
                waited.push(asked.elapsed());
            }
            Ok::<_, kodo_broker::audit::Unavailable>(waited)
        });
    }
    let mut waited = Vec::new();
    while let Some(of_one) = tasks.join_next().await {
        waited.extend(of_one??);
    }
    let seconds = began.elapsed().as_secs_f64();
    let groups = audit.groups();
    audit.close().await;
    waited.sort_unstable();
    let at = |percent: usize| waited[(waited.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    let records = waited.len() as f64;
    println!(
        "| {callers} | {:.0} | {:.1} | {:.2} | {:.2} |",
        records / seconds,
        records / groups as f64,
        at(50),
        at(99)
    );
    Ok(())
}

async fn verified(folder: &Path, lines: u64) -> Result<(), Failure> {
    let config = config(folder, Durability::Os);
    let audit = Audit::open(&config, Clock::system())?;
    let began = Instant::now();
    for start in (0..lines).step_by(AT_ONCE as usize) {
        let mut last = None;
        for number in start..lines.min(start + AT_ONCE) {
            last = Some(audit.record(&record(&format!("organization-{number}")))?);
        }
        if let Some(last) = last {
            audit.durable(last).await?;
        }
    }
    audit.close().await;
    println!(
        "{lines} lines written in {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let file = config.file.clone().ok_or("a file was given")?;
    let mut files = kodo_broker::audit::numbered(&file)?;
    files.push(file);
    let keys = Keys::read(&config.own_key_file().ok_or("there is a key")?)?;
    let public = Trust::Public(keys.public().collect());
    for (with, trust) in [("the key", Trust::Keys(keys)), ("the public key", public)] {
        let began = Instant::now();
        let report = verify::files(&files, &trust, None)?.map_err(|found| found.to_string())?;
        println!(
            "{} lines in {} files verified with {with} in {:.1} s",
            report.last.seq,
            files.len(),
            began.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
