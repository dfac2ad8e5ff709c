//! Why a command failed: as text, as JSON and as exit code.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;
use tonic::Code;

use super::console::printable;
use crate::client::{self, Origin};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The call, the connection or its configuration.
    #[error("{source}")]
    Call {
        /// What the client says.
        source: client::Error,
        /// How to repeat a change that may have been made although it failed.
        again: Option<String>,
    },
    /// The command line does not say what is needed.
    #[error("{0}")]
    Usage(String),
    /// A file, or standard input, does not hold what is needed.
    #[error("{0}")]
    Input(String),
    /// Standard output or the process itself.
    #[error("cannot write the output: {0}")]
    Io(io::Error),
}

/// An error with `-o json`.
#[derive(Serialize)]
struct Document<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    message: String,
    exit_code: u8,
    code: Option<&'a str>,
    reason: Option<&'a str>,
    retry_after_seconds: Option<f64>,
    field_violations: Vec<Violation<'a>>,
    help: Vec<Help<'a>>,
    metadata: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct Violation<'a> {
    field: &'a str,
    description: &'a str,
}

#[derive(Serialize)]
struct Help<'a> {
    description: &'a str,
    url: Option<&'a str>,
}

impl Error {
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(super) fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// Adds how to repeat a change, where it may have been made although no success was reported.
    pub(super) fn or_again(self, flags: &str) -> Self {
        match self {
            Self::Call { source, .. } if exit_code(&source) == 75 => Self::Call {
                source,
                again: Some(format!("to repeat this safely, add {flags}")),
            },
            other => other,
        }
    }

    /// Whoever closed the pipe has read enough: that is no failure.
    pub(super) fn unless_pipe_closed(self) -> Result<(), Self> {
        match self {
            Self::Io(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => Err(other),
        }
    }

    /// The exit code, as `--help` explains them.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Call { source, .. } => exit_code(source),
            Self::Usage(_) => 2,
            Self::Input(_) => 3,
            Self::Io(_) => 1,
        }
    }

    /// Writes the error for people: a sentence, then what else is known, indented.
    pub(super) fn write_text(&self, err: &mut dyn Write) -> io::Result<()> {
        writeln!(err, "error: {}", printable(&self.to_string()))?;
        let mut line = |text: &dyn Display| writeln!(err, "  {}", printable(&text.to_string()));
        let Self::Call { source, again } = self else {
            return Ok(());
        };
        if let Some(reason) = source.reason_name() {
            line(&format_args!("reason: {reason}"))?;
        }
        for violation in source.field_violations() {
            line(&format_args!(
                "{}: {}",
                violation.field, violation.description
            ))?;
        }
        for (name, value) in source.metadata() {
            line(&format_args!("{name}: {value}"))?;
        }
        for help in source.help() {
            // The message may end with what to do; only the link is new then.
            let said = source.message().ends_with(help.description.as_str());
            let description = if said { "" } else { help.description.as_str() };
            let text = format!("{description} {}", help.url);
            if !text.trim().is_empty() {
                line(&format_args!("help: {}", text.trim()))?;
            }
        }
        if let Some(again) = again {
            line(&format_args!("help: {again}"))?;
        }
        if let Some(delay) = source.retry_after() {
            line(&format_args!("retry after {} s", whole_seconds(delay)))?;
        }
        Ok(())
    }

    /// Writes the error for programs, as one line.
    pub(super) fn write_json(&self, err: &mut dyn Write) -> io::Result<()> {
        let mut body = Body {
            message: self.to_string(),
            exit_code: self.exit_code(),
            code: None,
            reason: None,
            retry_after_seconds: None,
            field_violations: Vec::new(),
            help: Vec::new(),
            metadata: BTreeMap::new(),
        };
        if let Self::Call { source, again } = self {
            body.code = (source.origin() == Origin::Broker).then(|| source.code_name());
            body.reason = source.reason_name();
            body.retry_after_seconds = source.retry_after().map(|delay| delay.as_secs_f64());
            let violations = source.field_violations().iter();
            body.field_violations = violations
                .map(|violation| Violation {
                    field: &violation.field,
                    description: &violation.description,
                })
                .collect();
            let helps = source.help().iter();
            body.help = helps
                .map(|help| Help {
                    description: &help.description,
                    url: Some(help.url.as_str()).filter(|url| !url.is_empty()),
                })
                .collect();
            body.help.extend(again.as_deref().map(|description| Help {
                description,
                url: None,
            }));
            let metadata = source.metadata().iter();
            body.metadata = metadata.map(|(name, value)| (&**name, &**value)).collect();
        }
        serde_json::to_writer(&mut *err, &Document { error: body })?;
        writeln!(err)
    }
}

impl From<client::Error> for Error {
    fn from(source: client::Error) -> Self {
        Self::Call {
            source,
            again: None,
        }
    }
}

/// The codes from 64 on are those of `sysexits.h`.
fn exit_code(error: &client::Error) -> u8 {
    match error.origin() {
        Origin::Configuration => 78,
        Origin::Connection => 75,
        Origin::Broker => match error.code() {
            Code::InvalidArgument | Code::AlreadyExists | Code::Aborted | Code::OutOfRange => 3,
            Code::NotFound => 4,
            Code::Unauthenticated | Code::PermissionDenied => 5,
            Code::FailedPrecondition => 6,
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => 75,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => 1,
        },
    }
}

/// Rounded up: too early would be in vain.
fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn refused(code: Code) -> Error {
        let metadata = HashMap::from([("aadsts".to_owned(), "7000222".to_owned())]);
        let mut details = ErrorDetails::with_error_info("IDP_THROTTLED", "broker.kodo", metadata);
        details
            .set_retry_info(Some(Duration::from_millis(59_500)))
            .add_bad_request_violation("tenant", "send a GUID\u{7}")
            .add_help_link("see", "https://kodo.example/help")
            .add_help_link("wait", "");
        let status = Status::with_error_details(code, "Entra throttles", details);
        Error::from(client::Error::from(status))
    }

    fn text(error: &Error) -> String {
        let mut err = Vec::new();
        error
            .write_text(&mut err)
            .expect("a buffer takes everything");
        String::from_utf8(err).expect("text")
    }

    #[test]
    fn text_is_a_sentence_and_what_else_is_known() {
        assert_eq!(
            text(&refused(Code::ResourceExhausted)),
            "error: Entra throttles\n\
             \x20 reason: IDP_THROTTLED\n\
             \x20 tenant: send a GUID\\u{7}\n\
             \x20 aadsts: 7000222\n\
             \x20 help: see https://kodo.example/help\n\
             \x20 help: wait\n\
             \x20 retry after 60 s\n"
        );
        assert_eq!(text(&Error::input("no file")), "error: no file\n");
    }

    #[test]
    fn json_says_the_same() {
        let mut err = Vec::new();
        let error = refused(Code::FailedPrecondition);
        error
            .write_json(&mut err)
            .expect("a buffer takes everything");
        let json: serde_json::Value = serde_json::from_slice(&err).expect("JSON");
        let error = &json["error"];
        assert_eq!(error["message"], "Entra throttles");
        assert_eq!(error["exit_code"], 6);
        assert_eq!(error["code"], "FAILED_PRECONDITION");
        assert_eq!(error["reason"], "IDP_THROTTLED");
        assert_eq!(error["retry_after_seconds"], 59.5);
        assert_eq!(error["field_violations"][0]["field"], "tenant");
        assert_eq!(error["help"][1]["url"], serde_json::Value::Null);
        assert_eq!(error["metadata"]["aadsts"], "7000222");
    }

    #[test]
    fn exit_codes_are_those_of_the_help() {
        for (code, wanted) in [
            (Code::Internal, 1),
            (Code::Unknown, 1),
            (Code::DataLoss, 1),
            (Code::InvalidArgument, 3),
            (Code::AlreadyExists, 3),
            (Code::Aborted, 3),
            (Code::NotFound, 4),
            (Code::Unauthenticated, 5),
            (Code::PermissionDenied, 5),
            (Code::FailedPrecondition, 6),
            (Code::Unavailable, 75),
            (Code::ResourceExhausted, 75),
            (Code::DeadlineExceeded, 75),
        ] {
            assert_eq!(refused(code).exit_code(), wanted, "{code:?}");
        }
        let broken = io::Error::from(io::ErrorKind::ConnectionReset);
        let lost = client::Error::from(Status::from_error(Box::new(broken)));
        assert_eq!(Error::from(lost).exit_code(), 75);
        assert_eq!(Error::usage("").exit_code(), 2);
        assert_eq!(Error::input("").exit_code(), 3);
    }

    #[test]
    fn only_a_change_that_may_have_been_made_is_to_be_repeated() {
        let unknown = refused(Code::Unavailable).or_again("--request-id r");
        assert!(text(&unknown).contains("help: to repeat this safely, add --request-id r\n"));
        let refused = refused(Code::InvalidArgument).or_again("--request-id r");
        assert!(!text(&refused).contains("request-id"));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = Error::Io(io::ErrorKind::BrokenPipe.into());
        assert!(closed.unless_pipe_closed().is_ok());
        let full = Error::Io(io::ErrorKind::StorageFull.into());
        assert!(full.unless_pipe_closed().is_err());
    }
}
