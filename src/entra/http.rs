//! HTTPS towards Microsoft: one place that bounds time, size and number of requests, follows no
//! redirect (a redirected POST would carry the secret along) and ignores proxies of the environment.

use std::{sync::Arc, time::Duration};

use reqwest::{StatusCode, header, redirect, tls};
use tokio::{sync::Semaphore, time::timeout};
use url::Url;
use zeroize::Zeroizing;

use super::Error;
use crate::{config::EntraConfig, secret::AccessToken};

/// Longest body that is read. A token is at most 16 KiB, the OpenID configuration 2 KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Bounds of what a `Retry-After` may ask for.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// An HTTPS client.
#[derive(Debug)]
pub struct Http {
    client: reqwest::Client,
    /// One for each request that may be under way.
    permits: Semaphore,
    /// For one request, the wait for a permit included.
    deadline: Duration,
}

/// A whole answer. It may hold a token, so it cannot be printed, and is wiped.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// What `Retry-After` asks for, within bounds.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Zeroizing<Vec<u8>>,
    pub(super) host: Arc<str>,
}

/// Why the client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The file with further CAs cannot be read.
    #[error("{}: {source}", file.display())]
    CaFile {
        /// Which file.
        file: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no PEM with certificates, or TLS cannot be set up.
    #[error("the HTTPS client cannot be set up: {0}")]
    Client(String),
}

impl Http {
    /// Builds the client.
    ///
    /// # Errors
    /// [`BuildError`] if the file with further CAs cannot be used.
    pub fn new(config: &EntraConfig) -> Result<Self, BuildError> {
        let unusable = |error: reqwest::Error| BuildError::Client(error.to_string());
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("kodo-broker/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .tls_version_min(tls::Version::TLS_1_2)
            .connect_timeout(config.connect_timeout())
            .timeout(config.request_timeout())
            .pool_idle_timeout(Duration::from_secs(60))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(10));
        let with_password = |url: &Url| !url.username().is_empty() || url.password().is_some();
        if config.proxy_url.as_ref().is_some_and(with_password) {
            let reason = "entra.proxy_url must hold no user and password";
            return Err(BuildError::Client(reason.into()));
        }
        if let Some(file) = &config.extra_ca_file {
            let unreadable = |source| BuildError::CaFile {
                file: file.clone(),
                source,
            };
            let pem = std::fs::read(file).map_err(unreadable)?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(unusable)?;
            builder = builder.tls_certs_merge(certificates);
        }
        builder = match &config.proxy_url {
            Some(url) => builder.proxy(reqwest::Proxy::all(url.clone()).map_err(unusable)?),
            None => builder.no_proxy(),
        };
        Ok(Self {
            client: builder.build().map_err(unusable)?,
            permits: Semaphore::new(config.concurrent_requests_max.get().into()),
            deadline: config.request_timeout(),
        })
    }

    /// Posts a form.
    pub(super) async fn post_form(&self, url: Url, form: &[(&str, &str)]) -> Result<Answer, Error> {
        let request = self.client.post(url.clone()).form(form);
        self.send(&url, request).await
    }

    /// Gets a document, with a token if one is given.
    pub(super) async fn get(&self, url: Url, token: Option<&AccessToken>) -> Result<Answer, Error> {
        let mut request = self.client.get(url.clone());
        if let Some(token) = token {
            // Exposed: Graph wants to see the token.
            request = request.bearer_auth(token.expose());
        }
        self.send(&url, request).await
    }

    async fn send(&self, url: &Url, request: reqwest::RequestBuilder) -> Result<Answer, Error> {
        let host: Arc<str> = url.host_str().unwrap_or_default().into();
        let unreachable = |reason: &str| Error::Unreachable {
            host: host.clone(),
            reason: reason.into(),
            retry_after: None,
        };
        let exchange = async {
            let permit = self.permits.acquire().await;
            let _permit = permit.map_err(|_| unreachable("the broker is stopping"))?;
            let request = request.header(header::ACCEPT, "application/json");
            // Of the error only its kind is kept: its text may hold the URL.
            let response = request
                .send()
                .await
                .map_err(|error| unreachable(&reason(&error)))?;
            read(response, host.clone()).await
        };
        let outcome = timeout(self.deadline, exchange).await;
        outcome.unwrap_or_else(|_| Err(unreachable("no answer in time")))
    }
}

async fn read(mut response: reqwest::Response, host: Arc<str>) -> Result<Answer, Error> {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let mut body = Zeroizing::new(Vec::new());
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > BODY_BYTES_MAX => {
                let reason = "its body is too long";
                return Err(Error::AnswerInvalid { host, reason });
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => {
                return Err(Error::Unreachable {
                    host,
                    reason: reason(&error).into(),
                    retry_after: None,
                });
            }
        }
    }
    Ok(Answer {
        status,
        retry_after,
        body,
        host,
    })
}

/// Seconds only: that is what Entra sends.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds = value.trim().parse().ok().map(Duration::from_secs)?;
    Some(seconds.clamp(RETRY_MIN, RETRY_MAX))
}

/// The innermost cause, which tells a refused connection from an unknown name or certificate.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
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
    // The outermost text alone may hold a URL; it is left out where it is the only one.
    if std::ptr::addr_eq(cause, error) {
        what.into()
    } else {
        format!("{what} ({cause})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_clamped_and_odd_ones_are_none() {
        let of = |value: Option<&'static str>| {
            let value = value.map(header::HeaderValue::from_static);
            let headers = value.into_iter().map(|value| (header::RETRY_AFTER, value));
            retry_after(&headers.collect()).map(|delay| delay.as_secs())
        };
        assert_eq!(of(Some("17")), Some(17));
        assert_eq!(of(Some("0")), Some(1));
        assert_eq!(of(Some("1000000000")), Some(300));
        for odd in [None, Some("-1"), Some("soon"), Some("")] {
            assert_eq!(of(odd), None, "{odd:?}");
        }
    }
}
