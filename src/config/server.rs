//! `[server]`: where and how callers are served.

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    thread,
    time::Duration,
};

use serde::Deserialize;

use super::TlsConfig;

/// `[server]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Where gRPC over mutual TLS is served.
    pub listen: SocketAddr,
    /// Where operators are served, if not at `listen`, which then serves workers only.
    pub admin_listen: Option<SocketAddr>,
    /// Where the plaintext health service is served.
    pub health_listen: Option<SocketAddr>,
    /// Where the figures are served, in plaintext.
    pub metrics_listen: Option<SocketAddr>,
    /// Threads that serve callers: as many as there are cores if `None`, none of their own if 0.
    pub threads: Option<u16>,
    /// Whether gRPC reflection is answered.
    #[serde(default)]
    pub reflection: bool,
    /// The broker's own certificate.
    pub tls: TlsConfig,
    /// What callers may take of it.
    #[serde(default)]
    pub limits: LimitsConfig,
}

/// `[server.limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Open connections.
    pub connections_max: NonZeroU32,
    /// TLS handshakes under way.
    pub handshakes_max: NonZeroU32,
    /// Calls under way on one connection.
    pub streams_per_connection_max: NonZeroU32,
    /// How long a connection may live, in seconds.
    pub connection_age_max_seconds: NonZeroU32,
    /// How long a handshake may take, in seconds.
    pub handshake_timeout_seconds: NonZeroU16,
    /// How long a call may take, in seconds.
    pub call_timeout_seconds: NonZeroU16,
    /// How long calls may take to finish after SIGTERM, in seconds.
    pub drain_seconds: NonZeroU16,
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
            handshakes_max: u32(256),
            streams_per_connection_max: u32(256),
            // So that replicas behind a balancer even out, and a certificate's end takes effect.
            connection_age_max_seconds: u32(3600),
            handshake_timeout_seconds: u16(5),
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
    /// How long a connection may live.
    #[must_use]
    pub fn connection_age_max(&self) -> Duration {
        Duration::from_secs(u32::from(self.connection_age_max_seconds).into())
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
