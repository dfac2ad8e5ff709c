//! Keys and certificates, made once for each run of the tests.

use std::sync::OnceLock;

use kodo_broker::simulator::pki::{
    ApplicationCertificate, CertificateAuthority, Identity, KeyKind, Leaf, application_certificate,
};
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};

/// The trust domain of all callers.
pub(crate) const TRUST_DOMAIN: &str = "kodo.test";

/// The CA of the callers and of all servers.
pub(crate) fn authority() -> &'static CertificateAuthority {
    static AUTHORITY: OnceLock<CertificateAuthority> = OnceLock::new();
    AUTHORITY.get_or_init(|| CertificateAuthority::new("tests").expect("a CA can be made"))
}

/// What broker and simulator show to those who connect.
pub(crate) fn server() -> &'static Identity {
    static SERVER: OnceLock<Identity> = OnceLock::new();
    SERVER.get_or_init(|| issue(&Leaf::loopback("server")))
}

/// A certificate of the callers' CA.
pub(crate) fn issue(leaf: &Leaf) -> Identity {
    authority().issue(leaf).expect("its names are ASCII")
}

/// The certificate of a caller in the trust domain.
pub(crate) fn caller(path: &str) -> Identity {
    issue(&Leaf::workload(&spiffe_id(path)))
}

/// The SPIFFE ID of a path.
pub(crate) fn spiffe_id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{path}")
}

/// The certificate that every application of the simulator has.
pub(crate) fn application() -> &'static Identity {
    static APPLICATION: OnceLock<Identity> = OnceLock::new();
    APPLICATION.get_or_init(|| {
        let about = ApplicationCertificate {
            key: KeyKind::Rsa2048,
            ..Default::default()
        };
        application_certificate(&about).expect("a key can be made")
    })
}

/// A certificate with its key as PKCS#12.
pub(crate) fn pkcs12(identity: &Identity, password: &str) -> Vec<u8> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes());
    let certificate = certificate.expect("a certificate in PEM");
    let key = PrivatePkcs8KeyDer::from_pem_slice(identity.key_pem.as_bytes());
    let key = key.expect("a PKCS#8 key in PEM");
    let key = PrivateKey::from_der(key.secret_pkcs8_der()).expect("a key");
    let certificate = Certificate::from_der(&certificate).expect("a certificate");
    let chain = PrivateKeyChain::new("1", key, [certificate]);
    let mut keystore = KeyStore::new();
    keystore.add_entry("application", KeyStoreEntry::PrivateKeyChain(chain));
    keystore.writer(password).write().expect("can be written")
}
