//! No secret and no token leaves the broker but in the answer that it belongs to, however much is
//! logged and whatever goes wrong; and its data folder tells neither secrets nor customers.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kodo_broker::{
    client::TokenOptions,
    pb::{
        admin::v1::{ListOrganizationsRequest, RevokeOrganizationRequest},
        v1::Resource,
    },
    simulator::{
        certificate::Certificate,
        directory::Secret,
        fault::{Endpoint, Fault},
        pki::KeyKind,
    },
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    canary::{Canaries, has_jwt},
    certificate::ApplicationKey,
    program::Ended,
    site::{KEK, Site, files_below},
};

const ORGANIZATION: &str = "canary-organization";
const DISPLAY_NAME: &str = "Canary Display Name";
const SHAREPOINT_HOST: &str = "canary-tenant.sharepoint.com";

/// What was said so far, and what must not have been.
struct Run {
    site: Site,
    secrets: Canaries,
    /// Not in the data folder either.
    identifiers: Canaries,
    /// Each with the command that said it.
    said: Vec<(String, String)>,
}

impl Run {
    /// A secret with every sign that an encoding treats in a way of its own.
    fn secret(&mut self, what: &str) -> String {
        let core = Uuid::new_v4().simple().to_string();
        let secret = format!("Q~+/=&% \"\\{core}");
        self.secrets.add(what, &secret);
        self.secrets.add(&format!("{what}, core"), core);
        secret
    }

    fn key(&mut self, what: &str, kind: KeyKind) -> ApplicationKey {
        let key = ApplicationKey::generate(kind);
        self.secrets.add_key(what, key.key_der());
        key
    }

    /// Runs a command and keeps what it says.
    fn call(&mut self, caller: &str, arguments: &[&str], code: i32) -> Ended {
        let ended = self.site.call(caller, arguments).expect_code(code);
        let command = arguments[..2].join(" ");
        // The output that is the token, and was asked for as such, is taken out.
        let is_token = ended.out.contains("eyJ") && code == 0;
        assert_eq!(
            is_token,
            arguments.contains(&"token") && arguments.contains(&"-o")
        );
        if !is_token {
            self.said
                .push((format!("{command}, output"), ended.out.clone()));
        }
        self.said
            .push((format!("{command}, errors"), ended.err.clone()));
        ended
    }

    /// Gets a token in each form, and keeps it as a canary.
    fn get_token(&mut self, resource: &str) {
        let line = ["token", "get", ORGANIZATION, resource];
        self.call("worker", &line, 0);
        let bare = self.call("worker", &[&line[..], &["-o", "token"]].concat(), 0);
        let json = self.call("worker", &[&line[..], &["-o", "json"]].concat(), 0);
        let json: Value = serde_json::from_str(&json.out).expect("JSON");
        assert_eq!(json["access_token"], bare.out.trim_end());
        self.secrets
            .add_token(&format!("{resource} token"), bare.out.trim_end());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_said_or_stored_in_clear() {
    let mut run = Run {
        site: Site::new().await,
        secrets: Canaries::default(),
        identifiers: Canaries::default(),
        said: Vec::new(),
    };
    run.secrets.add("key encryption key, text", KEK);
    run.secrets.add(
        "key encryption key",
        BASE64_STANDARD.decode(KEK).expect("base64"),
    );
    let configuration = run.site.configuration("trace");
    run.site.write("broker.toml", configuration);

    let secret = run.secret("client secret");
    let (pem, pfx) = (
        run.key("PEM key", KeyKind::Rsa2048),
        run.key("PFX key", KeyKind::Rsa2048),
    );
    let (tenant, client_id) = run.site.add_tenant("canary-tenant", |application| {
        let certificate = |key: &ApplicationKey| {
            Certificate::from_pem(&key.certificate_pem).expect("a certificate")
        };
        application
            .with_secret(&secret)
            .with_certificate(certificate(&pem))
            .with_certificate(certificate(&pfx))
    });
    for (what, value) in [
        ("organization", ORGANIZATION),
        ("display name", DISPLAY_NAME),
        ("SharePoint host", SHAREPOINT_HOST),
    ] {
        run.identifiers.add(what, value);
    }
    for (what, id) in [("tenant id", tenant), ("client id", client_id)] {
        run.identifiers.add(what, id.to_string());
        run.identifiers
            .add(&format!("{what}, bytes"), id.as_bytes());
    }

    let serving = run.site.serve().await;
    let ids = [tenant.to_string(), client_id.to_string()];
    live(&mut run, &ids, &secret, &pem, &pfx);
    let stranger = run.secret("secret in the wrong field");
    misplace(&mut run, &ids, &stranger);
    misplace_in_calls(&mut run, &stranger).await;
    upstream_repeats(&mut run, tenant, client_id, &secret);
    let revoke = ["org", "revoke", ORGANIZATION, "--yes"];
    run.call("admin", &revoke, 0);
    run.call("worker", &["token", "get", ORGANIZATION, "graph"], 6);
    let ended = serving.stop();
    assert!(
        ended.err.contains("\"level\":\"TRACE\""),
        "the log is not at its most talkative"
    );
    run.said.push(("serve, output".into(), ended.out));
    run.said.push(("serve, log".into(), ended.err));

    judge(&run);
}

/// Looks for everything wherever it must not be.
fn judge(run: &Run) {
    let search = run.secrets.search();
    for (source, text) in &run.said {
        let found = search.find(text.as_bytes());
        assert!(found.is_empty(), "{source} tells {found:?}");
        assert!(!has_jwt(text.as_bytes()), "{source} holds a JWT");
        assert!(
            !text.contains("PRIVATE KEY"),
            "{source} holds a private key"
        );
    }
    let identifiers = run.identifiers.search();
    let files = files_below(&run.site.path("data"));
    assert!(
        files.iter().any(|(_, content)| content.len() > 1000),
        "nothing was stored"
    );
    for (path, content) in &files {
        let name = path.to_str().expect("a plain path").as_bytes();
        let mut found = search.find(content);
        found.extend(identifiers.find(content));
        found.extend(identifiers.find(name));
        assert!(found.is_empty(), "{} tells {found:?}", path.display());
        assert!(!has_jwt(content), "{} holds a JWT", path.display());
    }
}

/// An organization's life with each kind of credential.
fn live(
    run: &mut Run,
    [tenant, client_id]: &[String; 2],
    secret: &str,
    pem: &ApplicationKey,
    pfx: &ApplicationKey,
) {
    let secret_file = run.site.write("secret", format!("{secret}\n"));
    let register = [
        "org",
        "register",
        ORGANIZATION,
        "--tenant",
        tenant,
        "--cloud",
        "global",
        "--client-id",
        client_id,
        "--secret-file",
        &secret_file,
        "--display-name",
        DISPLAY_NAME,
        "--sharepoint-root-host",
        SHAREPOINT_HOST,
    ];
    run.call("admin", &register, 0);
    run.call("admin", &["org", "list"], 0);
    run.call("admin", &["org", "get", ORGANIZATION], 0);
    run.get_token("graph");
    run.get_token("exchange");
    run.call("worker", &["token", "get", ORGANIZATION, "sharepoint"], 6);
    run.call(
        "worker",
        &["token", "get", ORGANIZATION, "azure-ad-graph"],
        5,
    );

    let pem_file = run.site.write("app.pem", pem.bundle_pem());
    let rotate = ["org", "rotate", ORGANIZATION];
    run.call(
        "admin",
        &[&rotate[..], &["--pem-file", &pem_file]].concat(),
        0,
    );
    for resource in ["graph", "exchange", "sharepoint"] {
        run.get_token(resource);
    }

    let password = run.secret("PFX password");
    let password_file = run.site.write("password", &password);
    let pfx_file = run.site.write("app.pfx", pfx.pkcs12(&password));
    let with_pfx = [
        "--pfx-file",
        &pfx_file,
        "--pfx-password-file",
        &password_file,
    ];
    run.call("admin", &[&rotate[..], &with_pfx].concat(), 0);
    run.get_token("sharepoint");

    refused(run, pem, &pfx_file);
}

/// Credentials that Entra refuses, and such that the broker does.
fn refused(run: &mut Run, pem: &ApplicationKey, pfx_file: &str) {
    let rotate = ["org", "rotate", ORGANIZATION];
    let unknown = run.secret("secret that Entra does not know");
    let unknown = run.site.write("unknown", unknown);
    run.call(
        "admin",
        &[&rotate[..], &["--secret-file", &unknown]].concat(),
        6,
    );
    let foreign = run.key("key that Entra does not know", KeyKind::Rsa2048);
    let foreign_file = run.site.write("foreign.pem", foreign.bundle_pem());
    run.call(
        "admin",
        &[&rotate[..], &["--pem-file", &foreign_file]].concat(),
        6,
    );
    let elliptic = run.key("elliptic key", KeyKind::EcP256);
    let cut = elliptic.bundle_pem().replace("-----END", "----END");
    let mixed = [&pem.certificate_pem, foreign.key_pem.as_str()].concat();
    for (name, text) in [
        ("ec.pem", elliptic.bundle_pem()),
        ("cut.pem", cut),
        ("mixed.pem", mixed),
    ] {
        let file = run.site.write(name, text);
        run.call("admin", &[&rotate[..], &["--pem-file", &file]].concat(), 3);
    }
    let with_wrong_password = ["--pfx-file", pfx_file, "--pfx-password-file", &unknown];
    run.call("admin", &[&rotate[..], &with_wrong_password].concat(), 3);
}

/// The secret where it does not belong, on the command line.
fn misplace(run: &mut Run, [tenant, client_id]: &[String; 2], stranger: &str) {
    let file = run.site.write("stranger", stranger);
    let with_line_break = format!("{stranger}\n");
    let sound = [
        ("--tenant", tenant.as_str()),
        ("--client-id", client_id),
        ("--display-name", "x"),
        ("--sharepoint-root-host", SHAREPOINT_HOST),
        ("--sharepoint-host", SHAREPOINT_HOST),
        ("--request-id", "1"),
        ("--secret-file", &file),
    ];
    for (at, (flag, _)) in sound.iter().enumerate() {
        let mut flags = sound;
        flags[at].1 = match *flag {
            "--display-name" => &with_line_break,
            _ => stranger,
        };
        let mut line = vec!["org", "register", "other", "--cloud", "global"];
        line.extend(flags.iter().flat_map(|(flag, value)| [*flag, *value]));
        run.call("admin", &line, 3);
    }
    for line in [
        &["org", "get", stranger][..],
        &["org", "rotate", stranger, "--secret-file", &file],
        &["org", "rotate", ORGANIZATION, "--secret-file", stranger],
        &["org", "rotate", ORGANIZATION, "--pem-file", &file],
        &["org", "rotate", ORGANIZATION, "--pfx-file", &file],
        &[
            "org",
            "rotate",
            ORGANIZATION,
            "--secret-file",
            &file,
            "--request-id",
            stranger,
        ],
        &["org", "revoke", stranger, "--yes"],
    ] {
        run.call("admin", line, 3);
    }
    run.call("worker", &["token", "get", stranger, "graph"], 3);
    let with_host = [
        "token",
        "get",
        ORGANIZATION,
        "sharepoint",
        "--sharepoint-host",
        stranger,
    ];
    run.call("worker", &with_host, 3);
}

/// The same where the command line has no place for it.
async fn misplace_in_calls(run: &mut Run, stranger: &str) {
    let stranger = || stranger.to_owned();
    let (operator, worker) = (run.site.operator().await, run.site.worker().await);
    let listed = operator.list_page(ListOrganizationsRequest {
        page_size: 1,
        page_token: stranger(),
        ..Default::default()
    });
    let revoked = operator.revoke(RevokeOrganizationRequest {
        request_id: stranger(),
        organization_id: stranger(),
        revision: 0,
        shred: false,
    });
    let host = TokenOptions {
        sharepoint_host: Some(stranger()),
        ..Default::default()
    };
    let id = stranger();
    let got = worker.token(&id, Resource::Graph, host);
    for error in [
        listed.await.expect_err("refused"),
        revoked.await.expect_err("refused"),
        got.await.expect_err("refused"),
    ] {
        run.said
            .push(("a call".into(), format!("{error} {error:?}")));
    }
}

/// Entra repeats in its answers what it was sent, or answers with less than a token.
fn upstream_repeats(run: &mut Run, tenant: Uuid, client_id: Uuid, secret: &str) {
    let file = run.site.write("secret", secret);
    let rotate = ["org", "rotate", ORGANIZATION, "--secret-file", &file];
    let description = format!("AADSTS7000215: Invalid client secret provided: {secret}");
    let altered = json!({"access_token": format!("{secret} is no token")});
    let members = altered.as_object().expect("an object").clone();
    for (fault, code) in [
        (
            Fault::rejection(401, "invalid_client", 7_000_215, &description),
            6,
        ),
        (Fault::rejection(400, secret, 1, secret), 75),
        (Fault::answer(400, secret), 75),
        (
            // Once more is asked after an error of the server.
            Fault::answer(500, secret)
                .header("content-type", "text/plain")
                .times(2),
            75,
        ),
        (
            Fault::json(200, &json!({"access_token": secret, "token_type": secret})),
            75,
        ),
        (Fault::altered(members), 75),
    ] {
        run.site.simulator.script(tenant, Endpoint::Token, fault);
        run.call("admin", &rotate, code);
    }
    let end = std::time::SystemTime::UNIX_EPOCH;
    let directory = run.site.simulator.directory();
    directory.change_application(tenant, client_id, |application| {
        application.secrets = vec![Secret::new(secret).expiring_at(end)];
    });
    run.call("admin", &rotate, 6);
}
