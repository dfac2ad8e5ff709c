//! Two hundred secrets go through a broker; a second after the last call none is left in its memory,
//! and none was ever said or stored in clear.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kodo_broker::{
    client::{Client, Error, Operator, TokenOptions},
    pb::{
        admin::v1::{
            self as admin, ClientSecretCredential, Credential, PemCertificateCredential,
            Pkcs12CertificateCredential, RegisterOrganizationRequest, RevokeOrganizationRequest,
            RotateCredentialRequest, credential::Kind,
        },
        v1::Resource,
    },
    simulator::{certificate::Certificate, directory::Secret, pki::KeyKind},
};
use uuid::Uuid;

use crate::{
    canary::{Canaries, Search, has_jwt},
    certificate::ApplicationKey,
    image::Image,
    site::{KEK, Site, files_below},
};

/// Organizations; each has one credential and then another, and Entra refuses a third. That of the last
/// is a PKCS#12 file, which leaves most behind where it is read.
const ORGANIZATIONS: usize = 62;
const REVOKED: usize = 20;
const SECRETS_MIN: usize = 200;

/// What was given to the broker, and where it must not be.
struct Run {
    site: Site,
    operator: Operator,
    worker: Client,
    secrets: Canaries,
    /// How many secrets these are: one may be many canaries.
    count: usize,
    /// Not to be told, but kept in memory.
    tokens: Canaries,
    /// What callers were told.
    statuses: Vec<String>,
}

/// An organization on its way.
struct Organization {
    id: String,
    tenant: Uuid,
    client_id: Uuid,
}

/// How a credential is handed in.
#[derive(Clone, Copy, Debug)]
enum Form {
    ClientSecret,
    Pem,
    Pkcs12,
}

impl Form {
    /// The form of an organization's first or second credential: each follows on each.
    fn of(number: usize) -> Self {
        [Self::ClientSecret, Self::Pem, Self::Pkcs12][number % 3]
    }
}

impl Run {
    fn secret(&mut self, what: &str) -> String {
        let core = Uuid::new_v4().simple().to_string();
        let secret = format!("Q~+/=&% {core}");
        self.secrets.add(what, &secret);
        self.secrets.add(&format!("{what}, core"), core);
        self.count += 1;
        secret
    }

    fn key(&mut self, what: &str) -> ApplicationKey {
        let key = ApplicationKey::generate(KeyKind::Rsa2048);
        self.secrets.add_key(what, key.key_der());
        self.count += 1;
        key
    }

    /// A credential that Entra does not know yet, and how Entra gets to know it.
    fn credential(&mut self, form: Form, what: &str) -> (Credential, Option<ApplicationKey>) {
        let kind = match form {
            Form::ClientSecret => {
                let value = self.secret(&format!("client secret of {what}"));
                let expire_time = None;
                return (
                    of_kind(Kind::ClientSecret(ClientSecretCredential {
                        value,
                        expire_time,
                    })),
                    None,
                );
            }
            Form::Pem => {
                let key = self.key(&format!("PEM key of {what}"));
                let pem = key.bundle_pem();
                (Kind::PemCertificate(PemCertificateCredential { pem }), key)
            }
            Form::Pkcs12 => {
                let key = self.key(&format!("PFX key of {what}"));
                let password = self.secret(&format!("PFX password of {what}"));
                let pfx = key.pkcs12(&password);
                (
                    Kind::Pkcs12Certificate(Pkcs12CertificateCredential { pfx, password }),
                    key,
                )
            }
        };
        (of_kind(kind.0), Some(kind.1))
    }

    /// Tells Entra of a credential.
    fn introduce(&self, to: &Organization, credential: &Credential, key: Option<&ApplicationKey>) {
        let directory = self.site.simulator.directory();
        directory.change_application(to.tenant, to.client_id, |application| {
            if let Some(Kind::ClientSecret(secret)) = &credential.kind {
                application.secrets.push(Secret::new(&secret.value));
            }
            if let Some(key) = key {
                let certificate = Certificate::from_pem(&key.certificate_pem);
                application
                    .certificates
                    .push(certificate.expect("a certificate"));
            }
        });
    }

    /// Keeps what a caller is told.
    fn keep<T: std::fmt::Debug>(&mut self, answer: Result<T, Error>) -> Result<T, Error> {
        self.statuses.push(match &answer {
            Ok(answer) => format!("{answer:?}"),
            Err(error) => format!("{error} {error:?}"),
        });
        answer
    }

    async fn tokens(&mut self, of: &Organization, form: Form) {
        let resources = match form {
            Form::ClientSecret => &[Resource::Graph, Resource::Exchange][..],
            _ => &[Resource::Graph, Resource::Exchange, Resource::Sharepoint],
        };
        for resource in resources {
            let got = self
                .worker
                .token(&of.id, *resource, TokenOptions::default())
                .await;
            let token = self.keep(got).expect("a token");
            let what = format!("{} token of {}", resource.as_str_name(), of.id);
            // Exposed: it is looked for.
            self.tokens.add_token(&what, token.access_token.expose());
        }
    }

    /// An organization's life; whether it ends is up to its number.
    async fn live(&mut self, number: usize) {
        let id = format!("organization-{number}");
        let (tenant, client_id) = self.site.add_tenant(&id, |application| application);
        let organization = Organization {
            id,
            tenant,
            client_id,
        };
        let (first, second) = (Form::of(number), Form::of(number + number / 3));
        let (credential, key) = self.credential(first, &format!("{number}, first"));
        self.introduce(&organization, &credential, key.as_ref());
        let registered = self
            .operator
            .register(register(&organization, credential))
            .await;
        self.keep(registered).expect("is registered");
        self.tokens(&organization, first).await;

        let (credential, key) = self.credential(second, &format!("{number}, second"));
        self.introduce(&organization, &credential, key.as_ref());
        let rotated = self
            .operator
            .rotate(rotate(&organization, 1, credential))
            .await;
        self.keep(rotated).expect("is rotated");
        self.tokens(&organization, second).await;

        let (credential, _) = self.credential(Form::of(number + 1), &format!("{number}, refused"));
        let refused = self
            .operator
            .rotate(rotate(&organization, 2, credential))
            .await;
        self.keep(refused).expect_err("Entra does not know it");
        if number < REVOKED {
            let revoked = self.operator.revoke(RevokeOrganizationRequest {
                request_id: Uuid::new_v4().to_string(),
                organization_id: organization.id,
                revision: 2,
                shred: false,
            });
            let revoked = revoked.await;
            self.keep(revoked).expect("is revoked");
        }
    }

    /// The last request to Entra has a client secret in it: no other takes its place in buffers.
    async fn refused_at_last(&mut self) {
        let (tenant, client_id) = self.site.add_tenant("last", |application| application);
        let organization = Organization {
            id: "organization-last".to_owned(),
            tenant,
            client_id,
        };
        let (credential, _) = self.credential(Form::ClientSecret, "the last");
        let refused = self
            .operator
            .register(register(&organization, credential))
            .await;
        self.keep(refused).expect_err("Entra does not know it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_secrets_leave_no_trace_in_memory_nor_in_what_is_written() {
    let site = Site::new().await;
    let configuration = site.configuration("trace").replace(
        "health_listen",
        "metrics_listen = \"127.0.0.1:0\"\nhealth_listen",
    );
    let audit = format!("\n[audit]\nfile = \"{}\"\n", site.shown("audit.jsonl"));
    site.write("broker.toml", configuration + &audit);
    let serving = site.serve().await;
    let (operator, worker) = (site.operator().await, site.worker().await);
    let mut run = Run {
        site,
        operator,
        worker,
        secrets: Canaries::default(),
        count: 0,
        tokens: Canaries::default(),
        statuses: Vec::new(),
    };
    for number in 0..ORGANIZATIONS {
        run.live(number).await;
    }
    let backup = run.site.shown("backup");
    let taken = run.site.call("admin", &["store", "backup", &backup]);
    run.statuses.push(taken.expect_code(0).out);
    run.refused_at_last().await;
    assert!(run.count >= SECRETS_MIN, "only {} secrets", run.count);

    thread::sleep(Duration::from_secs(1));
    let image = Image::of(serving.process.id());
    let metrics = serving.metrics();
    let ended = serving.stop();
    assert!(
        ended.err.contains("\"level\":\"TRACE\""),
        "the log is not at its most talkative"
    );

    judge_memory(&run, &image);
    let mut written = vec![
        ("log".to_owned(), ended.err.into_bytes()),
        ("output".to_owned(), ended.out.into_bytes()),
        ("metrics".to_owned(), metrics.into_bytes()),
        (
            "audit".to_owned(),
            fs::read(run.site.path("audit.jsonl")).expect("an audit log"),
        ),
        ("statuses".to_owned(), run.statuses.join("\n").into_bytes()),
    ];
    // Whatever else a broker writes belongs here: each file with its content.
    let backup = fs::read(backup).expect("a backup");
    written.push(("backup".to_owned(), backup));
    for (path, content) in files_below(&run.site.path("data")) {
        written.push((path.display().to_string(), content));
    }
    judge_written(&run, &written);
}

/// No secret is in memory. What has to be there is found, which shows that the search can find.
fn judge_memory(run: &Run, image: &Image) {
    let mut kept = Canaries::default();
    kept.add(
        "key encryption key",
        BASE64_STANDARD.decode(KEK).expect("base64"),
    );
    let (kept, tokens, secrets) = (kept.search(), run.tokens.search(), run.secrets.search());
    assert!(
        !find(image, &kept).is_empty(),
        "the KEK is not found, which the broker has"
    );
    assert!(
        !find(image, &tokens).is_empty(),
        "no token is found, and some are cached"
    );
    let found = find(image, &secrets);
    assert!(
        found.is_empty(),
        "{} of {} secrets are in {} KiB of memory: {found:#?}",
        found.len(),
        run.count,
        image.bytes() >> 10
    );
}

/// What is in memory, each with how many of its forms and pieces are.
fn find<'a>(image: &Image, search: &'a Search) -> BTreeMap<&'a str, usize> {
    let mut found = BTreeMap::new();
    for (_, content) in &image.runs {
        for what in search.find(content) {
            let whole = [" (", ", core", ", piece"].iter();
            let end = whole.filter_map(|sign| what.find(sign)).min();
            *found.entry(&what[..end.unwrap_or(what.len())]).or_default() += 1;
        }
    }
    found
}

fn judge_written(run: &Run, written: &[(String, Vec<u8>)]) {
    let (secrets, tokens) = (run.secrets.search(), run.tokens.search());
    for (source, content) in written {
        assert!(
            !content.is_empty() || source == "output" || source.contains("data"),
            "{source} is empty"
        );
        let mut found = secrets.find(content);
        found.extend(tokens.find(content));
        assert!(found.is_empty(), "{source} tells {found:?}");
        assert!(!has_jwt(content), "{source} holds a JWT");
    }
}

fn of_kind(kind: Kind) -> Credential {
    Credential { kind: Some(kind) }
}

fn register(organization: &Organization, credential: Credential) -> RegisterOrganizationRequest {
    RegisterOrganizationRequest {
        request_id: Uuid::new_v4().to_string(),
        organization_id: organization.id.clone(),
        tenant: organization.tenant.to_string(),
        cloud: admin::Cloud::Global.into(),
        client_id: organization.client_id.to_string(),
        credential: Some(credential),
        ..Default::default()
    }
}

fn rotate(
    organization: &Organization,
    revision: u64,
    credential: Credential,
) -> RotateCredentialRequest {
    RotateCredentialRequest {
        request_id: Uuid::new_v4().to_string(),
        organization_id: organization.id.clone(),
        revision,
        credential: Some(credential),
        ..Default::default()
    }
}
