//! TLS as a server: TLS 1.3, a client certificate from everybody, unless a proxy says who callers are.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use crate::{config::TlsConfig, private_file};

/// Longest key file, in bytes.
const KEY_BYTES_MAX: usize = 64 * 1024;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no PEM of the expected kind.
    #[error("{}: holds no {expected} in PEM form", file.display())]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// Certificate, key and CAs do not make a configuration.
    #[error("certificate {} with key {}: {reason}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The configuration of the broker's listener. Without CAs it asks nobody for a certificate.
///
/// No session is resumed: a resumed one would not be checked against the client CAs again
/// (RFC 8446 §2.2).
///
/// # Errors
/// [`Error`] names the file that cannot be used.
pub fn server_config(
    tls: &TlsConfig,
    client_ca_file: Option<&Path>,
) -> Result<Arc<ServerConfig>, Error> {
    let unusable = |reason: String| Error::Unusable {
        certificate: tls.certificate_file.clone(),
        key: tls.key_file.clone(),
        reason,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = match client_ca_file {
        Some(file) => WebPkiClientVerifier::builder_with_provider(roots(file)?, provider.clone())
            .build()
            .map_err(|error| unusable(error.to_string()))?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(error.to_string()))?;
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(&tls.certificate_file)?,
            private_key(&tls.key_file)?,
        )
        .map_err(|error| unusable(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn roots(file: &Path) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(file)? {
        roots.add(ca).map_err(|_| Error::Malformed {
            file: file.to_owned(),
            expected: "usable CA certificate",
        })?;
    }
    Ok(roots.into())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(file)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    parsed
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| Error::Malformed {
            file: file.to_owned(),
            expected: "certificate",
        })
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let pem = private_file::read(file, KEY_BYTES_MAX).map_err(|source| Error::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| Error::Malformed {
        file: file.to_owned(),
        expected: "private key",
    })
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    fs::read(file).map_err(|source| Error::Unreadable {
        file: file.to_owned(),
        source,
    })
}
