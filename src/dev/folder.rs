//! The folder that `dev` works in: certificates, keys, configuration, and what a newcomer needs to go
//! on by hand.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use url::Url;
use uuid::Uuid;

use super::Error;
use crate::{
    clock::Clock,
    config::ListenAddress,
    sealed,
    simulator::pki::{
        ApplicationCertificate, CertificateAuthority, Identity, KeyKind, Leaf,
        application_certificate,
    },
};

/// The trust domain of the throw-away identities.
pub(super) const TRUST_DOMAIN: &str = "dev.kodo.example";

/// How long the application's certificate is good for.
const APPLICATION_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A folder and the paths in it.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A path as a shell takes it.
    pub(super) fn shown(&self, name: &str) -> String {
        quoted(&self.path(name).display().to_string())
    }

    /// A CA, the broker's identity, and one each for a worker and an operator: new with each start.
    pub(super) fn make_identities(&self) -> Result<Identity, Error> {
        let authority = CertificateAuthority::new("kodo-broker dev CA")?;
        write(&self.path("ca.pem"), authority.certificate_pem().as_bytes())?;
        let server = authority.issue(&Leaf::loopback("kodo-broker dev"))?;
        self.write_identity("broker", &server)?;
        for name in ["worker", "admin"] {
            let id = format!("spiffe://{TRUST_DOMAIN}/{name}");
            self.write_identity(name, &authority.issue(&Leaf::workload(&id))?)?;
        }
        Ok(server)
    }

    fn write_identity(&self, name: &str, identity: &Identity) -> Result<(), Error> {
        write(
            &self.path(&format!("{name}.crt")),
            identity.certificate_pem.as_bytes(),
        )?;
        write(
            &self.path(&format!("{name}.key")),
            identity.key_pem.as_bytes(),
        )
    }

    /// The KEK: kept from the start before, or its store could not be opened.
    pub(super) fn make_kek(&self) -> Result<(), Error> {
        let key = sealed::random_key().ok_or(Error::NoRandom)?;
        // Exposed: the file is what holds this key.
        self.make("kek", || Ok(BASE64_STANDARD.encode(key.expose())))?;
        Ok(())
    }

    /// The certificate and key of the registered application.
    pub(super) fn make_application(&self) -> Result<String, Error> {
        let about = ApplicationCertificate {
            common_name: "kodo-broker dev application".to_owned(),
            key: KeyKind::Rsa3072,
            not_after: Clock::system().now() + APPLICATION_LIFE,
            ..Default::default()
        };
        let certificate = || application_certificate(&about);
        self.make("contoso.pem", || Ok(certificate()?.bundle_pem()))
    }

    /// The client secret of the application that is left to register.
    pub(super) fn make_secret(&self) -> Result<String, Error> {
        self.make("fabrikam.secret", || {
            Ok(format!("dev~{}", Uuid::new_v4().simple()))
        })
    }

    /// Configuration, policy and connection files.
    pub(super) fn write_configuration(
        &self,
        listen: SocketAddr,
        authority: &Url,
        graph: &Url,
    ) -> Result<PathBuf, Error> {
        let at = |name: &str| toml::Value::from(self.path(name).display().to_string());
        let config = format!(
            "[server]\nlisten = \"{listen}\"\nreflection = true\n\n\
             [server.tls]\ncertificate_file = {}\nkey_file = {}\n\n\
             [identity]\ntrust_domain = \"{TRUST_DOMAIN}\"\nclient_ca_file = {ca}\n\n\
             [policy]\nfile = {}\n\n[store]\nkind = \"sled\"\ndirectory = {}\n\n\
             [kek]\nfile = {}\n\n[entra]\nextra_ca_file = {ca}\n\n\
             [entra.loopback_authority.global]\nauthority_url = \"{authority}\"\ngraph_url = \"{graph}\"\n\n\
             [audit]\nfile = {}\n\n[log]\nformat = \"text\"\nfilter = \"warn\"\n",
            at("broker.crt"),
            at("broker.key"),
            at("policy.toml"),
            at("store"),
            at("kek"),
            at("audit.jsonl"),
            ca = at("ca.pem"),
        );
        let policy = format!(
            "[[grant]]\ncallers = [\"spiffe://{TRUST_DOMAIN}/worker\"]\nactions = [\"get_token\"]\n\
             organizations = [\"*\"]\nresources = [\"graph\", \"exchange\", \"sharepoint\", \"azure_ad_graph\"]\n\n\
             [[grant]]\ncallers = [\"spiffe://{TRUST_DOMAIN}/admin\"]\n\
             actions = [\"register\", \"get\", \"list\", \"update\", \"rotate\", \"revoke\", \"suspend\", \"resume\", \"manage_jobs\", \"manage_store\", \"read_audit\"]\norganizations = [\"*\"]\n"
        );
        write(&self.path("policy.toml"), policy.as_bytes())?;
        let file = self.path("broker.toml");
        write(&file, config.as_bytes())?;
        Ok(file)
    }

    /// What the command line needs to reach the broker.
    pub(super) fn write_connections(&self, address: &ListenAddress) -> Result<(), Error> {
        for name in ["worker", "admin"] {
            let connection = format!(
                "endpoint = \"https://{address}\"\nca_file = \"ca.pem\"\n\
                 certificate_file = \"{name}.crt\"\nkey_file = \"{name}.key\"\n"
            );
            write(&self.path(&format!("{name}.toml")), connection.as_bytes())?;
        }
        Ok(())
    }

    /// The content of a file, made if it is not there yet.
    fn make(
        &self,
        name: &str,
        content: impl FnOnce() -> Result<String, Error>,
    ) -> Result<String, Error> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = content()?;
                write(&path, text.as_bytes())?;
                Ok(text)
            }
            Err(source) => Err(Error::File { path, source }),
        }
    }
}

/// Writes a file that only its owner can read.
fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, content));
    written.map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
