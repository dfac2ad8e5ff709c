//! `kodo-broker store …`: what is done to a store while no broker has it open.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

use super::{Error, exit_code};
use crate::{
    anchor::AnchorFile,
    audit::{Audit, Kind, Outcome, Record},
    clock::Clock,
    config::Config,
    kek,
    lockdown::{Guards, Lockdown},
    organization::State,
    store,
    vault::{PAGE_MAX, Vault},
};

mod restore;

/// Longest reason that is put on record, in bytes.
const REASON_BYTES_MAX: usize = 500;
/// Who it was, on record: whoever may read the KEK needs no certificate.
const CALLER: &str = "the operator of this machine";

/// What to do to a store.
#[derive(Clone, Debug)]
pub enum Task {
    /// Look whether it is whole: every record is there, opens, and is not older than the anchor.
    Check,
    /// Take it for the latest there is.
    AcceptRollback {
        /// Why, for the record.
        reason: String,
    },
    /// Make it of a backup, where there is none.
    Restore {
        /// The backup.
        file: PathBuf,
    },
}

/// What was seen.
#[derive(Debug, Serialize)]
struct Report {
    organizations: u64,
    revoked: u64,
    /// Number of the last change.
    change: u64,
    /// The change that the anchor had seen, if it was one of this store.
    #[serde(skip_serializing_if = "Option::is_none")]
    anchored: Option<u64>,
    /// Why a broker would not serve it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    older: Option<String>,
}

/// Does it, prints what came of it, and returns the exit code that `--help` explains.
#[must_use]
pub fn command(config: &Path, task: &Task, json: bool) -> ExitCode {
    // Keys and secrets are read here too. Where a guard fails it goes on: a store has to be restored on
    // the machine that there is, and it takes no longer than it must.
    let guarded = Lockdown::put_up(Guards::Wanted).map_err(Error::from);
    let done = guarded
        .and_then(|_| Ok(Config::load(config)?))
        .and_then(|config| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let report = runtime.block_on(run(&config, task))?;
            print(&report, task, json)?;
            Ok(())
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code says it too.
            let _ = writeln!(io::stderr(), "error: {error}");
            exit_code(&error)
        }
    }
}

async fn run(config: &Config, task: &Task) -> Result<Report, Error> {
    let file = config.store.anchor_file().map(AnchorFile::new);
    let Some(file) = file else {
        return Err(Error::Io(io::Error::other(
            "store.kind is \"memory\": there is nothing on disk",
        )));
    };
    let keys = kek::open(&config.kek).await?;
    if let Task::Restore { file: backup } = task {
        restore::restore(&config.store, backup, keys.clone()).await?;
    }
    let vault = Vault::open(store::open_existing(&config.store).await?, keys).await?;
    let anchor = file.read()?;
    let mut report = look(&vault).await?;
    report.change = *vault.changes().borrow();
    match task {
        Task::Check => vault.check_anchor(anchor.as_deref())?,
        // The store is whole, and is what the backup was. Whether that is the latest there is, its
        // operator says.
        Task::Restore { .. } => {
            let checked = vault.check_anchor(anchor.as_deref());
            report.older = checked.err().map(|error| error.to_string());
        }
        Task::AcceptRollback { reason } => {
            record(config, reason).await?;
            let accepted = vault.accept(anchor.as_deref()).await?;
            file.write(&vault.anchor())?;
            report.change = accepted.now;
            report.anchored = accepted.anchored;
        }
    }
    Ok(report)
}

/// Opens every record.
async fn look(vault: &Vault) -> Result<Report, Error> {
    let mut report = Report {
        organizations: 0,
        revoked: 0,
        change: 0,
        anchored: None,
        older: None,
    };
    let mut next = None;
    loop {
        let page = vault.list(next, PAGE_MAX).await?;
        for organization in &page.organizations {
            report.organizations += 1;
            report.revoked += u64::from(matches!(organization.state, State::Revoked(_)));
        }
        next = page.next;
        if next.is_none() {
            return Ok(report);
        }
    }
}

/// On record before it is done: whoever asks later why revoked organizations are back finds it.
async fn record(config: &Config, reason: &str) -> Result<(), Error> {
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
        return Err(Error::Io(io::Error::other(format!(
            "--reason must have 1 to {REASON_BYTES_MAX} bytes"
        ))));
    }
    let audit = Audit::open(&config.audit.offline(), Clock::system())?;
    let place = audit
        .record(&Record {
            kind: Kind::Call,
            time: Clock::system().now(),
            rpc: "AcceptRollback",
            caller: CALLER,
            on_word_of: None,
            organization: "",
            resource: None,
            sharepoint_host: None,
            call: None,
            job_id: None,
            outcome: Outcome::Done,
            reason: Some(reason),
            again: None,
            token: None,
        })
        .map_err(io::Error::other)?;
    audit.durable(place).await.map_err(io::Error::other)?;
    audit.close().await;
    Ok(())
}

fn print(report: &Report, task: &Task, json: bool) -> io::Result<()> {
    let mut out = io::stdout();
    if json {
        serde_json::to_writer_pretty(&mut out, report)?;
        return writeln!(out);
    }
    let Report {
        organizations,
        revoked,
        change,
        ..
    } = report;
    writeln!(
        out,
        "whole: {organizations} organizations, {revoked} of them revoked; every record opens"
    )?;
    match (task, report.anchored) {
        (Task::Restore { .. }, _) => writeln!(out, "restored, at change {change}"),
        (Task::Check, _) => writeln!(out, "at change {change}, and no older than its anchor"),
        (Task::AcceptRollback { .. }, Some(seen)) => writeln!(
            out,
            "accepted: the anchor had seen change {seen}; the store is at change {change} now"
        ),
        (Task::AcceptRollback { .. }, None) => writeln!(
            out,
            "accepted: there was no anchor of this store; it is at change {change} now"
        ),
    }?;
    match &report.older {
        Some(error) => writeln!(out, "not served yet: {error}"),
        None => Ok(()),
    }
}
