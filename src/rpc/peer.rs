//! Who a caller is: the SPIFFE ID of the client certificate, by the rules of the X.509-SVID standard
//! (<https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>). Names and common names of
//! the certificate mean nothing, and where certificates count, no header does.

use rustls::pki_types::CertificateDer;
use spiffe::{SpiffeId, TrustDomain};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// Longest SPIFFE ID, in bytes, by the standard.
const ID_BYTES_MAX: usize = 2048;

/// Why nobody is known to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    /// The connection has no client certificate, or one that cannot be read.
    #[error("the client certificate cannot be read")]
    Unreadable,
    /// The certificate could sign others.
    #[error("the client certificate is one of a CA; use a leaf certificate")]
    Authority,
    /// The certificate may not be used for signatures, so not for TLS either.
    #[error("the client certificate's key usage lacks digitalSignature")]
    KeyUsage,
    /// There is no URI, or more than one.
    #[error("the client certificate must have exactly one URI SAN, a SPIFFE ID")]
    NotOneUri,
    /// The URI is no SPIFFE ID of a workload.
    #[error("the client certificate's URI SAN is no SPIFFE ID with a path")]
    NoSpiffeId,
    /// It is of another trust domain than the broker's callers are.
    #[error("the client certificate is of another trust domain")]
    ForeignTrustDomain,
    /// A proxy says who callers are, and the connection is not from it.
    #[error("this is not from a proxy that the broker trusts (identity.trusted_proxies)")]
    NoProxy,
    /// The proxy does not say who the caller is.
    #[error("the proxy names no caller: the header of identity.mode is missing")]
    NoHeader,
    /// It says so twice.
    #[error("the header of identity.mode comes more than once")]
    RepeatedHeader,
    /// The header is too long.
    #[error("the header of identity.mode is too long; have the proxy forward no certificates")]
    LongHeader,
    /// It is not written as the proxy writes it, so somebody else may have written in it.
    #[error("the header of identity.mode is not well-formed")]
    Malformed,
    /// Its last element is of another proxy, or another one is of this proxy.
    #[error(
        "in x-forwarded-client-cert the last element, and no other, must be by identity.xfcc_by"
    )]
    By,
    /// It has several elements, and which is the proxy's own cannot be told.
    #[error(
        "without identity.xfcc_by x-forwarded-client-cert must have one element; have the proxy replace what it is sent"
    )]
    ManyElements,
    /// Its last element has no URI, or more than one.
    #[error("the last element of x-forwarded-client-cert must have exactly one URI, a SPIFFE ID")]
    NotOneForwardedUri,
    /// The value is neither of a service account nor a SPIFFE ID.
    #[error("l5d-client-id names no service account")]
    NoServiceAccount,
}

impl Unidentified {
    /// The label that it is counted by.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreadable => "certificate_unreadable",
            Self::Authority => "certificate_of_ca",
            Self::KeyUsage => "certificate_key_usage",
            Self::NotOneUri => "certificate_not_one_uri",
            Self::NoSpiffeId => "no_spiffe_id",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::NoProxy => "no_trusted_proxy",
            Self::NoHeader => "header_missing",
            Self::RepeatedHeader => "header_repeated",
            Self::LongHeader => "header_too_long",
            Self::Malformed => "header_malformed",
            Self::By => "header_by_another_proxy",
            Self::ManyElements => "header_many_elements",
            Self::NotOneForwardedUri => "header_not_one_uri",
            Self::NoServiceAccount => "header_no_service_account",
        }
    }
}

/// Reads the identity from a chain that TLS has verified. Only the first certificate counts; some
/// clients send their CA along.
///
/// # Errors
/// [`Unidentified`].
pub fn identify(
    chain: Option<&[CertificateDer<'_>]>,
    trust_domains: &[TrustDomain],
) -> Result<SpiffeId, Unidentified> {
    let leaf = chain
        .and_then(|chain| chain.first())
        .ok_or(Unidentified::Unreadable)?;
    let (rest, leaf) = X509Certificate::from_der(leaf).map_err(|_| Unidentified::Unreadable)?;
    if !rest.is_empty() {
        return Err(Unidentified::Unreadable);
    }
    let usage = leaf.key_usage().map_err(|_| Unidentified::Unreadable)?;
    let signs_others = usage
        .as_ref()
        .is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    // Not `is_ca`: it takes constraints that cannot be read for none.
    let constraints = leaf.basic_constraints();
    let constraints = constraints.map_err(|_| Unidentified::Unreadable)?;
    if signs_others || constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Unidentified::Authority);
    }
    if usage.is_some_and(|usage| !usage.value.digital_signature()) {
        return Err(Unidentified::KeyUsage);
    }
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| Unidentified::Unreadable)?;
    let names = names
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(Unidentified::NotOneUri);
    };
    workload(uri, trust_domains)
}

/// The SPIFFE ID of a workload in one of the trust domains, written as one is.
///
/// # Errors
/// [`Unidentified`].
pub fn workload(uri: &str, trust_domains: &[TrustDomain]) -> Result<SpiffeId, Unidentified> {
    if uri.len() > ID_BYTES_MAX {
        return Err(Unidentified::NoSpiffeId);
    }
    let id = SpiffeId::new(uri).map_err(|_| Unidentified::NoSpiffeId)?;
    if id.path().is_empty() || id.to_string() != uri {
        return Err(Unidentified::NoSpiffeId);
    }
    if !trust_domains.iter().any(|domain| id.is_member_of(domain)) {
        return Err(Unidentified::ForeignTrustDomain);
    }
    Ok(id)
}

/// The trust domain of a certificate, for whoever verifies it: read as [`identify`] reads it.
#[must_use]
pub fn trust_domain_of(
    leaf: &CertificateDer<'_>,
    trust_domains: &[TrustDomain],
) -> Option<TrustDomain> {
    let id = identify(Some(std::slice::from_ref(leaf)), trust_domains).ok()?;
    Some(id.trust_domain().clone())
}

#[cfg(all(test, feature = "simulator"))]
mod tests;
