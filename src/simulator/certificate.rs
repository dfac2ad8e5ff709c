//! Certificates as the directory stores them: public halves, found by thumbprint.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{digest, signature};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The certificate that an application authenticates with.
pub struct Certificate {
    sha1: Vec<u8>,
    sha256: Vec<u8>,
    /// The content of the public key's bit string: PKCS#1 for an RSA key.
    public_key: Vec<u8>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// Revoked by its authority, AADSTS7000214.
    pub revoked: bool,
    /// From when on the token endpoint knows it; until then it is answered as unknown.
    pub usable_from: Option<SystemTime>,
}

/// The text is not a certificate.
#[derive(Debug, thiserror::Error)]
#[error("not an X.509 certificate in PEM")]
pub struct InvalidCertificate;

/// The signature algorithms that Entra takes for an assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureAlgorithm {
    Ps256,
    Rs256,
}

/// How an assertion names the certificate that verifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Thumbprint {
    Sha1(Vec<u8>),
    Sha256(Vec<u8>),
}

// === impl Certificate ===

impl Certificate {
    /// Reads the first certificate of a PEM text; a private key beside it is not looked at.
    ///
    /// # Errors
    ///
    /// Fails if there is no readable certificate.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidCertificate> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| InvalidCertificate)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| InvalidCertificate)?;
        let validity = parsed.validity();
        Ok(Self {
            sha1: digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &der)
                .as_ref()
                .into(),
            sha256: digest::digest(&digest::SHA256, &der).as_ref().into(),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            not_before: system_time(validity.not_before.timestamp()),
            not_after: system_time(validity.not_after.timestamp()),
            revoked: false,
            usable_from: None,
        })
    }

    /// The value of `x5t#S256` that names this certificate.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.sha256)
    }

    /// Whether the thumbprint is this certificate's and the token endpoint knows it yet.
    pub(super) fn matches(&self, thumbprint: &Thumbprint, now: SystemTime) -> bool {
        self.usable_from.is_none_or(|from| from <= now)
            && match thumbprint {
                Thumbprint::Sha1(digest) => *digest == self.sha1,
                Thumbprint::Sha256(digest) => *digest == self.sha256,
            }
    }

    pub(super) fn is_valid_at(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// Whether the certificate's key made the signature. A key that is not RSA made none.
    pub(super) fn verifies(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        // Not with jsonwebtoken, which the broker signs with: a mistake would cancel itself out.
        let parameters = match algorithm {
            SignatureAlgorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            SignatureAlgorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        signature::UnparsedPublicKey::new(parameters, &self.public_key)
            .verify(message, signature)
            .is_ok()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("thumbprint", &self.thumbprint())
            .field("not_after", &self.not_after)
            .field("revoked", &self.revoked)
            .field("usable_from", &self.usable_from)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Thumbprint {
    /// Upper-case hexadecimal, as in Entra's messages and in the portal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Sha1(digest) | Self::Sha256(digest)) = self;
        digest.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// A time before 1970 becomes 1970: nothing of interest happened then.
fn system_time(timestamp: i64) -> SystemTime {
    let seconds = u64::try_from(timestamp).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::pki::{ApplicationCertificate, application_certificate};

    #[test]
    fn a_certificate_is_read_beside_its_key() {
        let identity = application_certificate(&ApplicationCertificate::default()).unwrap();
        let certificate = Certificate::from_pem(&identity.bundle_pem()).unwrap();
        let now = crate::clock::Clock::system().now();
        assert!(certificate.is_valid_at(now));
        assert!(!certificate.is_valid_at(now + Duration::from_secs(366 * 24 * 60 * 60)));
        assert_eq!(certificate.thumbprint().len(), 43);
        assert!(Certificate::from_pem(&identity.key_pem).is_err());
    }
}
