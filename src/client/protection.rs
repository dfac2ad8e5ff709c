//! What keeps a connection from others: certificates of its own, or a proxy beside it.

use std::{fs, path::Path};

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use url::Url;
use zeroize::Zeroizing;

use super::{
    ConnectionConfig, Error,
    connection::{CONNECT_TIMEOUT, unreadable},
};

/// What a configuration says of it.
pub(super) enum Protection<'a> {
    /// Mutual TLS.
    Tls {
        ca_file: &'a Path,
        certificate_file: &'a Path,
        key_file: &'a Path,
        server_name: Option<&'a str>,
    },
    /// The mesh's.
    Mesh,
}

impl ConnectionConfig {
    /// The endpoint, and what keeps the way there from others.
    pub(super) fn protection(&self) -> Result<(Url, Protection<'_>), Error> {
        let files = [
            ("ca_file", self.ca_file.as_deref()),
            ("certificate_file", self.certificate_file.as_deref()),
            ("key_file", self.key_file.as_deref()),
        ];
        if self.encrypted_by.is_none() {
            let url = self.url(
                "https",
                "; where the mesh encrypts, say `encrypted_by = \"mesh\"`",
            )?;
            let [ca_file, certificate_file, key_file] = files.map(|(name, file)| {
                let missing = || Error::configuration(format!("`{name}` is missing"));
                file.ok_or_else(missing)
            });
            let tls = Protection::Tls {
                ca_file: ca_file?,
                certificate_file: certificate_file?,
                key_file: key_file?,
                server_name: self.server_name.as_deref(),
            };
            return Ok((url, tls));
        }
        let url = self.url("http", "")?;
        let server_name = self.server_name.as_deref().map(Path::new);
        let mut named = files.into_iter().chain([("server_name", server_name)]);
        if let Some((name, _)) = named.find(|(_, value)| value.is_some()) {
            let message = format!("the mesh has certificates of its own: leave out {name}");
            return Err(Error::configuration(message));
        }
        Ok((url, Protection::Mesh))
    }
}

impl Protection<'_> {
    pub(super) fn put_on(&self, endpoint: Endpoint) -> Result<Endpoint, Error> {
        let Self::Tls {
            ca_file,
            certificate_file,
            key_file,
            server_name,
        } = *self
        else {
            return Ok(endpoint);
        };
        // Read here because an unusable file is passed over in silence further down, and the
        // handshake then fails for what looks like another cause.
        let ca = read_pem("ca_file", ca_file, "CERTIFICATE-----")?;
        let certificate = read_pem("certificate_file", certificate_file, "CERTIFICATE-----")?;
        let key = read_pem("key_file", key_file, "PRIVATE KEY-----")?;
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&*ca))
            .identity(Identity::from_pem(&*certificate, &*key))
            .timeout(CONNECT_TIMEOUT);
        if let Some(name) = server_name {
            tls = tls.domain_name(name);
        }
        endpoint.tls_config(tls).map_err(|cause| {
            let causes = super::error::causes(&cause);
            Error::configuration(format!(
                "the certificate, key or server name cannot be used: {causes}"
            ))
        })
    }
}

/// Reads the PEM file of an option. `kind` is how the first line of the wanted part ends.
fn read_pem(option: &str, path: &Path, kind: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let bytes = fs::read(path).map(Zeroizing::new);
    let bytes = bytes.map_err(|cause| unreadable(path, &cause))?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let is_wanted = |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(kind);
    if !text.lines().any(is_wanted) {
        let wanted = kind.trim_end_matches('-').to_lowercase();
        let path = path.display();
        let message = format!("`{option}` must hold a {wanted} in PEM form, and {path} does not");
        return Err(Error::configuration(message));
    }
    Ok(bytes)
}
