//! A place to measure at: certificates, a simulated Entra, and the files of everything that serves.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use kodo_broker::simulator::{
    Simulator,
    directory::{Application, Tenant},
    pki::{CertificateAuthority, Identity, Leaf},
    resource::Resource,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::Failure;

pub(crate) const TRUST_DOMAIN: &str = "bench.test";
/// 32 bytes that are nobody's.
pub(crate) const KEK: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// What replaces it.
pub(crate) const NEW_KEK: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
/// The secret of every application.
pub(crate) const CLIENT_SECRET: &str = "a-client-secret-of-nobody-0123456789";
/// So long that nothing is renewed while something else is measured.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Permissions that make a token as long as those of an application for backups: 1.8 KB.
const ROLES: &[&str] = &[
    "Application.Read.All",
    "Calendars.ReadWrite",
    "Channel.ReadBasic.All",
    "ChannelMessage.Read.All",
    "Contacts.ReadWrite",
    "Directory.Read.All",
    "Files.ReadWrite.All",
    "Group.ReadWrite.All",
    "Mail.ReadWrite",
    "MailboxSettings.ReadWrite",
    "Notes.ReadWrite.All",
    "Sites.FullControl.All",
    "Team.ReadBasic.All",
    "TeamSettings.ReadWrite.All",
];

/// The place. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) simulator: Simulator,
    /// What a worker connects with.
    pub(crate) worker: Arc<ClientConfig>,
    folder: TempDir,
}

/// Where a broker keeps its records.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Store {
    Memory,
    Sled,
}

impl Site {
    pub(crate) async fn new() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let authority = CertificateAuthority::new("benchmarks")?;
        let server = authority.issue(&Leaf::loopback("server"))?;
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let simulator = Simulator::start(any_port, &server).await?;
        let leaf = |name| Leaf::workload(&format!("spiffe://{TRUST_DOMAIN}/{name}"));
        let (worker, admin) = (
            authority.issue(&leaf("worker"))?,
            authority.issue(&leaf("admin"))?,
        );
        let site = Self {
            simulator,
            worker: client_config(&authority.certificate_pem(), &worker)?,
            folder,
        };
        site.write("ca.pem", authority.certificate_pem())?;
        for (name, identity) in [("server", &server), ("worker", &worker), ("admin", &admin)] {
            site.write(&format!("{name}.crt"), &identity.certificate_pem)?;
            site.write(&format!("{name}.key"), &identity.key_pem)?;
        }
        site.write("kek", KEK)?;
        site.write("policy.toml", policy())?;
        Ok(site)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that only its owner can read.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), Failure> {
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(self.path(name))?;
        Ok(std::io::Write::write_all(&mut file, content.as_ref())?)
    }

    /// The command that runs a broker with a configuration of its own.
    pub(crate) fn broker(&self, name: &str, store: Store) -> Result<Command, Failure> {
        let file = format!("{name}.toml");
        self.write(&file, self.configuration(name, store))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_kodo-broker"));
        command.arg("serve").arg("--config").arg(self.path(&file));
        Ok(command)
    }

    /// The configuration of every broker that is measured: all that costs something in the way of a
    /// call is on, and stays as it is by default.
    fn configuration(&self, name: &str, store: Store) -> String {
        let folder = self.folder.path().display();
        let (authority, graph) = (self.simulator.authority_url(), self.simulator.graph_url());
        let store = match store {
            Store::Memory => "kind = \"memory\"".to_owned(),
            Store::Sled => format!("kind = \"sled\"\ndirectory = \"{folder}/{name}-data\""),
        };
        format!(
            r#"
[server]
listen = "127.0.0.1:0"
metrics_listen = "127.0.0.1:0"

[server.tls]
certificate_file = "{folder}/server.crt"
key_file = "{folder}/server.key"

[identity]
trust_domain = "{TRUST_DOMAIN}"
client_ca_file = "{folder}/ca.pem"

[policy]
file = "{folder}/policy.toml"

[store]
{store}

[kek]
file = "{folder}/kek"

[audit]
file = "{folder}/{name}-audit.jsonl"

[entra]
extra_ca_file = "{folder}/ca.pem"

[entra.loopback_authority.global]
authority_url = "{authority}"
graph_url = "{graph}"
"#
        )
    }

    /// A new tenant with an application: both ids.
    pub(crate) fn add_tenant(&self, name: &str) -> (Uuid, Uuid) {
        let (id, client_id) = (Uuid::new_v4(), Uuid::new_v4());
        let mut application = Application::new(client_id).with_secret(CLIENT_SECRET);
        for resource in [Resource::Graph, Resource::Exchange] {
            let roles = ROLES.iter().map(ToString::to_string).collect();
            application.roles.insert(resource, roles);
        }
        let mut tenant = Tenant::new(id, name).with(application);
        tenant.token_lifetime = TOKEN_LIFE..=TOKEN_LIFE;
        self.simulator.directory().add_tenant(tenant);
        (id, client_id)
    }
}

/// The TLS of a client with a certificate.
fn client_config(ca_pem: &str, identity: &Identity) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let chain = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![chain], key)?;
    Ok(Arc::new(config))
}

fn policy() -> String {
    format!(
        r#"
[[grant]]
callers = ["spiffe://{TRUST_DOMAIN}/worker"]
actions = ["get_token"]
organizations = ["*"]
resources = ["graph", "exchange", "sharepoint"]

[[grant]]
callers = ["spiffe://{TRUST_DOMAIN}/admin"]
actions = ["register", "get", "list", "update", "rotate", "revoke", "manage_store"]
organizations = ["*"]
"#
    )
}
