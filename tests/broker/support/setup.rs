//! What a fixture is started with.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path};

use kodo_broker::{clock::Clock, config::Config, simulator::Simulator};

use super::{CONTOSO, Fixture, pki};

/// Grants of a fixture that asks for no others: `worker` and `admin` may everything, and `eu/admin`
/// with organizations whose ids begin with `eu-`.
const POLICY: &str = r#"
[[grant]]
callers = ["spiffe://kodo.test/worker"]
actions = ["get_token"]
organizations = ["*"]
resources = ["graph", "exchange", "sharepoint", "azure_ad_graph"]

[[grant]]
callers = ["spiffe://kodo.test/admin"]
actions = ["register", "get", "list", "update", "rotate", "revoke", "suspend", "resume", "manage_jobs"]
organizations = ["*"]

[[grant]]
callers = ["spiffe://kodo.test/eu/admin"]
actions = ["register", "get", "list", "update", "rotate", "revoke", "suspend", "resume", "manage_jobs"]
organizations = ["eu-*"]
"#;

/// How a fixture differs from the plain one.
#[derive(Debug)]
pub(crate) struct Setup {
    policy: String,
    sled: bool,
    /// Further lines of the configuration, whole sections.
    config: String,
    clock: Clock,
    /// Further lines of `[server]`.
    server: String,
    /// Further files of the folder.
    files: Vec<(&'static str, String)>,
    propagation_seconds: u16,
    listen: String,
    /// What `[identity]` has beside the trust domain; without TLS then. Otherwise certificates count.
    identity: Option<String>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self {
            policy: POLICY.into(),
            sled: false,
            config: String::new(),
            clock: Clock::system(),
            server: String::new(),
            files: Vec::new(),
            propagation_seconds: 0,
            listen: "127.0.0.1:0".into(),
            identity: None,
        }
    }

    /// Other grants.
    pub(crate) fn policy(mut self, policy: String) -> Self {
        self.policy = policy;
        self
    }

    /// Keeps records on disk.
    pub(crate) fn sled(mut self) -> Self {
        self.sled = true;
        self
    }

    /// Adds sections to the configuration, where `{folder}` is the fixture's; `[entra]` comes last and may be gone on with.
    pub(crate) fn config(mut self, lines: &str) -> Self {
        self.config = lines.into();
        self
    }

    /// Adds lines to `[server]`.
    pub(crate) fn server(mut self, lines: &str) -> Self {
        self.server = lines.into();
        self
    }

    /// Has a proxy say who callers are, with these lines of `[identity]`, and serves without TLS.
    pub(crate) fn identity(mut self, lines: &str) -> Self {
        self.identity = Some(lines.into());
        self
    }

    /// Serves there, where `{folder}` is the fixture's.
    pub(crate) fn listen(mut self, address: &str) -> Self {
        self.listen = address.into();
        self
    }

    /// Adds a file to the fixture's folder.
    pub(crate) fn file(mut self, name: &'static str, content: &str) -> Self {
        self.files.push((name, content.to_owned()));
        self
    }

    /// Lets a refusal be due to a change of the credential for so long. Otherwise none is.
    pub(crate) fn propagation(mut self, seconds: u16) -> Self {
        self.propagation_seconds = seconds;
        self
    }

    /// Another clock for the broker. It serves on the runtime of the test, whose clock the test may
    /// pause; threads of its own would go on by theirs.
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self.server = "threads = 0".into();
        self
    }

    pub(crate) async fn start(self) -> Fixture {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let simulator = Simulator::start(any_port, pki::server()).await;
        let simulator = simulator.expect("the simulator starts");
        let config = self.write(folder.path(), &simulator);
        let mut fixture = Fixture {
            simulator,
            config,
            clock: self.clock,
            broker: None,
            folder,
        };
        fixture.add_application(CONTOSO, "contoso");
        fixture.start_broker().await;
        fixture
    }

    fn write(&self, folder: &Path, simulator: &Simulator) -> Config {
        // Of the key files the broker asks that nobody else can read them.
        let private = fs::Permissions::from_mode(0o600);
        let write = |name: &str, content: &str| {
            let file = folder.join(name);
            fs::write(&file, content).expect("a writable folder");
            fs::set_permissions(&file, private.clone()).expect("a file of ours");
        };
        write("ca.pem", &pki::authority().certificate_pem());
        write("server.crt", &pki::server().certificate_pem);
        write("server.key", &pki::server().key_pem);
        write("policy.toml", &self.policy);
        for (name, content) in &self.files {
            write(name, content);
        }
        write("kek", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
        let at = folder.display();
        let store = if self.sled {
            format!("kind = \"sled\"\ndirectory = \"{at}/store\"")
        } else {
            "kind = \"memory\"".to_owned()
        };
        let (tls, identity) = match &self.identity {
            Some(lines) => (String::new(), lines.clone()),
            None => (
                format!(
                    "tls = {{ certificate_file = \"{at}/server.crt\", key_file = \"{at}/server.key\" }}"
                ),
                format!("client_ca_file = \"{at}/ca.pem\""),
            ),
        };
        let text = format!(
            r#"
            [server]
            listen = "{}"
            {}
            {tls}
            [identity]
            trust_domain = "{}"
            {identity}
            [policy]
            file = "{at}/policy.toml"
            [store]
            {store}
            [kek]
            file = "{at}/kek"
            [entra.loopback_authority.global]
            authority_url = "{}"
            graph_url = "{}"
            [entra]
            extra_ca_file = "{at}/ca.pem"
            propagation_seconds = {}
            {}
            "#,
            self.listen.replace("{folder}", &at.to_string()),
            self.server.replace("{folder}", &at.to_string()),
            pki::TRUST_DOMAIN,
            simulator.authority_url(),
            simulator.graph_url(),
            self.propagation_seconds,
            self.config.replace("{folder}", &at.to_string()),
        );
        Config::parse(&text).expect("a valid configuration")
    }
}
