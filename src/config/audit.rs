//! `[audit]`: where hand-outs are recorded.

use std::{
    fs,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};

/// `[audit]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// The file, or no record at all.
    pub file: Option<PathBuf>,
    /// When a line counts as written.
    pub durability: Durability,
    /// What lines are authenticated with; if not said, a file beside `file`, which is made.
    pub key_file: Option<PathBuf>,
    /// That file, if it is beside another log than this one.
    #[serde(skip)]
    pub key_beside: Option<PathBuf>,
    /// Where the last line is kept, if not beside `file`.
    pub anchor_file: Option<PathBuf>,
    /// A collector beside the broker, which gets a copy of each line by syslog over TCP.
    #[serde(deserialize_with = "loopback")]
    pub syslog: Option<SocketAddr>,
    /// How long a file may become, in MiB.
    pub segment_mib_max: NonZeroU32,
    /// How long it is written to, in hours.
    pub segment_hours_max: NonZeroU16,
}

/// When a line counts as written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Once the disk has it.
    #[default]
    Sync,
    /// Once the system has it: a power cut takes the last lines.
    Os,
}

/// Lines go there in the clear.
fn loopback<'de, D: Deserializer<'de>>(value: D) -> Result<Option<SocketAddr>, D::Error> {
    let address = SocketAddr::deserialize(value)?;
    if address.ip().is_loopback() {
        return Ok(Some(address));
    }
    Err(D::Error::custom(format!(
        "{address} is not on this machine: the copy of the audit log is for a collector on a loopback address"
    )))
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            file: None,
            durability: Durability::default(),
            key_file: None,
            key_beside: None,
            anchor_file: None,
            syslog: None,
            // Some hundred thousand lines, verified in a second when a broker starts.
            segment_mib_max: const { NonZeroU32::new(64).expect("not zero") },
            segment_hours_max: const { NonZeroU16::new(24).expect("not zero") },
        }
    }
}

impl AuditConfig {
    /// The same for what is done beside a broker, which has its log open: a log of its own.
    #[must_use]
    pub fn offline(&self) -> Self {
        let is_stream =
            |file: &PathBuf| fs::metadata(file).is_ok_and(|metadata| !metadata.is_file());
        if self.file.as_ref().is_none_or(is_stream) {
            return self.clone();
        }
        Self {
            file: self
                .file
                .as_ref()
                .map(|file| file.with_extension("offline.jsonl")),
            key_beside: self.own_key_file(),
            anchor_file: None,
            // Two logs in one copy could not be verified.
            syslog: None,
            ..self.clone()
        }
    }

    /// The key file where none is named.
    #[must_use]
    pub fn own_key_file(&self) -> Option<PathBuf> {
        let beside = || Some(self.file.as_ref()?.with_extension("key"));
        self.key_beside.clone().or_else(beside)
    }

    /// Where the last line is kept.
    #[must_use]
    pub fn anchor_file(&self) -> Option<PathBuf> {
        let beside = || Some(self.file.as_ref()?.with_extension("anchor"));
        self.anchor_file.clone().or_else(beside)
    }

    /// How long a file may become, in bytes.
    #[must_use]
    pub fn segment_bytes_max(&self) -> u64 {
        u64::from(self.segment_mib_max.get()) * 1024 * 1024
    }

    /// How long it is written to.
    #[must_use]
    pub fn segment_age_max(&self) -> Duration {
        Duration::from_secs(u64::from(self.segment_hours_max.get()) * 3600)
    }
}
