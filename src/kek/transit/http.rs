//! HTTPS towards OpenBao or Vault: one place that bounds time, size and number of the requests,
//! follows no redirect (a redirected request would carry the token along), tries once more where that
//! may help, and ignores proxies of the environment.
//!
//! Nothing that is sent or received gets into an error: a body holds a key, a header the token.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{header, redirect, tls};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use url::Url;
use zeroize::Zeroizing;

use super::{Error, wire};
use crate::{config::TransitConfig, secret::AccessToken};

/// Longest body that is read. A key with 500 versions fills half of it.
const BODY_BYTES_MAX: usize = 32 * 1024;
/// Requests under way at once.
const REQUESTS_MAX: usize = 64;
/// Between a try and the next.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What is sent.
pub(super) type Body = bytes::Bytes;

/// An HTTPS client for one server.
pub(super) struct Http {
    /// Names key and server in errors.
    pub(super) kek: Arc<str>,
    client: reqwest::Client,
    address: Url,
    namespace: Option<header::HeaderValue>,
    /// For one try, from the connection to the last byte of the body.
    deadline: Duration,
    turns: Semaphore,
}

/// A whole answer. It may hold a key, so it cannot be printed, and is wiped.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({})", self.kek)
    }
}

impl Http {
    /// Builds the client. Nothing is sent yet.
    pub(super) fn new(config: &TransitConfig) -> Result<Self, Error> {
        let host = config.address.host_str().unwrap_or_default();
        let kek: Arc<str> = format!("{}/{} at {host}", config.mount, config.key).into();
        let unusable = |reason: &str| Error::Unusable {
            kek: kek.clone(),
            reason: reason.to_owned(),
        };
        check(config).map_err(unusable)?;
        let no_client = |_: reqwest::Error| unusable("the HTTPS client cannot be set up");
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("kodo-broker/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .tls_version_min(tls::Version::TLS_1_2)
            .connect_timeout(config.connect_timeout())
            .timeout(config.request_timeout())
            .pool_idle_timeout(Duration::from_secs(60))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(10));
        if let Some(file) = &config.ca_file {
            let unreadable = |reason: String| Error::File {
                file: file.clone(),
                reason,
            };
            let pem = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|found| !found.is_empty())
                .ok_or_else(|| unreadable("holds no certificate in PEM form".to_owned()))?;
            builder = builder.tls_certs_only(certificates);
        }
        let namespace = config.namespace.as_deref().map(|namespace| {
            header::HeaderValue::from_str(namespace)
                .map_err(|_| unusable("the namespace has characters that no header may have"))
        });
        Ok(Self {
            client: builder.build().map_err(no_client)?,
            address: config.address.clone(),
            namespace: namespace.transpose()?,
            deadline: config.request_timeout(),
            turns: Semaphore::new(REQUESTS_MAX),
            kek,
        })
    }

    /// Sends a request: with a body, it is a POST. Trouble of the server or on the way to it is tried
    /// once more, and is an error; any other answer is the caller's to read.
    pub(super) async fn send(
        &self,
        path: &[&str],
        token: Option<&AccessToken>,
        body: Option<Body>,
    ) -> Result<Answer, Error> {
        let turn = timeout(self.deadline, self.turns.acquire()).await;
        let Ok(_turn) = turn else {
            return Err(self.unavailable(format!("{REQUESTS_MAX} requests are under way already")));
        };
        let first = self.exchange(path, token, body.clone()).await;
        let outcome = match first {
            Ok(answer) if answer.status < 500 => Ok(answer),
            _ => {
                sleep(RETRY_PAUSE).await;
                self.exchange(path, token, body).await
            }
        };
        let answer = outcome.map_err(|reason| self.unavailable(reason))?;
        match trouble(answer.status) {
            Some(reason) => Err(self.unavailable(format!("{reason} (HTTP {})", answer.status))),
            None => Ok(answer),
        }
    }

    /// One try, with what went wrong on the way.
    async fn exchange(
        &self,
        path: &[&str],
        token: Option<&AccessToken>,
        body: Option<Body>,
    ) -> Result<Answer, String> {
        let mut request = match body {
            Some(body) => self
                .client
                .post(self.url(path))
                .header(header::CONTENT_TYPE, "application/json")
                .body(body),
            None => self.client.get(self.url(path)),
        };
        // Asked for by the agents of Vault and OpenBao, as what a forged request cannot have.
        request = request.header("x-vault-request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            // Exposed: the server wants to see the token.
            let mut token = header::HeaderValue::from_str(token.expose())
                .map_err(|_| "the token has characters that no token has".to_owned())?;
            token.set_sensitive(true);
            request = request.header("x-vault-token", token);
        }
        let exchange = async {
            let response = request.send().await;
            read(response.map_err(|error| reason(&error))?).await
        };
        let outcome = timeout(self.deadline, exchange).await;
        outcome.unwrap_or_else(|_| Err(LATE.to_owned()))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.address.clone();
        let parts = path.iter().flat_map(|part| part.split('/'));
        url.path_segments_mut()
            .expect("an https URL has a path")
            .pop_if_empty()
            .push("v1")
            .extend(parts.filter(|part| !part.is_empty()));
        url
    }

    pub(super) fn unavailable(&self, reason: String) -> Error {
        Error::Unavailable {
            kek: self.kek.clone(),
            reason,
        }
    }

    pub(super) fn unusable(&self, reason: &str) -> Error {
        Error::Unusable {
            kek: self.kek.clone(),
            reason: reason.to_owned(),
        }
    }

    /// The token does not let us do this, or is none any more.
    pub(super) fn denied(&self, path: &[&str]) -> Error {
        self.unavailable(format!(
            "permission denied: the token has ended, or its policy does not allow {}",
            path.join("/")
        ))
    }
}

impl Answer {
    /// Whether it names an error with these words.
    pub(super) fn says(&self, words: &str) -> bool {
        wire::says(&self.body, words)
    }
}

fn check(config: &TransitConfig) -> Result<(), &'static str> {
    let address = &config.address;
    if address.scheme() != "https" || address.host_str().is_none() {
        return Err("kek.transit.address must begin with https://");
    }
    if !address.username().is_empty() || address.password().is_some() {
        return Err("kek.transit.address must hold no user and password");
    }
    if address.query().is_some() || address.fragment().is_some() {
        return Err("kek.transit.address must end with the host, a port or a path");
    }
    let mount = config.kubernetes.as_ref().map(|login| &*login.mount);
    let paths = [Some(&*config.mount), mount, Some(&*config.key)];
    let odd = |path: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        path.is_empty()
            || !path.chars().all(plain)
            || path.split('/').any(|part| part == "." || part == "..")
    };
    if paths.into_iter().flatten().any(odd) || config.key.contains('/') {
        return Err(
            "mounts and the key's name are made of letters, digits and -_. with / between them",
        );
    }
    Ok(())
}

/// What is wrong with a server that answers with this status. `None` if it is in order.
fn trouble(status: u16) -> Option<&'static str> {
    match status {
        300..400 => {
            Some("it redirects, which is not followed: configure the address it redirects to")
        }
        412 => Some("it is behind the others of its cluster"),
        429 => Some("it has had too many requests"),
        503 => Some("it is sealed or in maintenance"),
        500.. => Some("it has failed"),
        _ => None,
    }
}

async fn read(mut response: reqwest::Response) -> Result<Answer, String> {
    let status = response.status().as_u16();
    // All of it at once: growing would leave pieces of a key behind in freed memory.
    let mut body = Zeroizing::new(Vec::with_capacity(BODY_BYTES_MAX));
    while let Some(chunk) = response.chunk().await.map_err(|error| reason(&error))? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err("its answer is too long".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body })
}

const LATE: &str = "no answer in time";

/// The innermost cause, which tells a refused connection from an unknown name or certificate. The
/// text around it may hold the URL, and is left out.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return LATE.to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let what = if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    if std::ptr::addr_eq(cause, error) {
        what.to_owned()
    } else {
        format!("{what} ({cause})")
    }
}
