//! TLS as a server: a client certificate from everybody, unless a proxy says who callers are, and material
//! that is replaced while it serves.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version,
};
use spiffe::TrustDomain;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, time::ASN1Time};
use zeroize::Zeroizing;

use crate::{
    config::{IdentityConfig, TlsConfig, TlsSource, TlsVersion},
    private_file,
};

mod live;
mod verifier;
mod workload;

pub use live::{Bundle, LiveTls, Material, Shown, Validity};
pub use verifier::Whose;
pub use workload::WorkloadApi;

use workload::Given;

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
    /// Certificate and key do not belong together, or are of no use.
    #[error("{from}: {reason}")]
    Unusable {
        /// Where they are from.
        from: String,
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
    /// The Workload API gives nothing.
    #[error("the Workload API at {socket}: {reason}")]
    WorkloadApi {
        /// Where it is.
        socket: String,
        /// Why.
        reason: String,
    },
    /// The source of certificates is another one than the broker was started with.
    #[error("server.tls: another source or socket is in force after a restart")]
    OtherSource,
}

/// What TLS is made of, as it was found: one reading of everything.
#[derive(Debug)]
pub struct Found {
    /// Of callers.
    domains: Vec<TrustDomain>,
    /// None where a proxy speaks in plaintext.
    parts: Option<Parts>,
    min_version: TlsVersion,
}

#[derive(Debug)]
enum Parts {
    Files {
        certificate: File,
        key: File,
        bundles: Vec<(TrustDomain, File)>,
    },
    WorkloadApi(Given),
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    content: Zeroizing<Vec<u8>>,
}

impl Found {
    /// Reads all files, or takes what the Workload API gave last, if that is where it comes from.
    ///
    /// # Errors
    /// [`Error`] names what cannot be read.
    pub fn read(
        tls: Option<&TlsConfig>,
        identity: &IdentityConfig,
        workload_api: Option<&WorkloadApi>,
    ) -> Result<Self, Error> {
        let parts = match (tls.map(|tls| &tls.source), workload_api) {
            (None, None) => None,
            (
                Some(TlsSource::Files {
                    certificate_file,
                    key_file,
                }),
                None,
            ) => {
                let files = identity
                    .trust_domains()
                    .filter_map(|(domain, file)| Some((domain, file?)));
                let bundles = files.map(|(domain, file)| {
                    let file = File::read(file.to_owned(), Private::No)?;
                    Ok((domain.clone(), file))
                });
                Some(Parts::Files {
                    bundles: bundles.collect::<Result<_, Error>>()?,
                    certificate: File::read(certificate_file.clone(), Private::No)?,
                    key: File::read(key_file.clone(), Private::Yes)?,
                })
            }
            (Some(TlsSource::WorkloadApi(config)), Some(source)) if config == source.config() => {
                Some(Parts::WorkloadApi(source.given(identity)?))
            }
            _ => return Err(Error::OtherSource),
        };
        let domains = identity.trust_domains();
        Ok(Self {
            domains: domains.map(|(domain, _)| domain.clone()).collect(),
            parts,
            min_version: tls.map(|tls| tls.min_version).unwrap_or_default(),
        })
    }

    /// Feeds everything that was read to a digest, to tell one reading from another.
    pub fn digest(&self, to: &mut Context) {
        match &self.parts {
            None => {}
            Some(Parts::Files {
                certificate,
                key,
                bundles,
            }) => {
                let bundles = bundles.iter().map(|(_, file)| file);
                for file in [certificate, key].into_iter().chain(bundles) {
                    to.update(&file.content.len().to_be_bytes());
                    to.update(&file.content);
                }
            }
            Some(Parts::WorkloadApi(given)) => given.digest(to),
        }
    }

    /// What connections are made with from it. `whose` tells the trust domain of a client certificate.
    ///
    /// # Errors
    /// [`Error`] names what cannot be used.
    pub fn material(&self, whose: Whose) -> Result<Material, Error> {
        let Some(parts) = &self.parts else {
            return Ok(Material::new(self.domains.clone(), None, Vec::new()));
        };
        let unusable = |reason: String| Error::Unusable {
            from: parts.name(),
            reason,
        };
        let bundles = parts.bundles()?;
        let bundles: Vec<_> = bundles
            .into_iter()
            .map(|(domain, cas)| Bundle::new(domain, cas))
            .collect();
        let chain = parts.chain()?;
        let leaf = chain.first().ok_or_else(|| unusable("is empty".into()))?;
        let validity = validity(leaf).ok_or_else(|| unusable("cannot be read".into()))?;
        let config = self.server_config((chain, parts.key()?), &bundles, whose, unusable)?;
        let shown = Shown {
            config: Arc::new(config),
            validity,
        };
        Ok(Material::new(self.domains.clone(), Some(shown), bundles))
    }

    /// Without CAs it asks nobody for a certificate.
    ///
    /// No session is resumed: a resumed one would not be checked against the client CAs again
    /// (RFC 8446 §2.2).
    fn server_config(
        &self,
        (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
        bundles: &[Bundle],
        whose: Whose,
        unusable: impl Fn(String) -> Error,
    ) -> Result<ServerConfig, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = if bundles.is_empty() {
            WebPkiClientVerifier::no_client_auth()
        } else {
            Arc::new(verifier::ByDomain::new(bundles, whose, &provider)?)
        };
        // Of TLS 1.2, the provider has ECDHE with AEAD only.
        let versions: &[_] = match self.min_version {
            TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
            TlsVersion::V1_3 => &[&version::TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| unusable(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| unusable(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // Without it, a session of TLS 1.2 is not bound to its handshake (RFC 7627).
        config.require_ems = true;
        if cfg!(fips) && !config.fips() {
            return Err(unusable("cannot be used by the FIPS module alone".into()));
        }
        Ok(config)
    }
}

impl Parts {
    /// What an operator knows it by.
    fn name(&self) -> String {
        match self {
            Self::Files {
                certificate, key, ..
            } => format!(
                "certificate {} with key {}",
                certificate.path.display(),
                key.path.display()
            ),
            Self::WorkloadApi(_) => "the SVID of the Workload API".into(),
        }
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        match self {
            Self::Files { certificate, .. } => certificate.certificates(),
            Self::WorkloadApi(given) => Ok(given.chain()),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        match self {
            Self::Files { key, .. } => key.private_key(),
            Self::WorkloadApi(given) => Ok(given.key()),
        }
    }

    fn bundles(&self) -> Result<Vec<(TrustDomain, Vec<CertificateDer<'static>>)>, Error> {
        match self {
            Self::Files { bundles, .. } => {
                let bundles = bundles.iter();
                bundles
                    .map(|(domain, file)| Ok((domain.clone(), file.certificates()?)))
                    .collect()
            }
            Self::WorkloadApi(given) => Ok(given.bundles()),
        }
    }
}

/// When a certificate begins and ends to be valid.
#[must_use]
pub fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let time = |time: ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    Some(Validity {
        not_before: time(certificate.validity().not_before)?,
        not_after: time(certificate.validity().not_after)?,
    })
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
