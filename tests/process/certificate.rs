//! Keys and certificates of applications, in the forms that they are handed in.

use kodo_broker::simulator::pki::{ApplicationCertificate, KeyKind, application_certificate};
use p12_keystore::{KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};

/// A key with its certificate.
pub(crate) struct ApplicationKey {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
    key: PrivatePkcs8KeyDer<'static>,
}

impl ApplicationKey {
    pub(crate) fn generate(key: KeyKind) -> Self {
        let about = ApplicationCertificate {
            key,
            ..Default::default()
        };
        let identity = application_certificate(&about).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from_pem_slice(identity.key_pem.as_bytes());
        Self {
            certificate_pem: identity.certificate_pem,
            key_pem: identity.key_pem,
            key: key.expect("a PKCS#8 key"),
        }
    }

    /// The key as PKCS#8.
    pub(crate) fn key_der(&self) -> &[u8] {
        self.key.secret_pkcs8_der()
    }

    /// Certificate and key in one text.
    pub(crate) fn bundle_pem(&self) -> String {
        [self.certificate_pem.as_str(), &self.key_pem].concat()
    }

    /// Certificate and key in one file under a password.
    pub(crate) fn pkcs12(&self, password: &str) -> Vec<u8> {
        let der = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes());
        let certificate = p12_keystore::Certificate::from_der(&der.expect("a certificate"));
        let key = PrivateKey::from_der(self.key_der()).expect("a PKCS#8 key");
        let chain = PrivateKeyChain::new("key", key, [certificate.expect("a certificate")]);
        let mut store = KeyStore::new();
        store.add_entry("application", KeyStoreEntry::PrivateKeyChain(chain));
        store.writer(password).write().expect("a file")
    }
}
