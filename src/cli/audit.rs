//! `audit`: what the audit log tells, and whether it is whole.

use std::path::PathBuf;

use clap::Subcommand;
use prost_types::Timestamp;
use serde::Serialize;

use super::{Console, Options, Output, connection, error::Error, table::Table, value};
use crate::{
    client::Operator,
    pb::admin::v1::{GetExposureRequest, HandOut, TraceTokenRequest},
};

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Tell who was given a token.
    Trace {
        /// SHA-256 of the token, as hex digits.
        #[arg(long, value_name = "HEX")]
        fingerprint: String,
        /// Files of a log, to be read here. Left out: the broker is asked.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Tell which tokens of an organization may still be good, who has them, and until when.
    Exposure {
        /// The organization.
        #[arg(long, value_name = "ID")]
        organization: String,
        /// Files of a log, to be read here: those that may have hand-outs of the last 28 hours, since no
        /// token lives longer. Left out: the broker is asked.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// What is done with files only.
    #[cfg(feature = "server")]
    #[command(flatten)]
    Offline(OfflineAuditCommand),
}

/// What is done with the files of a log, and of its keys.
#[cfg(feature = "server")]
#[derive(Debug, Subcommand)]
pub enum OfflineAuditCommand {
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

impl From<HandOut> for HandOutView {
    fn from(hand_out: HandOut) -> Self {
        let time =
            |time: Option<Timestamp>| time.as_ref().map_or_else(String::new, value::show_time);
        Self {
            caller: hand_out.caller,
            organization_id: hand_out.organization_id,
            resource: hand_out.resource,
            sharepoint_host: Some(hand_out.sharepoint_host).filter(|host| !host.is_empty()),
            fingerprint: hand_out.fingerprint,
            credential_version: hand_out.credential_version,
            first_time: time(hand_out.first_time),
            last_time: time(hand_out.last_time),
            times: hand_out.times,
            expire_time: time(hand_out.expire_time),
        }
    }
}

/// Asks a broker.
pub(super) async fn run(
    options: &Options,
    command: AuditCommand,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let hand_outs = match command {
        AuditCommand::Trace { fingerprint, files } if files.is_empty() => {
            let operator = Operator::connect(&connection(options)?).await?;
            let request = TraceTokenRequest { fingerprint };
            operator.trace_token(request).await?.hand_outs
        }
        AuditCommand::Exposure {
            organization,
            files,
        } if files.is_empty() => {
            let operator = Operator::connect(&connection(options)?).await?;
            let request = GetExposureRequest {
                organization_id: organization,
            };
            operator.exposure(request).await?.hand_outs
        }
        _ => return Err(Error::usage("this is not done by calling a broker")),
    };
    let views: Vec<_> = hand_outs.into_iter().map(HandOutView::from).collect();
    show(options, &views, console)
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
