//! `kodo-broker policy …`: what a policy file says, without a broker.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    slice,
};

use serde::Serialize;
use spiffe::TrustDomain;

use super::EXIT_CONFIG;
pub use crate::authz::explain::CaseText;
use crate::{
    authz::{
        Policy,
        explain::{Explanation, trust_domain},
    },
    config,
};

/// Exit code of a denied case: what the call would end with.
const EXIT_DENIED: u8 = 5;
/// Exit code of a case that is none.
const EXIT_INPUT: u8 = 3;

/// What to do with the file.
#[derive(Clone, Debug)]
pub enum Task {
    /// Look whether a broker would take it.
    Check,
    /// Ask it for a decision.
    Test(CaseText),
}

/// What was found, as JSON.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Report {
    Whole {
        trust_domain: String,
        grants: usize,
        callers: usize,
    },
    Decided {
        decision: &'static str,
        /// Where the grant begins that decided.
        line: Option<usize>,
        /// What the caller would be told.
        message: Option<String>,
        grants: Vec<GrantReport>,
    },
}

#[derive(Debug, Serialize)]
struct GrantReport {
    line: usize,
    /// The key of it that falls short; none, if it suffices.
    lacks: Option<&'static str>,
}

/// Why there is no report.
#[derive(Debug)]
struct Failure {
    exit_code: u8,
    message: String,
}

/// Does it, prints what came of it, and returns the exit code that `--help` explains.
#[must_use]
pub fn command(file: &Path, domain: Option<&str>, task: &Task, json: bool) -> ExitCode {
    let report = run(file, domain, task);
    let (written, exit_code) = match &report {
        Ok(report) => (print(report, json, &mut io::stdout()), report.exit_code()),
        // Standard error may be closed; the exit code says it too.
        Err(failure) => (refuse(failure, json), failure.exit_code),
    };
    match written {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::from(exit_code),
    }
}

fn run(file: &Path, domain: Option<&str>, task: &Task) -> Result<Report, Failure> {
    let of_file = |message: String| Failure {
        exit_code: EXIT_CONFIG,
        message: format!("{}: {message}", file.display()),
    };
    let text = config::read(file).map_err(|error| Failure {
        exit_code: EXIT_CONFIG,
        message: error.to_string(),
    })?;
    let domain = match domain {
        None => trust_domain(&text).map_err(of_file)?,
        Some(given) => TrustDomain::new(given).map_err(|error| Failure {
            exit_code: EXIT_INPUT,
            message: format!("`{given}` is no trust domain: {error}"),
        })?,
    };
    let policy = Policy::parse(&text, slice::from_ref(&domain)).map_err(of_file)?;
    let Task::Test(case) = task else {
        let summary = policy.summary();
        return Ok(Report::Whole {
            trust_domain: domain.to_string(),
            grants: summary.grants,
            callers: summary.callers,
        });
    };
    let input = |message| Failure {
        exit_code: EXIT_INPUT,
        message,
    };
    let case = case.parse().map_err(input)?;
    if !case.caller.is_member_of(&domain) {
        let reason = format!("`{}` is outside the trust domain {domain}", case.caller);
        return Err(input(format!("{reason}; no caller can have it")));
    }
    Ok(policy.explain(&case).into())
}

impl From<Explanation> for Report {
    fn from(explanation: Explanation) -> Self {
        let deciding = explanation.grants.iter().find(|grant| grant.says.is_ok());
        Self::Decided {
            decision: match explanation.decision {
                Ok(()) => "granted",
                Err(_) => "denied",
            },
            line: deciding.map(|grant| grant.line),
            message: explanation.decision.err().map(|denied| denied.to_string()),
            grants: explanation
                .grants
                .iter()
                .map(|grant| GrantReport {
                    line: grant.line,
                    lacks: grant.says.err().map(|short| short.key()),
                })
                .collect(),
        }
    }
}

impl Report {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Decided {
                message: Some(_), ..
            } => EXIT_DENIED,
            Self::Decided { .. } | Self::Whole { .. } => 0,
        }
    }
}

fn print(report: &Report, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        return writeln!(out);
    }
    match report {
        Report::Whole {
            trust_domain,
            grants,
            callers,
        } => writeln!(
            out,
            "whole: {grants} grants for {callers} callers of {trust_domain}"
        ),
        Report::Decided {
            decision,
            line,
            message,
            grants,
        } => {
            match (line, message) {
                (Some(line), _) => writeln!(out, "{decision} by the grant in line {line}")?,
                (None, Some(message)) => writeln!(out, "{decision}: {message}")?,
                (None, None) => writeln!(out, "{decision}")?,
            }
            if grants.is_empty() {
                writeln!(out, "no grant names the caller")?;
            }
            for GrantReport { line, lacks } in grants {
                match lacks {
                    None => writeln!(out, "line {line}: suffices")?,
                    Some(key) => writeln!(out, "line {line}: falls short by its `{key}`")?,
                }
            }
            Ok(())
        }
    }
}

fn refuse(failure: &Failure, json: bool) -> io::Result<()> {
    let Failure { exit_code, message } = failure;
    let mut err = io::stderr();
    if !json {
        return writeln!(err, "error: {message}");
    }
    let error = serde_json::json!({ "error": { "message": message, "exit_code": exit_code } });
    writeln!(err, "{error}")
}
