//! `[entra]`: how Entra is reached.

use std::{
    collections::BTreeMap,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;
use url::Url;

use crate::organization::Cloud;

/// `[entra]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntraConfig {
    /// How long a connection may take to be made, in seconds.
    pub connect_timeout_seconds: NonZeroU16,
    /// How long a request may take, in seconds.
    pub request_timeout_seconds: NonZeroU16,
    /// Requests under way at once.
    pub concurrent_requests_max: NonZeroU16,
    /// Requests that may wait for their turn.
    pub queued_requests_max: NonZeroU32,
    /// How long after a change of a credential a refusal may be due to it, in seconds.
    pub propagation_seconds: u16,
    /// CAs to trust besides the system's, PEM.
    pub extra_ca_file: Option<PathBuf>,
    /// HTTP proxy for the way out.
    pub proxy_url: Option<Url>,
    /// Other authorities than Microsoft's, on loopback.
    pub(crate) loopback_authority: BTreeMap<CloudName, AuthorityConfig>,
    /// Other authorities than Microsoft's, anywhere.
    pub(crate) unsafe_authority: BTreeMap<CloudName, AuthorityConfig>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthorityConfig {
    pub(crate) authority_url: Url,
    pub(crate) graph_url: Url,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CloudName {
    Global,
    UsGov,
    UsGovDod,
    China,
}

impl Default for EntraConfig {
    fn default() -> Self {
        const fn number(value: u16) -> NonZeroU16 {
            NonZeroU16::new(value).expect("a default is not zero")
        }
        Self {
            connect_timeout_seconds: number(5),
            request_timeout_seconds: number(15),
            concurrent_requests_max: number(64),
            // Every token of 5,000 organizations with four resources each, at once.
            queued_requests_max: const { NonZeroU32::new(20_000).expect("not zero") },
            // Microsoft names no figure; a minute is what is seen.
            propagation_seconds: 90,
            extra_ca_file: None,
            proxy_url: None,
            loopback_authority: BTreeMap::new(),
            unsafe_authority: BTreeMap::new(),
        }
    }
}

impl EntraConfig {
    /// How long after a change of a credential a refusal may be due to it.
    #[must_use]
    pub fn propagation(&self) -> Duration {
        Duration::from_secs(self.propagation_seconds.into())
    }

    /// How long a connection may take to be made.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(u16::from(self.connect_timeout_seconds).into())
    }

    /// How long a request may take.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(u16::from(self.request_timeout_seconds).into())
    }

    /// Puts another authority in the place of Microsoft's global one, as `[entra.loopback_authority]`
    /// does.
    pub fn use_loopback_authority(&mut self, authority_url: Url, graph_url: Url) {
        let authority = AuthorityConfig {
            authority_url,
            graph_url,
        };
        self.loopback_authority.insert(CloudName::Global, authority);
    }
}

impl From<CloudName> for Cloud {
    fn from(name: CloudName) -> Self {
        match name {
            CloudName::Global => Self::Global,
            CloudName::UsGov => Self::UsGov,
            CloudName::UsGovDod => Self::UsGovDod,
            CloudName::China => Self::China,
        }
    }
}
