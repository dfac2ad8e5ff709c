//! `[server]`: where and how callers are served.

use std::{
    fmt, iter,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    path::PathBuf,
    thread,
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::Semaphore;

use super::TlsConfig;

/// Open files for all but callers' connections: those to Entra, probes, the store, listeners.
const OTHER_FILES: u64 = 512;

/// `[server]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Where gRPC is served.
    pub listen: ListenAddress,
    /// Where operators are served, if not at `listen`, which then serves workers only.
    pub admin_listen: Option<ListenAddress>,
    /// Where the plaintext health service is served.
    pub health_listen: Option<SocketAddr>,
    /// Where the figures are served, in plaintext.
    pub metrics_listen: Option<SocketAddr>,
    /// Threads that serve callers: as many as there are cores if `None`, none of their own if 0.
    pub threads: Option<u16>,
    /// Whether gRPC reflection is answered.
    #[serde(default)]
    pub reflection: bool,
    /// The broker's own certificate; without one it serves in plaintext, which only a proxy may use.
    pub tls: Option<TlsConfig>,
    /// What callers may take of it.
    #[serde(default)]
    pub limits: LimitsConfig,
}

/// Where gRPC is served.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum ListenAddress {
    /// To a network.
    Tcp(SocketAddr),
    /// To processes of this machine that may open this file.
    Unix(PathBuf),
}

/// `[server.limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Open connections.
    pub connections_max: NonZeroU32,
    /// Open connections of one caller.
    pub connections_per_caller_max: NonZeroU32,
    /// TLS handshakes under way.
    pub handshakes_max: NonZeroU32,
    /// Calls that wait for a token, on all connections.
    pub waiting_calls_max: NonZeroU32,
    /// Calls under way on one connection.
    pub streams_per_connection_max: NonZeroU32,
    /// How long a connection may live, in seconds.
    pub connection_age_max_seconds: NonZeroU32,
    /// How long a connection may be without a call, in seconds; it ends before it was so for twice as long.
    pub connection_idle_max_seconds: NonZeroU32,
    /// How long a handshake may take, in seconds.
    pub handshake_timeout_seconds: NonZeroU16,
    /// How long a request may take to come, and an answer to be taken, in seconds.
    pub transfer_timeout_seconds: NonZeroU16,
    /// How long a call may take, in seconds.
    pub call_timeout_seconds: NonZeroU16,
    /// How long calls may take to finish after SIGTERM, in seconds.
    pub drain_seconds: NonZeroU16,
}

impl ServerConfig {
    /// Where callers connect, operators and workers.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        iter::once(&self.listen).chain(&self.admin_listen)
    }
}

impl ListenAddress {
    /// The address, if it is one of a network.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix("unix:").map(PathBuf::from) {
            Some(path) if path.is_absolute() => Ok(Self::Unix(path)),
            Some(_) => Err(format!("`{text}`: the path after `unix:` must begin with `/`")),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!("`{text}` is neither an address with a port, as in \"0.0.0.0:8443\", nor `unix:` with a path")
            }),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        const fn u16(value: u16) -> NonZeroU16 {
            NonZeroU16::new(value).expect("a default is not zero")
        }
        const fn u32(value: u32) -> NonZeroU32 {
            NonZeroU32::new(value).expect("a default is not zero")
        }
        Self {
            connections_max: u32(8192),
            // Workers of one kind may have one identity.
            connections_per_caller_max: u32(2048),
            handshakes_max: u32(256),
            waiting_calls_max: u32(32768),
            streams_per_connection_max: u32(256),
            // So that replicas behind a balancer even out, and a certificate's end takes effect.
            connection_age_max_seconds: u32(3600),
            connection_idle_max_seconds: u32(300),
            handshake_timeout_seconds: u16(5),
            transfer_timeout_seconds: u16(10),
            // A token that has not come in a minute never comes.
            call_timeout_seconds: u16(60),
            drain_seconds: u16(20),
        }
    }
}

impl ServerConfig {
    /// Threads that serve callers: what the file says, else what the system gives this process.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.threads {
            Some(threads) => threads.into(),
            None => thread::available_parallelism().map_or(1, NonZeroUsize::get),
        }
    }
}

impl LimitsConfig {
    /// The same with no more connections than this many open files leave room for: whoever connects
    /// must not keep the broker from its store, from Entra and from probes.
    #[must_use]
    pub fn within(&self, open_files: u64) -> Self {
        let room = open_files - OTHER_FILES.min(open_files / 2);
        let room = NonZeroU32::new(room.try_into().unwrap_or(u32::MAX));
        Self {
            connections_max: room.map_or(NonZeroU32::MIN, |room| room.min(self.connections_max)),
            ..self.clone()
        }
    }

    /// Calls that wait for a token, on all connections.
    #[must_use]
    pub fn waiting_calls_max(&self) -> usize {
        let max = usize::try_from(self.waiting_calls_max.get()).unwrap_or(usize::MAX);
        max.min(Semaphore::MAX_PERMITS)
    }

    /// How long a connection may live.
    #[must_use]
    pub fn connection_age_max(&self) -> Duration {
        Duration::from_secs(u32::from(self.connection_age_max_seconds).into())
    }

    /// How long a connection may be without a call.
    #[must_use]
    pub fn connection_idle_max(&self) -> Duration {
        Duration::from_secs(u32::from(self.connection_idle_max_seconds).into())
    }

    /// How long a request may take to come, and an answer to be taken.
    #[must_use]
    pub fn transfer_timeout(&self) -> Duration {
        seconds(self.transfer_timeout_seconds)
    }

    /// How long a handshake may take.
    #[must_use]
    pub fn handshake_timeout(&self) -> Duration {
        seconds(self.handshake_timeout_seconds)
    }

    /// How long a call may take.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        seconds(self.call_timeout_seconds)
    }

    /// How long calls may take to finish after SIGTERM.
    #[must_use]
    pub fn drain(&self) -> Duration {
        seconds(self.drain_seconds)
    }
}

fn seconds(seconds: NonZeroU16) -> Duration {
    Duration::from_secs(u16::from(seconds).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        let limits = LimitsConfig::default();
        for (files, expected) in [
            (u64::MAX, 8192),
            (65536, 8192),
            (8192, 7680),
            (1024, 512),
            (64, 32),
            (0, 1),
        ] {
            let within = limits.within(files).connections_max.get();
            assert_eq!(within, expected, "of {files}");
        }
    }
}
