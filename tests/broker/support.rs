//! A broker, the Entra it talks to, and callers with any identity.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use kodo_broker::{
    app::{self, Broker},
    client::{Client, ConnectionConfig},
    clock::Clock,
    config::{Config, KekConfig},
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
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Code, Status,
    transport::{self, Channel, ClientTlsConfig},
};
use tonic_types::StatusExt as _;
use uuid::{Uuid, uuid};

pub(crate) mod pki;
pub(crate) mod request;
mod setup;
pub(crate) mod shown;
pub(crate) mod wire;

pub(crate) use setup::Setup;

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

/// A broker that serves, and its surroundings.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) simulator: Simulator,
    config: Config,
    clock: Clock,
    broker: Option<Broker>,
    folder: TempDir,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Setup::new().start().await
    }

    /// With the organization `contoso`, registered by secret.
    pub(crate) async fn with_contoso() -> Self {
        let fixture = Self::start().await;
        fixture
            .register("contoso", CONTOSO, request::secret(SECRET))
            .await;
        fixture
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
            let mut broker = self.start_sealed().await;
            match broker.sealed.take() {
                None => break broker,
                // sled gives its lock back in a thread of its own, some time after it was dropped.
                Some(app::Error::Store(store::Error::InUse(_))) => {
                    broker.stop().await.expect("nothing had ended by itself");
                }
                Some(error) => panic!("the broker is sealed: {error}"),
            }
        });
    }

    /// Starts a broker that cannot open its store.
    pub(crate) async fn start_broker_sealed(&mut self) {
        let broker = self.start_sealed().await;
        assert!(broker.sealed.is_some(), "it has opened its store");
        self.broker = Some(broker);
    }

    /// A broker that may be sealed.
    async fn start_sealed(&self) -> Broker {
        let started = Broker::start(&self.config, self.clock).await;
        started.expect("the broker starts")
    }

    /// One request to the port of the figures, over a connection of its own, and the whole answer.
    pub(crate) async fn ask_metrics(&self, line: &str) -> String {
        let connected = TcpStream::connect(self.metrics_address()).await;
        let mut connection = connected.expect("it is served");
        let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        connection.write_all(head.as_bytes()).await.expect("sends");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("text");
        answer
    }

    /// Has files taken at once that have changed.
    pub(crate) fn reload(&self) {
        self.broker.as_ref().expect("the broker serves").reload();
    }

    /// Takes the broker away, to stop it.
    pub(crate) fn take_broker(&mut self) -> Broker {
        self.broker.take().expect("it is there until it is taken")
    }

    /// Serves at the same address after a restart.
    pub(crate) fn keep_address(&mut self) {
        self.config.server.listen = self.address().into();
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
        match &self.config.kek {
            KekConfig::File(file) => file,
            other => panic!("the tests' KEK is in a file, not {other:?}"),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let broker = self.broker.as_ref().expect("the broker serves");
        broker.address.tcp().expect("an address of a network")
    }

    /// Where operators are served.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        let broker = self.broker.as_ref().expect("the broker serves");
        let address = broker.admin_address.as_ref().unwrap_or(&broker.address);
        address.tcp().expect("an address of a network")
    }

    pub(crate) fn metrics_address(&self) -> SocketAddr {
        let broker = self.broker.as_ref().expect("the broker serves");
        broker.metrics_address.expect("the setup asks for it")
    }

    /// Where the broker is and who the caller with this path is to it, as a worker has it in files.
    pub(crate) fn connection(&self, path: &str) -> ConnectionConfig {
        let identity = pki::caller(path);
        let name = path.replace('/', "-");
        let write = |end: &str, content: &str| {
            let file = self.folder.path().join(format!("caller-{name}.{end}"));
            fs::write(&file, content).expect("a writable folder");
            file
        };
        ConnectionConfig {
            endpoint: format!("https://{}", self.address()),
            ca_file: Some(write("ca", &pki::authority().certificate_pem())),
            certificate_file: Some(write("crt", &identity.certificate_pem)),
            key_file: Some(write("key", &identity.key_pem)),
            encrypted_by: None,
            server_name: None,
            timeout_seconds: 30,
            max_attempts: 10,
        }
    }

    /// The library of the worker that may have any token.
    pub(crate) async fn client(&self) -> Client {
        let client = Client::connect(&self.connection("worker")).await;
        client.expect("the broker serves")
    }

    /// A file in the fixture's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A connection, made with the first call.
    pub(crate) fn connect(&self, identity: Option<&Identity>) -> Channel {
        let endpoint = endpoint(self.address(), identity);
        endpoint.connect_lazy()
    }
}

/// Where and as whom a client connects.
pub(crate) fn endpoint(address: SocketAddr, identity: Option<&Identity>) -> transport::Endpoint {
    let ca = transport::Certificate::from_pem(pki::authority().certificate_pem());
    let mut tls = ClientTlsConfig::new().ca_certificate(ca);
    if let Some(identity) = identity {
        let (certificate, key) = (&identity.certificate_pem, &identity.key_pem);
        tls = tls.identity(transport::Identity::from_pem(certificate, key));
    }
    let endpoint = transport::Endpoint::from_shared(format!("https://{address}"));
    let endpoint = endpoint.expect("an address is a URL").tls_config(tls);
    endpoint.expect("usable certificates")
}

impl Fixture {
    /// Calls of a worker, by the path of its SPIFFE ID.
    pub(crate) fn tokens(&self, path: &str) -> Tokens {
        Tokens::new(self.connect(Some(&pki::caller(path))))
    }

    /// Calls of an operator, by the path of its SPIFFE ID.
    pub(crate) fn organizations(&self, path: &str) -> Organizations {
        let endpoint = endpoint(self.admin_address(), Some(&pki::caller(path)));
        Organizations::new(endpoint.connect_lazy())
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

/// The claims of a token, which the simulator signs as a JWT.
pub(crate) fn claims(token: &v1::GetTokenResponse) -> serde_json::Value {
    let parts: Vec<_> = token.access_token.split('.').collect();
    assert_eq!(parts.len(), 3, "a signed JWT has three parts");
    let claims = BASE64_URL_SAFE_NO_PAD.decode(parts[1]).expect("base64url");
    serde_json::from_slice(&claims).expect("JSON")
}
