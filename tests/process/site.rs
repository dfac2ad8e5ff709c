//! A place to run a broker at: a simulated Entra, certificates, and a folder with all files.

use std::{
    cell::Cell,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use kodo_broker::{
    client::{Client, ConnectionConfig, Operator},
    simulator::{
        Simulator,
        directory::{Application, Tenant},
        pki::{CertificateAuthority, Identity, Leaf},
    },
};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use uuid::Uuid;

use super::program::{Ended, Running, command, run};

pub(crate) const TRUST_DOMAIN: &str = "process.test";
/// 32 bytes that are nobody's.
pub(crate) const KEK: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub(crate) const OTHER_KEK: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

/// The place. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) simulator: Simulator,
    folder: TempDir,
}

/// A broker that serves.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
    pub(crate) health_address: SocketAddr,
    pub(crate) metrics_address: Option<SocketAddr>,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = CertificateAuthority::new("process tests").expect("a CA");
        let server = authority
            .issue(&Leaf::loopback("broker"))
            .expect("a certificate");
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let simulator = Simulator::start(any_port, &server).await.expect("starts");
        let site = Self { simulator, folder };
        site.write("ca.pem", authority.certificate_pem());
        site.write_identity("broker", &server);
        for name in ["worker", "admin"] {
            let leaf = Leaf::workload(&format!("spiffe://{TRUST_DOMAIN}/{name}"));
            site.write_identity(name, &authority.issue(&leaf).expect("a certificate"));
        }
        site.write("kek", KEK);
        site.write("policy.toml", policy());
        site.write("broker.toml", site.configuration("info"));
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path as an argument.
    pub(crate) fn shown(&self, name: &str) -> String {
        self.path(name).to_str().expect("a plain path").to_owned()
    }

    /// Writes a file that only its owner can read, and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        let mut options = fs::OpenOptions::new();
        let opened = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        let written =
            opened.and_then(|mut file| std::io::Write::write_all(&mut file, content.as_ref()));
        written.expect("a writable folder");
        self.shown(name)
    }

    fn write_identity(&self, name: &str, identity: &Identity) {
        self.write(&format!("{name}.crt"), &identity.certificate_pem);
        self.write(&format!("{name}.key"), &identity.key_pem);
    }

    /// The broker's configuration: any free ports, sled, this filter of the log.
    pub(crate) fn configuration(&self, filter: &str) -> String {
        let folder = self.folder.path().display();
        let (authority, graph) = (self.simulator.authority_url(), self.simulator.graph_url());
        format!(
            r#"
[server]
listen = "127.0.0.1:0"
health_listen = "127.0.0.1:0"

[server.tls]
certificate_file = "{folder}/broker.crt"
key_file = "{folder}/broker.key"

[identity]
trust_domain = "{TRUST_DOMAIN}"
client_ca_file = "{folder}/ca.pem"

[policy]
file = "{folder}/policy.toml"

[store]
kind = "sled"
directory = "{folder}/data"

[kek]
file = "{folder}/kek"

[entra]
extra_ca_file = "{folder}/ca.pem"

[entra.loopback_authority.global]
authority_url = "{authority}"
graph_url = "{graph}"

[log]
format = "json"
filter = "{filter}"
"#
        )
    }

    /// A tenant with one application: both ids.
    pub(crate) fn add_tenant(
        &self,
        name: &str,
        prepare: impl FnOnce(Application) -> Application,
    ) -> (Uuid, Uuid) {
        let (tenant, client_id) = (Uuid::new_v4(), Uuid::new_v4());
        let application = prepare(Application::new(client_id));
        let directory = self.simulator.directory();
        directory.add_tenant(Tenant::new(tenant, name).with(application));
        (tenant, client_id)
    }

    /// Runs `serve` without waiting for anything.
    pub(crate) fn spawn(&self) -> Running {
        Running::start(self.serve_command())
    }

    /// `serve`, to be run: with every guard that this machine allows. It may have swap.
    pub(crate) fn serve_command(&self) -> Command {
        let mut command = command();
        command.args(self.serve_line()).arg("--insecure-dev");
        command
    }

    /// The words of `serve`, as they are where there are real credentials.
    pub(crate) fn serve_line(&self) -> [String; 3] {
        ["serve".into(), "--config".into(), self.shown("broker.toml")]
    }

    /// Runs `serve`. Its health service says that it is ready when this returns.
    pub(crate) async fn serve(&self) -> Serving {
        self.serve_as(self.serve_command()).await
    }

    /// Runs `serve`, which starts sealed. It listens when this returns.
    pub(crate) async fn serve_sealed(&self) -> Serving {
        let serving = self.listen(self.serve_command());
        assert_eq!(
            serving.health("readiness").await,
            Some(ServingStatus::NotServing)
        );
        serving
    }

    /// The same, run otherwise.
    pub(crate) async fn serve_as(&self, command: Command) -> Serving {
        let serving = self.listen(command);
        assert_eq!(
            serving.health("readiness").await,
            Some(ServingStatus::Serving)
        );
        serving
    }

    fn listen(&self, command: Command) -> Serving {
        let process = Running::start(command);
        // The ports are free ones: only the log knows them.
        let lines = process.err.until(|line| serving_addresses(line).is_some());
        let lines = lines.unwrap_or_else(|said| panic!("it does not serve:\n{said}"));
        let addresses = lines.last().and_then(|line| serving_addresses(line));
        let [address, health, metrics] = addresses.expect("the line that was waited for");
        let serving = Serving {
            process,
            address: address.expect("it serves"),
            health_address: health.expect("it tells its health"),
            metrics_address: metrics,
        };
        let address = serving.address;
        for name in ["worker", "admin"] {
            let connection = format!(
                "endpoint = \"https://{address}\"\nca_file = \"ca.pem\"\n\
                 certificate_file = \"{name}.crt\"\nkey_file = \"{name}.key\"\n"
            );
            self.write(&format!("{name}.toml"), connection);
        }
        serving
    }

    /// Runs `serve`, which is expected to refuse: with this code, and one line that says why.
    pub(crate) fn refused(&self, code: i32) -> Ended {
        let ended = self.spawn().ended().expect_code(code);
        assert!(ended.error().len() > "error: ".len(), "{ended:?}");
        ended
    }

    /// Runs a command of the command line as `worker` or `admin`.
    pub(crate) fn call(&self, caller: &str, arguments: &[&str]) -> Ended {
        let connection = self.shown(&format!("{caller}.toml"));
        run(&[&["--connection", &connection], arguments].concat())
    }

    pub(crate) async fn operator(&self) -> Operator {
        let config = ConnectionConfig::load(self.path("admin.toml")).expect("a connection file");
        Operator::connect(&config).await.expect("connects")
    }

    pub(crate) async fn worker(&self) -> Client {
        let config = ConnectionConfig::load(self.path("worker.toml")).expect("a connection file");
        Client::connect(&config).await.expect("connects")
    }
}

impl Serving {
    pub(crate) fn health_url(&self) -> String {
        format!("http://{}", self.health_address)
    }

    /// What the health service says; `None` if it says nothing.
    pub(crate) async fn health(&self, service: &str) -> Option<ServingStatus> {
        let endpoint = Endpoint::from_shared(self.health_url()).expect("a URL");
        let mut client = HealthClient::new(endpoint.connect().await.ok()?);
        let service = service.to_owned();
        let answer = client.check(HealthCheckRequest { service }).await.ok()?;
        Some(answer.into_inner().status())
    }

    /// All of its figures, with the head of the answer.
    pub(crate) fn metrics(&self) -> String {
        let address = self.metrics_address.expect("a port for metrics");
        let mut stream = TcpStream::connect(address).expect("connects");
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("is read");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        assert!(answer.contains("kodo_broker_"), "{answer}");
        answer
    }

    /// Waits until its log has said this so often.
    pub(crate) fn logged(&self, text: &str, times: usize) {
        let seen = Cell::new(0);
        let said = self.process.err.until(|line| {
            seen.set(seen.get() + usize::from(line.contains(text)));
            seen.get() == times
        });
        said.unwrap_or_else(|all| panic!("{text} was never said:\n{all}"));
    }

    /// Ends it as an orchestrator does, which has to be a success.
    pub(crate) fn stop(self) -> Ended {
        self.process.signal("TERM");
        self.process.ended().expect_code(0)
    }
}

/// Where a broker serves, tells its health and shows its figures, if a line of its log is the one
/// that says so.
fn serving_addresses(line: &str) -> Option<[Option<SocketAddr>; 3]> {
    let event: Value = serde_json::from_str(line).ok()?;
    if event["message"] != "serving" {
        return None;
    }
    let of_option = |text: &Value| {
        let text = text.as_str()?.strip_prefix("Some(")?.strip_suffix(')')?;
        text.parse().ok()
    };
    Some([
        event["address"].as_str()?.parse().ok(),
        of_option(&event["health_address"]),
        of_option(&event["metrics_address"]),
    ])
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
actions = ["register", "get", "list", "update", "rotate", "revoke", "suspend", "resume", "manage_store", "read_audit"]
organizations = ["*"]
"#
    )
}

/// Every file below a folder with its content.
pub(crate) fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder).expect("a readable folder") {
        let path = item.expect("a readable folder").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            let content = fs::read(&path).expect("a readable file");
            found.push((path, content));
        }
    }
    found.sort();
    found
}
