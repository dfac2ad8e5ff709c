//! Takes credentials in: parses and checks whatever can be checked without asking Entra.
//!
//! Every refusal says what to send instead. Entra accepts RSA keys only (EC certificates have been
//! refused since 2019), so an EC key is refused here and not by a malformed assertion later.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::KeyPair,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use uuid::Uuid;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, public_key::PublicKey};
use zeroize::Zeroizing;

use super::{Certificate, Credential};
use crate::{
    malformed::Malformed,
    secret::{ClientSecret, PrivateKey},
};

/// Longest PEM text or PKCS#12 file, in bytes.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
/// Longest PKCS#12 password, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Shortest RSA modulus that Microsoft accepts for new certificates.
pub const KEY_BITS_MIN: usize = 2048;
/// Longest RSA modulus: above it a signature takes longer than a request to Entra.
const KEY_BITS_MAX: usize = 8192;

/// Takes a client secret.
///
/// # Errors
/// [`Malformed`] if it is too short or long, has characters that Entra's secrets do not have, is
/// the secret's id instead of its value, or has ended.
pub fn client_secret(
    value: String,
    expires: Option<SystemTime>,
    now: SystemTime,
) -> Result<Credential, Malformed> {
    let value = Zeroizing::new(value);
    if Uuid::try_parse(&value).is_ok() {
        return Err(Malformed(
            "looks like the secret's id; copy the column \"Value\" of the portal, not \"Secret ID\"",
        ));
    }
    if !(16..=4096).contains(&value.len()) {
        return Err(Malformed("must be 16 to 4096 characters"));
    }
    if !value.bytes().all(|b| matches!(b, b' '..=b'~')) || value.trim() != value.as_str() {
        return Err(Malformed(
            "must be printable ASCII without a space or line break at either end",
        ));
    }
    if expires.is_some_and(|end| end <= now) {
        return Err(Malformed(
            "its expire_time has passed; create a new client secret",
        ));
    }
    Ok(Credential::ClientSecret {
        value: ClientSecret::new(value.as_str().to_owned()),
        expires,
    })
}

/// Takes a certificate and its key from a PEM text. Of several certificates the one that belongs to
/// the key is taken.
///
/// # Errors
/// [`Malformed`] with the check that failed.
pub fn pem(text: &str, now: SystemTime) -> Result<Credential, Malformed> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Malformed("must be at most 64 KiB"));
    }
    // Asked first: the older form of the two has headers, which the PEM reader takes for damage.
    if text.contains("ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(Malformed(
            "its private key is encrypted; decrypt it first (openssl pkey), or send PKCS#12 with its password",
        ));
    }
    let unreadable = Malformed("is not readable as PEM");
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| Malformed("has no private key; send certificate and key in one text"))?;
    let pair = match &key {
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(NOT_RSA),
    };
    certificate(&pair.map_err(|_| NOT_RSA)?, certificates, now)
}

/// Takes a certificate and its key from a PKCS#12 file.
///
/// # Errors
/// [`Malformed`] with the check that failed; a wrong password is told apart from nothing else, as
/// the format cannot.
pub fn pkcs12(pfx: &[u8], password: &str, now: SystemTime) -> Result<Credential, Malformed> {
    if pfx.len() > FILE_BYTES_MAX {
        return Err(Malformed("must be at most 64 KiB"));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Malformed("its password must be at most 1024 bytes"));
    }
    let keystore =
        KeyStore::from_pkcs12(pfx, password, Pkcs12ImportPolicy::Relaxed).map_err(|_| {
            Malformed(
                "is not readable as PKCS#12 with this password; check the password and the file",
            )
        })?;
    let mut chains = keystore.entries().filter_map(|(_, entry)| match entry {
        KeyStoreEntry::PrivateKeyChain(chain) => Some(chain),
        _ => None,
    });
    let chain = chains.next().ok_or(Malformed(
        "has no private key; export the certificate with its key",
    ))?;
    if chains.next().is_some() {
        return Err(Malformed(
            "has more than one private key; export the one certificate",
        ));
    }
    let pair = KeyPair::from_pkcs8(chain.key().as_der()).map_err(|_| NOT_RSA)?;
    let certificates = chain.certs().iter().map(|c| c.as_der().to_vec()).collect();
    certificate(&pair, certificates, now)
}

const NOT_RSA: Malformed =
    Malformed("its key is no RSA key of 2048 to 8192 bits; Entra accepts RSA certificates only");

/// Finds the key's certificate and checks both.
fn certificate(
    pair: &KeyPair,
    certificates: Vec<Vec<u8>>,
    now: SystemTime,
) -> Result<Credential, Malformed> {
    use aws_lc_rs::signature::KeyPair as _;
    let key_bits = pair.public_modulus_len() * 8;
    if !(KEY_BITS_MIN..=KEY_BITS_MAX).contains(&key_bits) {
        return Err(NOT_RSA);
    }
    if certificates.is_empty() {
        return Err(Malformed(
            "has no certificate; send certificate and key together",
        ));
    }
    // A renewed certificate may stand beside the old one of the same key: the later end wins.
    let mut chosen: Option<(SystemTime, Vec<u8>)> = None;
    let mut refused = Malformed(
        "its private key does not belong to its certificate; send the pair that belongs together",
    );
    for der in certificates {
        let Ok((rest, parsed)) = X509Certificate::from_der(&der) else {
            return Err(Malformed("has a certificate that cannot be read"));
        };
        // The DER form of the public key is the same in certificate and key pair (RFC 8017 A.1.1).
        let same_key =
            parsed.public_key().subject_public_key.data.as_ref() == pair.public_key().as_ref();
        if !rest.is_empty() || !same_key || !is_rsa(&parsed) {
            continue;
        }
        match validity(&parsed, now) {
            Ok(end) if chosen.as_ref().is_none_or(|(latest, _)| *latest < end) => {
                chosen = Some((end, der));
            }
            Ok(_) => {}
            Err(why) => refused = why,
        }
    }
    let (expires, der) = chosen.ok_or(refused)?;
    Ok(Credential::Certificate(Certificate {
        key: pkcs8_pem(pair)?,
        expires,
        key_bits,
        der,
    }))
}

fn is_rsa(certificate: &X509Certificate<'_>) -> bool {
    matches!(certificate.public_key().parsed(), Ok(PublicKey::RSA(_)))
}

/// Checks the validity period and returns its end.
fn validity(certificate: &X509Certificate<'_>, now: SystemTime) -> Result<SystemTime, Malformed> {
    let time = |asn1: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(asn1.timestamp()).unwrap_or(0);
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    let period = certificate.validity();
    let (Some(begins), Some(ends)) = (time(period.not_before), time(period.not_after)) else {
        return Err(Malformed(
            "its certificate has an unreadable validity period",
        ));
    };
    if ends <= now {
        return Err(Malformed(
            "its certificate has expired; create a new one and upload it to the application",
        ));
    }
    if begins > now {
        return Err(Malformed(
            "its certificate is not valid yet; wait, or check the clock of the machine that made it",
        ));
    }
    Ok(ends)
}

fn pkcs8_pem(pair: &KeyPair) -> Result<PrivateKey, Malformed> {
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(pair)
        .map_err(|_| Malformed("its key cannot be re-encoded"))?;
    let body = Zeroizing::new(BASE64_STANDARD.encode(der.as_ref()));
    let mut text = String::with_capacity(body.len() + 64);
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    text.push_str(&body);
    text.push_str("\n-----END PRIVATE KEY-----\n");
    Ok(PrivateKey::new(text))
}

#[cfg(all(test, feature = "simulator"))]
mod tests;
