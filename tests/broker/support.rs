//! A broker, the Entra it talks to, and callers with any identity.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use kodo_broker::{
    app::{self, Broker},
    clock::Clock,
    config::Config,
    pb::{
        self,
        admin::v1::{self as admin, organization_service_client::OrganizationServiceClient},
        v1::{self, ErrorReason, token_service_client::TokenServiceClient},
    },
    simulator::{
        self, Simulator,
        certificate::Certificate,
        directory::{self, Tenant},
        fault::{Endpoint, Hold},
        pki::Identity,
    },
    store::{self, sled::SledStore},
};
use tempfile::TempDir;
use tonic::{
    Code, Status,
    transport::{self, Channel, ClientTlsConfig},
};
use tonic_types::StatusExt as _;
use uuid::{Uuid, uuid};

pub(crate) mod pki;
pub(crate) mod request;
pub(crate) mod wire;

/// What workers call.
pub(crate) type Tokens = TokenServiceClient<Channel>;
/// What operators call.
pub(crate) type Organizations = OrganizationServiceClient<Channel>;

/// An application in a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Application {
    pub(crate) tenant: Uuid,
    pub(crate) client: Uuid,
}

/// The one that every simulator has: with both secrets and the certificate of
/// [`pki::application`].
pub(crate) const CONTOSO: Application = Application {
    tenant: uuid!("c0a70500-0000-4000-8000-000000000001"),
    client: uuid!("c0a70500-0000-4000-8000-00000000000a"),
};
pub(crate) const SECRET: &str = "first~5ecret.of-contoso_0123456789";
pub(crate) const SECOND_SECRET: &str = "second~5ecret.of-contoso_987654321";
/// One that no application has.
pub(crate) const WRONG_SECRET: &str = "wrong~5ecret.of-nobody_1111111111";

pub(crate) const RESOURCES: [v1::Resource; 4] = [
    v1::Resource::Graph,
    v1::Resource::Exchange,
    v1::Resource::Sharepoint,
    v1::Resource::AzureAdGraph,
];

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
actions = ["register", "get", "list", "rotate", "revoke"]
organizations = ["*"]

[[grant]]
callers = ["spiffe://kodo.test/eu/admin"]
actions = ["register", "get", "list", "rotate", "revoke"]
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
}

/// A broker that serves, and its surroundings.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) simulator: Simulator,
    config: Config,
    clock: Clock,
    broker: Option<Broker>,
    folder: TempDir,
}

// === impl Setup ===

impl Setup {
    pub(crate) fn new() -> Self {
        Self {
            policy: POLICY.into(),
            sled: false,
            config: String::new(),
            clock: Clock::system(),
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

    /// Adds sections to the configuration; `[entra]` comes last and may be gone on with.
    pub(crate) fn config(mut self, lines: &str) -> Self {
        self.config = lines.into();
        self
    }

    /// Another clock for the broker.
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
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
        write("kek", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
        let at = folder.display();
        let store = if self.sled {
            format!("kind = \"sled\"\ndirectory = \"{at}/store\"")
        } else {
            "kind = \"memory\"".to_owned()
        };
        let text = format!(
            r#"
            [server]
            listen = "127.0.0.1:0"
            tls = {{ certificate_file = "{at}/server.crt", key_file = "{at}/server.key" }}
            [identity]
            trust_domain = "{}"
            client_ca_file = "{at}/ca.pem"
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
            {}
            "#,
            pki::TRUST_DOMAIN,
            simulator.authority_url(),
            simulator.graph_url(),
            self.config,
        );
        Config::parse(&text).expect("a valid configuration")
    }
}

// === impl Fixture ===

impl Fixture {
    pub(crate) async fn start() -> Self {
        Setup::new().start().await
    }

    /// An application of a tenant of its own: as [`CONTOSO`], but for its ids.
    pub(crate) fn add_tenant(&self, name: &str) -> Application {
        let application = Application {
            tenant: Uuid::new_v4(),
            client: Uuid::new_v4(),
        };
        self.add_application(application, name);
        application
    }

    fn add_application(&self, ids: Application, tenant_name: &str) {
        let certificate = Certificate::from_pem(&pki::application().certificate_pem);
        let application = directory::Application::new(ids.client)
            .with_secret(SECRET)
            .with_secret(SECOND_SECRET)
            .with_certificate(certificate.expect("a certificate"));
        let tenant = Tenant::new(ids.tenant, tenant_name).with(application);
        self.simulator.directory().add_tenant(tenant);
    }

    /// Changes an application at Entra.
    pub(crate) fn change(
        &self,
        ids: Application,
        change: impl FnOnce(&mut simulator::directory::Application),
    ) {
        let directory = self.simulator.directory();
        let changed = directory.change_application(ids.tenant, ids.client, change);
        changed.expect("the application was added before");
    }

    /// Holds back the token requests for a tenant that come from now on. Those that an earlier hold
    /// has stay where they are.
    pub(crate) fn hold(&self, ids: Application) -> Hold {
        self.simulator.hold(ids.tenant, Endpoint::Token)
    }

    /// Starts the broker over what is in its store.
    pub(crate) async fn start_broker(&mut self) {
        self.broker = Some(loop {
            match Broker::start(&self.config, self.clock).await {
                // sled gives its lock back in a thread of its own, some time after it was dropped.
                Err(app::Error::Store(store::Error::InUse(_))) => tokio::task::yield_now().await,
                started => break started.expect("the broker starts"),
            }
        });
    }

    /// Takes the broker away, to stop it.
    pub(crate) fn take_broker(&mut self) -> Broker {
        self.broker.take().expect("it is there until it is taken")
    }

    /// Stops the broker and starts it again over the same store. Clients connect anew.
    pub(crate) async fn restart(&mut self) {
        self.stop_broker().await;
        self.start_broker().await;
    }

    pub(crate) async fn stop_broker(&mut self) {
        let stopped = self.take_broker().stop().await;
        stopped.expect("nothing had ended by itself");
    }

    /// The folder of the sled store.
    pub(crate) fn store_folder(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The sled store, while no broker has it.
    pub(crate) async fn open_store(&self) -> SledStore {
        loop {
            match SledStore::open(&self.store_folder()).await {
                Err(store::Error::InUse(_)) => tokio::task::yield_now().await,
                opened => break opened.expect("the store opens"),
            }
        }
    }

    /// The key file.
    pub(crate) fn kek_file(&self) -> &Path {
        &self.config.kek.file
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.broker.as_ref().expect("the broker serves").address
    }

    /// A connection, made with the first call.
    pub(crate) fn connect(&self, identity: Option<&Identity>) -> Channel {
        let ca = transport::Certificate::from_pem(pki::authority().certificate_pem());
        let mut tls = ClientTlsConfig::new().ca_certificate(ca);
        if let Some(identity) = identity {
            let (certificate, key) = (&identity.certificate_pem, &identity.key_pem);
            tls = tls.identity(transport::Identity::from_pem(certificate, key));
        }
        let endpoint = Channel::from_shared(format!("https://{}", self.address()));
        let endpoint = endpoint.expect("an address is a URL").tls_config(tls);
        endpoint.expect("usable certificates").connect_lazy()
    }

    /// Calls of a worker, by the path of its SPIFFE ID.
    pub(crate) fn tokens(&self, path: &str) -> Tokens {
        Tokens::new(self.connect(Some(&pki::caller(path))))
    }

    /// Calls of an operator, by the path of its SPIFFE ID.
    pub(crate) fn organizations(&self, path: &str) -> Organizations {
        Organizations::new(self.connect(Some(&pki::caller(path))))
    }

    /// The worker that may have any token.
    pub(crate) fn worker(&self) -> Tokens {
        self.tokens("worker")
    }

    /// The operator that may do anything.
    pub(crate) fn admin(&self) -> Organizations {
        self.organizations("admin")
    }

    /// Registers an organization of an application.
    pub(crate) async fn register(
        &self,
        id: &str,
        application: Application,
        credential: admin::Credential,
    ) -> admin::Organization {
        let request = request::register(id, application, credential);
        let answer = self.admin().register_organization(request).await;
        let organization = answer.expect("registers").into_inner().organization;
        organization.expect("the answer has the organization")
    }

    /// What is known of an organization.
    pub(crate) async fn organization(&self, id: &str) -> admin::Organization {
        let answer = self.admin().get_organization(request::get(id)).await;
        let organization = answer.expect("is registered").into_inner().organization;
        organization.expect("the answer has the organization")
    }
}

/// Asks for a token.
pub(crate) async fn token(
    worker: &Tokens,
    id: &str,
    resource: v1::Resource,
) -> Result<v1::GetTokenResponse, Status> {
    let mut worker = worker.clone();
    let answer = worker.get_token(request::token(id, resource)).await?;
    Ok(answer.into_inner())
}

/// The reason of an error of the broker.
pub(crate) fn reason(status: &Status) -> Option<ErrorReason> {
    let info = status.get_details_error_info()?;
    assert_eq!(info.domain, pb::ERROR_DOMAIN);
    ErrorReason::from_reason(&info.reason)
}

/// Fails unless a call was refused so.
#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    outcome: Result<T, Status>,
    code: Code,
    expected: ErrorReason,
) -> Status {
    let status = outcome.expect_err("the call is refused");
    assert_eq!(
        (status.code(), reason(&status)),
        (code, Some(expected)),
        "{status:?}"
    );
    status
}
