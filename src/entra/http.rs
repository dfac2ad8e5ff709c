//! HTTPS towards Microsoft: one place that bounds time and size of a request, follows no redirect (a
//! redirected POST would carry the secret along), retries nothing and ignores proxies of the
//! environment. How many requests there are is the business of [`super::paced`].
//!
//! Bodies are not decompressed, and no compression is offered: the body of an answer that is
//! compressed all the same is no JSON, and cannot grow.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::{StatusCode, header, redirect, tls};
use tokio::time::timeout;
use url::Url;
use zeroize::Zeroizing;

use super::{Error, Trouble};
use crate::{clock::Clock, config::EntraConfig, secret::AccessToken};

/// Longest body that is read. A token is at most 16 KiB, the OpenID configuration 2 KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a connection stays open for the next request. Its buffers keep the last one, with the
/// secret in it, until another takes its place or the connection ends; the pool looks that often, so it
/// is up to twice as long. A busy broker has a request within that time.
const IDLE_MAX: Duration = Duration::from_millis(400);
/// Bounds of what a `Retry-After` may ask for.
const RETRY_MIN: Duration = Duration::from_secs(1);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(300);

/// An HTTPS client.
#[derive(Debug)]
pub struct Http {
    client: reqwest::Client,
    /// For one request, from the connection to the last byte of the body.
    deadline: Duration,
    /// What a `Retry-After` that is a date is compared with.
    clock: Clock,
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
    pub fn new(config: &EntraConfig, clock: Clock) -> Result<Self, BuildError> {
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
            .pool_idle_timeout(IDLE_MAX)
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
            deadline: config.request_timeout(),
            clock,
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
        let exchange = async {
            let request = request.header(header::ACCEPT, "application/json");
            let response = request.send().await;
            let response = response.map_err(|error| broken(&host, &error))?;
            let retry_after = retry_after(response.headers(), self.clock.now());
            read(response, host.clone(), retry_after).await
        };
        let outcome = timeout(self.deadline, exchange).await;
        outcome.unwrap_or_else(|_| Err(late(&host)))
    }
}

async fn read(
    mut response: reqwest::Response,
    host: Arc<str>,
    retry_after: Option<Duration>,
) -> Result<Answer, Error> {
    let status = response.status();
    let mut body = Zeroizing::new(Vec::new());
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > BODY_BYTES_MAX => {
                let reason = "its body is too long";
                return Err(Error::AnswerInvalid { host, reason });
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Err(broken(&host, &error)),
        }
    }
    Ok(Answer {
        status,
        retry_after,
        body,
        host,
    })
}

/// Seconds or a date (RFC 9110 §10.2.3), within bounds. Whatever else it is, it asks for nothing.
fn retry_after(headers: &header::HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let delay = if digits {
        value.parse().map_or(RETRY_MAX, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        date.duration_since(now).unwrap_or_default()
    };
    Some(delay.clamp(RETRY_MIN, RETRY_MAX))
}

fn late(host: &Arc<str>) -> Error {
    Error::Unreachable {
        host: host.clone(),
        trouble: Trouble::Timeout,
        reason: "no answer in time".into(),
        retry_after: None,
    }
}

/// Of the error only its kind is kept: its text may hold the URL.
fn broken(host: &Arc<str>, error: &reqwest::Error) -> Error {
    if error.is_timeout() {
        return late(host);
    }
    Error::Unreachable {
        host: host.clone(),
        trouble: Trouble::Connection,
        reason: reason(error).into(),
        retry_after: None,
    }
}

/// The innermost cause, which tells a refused connection from an unknown name or certificate.
fn reason(error: &reqwest::Error) -> String {
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

    /// Sun, 06 Nov 1994 08:49:37 GMT, the example of the RFC.
    const NOW: Duration = Duration::from_secs(784_111_777);

    fn seconds(value: Option<&'static str>) -> Option<u64> {
        let value = value.map(header::HeaderValue::from_static);
        let headers = value.into_iter().map(|value| (header::RETRY_AFTER, value));
        let now = SystemTime::UNIX_EPOCH + NOW;
        retry_after(&headers.collect(), now).map(|delay| delay.as_secs())
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date_and_clamped() {
        for (value, expected) in [
            ("17", 17),
            (" 17 ", 17),
            ("0", 1),
            ("1000000000", 300),
            ("99999999999999999999999", 300),
            ("Sun, 06 Nov 1994 08:50:07 GMT", 30),
            ("Sunday, 06-Nov-94 08:50:07 GMT", 30),
            ("Sun Nov  6 08:50:07 1994", 30),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 1),
            ("Sat, 05 Nov 1994 08:49:37 GMT", 1),
            ("Sat, 06 Nov 2094 08:49:37 GMT", 300),
        ] {
            assert_eq!(seconds(Some(value)), Some(expected), "{value}");
        }
    }

    #[test]
    fn an_odd_retry_after_asks_for_nothing() {
        for odd in ["-1", "soon", "", "1.5", "+3", "Sun, 06 Nov 1994", "0x10"] {
            assert_eq!(seconds(Some(odd)), None, "{odd:?}");
        }
        assert_eq!(seconds(None), None);
    }
}
