//! `audit`: what the audit log tells, and whether it is whole.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use super::{Console, Options, Output, error::Error, table::Table};

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Tell whether the files of a log are as they were written: nothing changed, added, missing or in
    /// another order. Exits with 10 if a line was changed, 11 if the end is missing, 12 if lines are
    /// missing or there twice, 13 if the key is not known.
    Verify {
        /// The files, the oldest first, as audit-*.jsonl audit.jsonl.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// The anchor, which knows the last line: without it, lines at the end may be missing unseen.
        #[arg(long, value_name = "FILE")]
        anchor: Option<PathBuf>,
        /// The keys that the log was written under.
        #[arg(long, value_name = "FILE", conflicts_with = "public_key")]
        key_file: Option<PathBuf>,
        /// Without the keys: a public key, which `audit public-key` shows. May be given again.
        #[arg(long, value_name = "HEX", required_unless_present = "key_file")]
        public_key: Vec<String>,
    },
    /// Tell who was given a token.
    Trace {
        /// SHA-256 of the token, as hex digits.
        #[arg(long, value_name = "HEX")]
        fingerprint: String,
        /// The files of the log.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Tell which tokens of an organization may still be good, who has them, and until when.
    Exposure {
        /// The organization.
        #[arg(long, value_name = "ID")]
        organization: String,
        /// The files of the log that may have hand-outs of the last 28 hours: no token lives longer.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Make a key file for audit.key_file, and show its public key. Keep that elsewhere.
    NewKey {
        /// Where to; must not exist yet.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show the public keys of a key file.
    PublicKey {
        /// The key file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// A hand-out as it is shown: times in RFC 3339.
#[derive(Debug, Serialize)]
pub struct HandOutView {
    /// SPIFFE ID of the caller.
    pub caller: String,
    /// The organization.
    pub organization_id: String,
    /// The API.
    pub resource: String,
    /// The SharePoint host, if one was asked for.
    pub sharepoint_host: Option<String>,
    /// SHA-256 of the token.
    pub fingerprint: String,
    /// The credential that it was obtained with.
    pub credential_version: u64,
    /// When it was handed out first.
    pub first_time: String,
    /// When that was told last.
    pub last_time: String,
    /// How often.
    pub times: u64,
    /// When the token ends.
    pub expire_time: String,
}

/// Shows hand-outs.
pub(super) fn show(
    options: &Options,
    hand_outs: &[HandOutView],
    console: &mut Console<'_>,
) -> Result<(), Error> {
    if options.output == Output::Json {
        return console.json(&hand_outs);
    }
    let mut table = Table::with_header(&[
        "caller",
        "organization",
        "resource",
        "host",
        "version",
        "first",
        "last",
        "times",
        "ends",
        "fingerprint",
    ]);
    for hand_out in hand_outs {
        table.push([
            &hand_out.caller,
            &hand_out.organization_id,
            &hand_out.resource,
            hand_out.sharepoint_host.as_deref().unwrap_or_default(),
            &hand_out.credential_version.to_string(),
            &hand_out.first_time,
            &hand_out.last_time,
            &hand_out.times.to_string(),
            &hand_out.expire_time,
            // Enough to tell tokens apart; JSON has the whole of it.
            &hand_out.fingerprint.chars().take(16).collect::<String>(),
        ]);
    }
    table.write(console.out).map_err(Error::Io)
}
