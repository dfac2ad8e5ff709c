//! `kodo-broker audit …`: what is done with the files of an audit log, without a broker.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

pub use crate::audit::trace::HandOut;
use crate::{
    audit::{
        Anchor,
        key::{Keys, PublicKey},
        trace::{self, Question},
        verify::{self, Fault, Found, Report, Trust},
    },
    clock::Clock,
};

/// Exit codes of what can be wrong with a log. `kodo-broker --help` explains them.
const EXIT_CHANGED: u8 = 10;
const EXIT_CUT: u8 = 11;
const EXIT_ORDER: u8 = 12;
const EXIT_UNKNOWN_KEY: u8 = 13;
/// A file that cannot be read.
const EXIT_INPUT: u8 = 3;

/// What to do.
#[derive(Clone, Debug)]
pub enum Task {
    /// Tell whether a log is as it was written.
    Verify {
        /// Its files, the oldest first.
        files: Vec<PathBuf>,
        /// Its anchor.
        anchor: Option<PathBuf>,
        /// The keys that it was written under.
        key_file: Option<PathBuf>,
        /// Or their public part, as hex digits.
        public_keys: Vec<String>,
    },
    /// Make a key file.
    NewKey {
        /// Where.
        file: PathBuf,
    },
    /// Show the public keys of a key file.
    PublicKey {
        /// Which.
        file: PathBuf,
    },
}

/// What was found, for programs.
#[derive(Serialize)]
struct View<'a> {
    intact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(flatten)]
    report: Option<ReportView<'a>>,
}

#[derive(Serialize)]
struct ReportView<'a> {
    log: &'a str,
    first: u64,
    last: u64,
    last_signed: u64,
    signatures: u64,
    torn_bytes: u64,
    unfinished: bool,
    closed: bool,
    /// The line where they begin, and the RPC.
    open_intents: Vec<(u64, &'a str)>,
}

/// Does it, prints what came of it, and returns the exit code that `--help` explains.
#[must_use]
pub fn command(task: &Task, json: bool) -> ExitCode {
    let mut out = io::stdout();
    let done = match task {
        Task::Verify {
            files,
            anchor,
            key_file,
            public_keys,
        } => trust(key_file.as_ref(), public_keys).and_then(|trust| {
            let anchor = anchor
                .as_ref()
                .map(|file| required(file, &trust))
                .transpose()?;
            let verified = verify::files(files, &trust, anchor.as_ref())?;
            let by_key = matches!(trust, Trust::Keys(_));
            print(&mut out, &verified, by_key, json)?;
            Ok(verified.map_or_else(|found| exit_code(&found.fault), |_| ExitCode::SUCCESS))
        }),
        Task::NewKey { file } => Keys::make(file)
            .and_then(|()| Keys::read(file))
            .and_then(|keys| show(&mut out, &keys)),
        Task::PublicKey { file } => Keys::read(file).and_then(|keys| show(&mut out, &keys)),
    };
    done.unwrap_or_else(|error| {
        // Standard error may be closed; the exit code says it too.
        let _ = writeln!(io::stderr(), "error: {error}");
        ExitCode::from(EXIT_INPUT)
    })
}

/// Who was given the token with this fingerprint, by these files.
///
/// # Errors
/// Those of the file system, and a fingerprint that is none.
pub fn trace(files: &[PathBuf], fingerprint: &str) -> io::Result<Vec<HandOut>> {
    let fingerprint = fingerprint.to_ascii_lowercase();
    if crate::hex::parse::<32>(&fingerprint).is_none() {
        return Err(io::Error::other("a fingerprint has 64 hex digits"));
    }
    trace::hand_outs(files, &Question::Token(fingerprint))
}

/// Which tokens of an organization may still be good, by these files.
///
/// # Errors
/// Those of the file system.
pub fn exposure(files: &[PathBuf], organization: &str) -> io::Result<Vec<HandOut>> {
    let question = Question::Exposure {
        organization: organization.to_owned(),
        at: Clock::system().now(),
    };
    trace::hand_outs(files, &question)
}

fn trust(key_file: Option<&PathBuf>, public_keys: &[String]) -> io::Result<Trust> {
    if let Some(file) = key_file {
        return Ok(Trust::Keys(Keys::read(file)?));
    }
    let keys = public_keys.iter().map(|text| {
        let none = || io::Error::other(format!("{text} is no public key: it has 64 hex digits"));
        PublicKey::parse(text).ok_or_else(none)
    });
    Ok(Trust::Public(keys.collect::<io::Result<_>>()?))
}

fn required(file: &Path, trust: &Trust) -> io::Result<Anchor> {
    let missing = || io::Error::other(format!("{}: there is no such file", file.display()));
    Anchor::read(file, trust)?.ok_or_else(missing)
}

fn show(out: &mut impl Write, keys: &Keys) -> io::Result<ExitCode> {
    for key in keys.public() {
        writeln!(out, "{key}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(
    out: &mut impl Write,
    verified: &Result<Report, Found>,
    by_key: bool,
    json: bool,
) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, &View::from(verified))?;
        return writeln!(out);
    }
    let report = match verified {
        Ok(report) => report,
        Err(found) => return writeln!(out, "{found}"),
    };
    let Report {
        log,
        first,
        last,
        signed,
        signatures,
        torn_bytes,
        ..
    } = report;
    let last = last.seq;
    writeln!(
        out,
        "intact: lines {first} to {last} of the log {log}, {signatures} of them signed"
    )?;
    if !by_key && *signed < last {
        writeln!(
            out,
            "not signed yet: the lines after {signed}; only the key itself tells whether they are right"
        )?;
    }
    if *torn_bytes > 0 {
        writeln!(
            out,
            "cut short by crashes, of no call that was answered, and told so by the line behind: {torn_bytes} bytes"
        )?;
    }
    if report.unfinished {
        writeln!(
            out,
            "the last line is unfinished: it is being written, or the broker crashed"
        )?;
    } else if !report.closed {
        writeln!(out, "not closed: the broker is writing, or crashed")?;
    }
    for (line, rpc) in &report.open_intents {
        writeln!(out, "began and has no result: {rpc} in line {line}")?;
    }
    Ok(())
}

fn exit_code(fault: &Fault) -> ExitCode {
    ExitCode::from(match fault {
        Fault::Changed(_) => EXIT_CHANGED,
        Fault::Cut { .. } => EXIT_CUT,
        Fault::Order { .. } => EXIT_ORDER,
        Fault::UnknownKey(_) => EXIT_UNKNOWN_KEY,
    })
}

impl<'a> From<&'a Result<Report, Found>> for View<'a> {
    fn from(verified: &'a Result<Report, Found>) -> Self {
        let found = verified.as_ref().err();
        Self {
            intact: found.is_none(),
            fault: found.map(|found| found.fault.to_string()),
            file: found.map(|found| found.file.display().to_string()),
            line: found.map(|found| found.line),
            seq: found.map(|found| found.seq),
            report: verified.as_ref().ok().map(|report| ReportView {
                log: &report.log,
                first: report.first,
                last: report.last.seq,
                last_signed: report.signed,
                signatures: report.signatures,
                torn_bytes: report.torn_bytes,
                unfinished: report.unfinished,
                closed: report.closed,
                open_intents: report
                    .open_intents
                    .iter()
                    .map(|(line, rpc)| (*line, rpc.as_str()))
                    .collect(),
            }),
        }
    }
}
