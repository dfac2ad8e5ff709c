//! `store`: backups and keys.

mod progress;

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde::Serialize;

use self::progress::Progress;
use super::{Console, Options, Output, connection, error::Error, kek::KekView, table::Table};
use crate::{client::Operator, pb::admin::v1::RewrapKeysRequest};

const CUT_OFF: &str = "the broker's answer was cut off; try again";

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Show under which KEK the keys of the store are wrapped.
    Status,
    /// Wrap all keys anew that are not wrapped under the present KEK, so that an older one can be
    /// destroyed. May be broken off and begun again at any time.
    Rewrap {
        /// Keys that are wrapped anew each second, at most. Left out: as many as can be.
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        per_second: u32,
    },
    /// Take an encrypted backup of the store while the broker works. To restore it, the KEK of this
    /// moment is needed.
    Backup {
        /// Where to; must not exist yet.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// What is done while no broker has the store open.
    #[cfg(feature = "server")]
    #[command(flatten)]
    Offline(OfflineCommand),
}

/// What is done to a store while no broker has it open.
#[cfg(feature = "server")]
#[derive(Debug, Subcommand)]
pub enum OfflineCommand {
    /// Look whether every record is there, opens, and is not older than the anchor. No broker may have
    /// the store open.
    Check {
        /// The broker's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make a store of a backup, where there is none, and look whether it is whole.
    Restore {
        /// The backup.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The broker's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Take a store that is older than its anchor for the latest there is. Organizations that were
    /// revoked since get tokens again, and credentials that were replaced are back.
    AcceptRollback {
        /// The broker's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Why, for the audit log.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// The store's keys, in JSON.
#[derive(Serialize)]
struct KeysView {
    #[serde(skip_serializing_if = "Option::is_none")]
    kek_id: Option<String>,
    /// By the KEK that they are wrapped under.
    keys: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rewrapped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keks_to_destroy: Option<Vec<KekView>>,
}

/// A backup, in JSON.
#[derive(Serialize)]
struct BackupView {
    file: String,
    organizations: u64,
    bytes: u64,
}

pub(super) async fn run(
    options: &Options,
    command: StoreCommand,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    match command {
        StoreCommand::Status => status(options, console).await,
        StoreCommand::Rewrap { per_second } => rewrap(options, per_second, console).await,
        StoreCommand::Backup { file } => backup(options, &file, console).await,
        #[cfg(feature = "server")]
        StoreCommand::Offline(_) => Err(Error::usage("this is not done by calling a broker")),
    }
}

async fn operator(options: &Options) -> Result<Operator, Error> {
    Ok(Operator::connect(&connection(options)?).await?)
}

async fn status(options: &Options, console: &mut Console<'_>) -> Result<(), Error> {
    let status = operator(options).await?.store_status().await?;
    let to_destroy = status.keks_to_destroy.into_iter().map(KekView::from);
    let to_destroy = to_destroy.collect();
    let view = KeysView {
        kek_id: Some(status.kek_id),
        keys: status.keys.into_iter().collect(),
        rewrapped: None,
        change: Some(status.change),
        keks_to_destroy: Some(to_destroy),
    };
    if options.output == Output::Json {
        return console.json(&view);
    }
    let present = view.kek_id.unwrap_or_default();
    let mut table = Table::with_header(&["KEK", "KEYS", "PRESENT"]);
    for (kek_id, count) in &view.keys {
        let is_present = if *kek_id == present { "yes" } else { "no" };
        table.push([kek_id, &count.to_string(), is_present]);
    }
    if !view.keys.contains_key(&present) {
        table.push([&present, "0", "yes"]);
    }
    table.write(console.out).map_err(Error::Io)?;
    for kek in view.keks_to_destroy.iter().flatten() {
        let keys = view.keys.get(kek.id()).copied().unwrap_or(0);
        // What nobody waits for is no more than advice.
        let kind = if kek.is_waited_for() { "to do" } else { "note" };
        console.remark(kind, &kek.remedy(Some(keys)))?;
    }
    Ok(())
}

async fn rewrap(
    options: &Options,
    keys_per_second_max: u32,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    let request = RewrapKeysRequest {
        keys_per_second_max,
    };
    let mut answers = operator(options).await?.rewrap_keys(request).await?;
    let mut progress = Progress::new("keys");
    while let Some(answer) = next(&mut answers).await? {
        if !answer.finished {
            progress.show(answer.keys_done, answer.keys_total);
            continue;
        }
        progress.end();
        let view = KeysView {
            kek_id: None,
            keys: answer.keys.into_iter().collect(),
            rewrapped: Some(answer.keys_rewrapped),
            change: None,
            keks_to_destroy: None,
        };
        if options.output == Output::Json {
            return console.json(&view);
        }
        console.line(&format!("{} keys wrapped anew", answer.keys_rewrapped))?;
        for (kek_id, count) in view.keys {
            console.line(&format!("all {count} keys are wrapped under {kek_id}"))?;
        }
        return Ok(());
    }
    Err(Error::input(CUT_OFF))
}

async fn backup(options: &Options, file: &Path, console: &mut Console<'_>) -> Result<(), Error> {
    let part = file.with_added_extension("part");
    let failed = |error: io::Error| Error::input(format!("{}: {error}", file.display()));
    if file.exists() {
        return Err(failed(io::Error::other(
            "exists already; it is left as it is",
        )));
    }
    let mut answers = operator(options).await?.back_up_store().await?;
    let mut opened = OpenOptions::new();
    let opened = opened.write(true).create(true).truncate(true).mode(0o600);
    let mut to = opened.open(&part).map_err(failed)?;
    let mut progress = Progress::new("organizations");
    let mut bytes = 0;
    let written = async {
        while let Some(answer) = next(&mut answers).await? {
            to.write_all(&answer.data).map_err(failed)?;
            bytes += answer.data.len() as u64;
            progress.show(answer.organizations_done, answer.organizations_total);
            if answer.finished {
                to.sync_all().map_err(failed)?;
                return Ok(answer.organizations_done);
            }
        }
        Err(Error::input(CUT_OFF))
    };
    let written = written.await;
    progress.end();
    // Only a whole backup has the name of one.
    let organizations = match written {
        Ok(organizations) => organizations,
        Err(error) => {
            let _ = fs::remove_file(&part);
            return Err(error);
        }
    };
    fs::rename(&part, file).map_err(failed)?;
    let view = BackupView {
        file: file.display().to_string(),
        organizations,
        bytes,
    };
    if options.output == Output::Json {
        return console.json(&view);
    }
    console.line(&format!(
        "{}: {organizations} organizations, {bytes} bytes",
        view.file
    ))
}

/// The next message, with the error of the stream as that of the call.
async fn next<T>(answers: &mut tonic::Streaming<T>) -> Result<Option<T>, Error> {
    let message = answers.message().await;
    Ok(message.map_err(crate::client::Error::from)?)
}
