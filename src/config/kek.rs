//! `[kek]`: what records are encrypted under.

use std::{num::NonZeroU16, path::PathBuf, time::Duration};

use serde::Deserialize;
use url::Url;

/// `[kek]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "KekTable")]
pub enum KekConfig {
    /// Keys in a file, 32 bytes in base64 each; the first wraps.
    File(PathBuf),
    /// A key of a Transit engine.
    Transit(TransitConfig),
    /// Both, while a store moves from one to the other by re-wrapping.
    Both {
        /// Keys in a file.
        file: PathBuf,
        /// A key of a Transit engine.
        transit: TransitConfig,
        /// The one that wraps.
        wrap_with: WrapWith,
    },
}

/// Which of two KEKs wraps what is new. The other one only opens.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum WrapWith {
    /// That of the file.
    File,
    /// That of the Transit engine.
    Transit,
}

/// The section as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KekTable {
    file: Option<PathBuf>,
    transit: Option<TransitConfig>,
    wrap_with: Option<WrapWith>,
}

/// `[kek.transit]`: a key of the Transit engine of OpenBao or Vault.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransitConfig {
    /// Where the server is, `https` only.
    pub address: Url,
    /// The key's name.
    pub key: String,
    /// Where the engine is mounted.
    #[serde(default = "transit")]
    pub mount: String,
    /// The namespace that engine and login are in.
    pub namespace: Option<String>,
    /// CAs to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// A file that holds the token.
    pub token_file: Option<PathBuf>,
    /// Login with a Kubernetes service account.
    pub kubernetes: Option<KubernetesConfig>,
    /// How long a connection may take to be made, in seconds.
    #[serde(default = "two")]
    pub connect_timeout_seconds: NonZeroU16,
    /// How long a request may take, in seconds.
    #[serde(default = "five")]
    pub request_timeout_seconds: NonZeroU16,
    /// How often the key's versions and the token's file are looked at, in seconds.
    #[serde(default = "thirty")]
    pub refresh_seconds: NonZeroU16,
}

/// `[kek.transit.kubernetes]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The role to log in as.
    pub role: String,
    /// Where the auth method is mounted.
    #[serde(default = "kubernetes")]
    pub mount: String,
    /// A file that holds the service account's token.
    #[serde(default = "service_account_token")]
    pub jwt_file: PathBuf,
}

fn transit() -> String {
    "transit".to_owned()
}

fn kubernetes() -> String {
    "kubernetes".to_owned()
}

/// Where Kubernetes mounts it.
fn service_account_token() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".into()
}

const fn two() -> NonZeroU16 {
    NonZeroU16::new(2).expect("not zero")
}

const fn five() -> NonZeroU16 {
    NonZeroU16::new(5).expect("not zero")
}

const fn thirty() -> NonZeroU16 {
    NonZeroU16::new(30).expect("not zero")
}

impl TryFrom<KekTable> for KekConfig {
    type Error = &'static str;

    fn try_from(table: KekTable) -> Result<Self, Self::Error> {
        match (table.file, table.transit, table.wrap_with) {
            (Some(file), None, None | Some(WrapWith::File)) => Ok(Self::File(file)),
            (None, Some(transit), None | Some(WrapWith::Transit)) => Ok(Self::Transit(transit)),
            (Some(file), Some(transit), Some(wrap_with)) => Ok(Self::Both {
                file,
                transit,
                wrap_with,
            }),
            (Some(_), Some(_), None) => {
                Err("with both `file` and `[kek.transit]`, `wrap_with` must say which one wraps")
            }
            (None, None, _) => Err("`file` or `[kek.transit]` is missing"),
            _ => Err("`wrap_with` names what is not there"),
        }
    }
}

impl TransitConfig {
    /// How long a connection may take to be made.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        seconds(self.connect_timeout_seconds)
    }

    /// How long a request may take.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        seconds(self.request_timeout_seconds)
    }

    /// How often the key's versions and the token's file are looked at.
    #[must_use]
    pub fn refresh_interval(&self) -> Duration {
        seconds(self.refresh_seconds)
    }
}

fn seconds(seconds: NonZeroU16) -> Duration {
    Duration::from_secs(u16::from(seconds).into())
}
