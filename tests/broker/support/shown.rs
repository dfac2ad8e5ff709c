//! What a server shows to whoever begins a handshake.

use std::{net::SocketAddr, sync::Arc};

use kodo_broker::simulator::pki::Identity;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::pki;

/// A connection on which HTTP/2 may be spoken, to a server of the tests' CA.
pub(crate) async fn connect(
    address: SocketAddr,
    identity: Option<&Identity>,
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let authority = of_pem(&pki::authority().certificate_pem());
    roots.add(authority).expect("a CA");
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes());
            let chain = vec![of_pem(&identity.certificate_pem)];
            let config = config.with_client_auth_cert(chain, key.expect("a key"));
            config.expect("a key of the certificate")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.expect("it listens");
    let name = ServerName::from(address.ip());
    let connector = TlsConnector::from(Arc::new(config));
    // In TLS 1.3 the server's refusal of a client without a certificate comes after this.
    let stream = connector.connect(name, stream).await;
    stream.expect("a certificate of the tests' CA")
}

/// The certificate of a server, which must be of the tests' CA.
pub(crate) async fn certificate(address: SocketAddr) -> CertificateDer<'static> {
    let stream = connect(address, None).await;
    let shown = stream.get_ref().1.peer_certificates();
    let shown = shown.and_then(<[_]>::first).expect("there is one");
    shown.clone().into_owned()
}

/// A certificate in PEM as a server shows it.
pub(crate) fn of_pem(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate in PEM")
}
