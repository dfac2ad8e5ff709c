//! `[server.tls]`: where the broker's certificate comes from, and what is spoken.

use std::{num::NonZeroU16, path::PathBuf, time::Duration};

use serde::Deserialize;

/// `[server.tls]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "TlsOptions")]
pub struct TlsConfig {
    /// Where certificate and key come from, and the CAs of callers.
    pub source: TlsSource,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

/// Where certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSource {
    /// From files; the CAs of callers from those of `[identity]`.
    Files {
        /// Certificate chain, PEM.
        certificate_file: PathBuf,
        /// Its key, PEM.
        key_file: PathBuf,
    },
    /// From the SPIFFE Workload API, the CAs of callers, too.
    WorkloadApi(WorkloadApiConfig),
}

/// How the Workload API is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApiConfig {
    /// Its endpoint, `unix:` with a path or `tcp://` with an IP address and port.
    pub socket: String,
    /// How long it may take to give the first SVID, in seconds.
    pub start_timeout_seconds: NonZeroU16,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2, with forward secrecy and authenticated encryption only.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

/// The section as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsOptions {
    #[serde(default)]
    source: SourceName,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    socket: Option<String>,
    start_timeout_seconds: Option<NonZeroU16>,
    #[serde(default)]
    min_version: TlsVersion,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SourceName {
    #[default]
    Files,
    WorkloadApi,
}

impl TryFrom<TlsOptions> for TlsConfig {
    type Error = &'static str;

    fn try_from(options: TlsOptions) -> Result<Self, Self::Error> {
        let TlsOptions {
            source,
            certificate_file,
            key_file,
            socket,
            start_timeout_seconds,
            min_version,
        } = options;
        let source = match (source, certificate_file, key_file, socket) {
            (SourceName::Files, Some(certificate_file), Some(key_file), None)
                if start_timeout_seconds.is_none() =>
            {
                TlsSource::Files {
                    certificate_file,
                    key_file,
                }
            }
            (SourceName::Files, ..) => {
                return Err(
                    "server.tls: the source \"files\" needs certificate_file and \
                            key_file, and takes neither socket nor start_timeout_seconds",
                );
            }
            (SourceName::WorkloadApi, None, None, Some(socket)) => {
                TlsSource::WorkloadApi(WorkloadApiConfig {
                    socket,
                    // An agent on the same node that has to attest it first takes some seconds.
                    start_timeout_seconds: start_timeout_seconds
                        .unwrap_or(const { NonZeroU16::new(30).expect("not zero") }),
                })
            }
            (SourceName::WorkloadApi, ..) => {
                return Err(
                    "server.tls: the source \"workload_api\" needs socket, and takes \
                            neither certificate_file nor key_file",
                );
            }
        };
        Ok(Self {
            source,
            min_version,
        })
    }
}

impl WorkloadApiConfig {
    /// How long it may take to give the first SVID.
    #[must_use]
    pub fn start_timeout(&self) -> Duration {
        Duration::from_secs(u16::from(self.start_timeout_seconds).into())
    }
}
