//! What an application proves itself with at Entra: a client secret, or a certificate with its key.

use std::time::SystemTime;

use crate::secret::{ClientSecret, PrivateKey};

pub mod intake;

/// A long-lived credential of an application. Cannot be cloned or printed.
#[derive(Debug)]
pub enum Credential {
    /// A client secret, with its end if the operator told it.
    ClientSecret {
        /// The value.
        value: ClientSecret,
        /// When it ends; `None` if nobody knows.
        expires: Option<SystemTime>,
    },
    /// A certificate with its RSA key.
    Certificate(Certificate),
}

/// A certificate with its RSA key.
#[derive(Debug)]
pub struct Certificate {
    /// The key, as PKCS#8 PEM.
    pub key: PrivateKey,
    /// The certificate, as DER.
    pub der: Vec<u8>,
    /// When it ends.
    pub expires: SystemTime,
    /// How long the RSA modulus is.
    pub key_bits: usize,
}

/// What a credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// A client secret.
    ClientSecret,
    /// A certificate.
    Certificate,
}

/// What may be known of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialInfo {
    /// What it is.
    pub kind: CredentialKind,
    /// Goes up by one with every rotation.
    pub version: u64,
    /// When it ends, if known.
    pub expires: Option<SystemTime>,
    /// Of a certificate: its thumbprints.
    pub thumbprints: Option<Thumbprints>,
}

/// Digests by which a certificate is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thumbprints {
    /// As the client assertion names it (`x5t#S256`, RFC 7515 §4.1.8).
    pub sha256: [u8; 32],
    /// As the Azure portal shows it. Proves nothing, only helps to find it there.
    pub sha1: [u8; 20],
}

impl Credential {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::ClientSecret { .. } => CredentialKind::ClientSecret,
            Self::Certificate(_) => CredentialKind::Certificate,
        }
    }

    /// What may be known of it, as version `version`.
    #[must_use]
    pub fn info(&self, version: u64) -> CredentialInfo {
        let (expires, thumbprints) = match self {
            Self::ClientSecret { expires, .. } => (*expires, None),
            Self::Certificate(certificate) => (
                Some(certificate.expires),
                Some(Thumbprints::of(&certificate.der)),
            ),
        };
        CredentialInfo {
            kind: self.kind(),
            version,
            expires,
            thumbprints,
        }
    }
}

impl Thumbprints {
    /// Those of a certificate in DER form.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
        let mut thumbprints = Self {
            sha256: [0; 32],
            sha1: [0; 20],
        };
        thumbprints
            .sha256
            .copy_from_slice(digest(&SHA256, der).as_ref());
        thumbprints
            .sha1
            .copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref());
        thumbprints
    }
}
