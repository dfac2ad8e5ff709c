//! The SPIFFE Workload API: an agent on the same node that gives the broker's certificate and the CAs of
//! callers, and goes on giving them as they change. While it is away, what it gave last stays.

use std::sync::Arc;

use aws_lc_rs::digest::Context;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::{TrustDomain, X509BundleSet, X509Source, X509SourceError, X509Svid};

use super::Error;
use crate::config::{IdentityConfig, WorkloadApiConfig};

/// A connection to the Workload API.
#[derive(Debug)]
pub struct WorkloadApi {
    source: X509Source,
    config: WorkloadApiConfig,
}

/// What it gave at one time.
#[derive(Debug)]
pub(super) struct Given {
    svid: Arc<X509Svid>,
    bundles: Vec<(TrustDomain, Vec<CertificateDer<'static>>)>,
}

impl WorkloadApi {
    /// Connects, and waits for the first SVID.
    ///
    /// # Errors
    /// [`Error::WorkloadApi`] if none comes in time.
    pub async fn connect(config: &WorkloadApiConfig) -> Result<Self, Error> {
        let connecting = X509Source::builder()
            .endpoint(&config.socket)
            .initial_sync_timeout(config.start_timeout())
            .build();
        match connecting.await {
            Ok(source) => Ok(Self {
                source,
                config: config.clone(),
            }),
            Err(reason) => Err(Self::refused(config, &reason)),
        }
    }

    /// How it is reached.
    #[must_use]
    pub fn config(&self) -> &WorkloadApiConfig {
        &self.config
    }

    /// Waits until it has given something else. Never returns once the connection has ended for good.
    pub async fn changed(&self) {
        let mut updates = self.source.updated();
        if updates.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends the connection, which otherwise goes on without anybody.
    pub async fn close(&self) {
        // It tells only that it took too long, and had to be cut off.
        let _ = self.source.shutdown_configured().await;
    }

    pub(super) fn given(&self, identity: &IdentityConfig) -> Result<Given, Error> {
        let refused = |reason| Self::refused(&self.config, &reason);
        let state = self.source.state();
        let svid = state.svid().map_err(refused)?;
        let context = state.context().map_err(refused)?;
        let set = context.bundle_set();
        let bundles = identity
            .trust_domains()
            .map(|(domain, _)| Ok((domain.clone(), cas(set, domain)?)));
        Ok(Given {
            svid,
            bundles: bundles.collect::<Result<_, Error>>()?,
        })
    }

    fn refused(config: &WorkloadApiConfig, reason: &X509SourceError) -> Error {
        Error::WorkloadApi {
            socket: config.socket.clone(),
            reason: reason.to_string(),
        }
    }
}

fn cas(set: &X509BundleSet, domain: &TrustDomain) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bundle = set.get_ref(domain).ok_or_else(|| Error::Bundle {
        domain: domain.clone(),
        reason: "the Workload API gives none; let the broker's workload federate with it".into(),
    })?;
    let cas = bundle.authorities().iter();
    Ok(cas
        .map(|ca| CertificateDer::from(ca.as_bytes().to_vec()))
        .collect())
}

impl Given {
    pub(super) fn digest(&self, to: &mut Context) {
        let cas = self.bundles.iter().flat_map(|(_, cas)| cas);
        let chain = self.svid.cert_chain().iter().map(|one| one.as_bytes());
        for part in chain.chain(cas.map(|ca| ca.as_ref())) {
            to.update(&part.len().to_be_bytes());
            to.update(part);
        }
        to.update(self.svid.private_key().as_bytes());
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        let chain = self.svid.cert_chain().iter();
        chain
            .map(|one| CertificateDer::from(one.as_bytes().to_vec()))
            .collect()
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.svid.private_key().as_bytes().to_vec()).into()
    }

    pub(super) fn bundles(&self) -> Vec<(TrustDomain, Vec<CertificateDer<'static>>)> {
        self.bundles.clone()
    }
}
