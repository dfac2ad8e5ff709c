//! The configuration file: typed sections, unknown keys refused, secrets only as paths of files.

use std::{
    fs, io,
    num::{NonZeroU16, NonZeroU32},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

mod audit;
mod entra;
mod identity;
mod kek;
mod server;
mod tls;

pub use audit::{AuditConfig, Durability};
pub use entra::EntraConfig;
pub use identity::{FederatedConfig, IdentityConfig, IdentityMode, TrustedProxy};
pub use kek::{KekConfig, KubernetesConfig, TransitConfig, WrapWith};
pub use server::{LimitsConfig, ListenAddress, ServerConfig};
pub use tls::{TlsConfig, TlsSource, TlsVersion, WorkloadApiConfig};

/// Longest configuration or policy file, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The whole configuration. `deploy/broker.toml` explains each option.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where and how callers are served.
    pub server: ServerConfig,
    /// Who callers are.
    pub identity: IdentityConfig,
    /// What callers may do.
    pub policy: PolicyConfig,
    /// Where records are kept.
    pub store: StoreConfig,
    /// What records are encrypted under.
    pub kek: KekConfig,
    /// How Entra is reached.
    #[serde(default)]
    pub entra: EntraConfig,
    /// How tokens are kept.
    #[serde(default)]
    pub tokens: TokensConfig,
    /// Where hand-outs are recorded.
    #[serde(default)]
    pub audit: AuditConfig,
    /// What is logged.
    #[serde(default)]
    pub log: LogConfig,
    /// The file that all of this was read from, if it was.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    #[serde(skip)]
    text: String,
}

/// `[policy]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// The grants, TOML.
    pub file: PathBuf,
}

/// `[store]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum StoreConfig {
    /// In memory.
    Memory {},
    /// On disk.
    Sled {
        /// Where.
        directory: PathBuf,
        /// Where its anchor is kept, if not beside the directory.
        anchor_file: Option<PathBuf>,
    },
}

/// `[tokens]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// Least life that a token is handed out with, in seconds.
    pub margin_seconds: NonZeroU16,
    /// Tokens kept in memory.
    pub slots_max: NonZeroU32,
    /// Streams of tokens at a time.
    pub streams_max: NonZeroU32,
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines there are, in the language of `RUST_LOG`.
    pub filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has unknown keys, wrong types or wrong syntax.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// Where and why, with the line.
        reason: String,
    },
    /// An authority that would send secrets where they do not belong.
    #[error("entra.{section}.{cloud}: {reason}")]
    Authority {
        /// The section it stands in.
        section: &'static str,
        /// The cloud it is for.
        cloud: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            // As Microsoft's own libraries: a token counts as expired 5 minutes before its end.
            margin_seconds: const { NonZeroU16::new(300).expect("not zero") },
            // 100,000 organizations with four resources each; about 4 KB a token.
            slots_max: const { NonZeroU32::new(400_000).expect("not zero") },
            // Some KB each.
            streams_max: const { NonZeroU32::new(20_000).expect("not zero") },
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Json,
            filter: "info".into(),
        }
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`Error`], with the line where it applies.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let text = read(file)?;
        let malformed = |reason| Error::Malformed {
            file: file.to_owned(),
            reason,
        };
        let mut config = Self::parse(&text).map_err(malformed)?;
        config.file = Some(file.to_owned());
        Ok(config)
    }

    /// Parses a configuration.
    ///
    /// # Errors
    /// What is wrong and, where it is in one, in which line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        config.identity.check(&config.server)?;
        text.clone_into(&mut config.text);
        Ok(config)
    }

    /// What was parsed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What in it is in force after a restart only, to be compared.
    #[must_use]
    pub fn not_reloaded(&self) -> Option<toml::Table> {
        let mut all: toml::Table = toml::from_str(&self.text).ok()?;
        all.remove("policy");
        for (name, options) in [
            ("server", &["tls"][..]),
            // On whose word callers are who they are stays as it is.
            ("identity", &["trust_domain", "client_ca_file", "federated"]),
            ("log", &["filter"]),
        ] {
            let Some(section) = all.get_mut(name).and_then(toml::Value::as_table_mut) else {
                continue;
            };
            section.retain(|option, _| !options.contains(&option));
            if section.is_empty() {
                all.remove(name);
            }
        }
        Some(all)
    }
}

impl StoreConfig {
    /// Where the anchor of the store is kept: beside its directory, if nothing else is said. A store in
    /// memory needs none.
    #[must_use]
    pub fn anchor_file(&self) -> Option<PathBuf> {
        let Self::Sled {
            directory,
            anchor_file,
        } = self
        else {
            return None;
        };
        let beside = || directory.with_added_extension("anchor");
        Some(anchor_file.clone().unwrap_or_else(beside))
    }
}

impl TokensConfig {
    /// Least life that a token is handed out with.
    #[must_use]
    pub fn margin(&self) -> Duration {
        Duration::from_secs(u16::from(self.margin_seconds).into())
    }

    /// Tokens kept in memory.
    #[must_use]
    pub fn slots_max(&self) -> usize {
        usize::try_from(self.slots_max.get()).unwrap_or(usize::MAX)
    }

    /// Streams of tokens at a time.
    #[must_use]
    pub fn streams_max(&self) -> usize {
        let max = usize::try_from(self.streams_max.get()).unwrap_or(usize::MAX);
        max.min(tokio::sync::Semaphore::MAX_PERMITS)
    }
}

/// Reads a text file of bounded length.
///
/// # Errors
/// [`Error::Unreadable`] also for one that is too long or no UTF-8.
pub fn read(file: &Path) -> Result<String, Error> {
    use io::Read as _;
    let unreadable = |source| Error::Unreadable {
        file: file.to_owned(),
        source,
    };
    let open = fs::File::open(file).map_err(unreadable)?;
    let mut text = String::new();
    open.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(io::Error::other("is longer than 4 MiB")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
