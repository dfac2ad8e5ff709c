//! Who calls on a connection: one caller, by the certificate that it has shown, or many, each by what a
//! trusted proxy says of its request. Which of them the configuration decides; the other word counts
//! for nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::HeaderMap;
use rustls::pki_types::CertificateDer;
use spiffe::SpiffeId;
use tokio_util::sync::CancellationToken;

use super::{
    forwarded::{Forwarded, LINKERD, Seen, XFCC},
    listener::{Outgoing, Peer},
    peer::{Unidentified, identify, trust_domain_of},
    socket::Origin,
    usage::{Usage, Usages},
};
use crate::{
    authz::{Caller, LivePolicy},
    clock::Clock,
    config::{IdentityConfig, IdentityMode, TrustedProxy},
    metrics::Metrics,
    tls::{self, LiveTls, Material},
};

/// How callers are told apart.
#[derive(Debug)]
pub struct Identification {
    mode: IdentityMode,
    /// Knows the trust domains.
    tls: Arc<LiveTls>,
    /// None where certificates count.
    forwarded: Option<Arc<Forwarded>>,
    /// None of them: whoever is on this machine.
    proxies: Vec<TrustedProxy>,
    policy: Arc<LivePolicy>,
    usages: Usages,
    metrics: Arc<Metrics>,
}

/// Who calls on a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Callers {
    identification: Arc<Identification>,
    who: Who,
    outgoing: Outgoing,
    good_for: Duration,
    distrusted: CancellationToken,
}

#[derive(Clone, Debug)]
enum Who {
    /// One caller, or nobody that is known.
    One(Peer),
    /// Those that the proxy names.
    Many(Arc<Named>),
}

#[derive(Debug)]
struct Named {
    forwarded: Arc<Forwarded>,
    /// The lock is never contended: one task reads the requests of a connection.
    seen: Mutex<Seen>,
}

impl Identification {
    /// Tells callers apart as a configuration says.
    #[must_use]
    pub fn new(
        config: &IdentityConfig,
        tls: Arc<LiveTls>,
        policy: Arc<LivePolicy>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            mode: config.mode,
            tls,
            forwarded: Forwarded::new(config).map(Arc::new),
            proxies: config.trusted_proxies.clone(),
            policy,
            usages: Usages::default(),
            metrics,
        })
    }

    /// Who calls on a connection, by where it comes from and the certificates that TLS has verified with
    /// this material.
    pub(super) fn callers(
        self: &Arc<Self>,
        origin: Origin,
        chain: Option<&[CertificateDer<'_>]>,
        material: &Material,
    ) -> Callers {
        let outgoing = Outgoing::default();
        let who = match &self.forwarded {
            None => Who::One(self.peer(identify(chain, &material.domains), &outgoing)),
            Some(_) if !self.trusts(origin) => {
                Who::One(self.peer(Err(Unidentified::NoProxy), &outgoing))
            }
            Some(forwarded) => Who::Many(Arc::new(Named {
                forwarded: forwarded.clone(),
                seen: Mutex::default(),
            })),
        };
        if let Who::One(peer) = &who
            && let Err(error) = peer.caller()
        {
            tracing::warn!(%origin, %error, "a caller without an identity");
        }
        // The caller's certificate, or the proxy's, if it had to show one.
        let leaf = chain.and_then(|chain| chain.first());
        let domain = leaf.and_then(|leaf| trust_domain_of(leaf, &material.domains));
        let distrusted = material.distrusted(domain.as_ref());
        Callers {
            identification: self.clone(),
            who,
            outgoing,
            good_for: leaf.and_then(good_for).unwrap_or(Duration::MAX),
            distrusted,
        }
    }

    fn trusts(&self, origin: Origin) -> bool {
        match origin {
            Origin::Unknown => false,
            Origin::Address(ip) | Origin::Own(ip) if self.proxies.is_empty() => ip.is_loopback(),
            Origin::Own(_) if self.proxies.contains(&TrustedProxy::Own) => true,
            Origin::Address(ip) | Origin::Own(ip) => self.proxies.iter().any(
                |proxy| matches!(proxy, TrustedProxy::Network(network) if network.contains(&ip)),
            ),
            Origin::User(user) => self.proxies.contains(&TrustedProxy::User(user)),
        }
    }

    fn peer(&self, identity: Result<SpiffeId, Unidentified>, outgoing: &Outgoing) -> Peer {
        if let Err(error) = &identity {
            self.metrics.unidentified(error.label());
        }
        let usage = match &identity {
            Ok(id) => self.usages.of(id),
            Err(_) => Arc::new(Usage::new()),
        };
        let caller = identity.map(|id| Caller::new(id, &self.policy.current()));
        let proxy = self.forwarded.as_ref().map(|_| self.mode.name());
        Peer::on(caller, proxy, usage, outgoing.clone())
    }

    /// Counts headers that would say who calls, if another mode had been chosen. All names are looked
    /// at by their length first, so that this costs a call next to nothing.
    fn count_ignored(&self, headers: &HeaderMap) {
        for name in headers.keys() {
            let name = name.as_str();
            let ignored = match name.len() {
                13 if name == LINKERD && self.mode != IdentityMode::Linkerd => LINKERD,
                23 if name == XFCC && self.mode != IdentityMode::Xfcc => XFCC,
                _ => continue,
            };
            self.metrics.identity_header_ignored(ignored);
        }
    }
}

impl Callers {
    /// Who makes this call.
    pub(super) fn of(&self, headers: &HeaderMap) -> Peer {
        self.identification.count_ignored(headers);
        match &self.who {
            Who::One(peer) => peer.clone(),
            Who::Many(named) => self.named(named, headers),
        }
    }

    fn named(&self, named: &Named, headers: &HeaderMap) -> Peer {
        let Named { forwarded, seen } = named;
        let header = match forwarded.header(headers) {
            Ok(header) => header,
            Err(error) => return self.refused(error),
        };
        // Nothing that can panic happens under the lock. Somebody of a trust domain that is ours no more
        // may be remembered: no policy that is in force since then grants anything there.
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.or_else(header.as_bytes(), || {
            let material = self.identification.tls.current();
            match forwarded.identify(header, &material.domains) {
                Ok(id) => self.identification.peer(Ok(id), &self.outgoing),
                Err(error) => self.refused(error),
            }
        })
    }

    fn refused(&self, error: Unidentified) -> Peer {
        tracing::warn!(%error, "a call without an identity");
        self.identification.peer(Err(error), &self.outgoing)
    }

    /// Whether no call can be answered, whatever it says.
    pub(super) fn are_nobody(&self) -> bool {
        matches!(&self.who, Who::One(peer) if peer.caller().is_err())
    }

    /// Whose the connection is, if that is known; `None` if it is a proxy's.
    pub(super) fn owner(&self) -> Option<Option<&SpiffeId>> {
        match &self.who {
            Who::One(peer) => Some(peer.caller().ok().map(Caller::id)),
            Who::Many(_) => None,
        }
    }

    /// Who calls, if it is always the same one.
    pub(super) fn one(&self) -> Option<&Caller> {
        match &self.who {
            Who::One(peer) => peer.caller().ok(),
            Who::Many(_) => None,
        }
    }

    /// How long the certificate of the other end is still good for, from when it was shown.
    pub(super) fn good_for(&self) -> Duration {
        self.good_for
    }

    /// Tells when a CA that may have vouched for the other end is trusted no more.
    pub(super) fn distrusted(&self) -> &CancellationToken {
        &self.distrusted
    }

    /// What leaves on the connection.
    pub(super) fn outgoing(&self) -> Outgoing {
        self.outgoing.clone()
    }
}

/// How long a certificate is still good for that TLS has verified, which goes by the system's clock.
fn good_for(leaf: &CertificateDer<'_>) -> Option<Duration> {
    let validity = tls::validity(leaf)?;
    let left = validity.not_after.duration_since(Clock::system().now());
    Some(left.unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests;
