//! Verifies a client certificate by the CAs of the trust domain that it is of, and by no others: with
//! all CAs in one pool, one of them could issue the ids of every domain.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use spiffe::TrustDomain;

use super::{Bundle, Error};

/// Tells which of the trust domains a client certificate is of, if it names a workload of one.
pub type Whose = fn(&CertificateDer<'_>, &[TrustDomain]) -> Option<TrustDomain>;

pub(super) struct ByDomain {
    whose: Whose,
    domains: Vec<TrustDomain>,
    /// One for each of `domains`; at least one.
    verifiers: Vec<Arc<dyn ClientCertVerifier>>,
    /// Of all CAs, for clients that choose their certificate by it.
    hints: Vec<DistinguishedName>,
}

impl ByDomain {
    pub(super) fn new(
        bundles: &[Bundle],
        whose: Whose,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut all = Self {
            whose,
            domains: Vec::new(),
            verifiers: Vec::new(),
            hints: Vec::new(),
        };
        for bundle in bundles {
            let refused = |reason: String| Error::Bundle {
                domain: bundle.domain().clone(),
                reason,
            };
            let mut roots = RootCertStore::empty();
            for ca in bundle.cas() {
                roots
                    .add(ca.clone())
                    .map_err(|error| refused(error.to_string()))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
                    .build()
                    .map_err(|error| refused(error.to_string()))?;
            all.hints.extend_from_slice(verifier.root_hint_subjects());
            all.domains.push(bundle.domain().clone());
            all.verifiers.push(verifier);
        }
        Ok(all)
    }

    /// What does not depend on the trust domain.
    fn any(&self) -> &Arc<dyn ClientCertVerifier> {
        self.verifiers
            .first()
            .expect("without CAs nobody is asked for a certificate")
    }
}

impl fmt::Debug for ByDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.domains).finish()
    }
}

impl ClientCertVerifier for ByDomain {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let domain = (self.whose)(end_entity, &self.domains);
        // Who names no workload of ours may connect with any of the CAs, and is told so on every call.
        let trusted = self.domains.iter().zip(&self.verifiers);
        let mut outcome = Err(CertificateError::UnknownIssuer.into());
        for (_, verifier) in trusted.filter(|(one, _)| domain.as_ref().is_none_or(|it| it == *one))
        {
            outcome = verifier.verify_client_cert(end_entity, intermediates, now);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.any().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.any().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.any().supported_verify_schemes()
    }
}
