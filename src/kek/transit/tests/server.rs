//! A server that speaks as OpenBao does, until it is told to do wrong. What the real one does is in
//! `tests/real`.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex, MutexGuard},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::{
    config::TransitConfig,
    simulator::pki::{CertificateAuthority, Leaf},
};

pub(super) const TOKEN: &str = "s.canary-token-1";

/// What is done instead of answering.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The request is never answered.
    Hang,
    /// The connection is closed.
    Close,
    /// An answer with this status and body.
    Answer(u16, String),
    /// An answer that leads elsewhere.
    Redirect(String),
    /// So many bytes, without an announcement of how many there are.
    Huge(usize),
}

/// A request that was made.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) line: String,
    pub(super) head: String,
    pub(super) body: Value,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) faults: VecDeque<Fault>,
    pub(super) seen: Vec<Seen>,
    /// The tokens that are let in.
    pub(super) tokens: Vec<String>,
    /// Versions of the key, with the second when they were made.
    pub(super) versions: Vec<u64>,
    pub(super) derived: bool,
    pub(super) binds: bool,
    /// What a login or a renewal gives, in seconds.
    pub(super) lease: u64,
    pub(super) renewable: bool,
    pub(super) logins: usize,
}

pub(super) struct Server {
    folder: tempfile::TempDir,
    port: u16,
    state: Arc<Mutex<State>>,
    _tasks: TaskTracker,
}

impl Server {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = CertificateAuthority::new("test").expect("a CA");
        let identity = authority.issue(&Leaf::loopback("openbao")).expect("issues");
        fs::write(folder.path().join("ca.pem"), authority.certificate_pem()).expect("writes");
        let chain =
            vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate with its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State {
            faults: VecDeque::new(),
            seen: Vec::new(),
            tokens: vec![TOKEN.to_owned()],
            versions: vec![1_700_000_000],
            derived: false,
            binds: true,
            lease: 0,
            renewable: false,
            logins: 0,
        }));
        let tasks = TaskTracker::new();
        let (shared, connections) = (state.clone(), tasks.clone());
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                connections.spawn(serve(stream, acceptor.clone(), shared.clone()));
            }
        });
        let server = Self {
            folder,
            port,
            state,
            _tasks: tasks,
        };
        server.put_token(TOKEN);
        server
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics")
    }

    /// Lets the next requests go wrong.
    pub(super) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// How many requests were made since this was asked last.
    pub(super) fn asked(&self) -> usize {
        std::mem::take(&mut self.state().seen).len()
    }

    pub(super) fn put_token(&self, token: &str) {
        self.put("token", &format!("{token}\n"));
    }

    pub(super) fn put(&self, name: &str, content: &str) {
        let file = self.folder.path().join(name);
        fs::write(&file, content).expect("writes");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("sets the mode");
    }

    /// A configuration with a token in a file.
    pub(super) fn config(&self) -> TransitConfig {
        self.config_with(&format!("token_file = \"{}/token\"", self.folder()))
    }

    pub(super) fn config_with(&self, login: &str) -> TransitConfig {
        let (folder, port) = (self.folder(), self.port);
        let text = format!(
            "address = \"https://127.0.0.1:{port}\"\nkey = \"broker\"\nca_file = \"{folder}/ca.pem\"\n\
             namespace = \"team\"\nrequest_timeout_seconds = 1\n{login}\n"
        );
        toml::from_str(&text).expect("a configuration")
    }

    pub(super) fn folder(&self) -> String {
        self.folder.path().display().to_string()
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut received = Vec::new();
    while let Some(request) = next(&mut stream, &mut received).await {
        let fault = {
            let mut state = state.lock().expect("nothing panics");
            state.seen.push(request.clone());
            state.faults.pop_front()
        };
        let answer = match fault {
            None => {
                let (status, body) = state.lock().expect("nothing panics").answer(&request);
                response(status, "", &body.to_string())
            }
            Some(Fault::Answer(status, body)) => response(status, "", &body),
            Some(Fault::Redirect(to)) => response(307, &format!("location: {to}\r\n"), ""),
            Some(Fault::Huge(length)) => {
                let body = "x".repeat(length);
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                format!("{head}{length:x}\r\n{body}\r\n0\r\n\r\n")
            }
            Some(Fault::Close) => return,
            Some(Fault::Hang) => return std::future::pending().await,
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads the next request of a connection.
async fn next(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    received: &mut Vec<u8>,
) -> Option<Seen> {
    loop {
        let text = String::from_utf8_lossy(received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split_once("content-length: ").map_or(0, |(_, rest)| {
                let digits = rest.lines().next().expect("a value");
                digits.parse::<usize>().expect("a number")
            });
            if body.len() >= length {
                let body = serde_json::from_str(&body[..length]).unwrap_or_default();
                received.clear();
                let line = head.lines().next().expect("a request line").to_owned();
                return Some(Seen { line, head, body });
            }
        }
        if stream.read_buf(received).await.ok()? == 0 {
            return None;
        }
    }
}

fn response(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} .\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

impl State {
    fn answer(&mut self, request: &Seen) -> (u16, Value) {
        let line = request.line.trim_end_matches(" http/1.1");
        let body = &request.body;
        if line == "post /v1/auth/kubernetes/login" {
            if body["role"] != "broker" || body["jwt"] != "header.payload.signature" {
                return (403, json!({"errors": ["permission denied"]}));
            }
            self.logins += 1;
            let token = format!("s.canary-login-{}", self.logins);
            self.tokens = vec![token.clone()];
            return (200, self.lease_of(&token));
        }
        let known = |token: &&String| {
            let header = format!("x-vault-token: {token}");
            request.head.lines().any(|line| line == header)
        };
        let Some(token) = self.tokens.iter().find(known).cloned() else {
            return (403, json!({"errors": ["permission denied"]}));
        };
        match line {
            "get /v1/auth/token/lookup-self" => (
                200,
                json!({"data": {"ttl": self.lease, "renewable": self.renewable}}),
            ),
            "post /v1/auth/token/renew-self" => (200, self.lease_of(&token)),
            "get /v1/transit/keys/broker" => (200, self.key()),
            "post /v1/transit/encrypt/broker" => {
                let version = &body["key_version"];
                let bound = self.bound(body);
                let plaintext = body["plaintext"].as_str().expect("a plaintext");
                let ciphertext = format!("vault:v{version}:{plaintext}|{bound}");
                (200, json!({"data": {"ciphertext": ciphertext}}))
            }
            "post /v1/transit/decrypt/broker" => {
                let ciphertext = body["ciphertext"].as_str().expect("a ciphertext");
                let sealed = ciphertext.splitn(3, ':').nth(2).expect("three parts");
                let (plaintext, bound) = sealed.split_once('|').expect("two parts");
                if bound != self.bound(body) {
                    let error = "cipher: message authentication failed";
                    return (400, json!({"errors": [error]}));
                }
                (200, json!({"data": {"plaintext": plaintext}}))
            }
            _ => (404, json!({"errors": []})),
        }
    }

    fn bound(&self, body: &Value) -> String {
        if !self.binds {
            return String::new();
        }
        format!("{}{}", body["associated_data"], body["context"])
    }

    fn lease_of(&self, token: &str) -> Value {
        json!({"auth": {
            "client_token": token, "lease_duration": self.lease, "renewable": self.renewable,
        }})
    }

    fn key(&self) -> Value {
        let versions = self.versions.iter().enumerate();
        let keys: serde_json::Map<_, _> = versions
            .map(|(number, made)| ((number + 1).to_string(), json!(made)))
            .collect();
        json!({"data": {
            "type": "aes256-gcm96", "derived": self.derived, "latest_version": keys.len(),
            "min_decryption_version": 1, "keys": keys,
        }})
    }
}
