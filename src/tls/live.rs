//! The material in force. A handshake takes it once and sees nothing of a change that comes meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{ServerConfig, pki_types::CertificateDer};
use spiffe::TrustDomain;
use tokio_util::sync::CancellationToken;

/// The CAs of a trust domain.
#[derive(Debug)]
pub struct Bundle {
    domain: TrustDomain,
    cas: Vec<CertificateDer<'static>>,
    /// Cancelled once one of the CAs is trusted no more.
    distrusted: CancellationToken,
}

/// When the broker's certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub not_before: SystemTime,
    /// Up to when.
    pub not_after: SystemTime,
}

/// What connections are made with: never changed, only replaced as a whole.
#[derive(Debug)]
pub struct Material {
    /// The trust domains of callers.
    pub domains: Vec<TrustDomain>,
    /// What is shown of the broker; none where a proxy speaks in plaintext.
    pub shown: Option<Shown>,
    bundles: Vec<Bundle>,
    /// Cancelled once one of the CAs, of whatever trust domain, is trusted no more, or there are some where
    /// there was none.
    distrusted: CancellationToken,
}

/// What the broker shows of itself.
#[derive(Debug)]
pub struct Shown {
    /// For the handshake.
    pub config: Arc<ServerConfig>,
    /// Of the broker's certificate.
    pub validity: Validity,
}

/// Holds the material in force.
#[derive(Debug)]
pub struct LiveTls {
    current: ArcSwap<Material>,
    /// Whether nobody is let in any more.
    ended: AtomicBool,
}

impl Bundle {
    pub(super) fn new(domain: TrustDomain, cas: Vec<CertificateDer<'static>>) -> Self {
        Self {
            domain,
            cas,
            distrusted: CancellationToken::new(),
        }
    }

    pub(super) fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    pub(super) fn cas(&self) -> &[CertificateDer<'static>] {
        &self.cas
    }

    /// Whether whoever was verified by another bundle would be by this one, too.
    fn covers(&self, other: &Self) -> bool {
        self.domain == other.domain && other.cas.iter().all(|ca| self.cas.contains(ca))
    }
}

impl Material {
    pub(super) fn new(
        domains: Vec<TrustDomain>,
        shown: Option<Shown>,
        bundles: Vec<Bundle>,
    ) -> Self {
        Self {
            domains,
            shown,
            bundles,
            distrusted: CancellationToken::new(),
        }
    }

    /// Tells when a CA of a trust domain is trusted no more: whoever was verified by it must show a
    /// certificate again. Who is of no domain that has CAs may have been verified by any of them, or, where
    /// there was none, by nobody.
    #[must_use]
    pub fn distrusted(&self, domain: Option<&TrustDomain>) -> CancellationToken {
        let bundle = self.bundles.iter().find(|one| Some(&one.domain) == domain);
        bundle
            .map_or(&self.distrusted, |one| &one.distrusted)
            .clone()
    }
}

impl LiveTls {
    /// Material to begin with.
    #[must_use]
    pub fn new(material: Material) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(material),
            ended: AtomicBool::new(false),
        })
    }

    /// What a handshake that begins now is made with.
    #[must_use]
    pub fn current(&self) -> Arc<Material> {
        self.current.load_full()
    }

    /// Whether handshakes are refused: the broker can show nothing that is valid.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Has handshakes refused from now on, or not any more.
    pub fn set_ended(&self, ended: bool) {
        self.ended.store(ended, Ordering::Relaxed);
    }

    /// Puts other material in force, and tells connections whose CAs are not all in it. One task at a
    /// time does that.
    pub fn replace(&self, mut material: Material) {
        let before = self.current.load_full();
        let mut distrusted = Vec::new();
        for old in &before.bundles {
            match material.bundles.iter_mut().find(|new| new.covers(old)) {
                Some(new) => new.distrusted = old.distrusted.clone(),
                None => distrusted.push(&old.distrusted),
            }
        }
        let first = before.bundles.is_empty() && !material.bundles.is_empty();
        if distrusted.is_empty() && !first {
            material.distrusted = before.distrusted.clone();
        } else {
            distrusted.push(&before.distrusted);
        }
        self.current.store(Arc::new(material));
        // Afterwards: whoever connects again because of it meets the new CAs.
        for one in distrusted {
            one.cancel();
        }
    }
}

#[cfg(test)]
mod tests;
