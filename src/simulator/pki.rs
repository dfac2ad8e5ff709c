//! A throw-away PKI: a certificate authority for mutual TLS, and self-signed certificates such as
//! applications authenticate with. Nothing here outlives the process unless the caller writes it.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, Error, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, RsaKeySize, SanType,
};

use crate::clock::Clock;

/// Certificates start this long ago, so that a peer whose clock lags accepts them.
const BACKDATED: Duration = Duration::from_secs(2 * 60 * 60);
const LEAF_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// An authority with a P-256 key that lives in memory only.
pub struct CertificateAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate of the authority says. The default is valid for both ends of a connection,
/// for a month, and names nobody.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Common name of the subject.
    pub common_name: String,
    /// Subject alternative names of type DNS.
    pub dns_names: Vec<String>,
    /// Subject alternative names of type IP address.
    pub ip_addresses: Vec<IpAddr>,
    /// Subject alternative names of type URI. A SPIFFE certificate has exactly one.
    pub uris: Vec<String>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Whether the certificate may sign others, which a peer's certificate must not.
    pub is_ca: bool,
}

/// What the self-signed certificate of an application says.
#[derive(Debug, Clone)]
pub struct ApplicationCertificate {
    /// Common name of the subject and issuer.
    pub common_name: String,
    /// Kind and size of the key.
    pub key: KeyKind,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// Kinds of key for [`ApplicationCertificate`]. Entra takes RSA alone; the others exist to be
/// refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 3072 bits.
    Rsa3072,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
    /// ECDSA on P-256.
    EcP256,
    /// Ed25519.
    Ed25519,
}

/// A certificate with its private key.
pub struct Identity {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The PKCS#8 private key, PEM.
    pub key_pem: String,
}

// === impl CertificateAuthority ===

impl CertificateAuthority {
    /// Generates a key and signs its own certificate.
    ///
    /// # Errors
    ///
    /// Fails if the key cannot be generated.
    pub fn new(common_name: &str) -> Result<Self, Error> {
        let now = Clock::system().now();
        let mut params = params(common_name, now - BACKDATED, now + AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// The authority's own certificate, for the trust bundle of its peers.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a certificate with a fresh P-256 key.
    ///
    /// # Errors
    ///
    /// Fails if a name is not ASCII.
    pub fn issue(&self, leaf: &Leaf) -> Result<Identity, Error> {
        let mut params = params(&leaf.common_name, leaf.not_before, leaf.not_after);
        for name in &leaf.dns_names {
            let name = SanType::DnsName(name.as_str().try_into()?);
            params.subject_alt_names.push(name);
        }
        for address in &leaf.ip_addresses {
            let address = SanType::IpAddress(*address);
            params.subject_alt_names.push(address);
        }
        for uri in &leaf.uris {
            let uri = SanType::URI(uri.as_str().try_into()?);
            params.subject_alt_names.push(uri);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if leaf.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .finish_non_exhaustive()
    }
}

// === impl Leaf ===

impl Leaf {
    /// A certificate for a server on loopback, by name and by address.
    #[must_use]
    pub fn loopback(common_name: &str) -> Self {
        Self {
            common_name: common_name.into(),
            dns_names: vec!["localhost".into()],
            ip_addresses: vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()],
            ..Self::default()
        }
    }

    /// A certificate that carries one SPIFFE ID.
    #[must_use]
    pub fn workload(spiffe_id: &str) -> Self {
        Self {
            common_name: "workload".into(),
            uris: vec![spiffe_id.into()],
            ..Self::default()
        }
    }
}

impl Default for Leaf {
    fn default() -> Self {
        let now = Clock::system().now();
        Self {
            common_name: "leaf".into(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            uris: Vec::new(),
            not_before: now - BACKDATED,
            not_after: now + LEAF_LIFETIME,
            is_ca: false,
        }
    }
}

// === impl ApplicationCertificate ===

impl Default for ApplicationCertificate {
    fn default() -> Self {
        let now = Clock::system().now();
        Self {
            common_name: "application".into(),
            key: KeyKind::Rsa2048,
            not_before: now - BACKDATED,
            not_after: now + LEAF_LIFETIME,
        }
    }
}

// === impl KeyKind ===

impl KeyKind {
    fn generate(self) -> Result<KeyPair, Error> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        match self {
            Self::Rsa2048 => rsa(RsaKeySize::_2048),
            Self::Rsa3072 => rsa(RsaKeySize::_3072),
            Self::Rsa4096 => rsa(RsaKeySize::_4096),
            Self::EcP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        }
    }
}

// === impl Identity ===

impl Identity {
    /// Certificate and key in one text, as portals and key vaults export them.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        format!("{}{}", self.certificate_pem, self.key_pem)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificate_pem", &self.certificate_pem)
            .field("key_pem", &"[redacted]")
            .finish()
    }
}

/// A self-signed certificate for an application, as an administrator would make and upload one.
///
/// # Errors
///
/// Fails if the key cannot be generated.
pub fn application_certificate(content: &ApplicationCertificate) -> Result<Identity, Error> {
    let params = params(&content.common_name, content.not_before, content.not_after);
    let key = content.key.generate()?;
    Ok(Identity {
        certificate_pem: params.self_signed(&key)?.pem(),
        key_pem: key.serialize_pem(),
    })
}

fn params(common_name: &str, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    // rcgen's time type is not among our dependencies, but a duration can be added to it. A time
    // before 1970 becomes 1970, which is as expired as any.
    let date = |time: SystemTime| {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
        rcgen::date_time_ymd(1970, 1, 1) + since_epoch.unwrap_or_default()
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = date(not_before);
    params.not_after = date(not_after);
    params
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    use x509_parser::{extensions::GeneralName, prelude::*};

    use super::*;

    #[test]
    fn a_leaf_says_exactly_what_was_asked() {
        let authority = CertificateAuthority::new("test").unwrap();
        let leaf = Leaf {
            uris: vec!["spiffe://a/b".into(), "spiffe://c/d".into()],
            not_before: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(1_100_000_000),
            is_ca: true,
            ..Leaf::default()
        };
        let identity = authority.issue(&leaf).unwrap();
        let der = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.validity().not_before.timestamp(), 1_000_000_000);
        assert_eq!(certificate.validity().not_after.timestamp(), 1_100_000_000);
        assert!(certificate.is_ca());
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let uris: Vec<_> = names.value.general_names.iter().collect();
        let expected = leaf.uris.iter().map(|uri| GeneralName::URI(uri));
        assert!(uris.into_iter().eq(expected.collect::<Vec<_>>().iter()));

        let authority_der =
            CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap();
        let (_, issuer) = X509Certificate::from_der(&authority_der).unwrap();
        assert_eq!(certificate.issuer(), issuer.subject());
        assert!(issuer.is_ca());
    }

    #[test]
    fn an_application_certificate_has_the_kind_of_key_asked_for() {
        for (key, bits) in [(KeyKind::Rsa2048, 2048), (KeyKind::EcP256, 256)] {
            let content = ApplicationCertificate {
                key,
                ..Default::default()
            };
            let identity = application_certificate(&content).unwrap();
            let der = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
            let (_, certificate) = X509Certificate::from_der(&der).unwrap();
            let public_key = certificate.public_key().parsed().unwrap();
            assert_eq!(public_key.key_size(), bits, "{key:?}");
        }
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let identity = CertificateAuthority::new("test")
            .unwrap()
            .issue(&Leaf::loopback("server"))
            .unwrap();
        let shown = format!("{identity:?}");
        assert!(shown.contains("[redacted]") && !shown.contains("PRIVATE KEY"));
    }
}
