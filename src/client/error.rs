//! Why a call failed, read once from what gRPC and the transport say.

use std::{
    collections::BTreeMap,
    error::Error as StdError,
    fmt::{self, Display},
    time::Duration,
};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::pb::{self, v1::ErrorReason};

/// Where an error arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The broker, or something before it that speaks gRPC, answered with an error.
    Broker,
    /// There was no answer: no connection, a broken one, a refused certificate, or no time left.
    Connection,
    /// The [`ConnectionConfig`](super::ConnectionConfig) or a file that it names is at fault.
    Configuration,
}

/// A field of the request that the broker refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldViolation {
    /// Path of the field, for example `credential.client_secret.value`.
    pub field: String,
    /// What to send instead.
    pub description: String,
}

/// Advice that goes with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Help {
    /// What to do.
    pub description: String,
    /// Where to read on. May be empty.
    pub url: String,
}

/// Why a call failed.
///
/// Branch on [`Error::reason`], never on the text.
#[derive(Clone)]
pub struct Error(Box<Parts>);

/// What an [`Error`] holds: behind a box, so that a `Result` stays small.
#[derive(Clone, Debug)]
struct Parts {
    origin: Origin,
    code: Code,
    message: String,
    reason: Option<String>,
    retry_after: Option<Duration>,
    field_violations: Vec<FieldViolation>,
    help: Vec<Help>,
    metadata: BTreeMap<String, String>,
}

impl Error {
    /// Where the error arose.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// The gRPC status code. Of an error that is not the broker's: `UNAVAILABLE` or
    /// `DEADLINE_EXCEEDED` for a connection, `INVALID_ARGUMENT` for a configuration.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The name of [`Error::code`] as gRPC writes it, for example `NOT_FOUND`.
    #[must_use]
    pub fn code_name(&self) -> &'static str {
        code_name(self.0.code)
    }

    /// The broker's reason. `None` if the error is not the broker's own, or if the broker is newer
    /// than this client and has a reason that it does not know ([`Error::reason_name`] has it).
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        self.reason_name().and_then(ErrorReason::from_reason)
    }

    /// The name of the broker's reason, for example `CREDENTIAL_EXPIRED`.
    #[must_use]
    pub fn reason_name(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// What happened, as a sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// How long to wait before the same call may succeed. `None`: waiting is not known to help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The fields of the request that the broker refuses.
    #[must_use]
    pub fn field_violations(&self) -> &[FieldViolation] {
        &self.0.field_violations
    }

    /// What somebody, for example the tenant's administrator, can do about it.
    #[must_use]
    pub fn help(&self) -> &[Help] {
        &self.0.help
    }

    /// Details by name, for example Entra's trace id. Never a secret.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// The configuration, or a file that it names, is at fault.
    pub(super) fn configuration(message: impl Into<String>) -> Self {
        Self::new(Origin::Configuration, Code::InvalidArgument, message.into())
    }

    /// The first connection to `endpoint` failed.
    pub(super) fn connection(endpoint: &str, cause: &(dyn StdError + 'static)) -> Self {
        let causes = causes(cause);
        let message = format!("cannot connect to the broker at {endpoint}: {causes}");
        let mut error = Self::new(Origin::Connection, Code::Unavailable, message);
        error.0.help.extend(certificate_advice(&causes));
        error
    }

    /// Whether the call got no answer from a broker: the connection failed, or something on the way,
    /// as a proxy of a mesh, answered in the broker's place that it cannot reach it.
    pub(super) fn is_lost(&self) -> bool {
        self.origin() == Origin::Connection
            || (self.code() == Code::Unavailable && self.reason_name().is_none())
    }

    /// Whether the same call may succeed later without anybody doing anything about it.
    pub(super) fn is_temporary(&self) -> bool {
        self.is_lost() || self.retry_after().is_some()
    }

    /// Whether one side has refused the other's certificate: trying again would not mend that.
    pub(super) fn is_certificate_refusal(&self) -> bool {
        self.origin() == Origin::Connection && certificate_advice(self.message()).is_some()
    }

    /// Whether what was given before is taken back with this: nobody is to use the token on.
    pub(super) fn is_withdrawal(&self) -> bool {
        matches!(
            self.reason(),
            Some(
                ErrorReason::OrganizationRevoked
                    | ErrorReason::OrganizationSuspended
                    | ErrorReason::OrganizationNotFound
                    | ErrorReason::CallerNotAuthorized
                    | ErrorReason::ResourceNotAllowed
            )
        )
    }

    /// A caller's time is over.
    pub(super) fn out_of_time() -> Self {
        let message = "the broker did not answer in time";
        Self::new(Origin::Connection, Code::DeadlineExceeded, message.into())
    }

    /// The broker ended a stream without saying why.
    pub(super) fn ended_stream() -> Self {
        let message = "the broker ended the stream";
        Self::new(Origin::Connection, Code::Unavailable, message.into())
    }

    /// The broker's token has ended before it was here.
    pub(super) fn ended_token() -> Self {
        let message = "the token that the broker sent has already ended; compare the clock of this \
                       machine with the broker's";
        Self::new(Origin::Broker, Code::Internal, message.into())
    }

    /// The broker's answer lacks `field`, which it promises to fill.
    pub(crate) fn incomplete_answer(field: &str) -> Self {
        let message = format!("the broker's answer has no valid `{field}`");
        Self::new(Origin::Broker, Code::Internal, message)
    }

    fn new(origin: Origin, code: Code, message: String) -> Self {
        Self(Box::new(Parts {
            origin,
            code,
            message,
            reason: None,
            retry_after: None,
            field_violations: Vec::new(),
            help: Vec::new(),
            metadata: BTreeMap::new(),
        }))
    }

    /// A call got no answer.
    fn lost(cause: &(dyn StdError + 'static)) -> Self {
        if chain(cause).any(|cause| cause.is::<tonic::TimeoutExpired>()) {
            return Self::out_of_time();
        }
        let causes = causes(cause);
        let message = format!("the connection to the broker failed: {causes}");
        let mut error = Self::new(Origin::Connection, Code::Unavailable, message);
        // In TLS 1.3 the client is done with its handshake before the server has judged the client
        // certificate: the refusal hits the first call, and often arrives as a mere reset.
        let advice = certificate_advice(&causes).unwrap_or_else(|| Help {
            description: "if this happens on every call, the broker may be refusing the client \
                          certificate: check `certificate_file` and `key_file`"
                .into(),
            url: String::new(),
        });
        error.0.help.push(advice);
        error
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // A status that came over the wire has no source: tonic made this one from a failure.
        if let Some(cause) = status.source() {
            return Self::lost(cause);
        }
        let details = status.get_error_details();
        let message = match status.message() {
            "" => format!("the broker answered {}", code_name(status.code())),
            message => message.to_owned(),
        };
        let mut error = Self::new(Origin::Broker, status.code(), message);
        let parts = &mut *error.0;
        // Another domain's reasons would be mistaken for ours.
        let info = details.error_info().cloned();
        if let Some(info) = info.filter(|info| info.domain == pb::ERROR_DOMAIN) {
            parts.reason = Some(info.reason);
            parts.metadata = info.metadata.into_iter().collect();
        }
        parts.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        if let Some(request) = details.bad_request() {
            let violations = request.field_violations.iter();
            parts.field_violations = violations
                .map(|violation| FieldViolation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect();
        }
        if let Some(help) = details.help() {
            let links = help.links.iter();
            parts.help = links
                .map(|link| Help {
                    description: link.description.clone(),
                    url: link.url.clone(),
                })
                .collect();
        }
        error
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Error {}

/// The name of a code as gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// An error and what caused it, outermost first.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The texts of an error and its causes, without those that only repeat another.
pub(super) fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in chain(error).map(ToString::to_string) {
        let repeated = texts.iter().any(|known| known.contains(&text));
        if !repeated && text != "transport error" {
            texts.push(text);
        }
    }
    if texts.is_empty() {
        texts.push(error.to_string());
    }
    texts.join(": ")
}

/// What to check when the causes say that one side refused the other's certificate. Only advice:
/// the texts are those of rustls, which is not named in any type that we get.
fn certificate_advice(causes: &str) -> Option<Help> {
    let description = if causes.contains("received fatal alert") {
        "the broker refused the TLS handshake: check that `certificate_file` is valid now and from \
         a CA that the broker trusts for clients"
    } else if causes.contains("invalid peer certificate") {
        "the broker's certificate is not accepted: check `ca_file`, and that the certificate names \
         the host of `endpoint` or the given `server_name`"
    } else {
        return None;
    };
    Some(Help {
        description: description.into(),
        url: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, io};

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn details_of_a_status_are_read() {
        let metadata = HashMap::from([("aadsts".to_owned(), "7000222".to_owned())]);
        let mut details =
            ErrorDetails::with_error_info("CREDENTIAL_EXPIRED", "broker.kodo", metadata);
        details
            .set_retry_info(Some(Duration::from_secs(60)))
            .add_bad_request_violation("tenant", "a GUID or a domain")
            .add_help_link("create another secret", "https://kodo.example/help");
        let status =
            Status::with_error_details(Code::FailedPrecondition, "it has expired", details);
        let error = Error::from(status);
        assert_eq!(error.origin(), Origin::Broker);
        assert_eq!(error.code_name(), "FAILED_PRECONDITION");
        assert_eq!(error.reason(), Some(ErrorReason::CredentialExpired));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
        assert_eq!(error.field_violations()[0].field, "tenant");
        assert_eq!(error.help()[0].url, "https://kodo.example/help");
        assert_eq!(error.metadata()["aadsts"], "7000222");
        assert_eq!(error.to_string(), "it has expired");
    }

    #[test]
    fn a_reason_of_a_newer_broker_keeps_its_name() {
        let details = ErrorDetails::with_error_info("MOON_PHASE", "broker.kodo", HashMap::new());
        let error = Error::from(Status::with_error_details(Code::Aborted, "", details));
        assert_eq!(error.reason(), None);
        assert_eq!(error.reason_name(), Some("MOON_PHASE"));
        assert_eq!(error.to_string(), "the broker answered ABORTED");
    }

    #[test]
    fn a_reason_of_another_domain_is_not_ours() {
        let details = ErrorDetails::with_error_info("INTERNAL", "proxy.example", HashMap::new());
        let error = Error::from(Status::with_error_details(Code::Unavailable, "no", details));
        assert_eq!(error.reason_name(), None);
    }

    #[test]
    fn a_status_made_from_a_failure_is_the_connections() {
        let reset = io::Error::new(io::ErrorKind::ConnectionReset, "reset by peer");
        let error = Error::from(Status::from_error(Box::new(reset)));
        assert_eq!(error.origin(), Origin::Connection);
        assert_eq!(error.code(), Code::Unavailable);
        assert!(
            error.message().ends_with("failed: reset by peer"),
            "{error}"
        );
        assert!(error.help()[0].description.contains("client certificate"));
    }

    #[test]
    fn advice_follows_what_tls_says() {
        let cause = io::Error::other("received fatal alert: UnknownCA");
        let error = Error::connection("https://broker.example", &cause);
        assert!(error.help()[0].description.contains("certificate_file"));
        let cause = io::Error::other("invalid peer certificate: UnknownIssuer");
        let error = Error::connection("https://broker.example", &cause);
        assert!(error.help()[0].description.contains("ca_file"));
        let refused = io::Error::other("connection refused");
        assert!(
            Error::connection("https://broker.example", &refused)
                .help()
                .is_empty()
        );
    }
}
