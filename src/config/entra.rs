//! `[entra]`: how Entra is reached.

use std::{collections::BTreeMap, num::NonZeroU16, path::PathBuf, time::Duration};

use serde::Deserialize;
use url::Url;

use super::Error;
use crate::{
    entra::cloud::{Authorities, Authority},
    organization::Cloud,
};

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
    /// CAs to trust besides the system's, PEM.
    pub extra_ca_file: Option<PathBuf>,
    /// HTTP proxy for the way out.
    pub proxy_url: Option<Url>,
    /// Other authorities than Microsoft's, on loopback.
    loopback_authority: BTreeMap<CloudName, AuthorityConfig>,
    /// Other authorities than Microsoft's, anywhere.
    unsafe_authority: BTreeMap<CloudName, AuthorityConfig>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityConfig {
    authority_url: Url,
    graph_url: Url,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
enum CloudName {
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
            extra_ca_file: None,
            proxy_url: None,
            loopback_authority: BTreeMap::new(),
            unsafe_authority: BTreeMap::new(),
        }
    }
}

impl EntraConfig {
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

    /// The authorities of all clouds.
    ///
    /// # Errors
    /// [`Error::Authority`] for one that is no plain https URL, or not on loopback where it must be.
    pub fn authorities(&self) -> Result<Authorities, Error> {
        let mut authorities = Authorities::default();
        let sections = [
            ("loopback_authority", &self.loopback_authority),
            ("unsafe_authority", &self.unsafe_authority),
        ];
        for (section, entries) in sections {
            for (name, config) in entries {
                let cloud = Cloud::from(*name);
                let refused = |reason| Error::Authority {
                    section,
                    cloud: cloud.name(),
                    reason,
                };
                let authority =
                    Authority::replaced_by(config.authority_url.clone(), config.graph_url.clone());
                let authority = authority.ok_or(refused(
                    "both URLs must begin with https:// and have no user, query or fragment",
                ))?;
                if section == "loopback_authority" && !authority.is_loopback() {
                    return Err(refused(
                        "both hosts must be loopback addresses like 127.0.0.1",
                    ));
                }
                authorities.replace(cloud, authority);
            }
        }
        Ok(authorities)
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
