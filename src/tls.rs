//! TLS as a server: a client certificate from everybody, and material that is replaced while it serves.

use std::{io, path::PathBuf, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::NoServerSessionStorage,
};
use spiffe::TrustDomain;
use zeroize::Zeroizing;

use crate::{
    config::{IdentityConfig, TlsConfig},
    private_file,
};

mod live;
mod verifier;

pub use live::{Bundle, LiveTls, Material};
pub use verifier::Whose;

/// Longest key file, in bytes.
const KEY_BYTES_MAX: usize = 64 * 1024;
/// Longest file of certificates, in bytes: some hundred CAs.
const CERTIFICATES_BYTES_MAX: usize = 1024 * 1024;

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
    /// The CAs of a trust domain verify nobody.
    #[error("the CAs of {domain}: {reason}")]
    Bundle {
        /// Whose.
        domain: TrustDomain,
        /// Why.
        reason: String,
    },
}

/// What TLS is made of, as it was found: one reading of all files.
#[derive(Debug)]
pub struct Found {
    certificate: File,
    key: File,
    bundles: Vec<(TrustDomain, File)>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    content: Zeroizing<Vec<u8>>,
}

impl Found {
    /// Reads all files.
    ///
    /// # Errors
    /// [`Error::Unreadable`] names the one that cannot be read.
    pub fn read(tls: &TlsConfig, identity: &IdentityConfig) -> Result<Self, Error> {
        let bundles = identity.trust_domains().map(|(domain, file)| {
            let file = File::read(file.to_owned(), Private::No)?;
            Ok((domain.clone(), file))
        });
        Ok(Self {
            certificate: File::read(tls.certificate_file.clone(), Private::No)?,
            key: File::read(tls.key_file.clone(), Private::Yes)?,
            bundles: bundles.collect::<Result<_, Error>>()?,
        })
    }

    /// Feeds everything that was read to a digest, to tell one reading from another.
    pub fn digest(&self, to: &mut Context) {
        let bundles = self.bundles.iter().map(|(_, file)| file);
        for file in [&self.certificate, &self.key].into_iter().chain(bundles) {
            to.update(&file.content.len().to_be_bytes());
            to.update(&file.content);
        }
    }

    /// What connections are made with from it. `whose` tells the trust domain of a client certificate.
    ///
    /// No session is resumed: a resumed one would not be checked against the client CAs again
    /// (RFC 8446 §2.2).
    ///
    /// # Errors
    /// [`Error`] names what cannot be used.
    pub fn material(&self, whose: Whose) -> Result<Material, Error> {
        let unusable = |error: rustls::Error| Error::Unusable {
            certificate: self.certificate.path.clone(),
            key: self.key.path.clone(),
            reason: error.to_string(),
        };
        let bundles: Vec<_> = self
            .bundles
            .iter()
            .map(|(domain, file)| Ok(Bundle::new(domain.clone(), file.certificates()?)))
            .collect::<Result<_, Error>>()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = verifier::ByDomain::new(&bundles, whose, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(self.certificate.certificates()?, self.key.private_key()?)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Material::new(config, bundles))
    }
}

/// Whether a file must be closed to others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Private {
    Yes,
    No,
}

impl File {
    fn read(path: PathBuf, private: Private) -> Result<Self, Error> {
        let content = match private {
            Private::Yes => private_file::read(&path, KEY_BYTES_MAX),
            Private::No => private_file::read_shared(&path, CERTIFICATES_BYTES_MAX),
        };
        match content {
            Ok(content) => Ok(Self { path, content }),
            Err(source) => Err(Error::Unreadable { file: path, source }),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.content).collect();
        let found = parsed.ok().filter(|found| !found.is_empty());
        found.ok_or_else(|| self.malformed("certificate"))
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        let key = PrivateKeyDer::from_pem_slice(&self.content);
        key.map_err(|_| self.malformed("private key"))
    }

    fn malformed(&self, expected: &'static str) -> Error {
        Error::Malformed {
            file: self.path.clone(),
            expected,
        }
    }
}

/// A digest of everything that was read.
#[must_use]
pub fn new_digest() -> Context {
    Context::new(&SHA256)
}
