//! `[identity]`: who callers are, and on whose word.

use std::{fmt, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use spiffe::{SpiffeId, TrustDomain};

use super::server::{ListenAddress, ServerConfig};

mod federated;

pub use federated::FederatedConfig;

/// Shortest prefixes of a network of trusted proxies: a shorter one would be half of the Internet.
const PREFIX_MIN: (u8, u8) = (8, 32);
/// The broker's own address, as the configuration has it.
const OWN: &str = "self";
/// Where Linkerd itself runs, in its own names of service accounts.
const LINKERD_NAMESPACE: &str = "linkerd";

/// `[identity]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// Who says who a caller is.
    #[serde(default)]
    pub mode: IdentityMode,
    /// The SPIFFE trust domain of all callers.
    #[serde(deserialize_with = "trust_domain")]
    pub trust_domain: TrustDomain,
    /// CAs of that trust domain, PEM; none where the Workload API tells them.
    pub client_ca_file: Option<PathBuf>,
    /// Further trust domains that callers come from.
    #[serde(default)]
    pub federated: Vec<FederatedConfig>,
    /// Whose headers are believed.
    #[serde(default)]
    pub trusted_proxies: Vec<TrustedProxy>,
    /// The proxy's own SPIFFE ID, which it must name itself by.
    #[serde(default, deserialize_with = "spiffe_id")]
    pub xfcc_by: Option<SpiffeId>,
    /// The namespace that Linkerd runs in.
    pub linkerd_namespace: Option<String>,
}

/// Who says who a caller is. One of them, never one or the other.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum IdentityMode {
    /// Its certificate, which the broker verifies itself.
    #[default]
    Mtls,
    /// A proxy, with the header `x-forwarded-client-cert`.
    Xfcc,
    /// Linkerd's proxy, with the header `l5d-client-id`.
    Linkerd,
}

/// A proxy whose word counts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum TrustedProxy {
    /// Every process of this user, over a unix socket.
    User(u32),
    /// Everybody at these addresses.
    Network(IpNet),
    /// Whoever connects from the very address that it connects to: the same machine, or the same pod.
    Own,
}

impl IdentityMode {
    /// As the configuration has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Xfcc => "xfcc",
            Self::Linkerd => "linkerd",
        }
    }
}

impl IdentityConfig {
    /// The namespace that Linkerd runs in.
    #[must_use]
    pub fn linkerd_namespace(&self) -> &str {
        self.linkerd_namespace
            .as_deref()
            .unwrap_or(LINKERD_NAMESPACE)
    }

    /// Whether callers can be told apart so, where the broker listens.
    ///
    /// # Errors
    /// What is unsafe or missing, and what to do.
    pub(super) fn check(&self, server: &ServerConfig) -> Result<(), String> {
        match self.mode {
            IdentityMode::Mtls => self.check_mtls(server)?,
            IdentityMode::Xfcc | IdentityMode::Linkerd => self.check_proxied(server)?,
        }
        self.check_linkerd_namespace()?;
        self.check_domains(server.tls.as_ref().map(|tls| &tls.source))
    }

    fn check_mtls(&self, server: &ServerConfig) -> Result<(), String> {
        let refuse = |reason: &str| Err(format!("identity.mode = \"mtls\": {reason}"));
        if server.tls.is_none() {
            return refuse("[server.tls] is missing: without TLS nobody shows a certificate");
        }
        if server.addresses().any(is_unix) {
            return refuse("a unix socket is for a proxy, with the mode \"xfcc\" or \"linkerd\"");
        }
        if !self.trusted_proxies.is_empty() || self.xfcc_by.is_some() {
            return refuse(
                "no header is believed; trusted_proxies and xfcc_by are for the mode \"xfcc\" or \"linkerd\"",
            );
        }
        Ok(())
    }

    fn check_proxied(&self, server: &ServerConfig) -> Result<(), String> {
        let mode = self.mode.name();
        let refuse = |reason: &str| Err(format!("identity.mode = \"{mode}\": {reason}"));
        if self.mode != IdentityMode::Xfcc && self.xfcc_by.is_some() {
            return refuse("xfcc_by is for the mode \"xfcc\"");
        }
        let unix = server
            .addresses()
            .filter(|address| is_unix(address))
            .count();
        if unix != 0 && unix != server.addresses().count() {
            return refuse(
                "server.listen and server.admin_listen must both be unix sockets, or both be addresses: trusted_proxies is for both",
            );
        }
        for address in server.addresses() {
            self.check_address(address, server.tls.is_some())
                .or_else(refuse)?;
        }
        Ok(())
    }

    /// Whether only proxies can be believed that connect there, or what is to be done.
    fn check_address(&self, address: &ListenAddress, tls: bool) -> Result<(), &'static str> {
        let users = |proxy: &TrustedProxy| matches!(proxy, TrustedProxy::User(_));
        let proxies = &self.trusted_proxies;
        match address {
            ListenAddress::Unix(_) if tls => {
                Err("[server.tls] goes with an address, not with a unix socket")
            }
            ListenAddress::Unix(_) if proxies.is_empty() => Err(
                "everybody who can open the socket could be anybody; name the proxy's user, as in trusted_proxies = [\"uid:101\"]",
            ),
            ListenAddress::Unix(_) if !proxies.iter().all(users) => {
                Err("who connects to a unix socket has no address; name users, as in \"uid:101\"")
            }
            ListenAddress::Tcp(_) if proxies.iter().any(users) => {
                Err("\"uid:…\" goes with a unix socket; name addresses")
            }
            ListenAddress::Tcp(address)
                if proxies.is_empty() && !address.ip().to_canonical().is_loopback() =>
            {
                Err(
                    "others can connect to where the broker listens, and could be anybody; listen on a loopback address or a unix socket, or name the proxies in trusted_proxies",
                )
            }
            _ => Ok(()),
        }
    }

    fn check_linkerd_namespace(&self) -> Result<(), String> {
        let Some(namespace) = &self.linkerd_namespace else {
            return Ok(());
        };
        if self.mode != IdentityMode::Linkerd {
            return Err("identity.linkerd_namespace is for the mode \"linkerd\"".to_owned());
        }
        let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if namespace.is_empty() || !namespace.chars().all(is_label) {
            return Err("identity.linkerd_namespace is no name of a namespace".to_owned());
        }
        Ok(())
    }
}

fn is_unix(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Unix(_))
}

impl TryFrom<String> for TrustedProxy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(user) = text.strip_prefix("uid:") {
            let user = user
                .parse()
                .map_err(|_| format!("`{text}` names no user by number"))?;
            return Ok(Self::User(user));
        }
        if text == OWN {
            return Ok(Self::Own);
        }
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => text.parse().map_err(|_| {
                format!("`{text}` is neither an address, nor a network as in \"10.1.2.0/24\", nor \"self\", nor a user as in \"uid:101\"")
            })?,
        };
        let shortest = match network {
            IpNet::V4(_) => PREFIX_MIN.0,
            IpNet::V6(_) => PREFIX_MIN.1,
        };
        if network.prefix_len() < shortest {
            return Err(format!(
                "`{text}` is too wide: everybody there could be anybody; at least /{shortest}"
            ));
        }
        Ok(Self::Network(network.trunc()))
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "uid:{user}"),
            Self::Own => f.write_str(OWN),
            Self::Network(network) => network.fmt(f),
        }
    }
}

fn trust_domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
    let text = String::deserialize(deserializer)?;
    TrustDomain::new(&text).map_err(de::Error::custom)
}

fn spiffe_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SpiffeId>, D::Error> {
    let text = String::deserialize(deserializer)?;
    SpiffeId::new(&text).map(Some).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests;
