//! Every error of the broker as a gRPC status: the only place that decides on codes and reasons.
//!
//! A tenant's trouble is `FAILED_PRECONDITION`. `UNAVAILABLE`, `INTERNAL` and `DATA_LOSS` are for
//! the broker and for the way to Entra, since meshes take a replica out after a few of them (Envoy
//! after five), and one tenant's expired secret must not do that to all others.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::{
    peer::Unidentified,
    seal::Cause,
    usage::{Limit, Reached},
};
use crate::{
    audit,
    authz::Denied,
    entra::{self, Rejection, RejectionKind},
    jobs,
    pb::{self, v1::ErrorReason as Reason},
    registration, token, vault,
};

/// How long to wait before asking again, where nothing tells better.
const RETRY: Duration = Duration::from_secs(5);
/// Where Microsoft explains a number.
const AADSTS_PAGE: &str = "https://login.microsoftonline.com/error?code=";

/// A status of one reason.
fn status(code: Code, reason: Reason, message: impl Into<String>) -> Status {
    with(code, reason, message, HashMap::new(), None)
}

/// A status that says when to ask again.
fn retry(code: Code, reason: Reason, message: impl Into<String>, after: Duration) -> Status {
    with(code, reason, message, HashMap::new(), Some(after))
}

fn with(
    code: Code,
    reason: Reason,
    message: impl Into<String>,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason.reason(), pb::ERROR_DOMAIN, metadata);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, message, details)
}

/// Fields that are not what they should be.
pub(super) fn fields_invalid(violations: Vec<FieldViolation>) -> Status {
    let message = match violations.first() {
        Some(first) => format!("{}: {}", first.field, first.description),
        None => "a field is not what it should be".to_owned(),
    };
    let mut details = ErrorDetails::with_error_info(
        Reason::FieldInvalid.reason(),
        pb::ERROR_DOMAIN,
        HashMap::new(),
    );
    details.set_bad_request(violations);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The call took longer than any call may, waiting for what `reason` names.
pub(super) fn deadline_exceeded(reason: Reason) -> Status {
    retry(
        Code::DeadlineExceeded,
        reason,
        "there was no answer in the time that a call may take; try again",
        RETRY,
    )
}

/// The request has not come whole in the time that it may take.
pub(super) fn request_too_slow() -> Status {
    retry(
        Code::DeadlineExceeded,
        Reason::LimitReached,
        "the request did not come whole in the time that it may take; send it at once",
        RETRY,
    )
}

/// The connection has as many long requests that have not come whole as it may.
pub(super) fn too_many_long_requests() -> Status {
    retry(
        Code::ResourceExhausted,
        Reason::LimitReached,
        "too many long requests are being sent on this connection; send one after the other",
        RETRY,
    )
}

/// As many calls wait for a token as may.
pub(super) fn too_many_calls() -> Status {
    retry(
        Code::ResourceExhausted,
        Reason::LimitReached,
        "as many calls wait for a token as may; try again, or raise server.limits.waiting_calls_max",
        RETRY,
    )
}

/// There are as many streams of tokens as there may be.
pub(super) fn audit_is_being_read() -> Status {
    retry(
        Code::ResourceExhausted,
        Reason::LimitReached,
        "another question to the audit log is being answered; try again",
        RETRY,
    )
}

pub(super) fn no_delegated_access() -> Status {
    status(
        Code::FailedPrecondition,
        Reason::DelegatedAccessUnavailable,
        "the broker keeps no sign-in of a user, so it has no delegated token; ask for ACCESS_APPLICATION",
    )
}

pub(super) fn too_many_streams() -> Status {
    retry(
        Code::ResourceExhausted,
        Reason::LimitReached,
        "the broker has as many streams of tokens as it may; call GetToken, or raise tokens.streams_max",
        RETRY,
    )
}

/// The caller takes more than its policy has for it.
pub(super) fn over_limit(reached: &Reached) -> Status {
    let message = match reached.limit {
        Limit::CallsPerSecond => {
            "this caller makes more calls than it may (calls_per_second of the policy); slow down"
        }
        Limit::CallsUnderWay => {
            "this caller has as many calls under way as it may (calls_under_way of the policy); let some finish first"
        }
    };
    let (code, reason) = (Code::ResourceExhausted, Reason::LimitReached);
    retry(code, reason, message, reached.retry_after)
}

/// The flight was cut off: the broker stops.
pub(super) fn shutting_down() -> Status {
    retry(
        Code::Unavailable,
        Reason::ShuttingDown,
        "interrupted: the broker is shutting down, or the organization changed again and again; try again",
        RETRY,
    )
}

/// The broker is sealed. Paths and what lies in the store are for the log.
pub(super) fn sealed(cause: Cause) -> Status {
    let why = match cause {
        Cause::Opening => "it is about to open its store; try again",
        Cause::Kek => {
            "the key encryption key is missing, wrong or out of reach; the broker tries again by itself"
        }
        Cause::InUse => {
            "another process has its store open, which may be the one that it replaces; the broker tries again by itself"
        }
        Cause::Anchor => {
            "the anchor of its store cannot be read or written; the broker tries again by itself"
        }
        Cause::Store => {
            "its store cannot be opened as it is; its operator has to look at it, the log says why"
        }
    };
    let message = format!("the broker is sealed: {why}");
    let after = cause.may_pass().then_some(RETRY);
    with(
        Code::Unavailable,
        Reason::Sealed,
        message,
        HashMap::new(),
        after,
    )
}

/// No such organization, or none that the caller may know of: the same to the byte.
pub(super) fn organization_not_found() -> Status {
    status(
        Code::NotFound,
        Reason::OrganizationNotFound,
        "there is no such organization",
    )
}

/// The reason that a status tells.
pub(super) fn reason(status: &Status) -> &'static str {
    let info = status.get_details_error_info();
    let reason = info.and_then(|info| Reason::from_reason(&info.reason));
    reason.unwrap_or(Reason::Unspecified).reason()
}

impl From<audit::Unavailable> for Status {
    fn from(error: audit::Unavailable) -> Self {
        let message = format!("{error}, so nothing can be done; try again");
        retry(Code::Unavailable, Reason::AuditUnavailable, message, RETRY)
    }
}

impl From<Unidentified> for Status {
    fn from(error: Unidentified) -> Self {
        status(
            Code::Unauthenticated,
            Reason::PeerIdentityInvalid,
            error.to_string(),
        )
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let message = denied.to_string();
        match denied {
            Denied::Organization => organization_not_found(),
            Denied::Action | Denied::Labels | Denied::Purpose | Denied::Access | Denied::Job => {
                status(Code::PermissionDenied, Reason::CallerNotAuthorized, message)
            }
            Denied::Resource => status(Code::PermissionDenied, Reason::ResourceNotAllowed, message),
        }
    }
}

impl From<token::Error> for Status {
    fn from(error: token::Error) -> Self {
        let message = error.to_string();
        let tenant = |reason, remedy: &str| {
            status(
                Code::FailedPrecondition,
                reason,
                format!("{message}; {remedy}"),
            )
        };
        match error {
            token::Error::NotFound => organization_not_found(),
            token::Error::Revoked(at) => revoked(at),
            token::Error::Suspended(at) => suspended(at),
            token::Error::CertificateRequired => tenant(
                Reason::CertificateRequired,
                "rotate the organization's credential to a certificate",
            ),
            token::Error::HostNotListed => tenant(
                Reason::SharepointHostNotListed,
                "leave sharepoint_host out for the root host, or name a host that the organization was registered with",
            ),
            token::Error::HostUnknown => tenant(
                Reason::SharepointHostUnknown,
                "grant the application Sites.Read.All in Microsoft Graph, or register the organization with its sharepoint_root_host",
            ),
            token::Error::Entra(error) => error.into(),
            token::Error::Vault(error) => of_vault(&error),
            token::Error::Full => retry(
                Code::ResourceExhausted,
                Reason::LimitReached,
                "the broker keeps as many tokens as it may; raise tokens.slots_max",
                RETRY,
            ),
            token::Error::Interrupted => shutting_down(),
        }
    }
}

impl From<registration::Error> for Status {
    fn from(error: registration::Error) -> Self {
        match error {
            registration::Error::Entra(error) => error.into(),
            registration::Error::Vault(error) => of_vault(&error),
            // What a thread that serves can hang in is a write to the audit log.
            registration::Error::Stuck(_) => retry(
                Code::DeadlineExceeded,
                Reason::AuditUnavailable,
                error.to_string(),
                RETRY,
            ),
            registration::Error::Interrupted => shutting_down(),
        }
    }
}

impl From<jobs::Error> for Status {
    fn from(error: jobs::Error) -> Self {
        let message = error.to_string();
        match error {
            jobs::Error::TooMany => {
                let (code, reason) = (Code::ResourceExhausted, Reason::LimitReached);
                retry(code, reason, message, RETRY)
            }
            jobs::Error::RequestIdReused => of_vault(&vault::Error::RequestIdReused),
            jobs::Error::Vault(error) => of_vault(&error),
        }
    }
}

impl From<vault::Error> for Status {
    fn from(error: vault::Error) -> Self {
        of_vault(&error)
    }
}

impl From<entra::Error> for Status {
    fn from(error: entra::Error) -> Self {
        let message = error.to_string();
        match error {
            entra::Error::Rejected(rejection) => rejected(&rejection),
            entra::Error::Throttled { retry_after } => retry(
                Code::ResourceExhausted,
                Reason::IdpThrottled,
                message,
                retry_after,
            ),
            entra::Error::Unreachable { retry_after, .. } => retry(
                Code::Unavailable,
                Reason::IdpUnreachable,
                message,
                retry_after.unwrap_or(RETRY),
            ),
            entra::Error::AnswerInvalid { .. } => {
                retry(Code::Unavailable, Reason::IdpAnswerInvalid, message, RETRY)
            }
            entra::Error::Assertion => status(Code::Internal, Reason::Internal, message),
            entra::Error::Busy => {
                let message =
                    format!("{message}; try again later, or raise entra.queued_requests_max");
                retry(
                    Code::ResourceExhausted,
                    Reason::LimitReached,
                    message,
                    RETRY,
                )
            }
        }
    }
}

fn revoked(at: SystemTime) -> Status {
    let at = prost_types::Timestamp::from(at);
    let message = "the organization was revoked and gets no more tokens";
    let metadata = HashMap::from([("revokeTime".to_owned(), at.to_string())]);
    let (code, reason) = (Code::FailedPrecondition, Reason::OrganizationRevoked);
    with(code, reason, message, metadata, None)
}

fn suspended(at: SystemTime) -> Status {
    let at = prost_types::Timestamp::from(at);
    let message = "the organization is suspended and gets no tokens until an operator resumes it";
    let metadata = HashMap::from([("suspendTime".to_owned(), at.to_string())]);
    let (code, reason) = (Code::FailedPrecondition, Reason::OrganizationSuspended);
    with(code, reason, message, metadata, None)
}

fn of_vault(error: &vault::Error) -> Status {
    let message = error.to_string();
    match error {
        vault::Error::NotFound => organization_not_found(),
        vault::Error::AlreadyExists => status(
            Code::AlreadyExists,
            Reason::OrganizationAlreadyExists,
            message,
        ),
        vault::Error::Revoked(at) => revoked(*at),
        vault::Error::Suspended(at) => suspended(*at),
        vault::Error::NotSuspended => status(
            Code::FailedPrecondition,
            Reason::OrganizationNotSuspended,
            format!("{message}, so there is nothing to resume"),
        ),
        vault::Error::RevisionConflict { current } => {
            let metadata = HashMap::from([("currentRevision".to_owned(), current.to_string())]);
            let message = format!("{message}; read it again, then redo the change");
            with(
                Code::Aborted,
                Reason::RevisionConflict,
                message,
                metadata,
                None,
            )
        }
        vault::Error::RequestIdReused => {
            let message = format!("{message}; use a new one for each new request");
            status(Code::InvalidArgument, Reason::RequestIdReused, message)
        }
        vault::Error::Corrupt(_)
        | vault::Error::Altered(_)
        | vault::Error::Older(_)
        | vault::Error::Newer(_) => {
            tracing::error!(%error, "the store is damaged");
            status(Code::DataLoss, Reason::RecordCorrupt, message)
        }
        vault::Error::Store(cause) => {
            tracing::error!(error = %cause, "the store failed");
            // Paths and the engine's words are for the log.
            retry(
                Code::Unavailable,
                Reason::StoreUnavailable,
                "the store cannot be used",
                RETRY,
            )
        }
        vault::Error::Kek(cause) => {
            tracing::error!(error = %cause, "the KEK failed");
            retry(
                Code::Unavailable,
                Reason::Sealed,
                "the store cannot be unsealed",
                RETRY,
            )
        }
        vault::Error::Busy(_) => retry(
            Code::ResourceExhausted,
            Reason::LimitReached,
            message,
            RETRY,
        ),
        vault::Error::Crypto(_) | vault::Error::Unreadable(_) => {
            status(Code::Internal, Reason::Internal, message)
        }
    }
}

fn rejected(rejection: &Rejection) -> Status {
    let reason = match rejection.kind {
        RejectionKind::CredentialRejected => Reason::CredentialRejected,
        RejectionKind::CredentialExpired => Reason::CredentialExpired,
        RejectionKind::CredentialRevoked => Reason::CredentialRevoked,
        RejectionKind::ApplicationNotFound => Reason::ApplicationNotFound,
        RejectionKind::ApplicationDisabled => Reason::ApplicationDisabled,
        RejectionKind::TenantUnavailable => Reason::TenantUnavailable,
        RejectionKind::WrongCloud => Reason::WrongCloud,
        RejectionKind::ResourceUnavailable => Reason::ResourceUnavailable,
        RejectionKind::ConsentRequired => Reason::ConsentRequired,
        RejectionKind::BlockedByPolicy => Reason::BlockedByPolicy,
        RejectionKind::ClockSkew => Reason::ClockSkew,
        // Throttling and trouble are errors of their own, which say when to ask again; as rejections
        // they do not get here.
        RejectionKind::Throttled | RejectionKind::Transient | RejectionKind::Other => {
            Reason::IdpRejected
        }
    };
    let support = &rejection.support;
    let code = rejection.code.map(|code| code.to_string());
    let metadata = [
        ("aadstsCode", code.clone()),
        ("traceId", support.trace_id.clone()),
        ("correlationId", support.correlation_id.clone()),
        ("timestamp", support.timestamp.clone()),
        (
            "credentialVersion",
            rejection
                .credential_version
                .map(|version| version.to_string()),
        ),
    ];
    let metadata: HashMap<_, _> = metadata
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect();
    let mut details = ErrorDetails::with_error_info(reason.reason(), pb::ERROR_DOMAIN, metadata);
    if let Some(code) = code {
        details.add_help_link(rejection.remedy, format!("{AADSTS_PAGE}{code}"));
    }
    let message = format!("{rejection}; {}", rejection.remedy);
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

#[cfg(test)]
mod tests;
