use std::net::Ipv4Addr;

use reqwest::{Client, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    assertion::tests::{claims, sign},
    certificate::Certificate,
    directory::{Application, Secret, Standing, Tenant},
    journal::Authentication,
    pki::{ApplicationCertificate, CertificateAuthority, Leaf, application_certificate},
    resource::Resource,
    *,
};

use crate::clock::Clock;

mod fault;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SECRET: &str = "s3cr3t+/=&% ~value";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const GRAPH: &str = "https://graph.microsoft.com/.default";

/// A simulator with one tenant, one application with a secret, and a client that trusts it.
struct Fixture {
    simulator: Simulator,
    client: Client,
    tenant: Uuid,
    client_id: Uuid,
}

impl Fixture {
    async fn start() -> Self {
        Self::start_with(Client::builder()).await
    }

    async fn start_with(client: reqwest::ClientBuilder) -> Self {
        let authority = CertificateAuthority::new("test").unwrap();
        let identity = authority.issue(&Leaf::loopback("entra")).unwrap();
        let simulator = Simulator::start(LOOPBACK, &identity).await.unwrap();
        let (tenant, client_id) = (Uuid::new_v4(), Uuid::new_v4());
        let application = Application::new(client_id).with_secret(SECRET);
        simulator
            .directory()
            .add_tenant(Tenant::new(tenant, "contoso").with(application));
        let root = reqwest::Certificate::from_pem(authority.certificate_pem().as_bytes());
        let client = client
            .tls_certs_only([root.unwrap()])
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            simulator,
            client,
            tenant,
            client_id,
        }
    }

    fn token_endpoint(&self, tenant: &str) -> String {
        format!(
            "{}{tenant}/oauth2/v2.0/token",
            self.simulator.authority_url()
        )
    }

    async fn send(&self, scope: &str, proof: &[(&str, &str)]) -> reqwest::Result<Response> {
        let client_id = self.client_id.to_string();
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", &client_id),
            ("scope", scope),
        ];
        form.extend(proof);
        let url = self.token_endpoint(&self.tenant.to_string());
        self.client.post(url).form(&form).send().await
    }

    async fn send_secret(&self, secret: &str) -> reqwest::Result<Response> {
        self.send(GRAPH, &[("client_secret", secret)]).await
    }

    /// Status and AADSTS number of a refusal.
    async fn refusal(&self, secret: &str) -> (u16, u64) {
        let response = self.send_secret(secret).await.unwrap();
        let status = response.status().as_u16();
        let body = json_of(response).await;
        (status, body["error_codes"][0].as_u64().unwrap_or_default())
    }

    fn change(&self, change: impl FnOnce(&mut Application)) {
        let directory = self.simulator.directory();
        directory
            .change_application(self.tenant, self.client_id, change)
            .unwrap();
    }

    fn script(&self, fault: Fault) {
        self.simulator.script(self.tenant, Endpoint::Token, fault);
    }
}

async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_secret_gets_a_token_that_graph_accepts() {
    let fixture = Fixture::start().await;
    let response = fixture.send_secret(SECRET).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert!(response.headers().contains_key("x-ms-request-id"));
    let body = json_of(response).await;
    assert_eq!(body["token_type"], "Bearer");
    let lifetime = Duration::from_secs(body["expires_in"].as_u64().unwrap());
    assert!(Tenant::DEFAULT_TOKEN_LIFETIME.contains(&lifetime));

    let url = format!(
        "{}/v1.0/sites/root?$select=webUrl,siteCollection",
        fixture.simulator.graph_url()
    );
    let token = body["access_token"].as_str().unwrap();
    let request = fixture.client.get(&url).bearer_auth(token);
    let site = json_of(request.send().await.unwrap()).await;
    assert_eq!(site["siteCollection"]["hostname"], "contoso.sharepoint.com");
    let refused = fixture.client.get(&url).bearer_auth("x").send().await;
    assert_eq!(refused.unwrap().status(), StatusCode::UNAUTHORIZED);

    let requests = fixture.simulator.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].tenant, fixture.tenant.to_string());
    assert_eq!(requests[0].client_id, Some(fixture.client_id.to_string()));
    assert_eq!(requests[0].scope.as_deref(), Some(GRAPH));
    assert_eq!(requests[0].authentication, Authentication::Secret);
    let shown = format!("{requests:?} {:?}", fixture.simulator);
    assert!(!shown.contains("s3cr3t") && !shown.contains(token));
}

#[tokio::test]
async fn a_certificate_gets_a_token_that_says_so() {
    let fixture = Fixture::start().await;
    let identity = application_certificate(&ApplicationCertificate::default()).unwrap();
    let certificate = Certificate::from_pem(&identity.certificate_pem).unwrap();
    fixture.change(|application| application.certificates.push(certificate));
    let url = fixture.token_endpoint(&fixture.tenant.to_string());
    let jwt = sign(&identity, &claims(fixture.client_id, &url));
    let proof = [
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", &*jwt),
    ];
    let scope = "https://contoso.sharepoint.com/.default";
    let body = json_of(fixture.send(scope, &proof).await.unwrap()).await;
    let token = body["access_token"].as_str().unwrap();
    let claims: Value = jsonwebtoken::dangerous::insecure_decode(token)
        .unwrap()
        .claims;
    assert_eq!(claims["appidacr"], "2");
    assert_eq!(claims["aud"], "https://contoso.sharepoint.com");
    assert_eq!(claims["roles"], json!(Resource::SharePoint.default_roles()));
    let Authentication::Assertion { algorithm, id } =
        fixture.simulator.requests()[0].authentication.clone()
    else {
        panic!("not an assertion");
    };
    assert_eq!(algorithm.as_deref(), Some("PS256"));
    assert!(id.is_some());
}

#[tokio::test]
async fn refusals_have_entras_numbers_and_statuses() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.refusal("wrong").await, (401, 7_000_215));
    assert_eq!(fixture.refusal("").await, (401, 7_000_218));

    let now = Clock::system().now();
    let hour = Duration::from_secs(3600);
    fixture.change(|application| {
        let secrets = &mut application.secrets;
        secrets.push(Secret::new("expired").expiring_at(now - hour));
        secrets.push(Secret::new("fresh").usable_from(now + hour));
    });
    assert_eq!(fixture.refusal("expired").await, (401, 7_000_222));
    assert_eq!(fixture.refusal("fresh").await, (401, 7_000_215));

    fixture.change(|application| application.standing = Standing::Disabled);
    assert_eq!(fixture.refusal(SECRET).await, (400, 7_000_112));
    fixture.change(|application| application.standing = Standing::Blocked);
    assert_eq!(fixture.refusal(SECRET).await, (400, 53_003));
    fixture.change(|application| application.standing = Standing::Active);

    let directory = fixture.simulator.directory();
    directory.change_tenant(fixture.tenant, |tenant| {
        tenant.missing_resources.insert(Resource::Graph);
    });
    assert_eq!(fixture.refusal(SECRET).await, (400, 500_011));
    directory.change_tenant(fixture.tenant, |tenant| {
        tenant.remove_application(fixture.client_id);
    });
    assert_eq!(fixture.refusal(SECRET).await, (400, 700_016));
    directory.remove_tenant(fixture.tenant);
    assert_eq!(fixture.refusal(SECRET).await, (400, 90_002));
}

#[tokio::test]
async fn discovery_leads_to_the_token_endpoint_and_the_keys() {
    let fixture = Fixture::start().await;
    let get = async |tenant: &str| {
        let authority = fixture.simulator.authority_url();
        let url = format!("{authority}{tenant}/v2.0/.well-known/openid-configuration");
        json_of(fixture.client.get(url).send().await.unwrap()).await
    };
    let document = get("contoso.onmicrosoft.com").await;
    let endpoint = fixture.token_endpoint(&fixture.tenant.to_string());
    assert_eq!(document["token_endpoint"], endpoint);
    let keys = document["jwks_uri"].as_str().unwrap();
    let keys = json_of(fixture.client.get(keys).send().await.unwrap()).await;
    assert_eq!(keys["keys"][0]["kty"], "RSA");
    let unknown = get("fabrikam.onmicrosoft.com").await;
    assert_eq!(unknown["error"], "invalid_tenant");
    assert_eq!(unknown["error_codes"], json!([90_002]));
}

#[tokio::test]
async fn scripted_faults_come_in_order_and_then_end() {
    let fixture = Fixture::start().await;
    let elsewhere = Url::parse("https://127.0.0.1:9/").unwrap();
    let members = Map::from_iter([("expires_in".into(), json!("3599"))]);
    fixture.script(Fault::throttled(Some(7)).times(2));
    fixture.script(Fault::redirect(307, &elsewhere));
    fixture.script(Fault::oversized(10 * 1024 * 1024));
    fixture.script(Fault::altered(members));
    fixture.script(Fault::rejection(
        503,
        "temporarily_unavailable",
        90_033,
        "a transient error",
    ));
    fixture.script(Fault::html(502));

    for _ in 0..2 {
        let response = fixture.send_secret(SECRET).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["retry-after"], "7");
    }
    let redirect = fixture.send_secret(SECRET).await.unwrap();
    assert_eq!(redirect.headers()["location"], elsewhere.as_str());
    let oversized = fixture.send_secret(SECRET).await.unwrap();
    assert_eq!(oversized.bytes().await.unwrap().len(), 10 * 1024 * 1024);
    let altered = json_of(fixture.send_secret(SECRET).await.unwrap()).await;
    assert_eq!(altered["expires_in"], "3599");
    assert!(altered["access_token"].is_string());
    assert_eq!(fixture.refusal(SECRET).await, (503, 90_033));
    let html = fixture.send_secret(SECRET).await.unwrap();
    assert_eq!(html.headers()["content-type"], "text/html");
    let good = fixture.send_secret(SECRET).await.unwrap();
    assert_eq!(good.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_reset_ends_the_connection_and_the_next_one_works() {
    for client in [Client::builder(), Client::builder().http1_only()] {
        let fixture = Fixture::start_with(client).await;
        fixture.script(Fault::reset());
        assert!(fixture.send_secret(SECRET).await.is_err());
        let good = fixture.send_secret(SECRET).await.unwrap();
        assert_eq!(good.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_path_names_one_tenant_by_guid_or_domain() {
    let fixture = Fixture::start().await;
    for (name, code) in [
        ("common", 9_001_023),
        ("nonsense", 900_023),
        ("fabrikam.onmicrosoft.com", 90_002),
    ] {
        let url = fixture.token_endpoint(name);
        let response = fixture.client.post(url).send().await.unwrap();
        assert_eq!(json_of(response).await["error_codes"], json!([code]));
    }
    // By its domain the tenant is found, and what is missing next is the form.
    let url = fixture.token_endpoint("contoso.onmicrosoft.com");
    let response = fixture.client.post(url).send().await.unwrap();
    assert_eq!(json_of(response).await["error_codes"], json!([900_144]));
}

#[tokio::test]
async fn graph_refuses_a_token_without_the_permission() {
    let fixture = Fixture::start().await;
    fixture.change(|application| {
        let roles = vec!["Mail.Read".into()];
        application.roles.insert(Resource::Graph, roles);
    });
    let body = json_of(fixture.send_secret(SECRET).await.unwrap()).await;
    let token = body["access_token"].as_str().unwrap();
    let url = format!("{}/v1.0/sites/root", fixture.simulator.graph_url());
    let response = fixture.client.get(url).bearer_auth(token).send().await;
    assert_eq!(response.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn held_requests_meet_the_state_of_their_release() {
    let fixture = Fixture::start().await;
    let hold = fixture.simulator.hold(fixture.tenant, Endpoint::Token);
    let (status, ()) = tokio::join!(fixture.refusal(SECRET), async {
        hold.arrived(1).await;
        assert_eq!(fixture.simulator.request_count(), 1);
        fixture.change(|application| application.standing = Standing::Disabled);
        hold.release();
    });
    assert_eq!(status, (400, 7_000_112));
    assert_eq!(fixture.refusal(SECRET).await, (400, 7_000_112));
}

#[tokio::test]
async fn shutdown_ends_even_requests_that_hang() {
    let fixture = Fixture::start().await;
    fixture.script(Fault::hang());
    let url = fixture.token_endpoint(&fixture.tenant.to_string());
    let hanging = TaskTracker::new().spawn(fixture.client.post(url).send());
    fixture.simulator.requests_reached(1).await;
    let address = fixture.simulator.authority_url();
    let port = address.port().unwrap();
    fixture.simulator.shutdown().await;
    assert!(hanging.await.unwrap().is_err());
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let authority = CertificateAuthority::new("test").unwrap();
    let identity = authority.issue(&Leaf::loopback("entra")).unwrap();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let started = Simulator::start(everywhere, &identity).await;
    assert!(matches!(started, Err(Error::NotLoopback(_))));
}
