//! Where the broker is and who we are to it, and the connection made of that.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};
use url::Url;

use super::Error;

/// One call, if `timeout_seconds` does not say otherwise: as long as the broker gives it.
const TIMEOUT_SECONDS: u64 = 60;
/// More would only hide a broker that hangs.
const TIMEOUT_SECONDS_MAX: u64 = 3600;
/// How often a call is tried, if `max_attempts` does not say otherwise, and at most. With the pauses
/// between them, ten attempts outlast the restart of a broker.
const MAX_ATTEMPTS: u32 = 10;
/// The TCP connection, and again the TLS handshake.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a quiet connection is probed. Below the idle limits of common load balancers.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the answer to a probe may take until the connection counts as broken.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the broker is and who we are to it. As a file:
///
/// ```toml
/// endpoint = "https://broker.example:8443"
/// ca_file = "ca.crt"
/// certificate_file = "tls.crt"
/// key_file = "tls.key"
/// ```
///
/// Or, in a pod whose sidecar proxy speaks mutual TLS for it:
///
/// ```toml
/// endpoint = "http://kodo-broker.kodo.svc:8443"
/// encrypted_by = "mesh"
/// ```
///
/// Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionConfig {
    /// `https://host:port` of the broker; with `encrypted_by`, `http://host:port`.
    pub endpoint: String,
    /// CAs that may have issued the broker's certificate, PEM. No others are trusted.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client certificate with its chain, PEM. Its SPIFFE ID is who the broker takes us for.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// The key of the client certificate, PEM.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Who encrypts where this process does not: then it has no certificate, and tokens come in the
    /// clear as far as there.
    #[serde(default)]
    pub encrypted_by: Option<EncryptedBy>,
    /// The name that the broker's certificate must have, where it is not the host of `endpoint`.
    #[serde(default)]
    pub server_name: Option<String>,
    /// How many seconds one call may take: 1 to 3600, in a file 60 if absent.
    #[serde(default = "default_timeout_seconds")]
    pub timeout_seconds: u64,
    /// How often a [`Client`](super::Client) tries a call at most, while the broker cannot be reached
    /// or says that waiting helps: 1 to 10, in a file 10 if absent. 1 is not to try again.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
}

/// Who encrypts in this process's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncryptedBy {
    /// A proxy of the service mesh, beside this process: it shows the broker its own certificate.
    Mesh,
}

/// An open connection. Cheap to clone: clones share it. It reconnects by itself.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    /// How long a call may take.
    pub(super) timeout: Duration,
    /// How often a call is tried, where it is tried again at all.
    pub(super) max_attempts: u32,
}

impl ConnectionConfig {
    /// Reads a TOML file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is not such a file, or has a value that cannot be meant. The files
    /// that it names are read by [`Client::connect`](super::Client::connect).
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|cause| unreadable(path, &cause))?;
        let mut config: Self = toml::from_str(&text).map_err(|cause| {
            let before = cause.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            let message = cause.message().replace('\n', ", ");
            Error::configuration(format!("{}, line {line}: {message}", path.display()))
        })?;
        config.protection()?;
        config.timeout()?;
        config.max_attempts()?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in [
            &mut config.ca_file,
            &mut config.certificate_file,
            &mut config.key_file,
        ]
        .into_iter()
        .flatten()
        {
            *file = folder.join(&*file);
        }
        Ok(config)
    }

    pub(super) fn url(&self, scheme: &str, hint: &str) -> Result<Url, Error> {
        let url = Url::parse(&self.endpoint).ok().filter(|url| {
            url.scheme() == scheme
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
        });
        url.ok_or_else(|| {
            let form = format!("`endpoint` must have the form {scheme}://host:port{hint}");
            Error::configuration(form)
        })
    }

    fn timeout(&self) -> Result<Duration, Error> {
        if !(1..=TIMEOUT_SECONDS_MAX).contains(&self.timeout_seconds) {
            let message = format!("`timeout_seconds` must be 1 to {TIMEOUT_SECONDS_MAX}");
            return Err(Error::configuration(message));
        }
        Ok(Duration::from_secs(self.timeout_seconds))
    }

    fn max_attempts(&self) -> Result<u32, Error> {
        if !(1..=MAX_ATTEMPTS).contains(&self.max_attempts) {
            let message = format!("`max_attempts` must be 1 to {MAX_ATTEMPTS}");
            return Err(Error::configuration(message));
        }
        Ok(self.max_attempts)
    }
}

impl Connection {
    pub(super) async fn open(config: &ConnectionConfig) -> Result<Self, Error> {
        let (url, protection) = config.protection()?;
        let timeout = config.timeout()?;
        let max_attempts = config.max_attempts()?;
        let endpoint = Endpoint::from_shared(url.to_string())
            .and_then(|endpoint| {
                endpoint.user_agent(concat!("kodo-broker/", env!("CARGO_PKG_VERSION")))
            })
            .map_err(|cause| Error::configuration(format!("`endpoint`: {cause}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Some(KEEP_ALIVE_INTERVAL))
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let endpoint = protection.put_on(endpoint)?;
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|cause| Error::connection(&config.endpoint, &cause))?;
        Ok(Self {
            channel,
            timeout,
            max_attempts,
        })
    }

    /// A request that tells the broker, and the channel, how long it may take.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        within(message, self.timeout)
    }
}

/// A request that tells the broker, and the channel, that it may take this long.
pub(super) fn within<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn default_max_attempts() -> u32 {
    MAX_ATTEMPTS
}

fn default_timeout_seconds() -> u64 {
    TIMEOUT_SECONDS
}

pub(super) fn unreadable(path: &Path, cause: &std::io::Error) -> Error {
    Error::configuration(format!("cannot read {}: {cause}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Origin;

    const FILE: &str = r#"
        endpoint = "https://broker.example:8443"
        ca_file = "ca.crt"
        certificate_file = "/etc/kodo/tls.crt"
        key_file = "tls.key"
    "#;

    /// Loads a connection file with this text.
    fn load(text: &str) -> Result<(PathBuf, ConnectionConfig), Error> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("connection.toml");
        fs::write(&path, text).expect("a writable folder");
        Ok((folder.path().to_owned(), ConnectionConfig::load(path)?))
    }

    #[test]
    fn relative_paths_are_relative_to_the_file() {
        let (folder, config) = load(FILE).expect("a valid file");
        assert_eq!(config.ca_file, Some(folder.join("ca.crt")));
        assert_eq!(config.certificate_file, Some("/etc/kodo/tls.crt".into()));
        assert_eq!(config.timeout_seconds, 60);
        assert_eq!(config.server_name, None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let absent = ConnectionConfig::load("/nowhere/connection.toml").expect_err("no file");
        assert!(
            absent.message().contains("/nowhere/connection.toml"),
            "{absent}"
        );
        let unknown = load(&format!("{FILE}\nendpont = \"\"")).expect_err("an unknown key");
        assert!(unknown.message().contains("line 7"), "{unknown}");
        assert!(unknown.message().contains("endpont"), "{unknown}");
        assert_eq!(unknown.origin(), Origin::Configuration);
    }

    #[test]
    fn an_endpoint_is_https_with_a_host_and_nothing_else() {
        for endpoint in [
            "http://broker.example:8443",
            "broker.example:8443",
            "https://broker.example/path",
            "https://user@broker.example",
            "",
        ] {
            let text = FILE.replace("https://broker.example:8443", endpoint);
            let error = load(&text).expect_err(endpoint);
            assert!(error.message().contains("https://host:port"), "{error}");
        }
    }

    #[test]
    fn without_encryption_a_file_has_to_say_who_does_that() {
        let plain = "endpoint = \"http://broker:8443\"\n";
        let mesh = "encrypted_by = \"mesh\"\n";
        load(&format!("{plain}{mesh}")).expect("a valid file");
        for (text, said) in [
            (
                plain.to_owned(),
                "https://host:port; where the mesh encrypts",
            ),
            (
                format!("{plain}{mesh}ca_file = \"ca.crt\""),
                "leave out ca_file",
            ),
            (
                format!("{plain}{mesh}server_name = \"a\""),
                "leave out server_name",
            ),
            (format!("{FILE}{mesh}"), "http://host:port"),
            (FILE.replace("key_file", "#"), "`key_file` is missing"),
            (format!("{plain}encrypted_by = \"hope\""), "hope"),
        ] {
            let error = load(&text).expect_err(&text);
            assert!(error.message().contains(said), "{error}");
        }
    }

    #[test]
    fn a_timeout_is_neither_nothing_nor_endless() {
        for seconds in ["0", "3601"] {
            let error = load(&format!("{FILE}\ntimeout_seconds = {seconds}"));
            assert!(error.is_err(), "{seconds}");
        }
    }

    #[test]
    fn attempts_are_at_least_one_and_bounded() {
        for attempts in ["0", "11"] {
            let error = load(&format!("{FILE}\nmax_attempts = {attempts}"));
            assert!(error.is_err(), "{attempts}");
        }
        let (_, config) = load(FILE).expect("a valid file");
        assert_eq!(config.max_attempts, 10);
    }

    #[tokio::test]
    async fn files_are_checked_before_connecting() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("connection.toml");
        fs::write(&path, FILE).expect("a writable folder");
        let config = ConnectionConfig::load(&path).expect("a valid file");
        let error = Connection::open(&config).await.expect_err("no CA file");
        assert!(error.message().contains("ca.crt"), "{error}");
        fs::write(config.ca_file.as_ref().expect("is named"), "no PEM").expect("a writable folder");
        let error = Connection::open(&config).await.expect_err("no PEM");
        assert!(
            error
                .message()
                .contains("`ca_file` must hold a certificate"),
            "{error}"
        );
        assert_eq!(error.origin(), Origin::Configuration);
    }
}
