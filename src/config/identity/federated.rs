//! The trust domains of callers, and whose CAs vouch for which.

use std::{
    iter,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use spiffe::TrustDomain;

use super::{IdentityConfig, IdentityMode, trust_domain};
use crate::config::tls::TlsSource;

/// `[[identity.federated]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FederatedConfig {
    /// The trust domain.
    #[serde(deserialize_with = "trust_domain")]
    pub trust_domain: TrustDomain,
    /// CAs of that trust domain, which vouch for no other; none where the Workload API tells them.
    pub client_ca_file: Option<PathBuf>,
}

impl IdentityConfig {
    /// The trust domains of all callers, each with its CAs, if they are in a file.
    pub fn trust_domains(&self) -> impl Iterator<Item = (&TrustDomain, Option<&Path>)> {
        let federated = self.federated.iter();
        let federated = federated.map(|one| (&one.trust_domain, one.client_ca_file.as_deref()));
        iter::once((&self.trust_domain, self.client_ca_file.as_deref())).chain(federated)
    }

    /// Whether each has the CAs that it needs, and no others.
    pub(super) fn check_domains(&self, source: Option<&TlsSource>) -> Result<(), String> {
        let domains: Vec<_> = self.trust_domains().collect();
        let refuse = |reason: String| Err(format!("identity: {reason}"));
        for (place, (domain, file)) in domains.iter().enumerate() {
            if domains[..place].iter().any(|(other, _)| other == domain) {
                return refuse(format!(
                    "the trust domain {domain} stands there twice; put its CAs into one file"
                ));
            }
            match (source, file) {
                (Some(TlsSource::Files { .. }), None) if self.mode == IdentityMode::Mtls => {
                    return refuse(format!("the trust domain {domain} needs a client_ca_file"));
                }
                (Some(TlsSource::WorkloadApi(_)), Some(_)) => {
                    return refuse(format!(
                        "the CAs of {domain} come from the Workload API; leave client_ca_file out"
                    ));
                }
                (None, Some(_)) => {
                    return refuse(format!(
                        "{domain} has a client_ca_file without [server.tls]: no proxy would be asked for a certificate"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
