use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::SystemTime,
};

use super::*;
use crate::{
    entra::rejection::Support,
    kek::{self, KekId},
    sealed::CryptoFailed,
    store,
};

const PROTO: &str = include_str!("../../../proto/kodo/broker/v1/error_reason.proto");
const CANARY: &str = "canary-6f1d2a";
const KINDS: [RejectionKind; 14] = [
    RejectionKind::CredentialRejected,
    RejectionKind::CredentialExpired,
    RejectionKind::CredentialRevoked,
    RejectionKind::ApplicationNotFound,
    RejectionKind::ApplicationDisabled,
    RejectionKind::TenantUnavailable,
    RejectionKind::WrongCloud,
    RejectionKind::ResourceUnavailable,
    RejectionKind::ConsentRequired,
    RejectionKind::BlockedByPolicy,
    RejectionKind::ClockSkew,
    RejectionKind::Throttled,
    RejectionKind::Transient,
    RejectionKind::Other,
];

/// Causes of being sealed that may be over without a restart.
const PASSING: [Cause; 4] = [Cause::Opening, Cause::Kek, Cause::InUse, Cause::Anchor];

/// What the comment of a reason promises.
#[derive(Debug)]
struct Promise {
    codes: Vec<Code>,
    retry: bool,
}

fn code(name: &str) -> Option<Code> {
    Some(match name {
        "INVALID_ARGUMENT" => Code::InvalidArgument,
        "UNAUTHENTICATED" => Code::Unauthenticated,
        "PERMISSION_DENIED" => Code::PermissionDenied,
        "NOT_FOUND" => Code::NotFound,
        "ALREADY_EXISTS" => Code::AlreadyExists,
        "FAILED_PRECONDITION" => Code::FailedPrecondition,
        "ABORTED" => Code::Aborted,
        "RESOURCE_EXHAUSTED" => Code::ResourceExhausted,
        "UNAVAILABLE" => Code::Unavailable,
        "DEADLINE_EXCEEDED" => Code::DeadlineExceeded,
        "DATA_LOSS" => Code::DataLoss,
        "INTERNAL" => Code::Internal,
        _ => return None,
    })
}

/// The promises of the contract, by reason.
fn promises() -> BTreeMap<String, Promise> {
    let mut promises = BTreeMap::new();
    let mut comment = String::new();
    for line in PROTO.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("//") {
            comment += text;
        } else if let Some((name, _)) = line.split_once(" = ")
            && let Some(name) = name.strip_prefix("ERROR_REASON_")
        {
            let words = comment.split(|c: char| !c.is_ascii_uppercase() && c != '_');
            let promise = Promise {
                codes: words.filter_map(code).collect(),
                retry: comment.contains("with RetryInfo"),
            };
            promises.insert(name.to_owned(), promise);
            comment.clear();
        } else {
            comment.clear();
        }
    }
    let unspecified = promises.remove("UNSPECIFIED").expect("the first value");
    assert!(unspecified.codes.is_empty() && promises.len() >= 33);
    promises
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error says why");
    assert_eq!(info.domain, pb::ERROR_DOMAIN);
    info.reason.clone()
}

fn retries(status: &Status) -> Option<Duration> {
    let details = status.get_error_details();
    details.retry_info().and_then(|info| info.retry_delay)
}

fn rejection(kind: RejectionKind, code: Option<u32>) -> Rejection {
    let support = Support {
        trace_id: Some("trace".into()),
        correlation_id: None,
        timestamp: Some("2026-02-01 10:00:00Z".into()),
    };
    let rejection = Rejection::new("invalid_client", code, CANARY, support);
    Rejection { kind, ..rejection }
}

fn of_entra() -> Vec<entra::Error> {
    let host = || "login.example".into();
    let mut errors = vec![
        entra::Error::Throttled {
            retry_after: Duration::from_secs(17),
        },
        entra::Error::Unreachable {
            host: host(),
            trouble: entra::Trouble::Timeout,
            reason: "no answer in time".into(),
            retry_after: None,
        },
        entra::Error::AnswerInvalid {
            host: host(),
            reason: "it has no access_token",
        },
        entra::Error::Assertion,
        entra::Error::Busy,
    ];
    for kind in KINDS {
        for code in [Some(7_000_215), None] {
            errors.push(entra::Error::Rejected(rejection(kind, code).into()));
        }
    }
    errors
}

fn of_store() -> Vec<store::Error> {
    let path = || PathBuf::from(format!("/var/lib/{CANARY}"));
    vec![
        store::Error::Conflict,
        store::Error::Failed(CANARY.into()),
        store::Error::Unopenable {
            directory: path(),
            reason: CANARY.into(),
        },
        store::Error::InUse(path()),
        store::Error::OutOfLimits,
    ]
}

fn of_kek() -> Vec<kek::Error> {
    vec![
        kek::Error::File {
            file: format!("/etc/{CANARY}").into(),
            reason: CANARY.into(),
        },
        kek::Error::UnknownKek(KekId::parse(CANARY).expect("an id")),
        kek::Error::Unavailable {
            kek: CANARY.into(),
            reason: CANARY.into(),
        },
        kek::Error::Unusable {
            kek: CANARY.into(),
            reason: CANARY.into(),
        },
        kek::Error::CryptoFailed,
    ]
}

fn of_the_vault() -> Vec<vault::Error> {
    let mut errors = vec![
        vault::Error::NotFound,
        vault::Error::AlreadyExists,
        vault::Error::Revoked(SystemTime::UNIX_EPOCH),
        vault::Error::Suspended(SystemTime::UNIX_EPOCH),
        vault::Error::NotSuspended,
        vault::Error::RevisionConflict { current: 7 },
        vault::Error::RequestIdReused,
        vault::Error::Corrupt("a record that is cut off"),
        vault::Error::Newer(2),
        vault::Error::Crypto(CryptoFailed),
        kek::Error::DoesNotOpen.into(),
    ];
    errors.extend(of_store().into_iter().map(vault::Error::Store));
    errors.extend(of_kek().into_iter().map(vault::Error::Kek));
    errors
}

/// Every error that can become a status, by every way.
fn statuses() -> Vec<Status> {
    let mut statuses = vec![
        fields_invalid(vec![FieldViolation::new("tenant", "must be a GUID")]),
        fields_invalid(vec![]),
        deadline_exceeded(Reason::IdpUnreachable),
        organization_not_found(),
        no_delegated_access(),
        audit::Unavailable.into(),
    ];
    let unidentified = [
        Unidentified::Unreadable,
        Unidentified::Authority,
        Unidentified::KeyUsage,
        Unidentified::NotOneUri,
        Unidentified::NoSpiffeId,
        Unidentified::ForeignTrustDomain,
        Unidentified::NoProxy,
        Unidentified::NoHeader,
        Unidentified::RepeatedHeader,
        Unidentified::LongHeader,
        Unidentified::Malformed,
        Unidentified::By,
        Unidentified::ManyElements,
        Unidentified::NotOneForwardedUri,
        Unidentified::NoServiceAccount,
    ];
    statuses.extend(unidentified.map(Status::from));
    statuses.extend(PASSING.map(sealed));
    let denied = [
        Denied::Organization,
        Denied::Action,
        Denied::Labels,
        Denied::Resource,
        Denied::Purpose,
        Denied::Access,
        Denied::Job,
    ];
    statuses.extend(denied.map(Status::from));
    let tokens = [
        token::Error::NotFound,
        token::Error::Revoked(SystemTime::UNIX_EPOCH),
        token::Error::Suspended(SystemTime::UNIX_EPOCH),
        token::Error::CertificateRequired,
        token::Error::HostNotListed,
        token::Error::HostUnknown,
        token::Error::Full,
        token::Error::Interrupted,
    ];
    statuses.extend(tokens.map(Status::from));
    for error in of_entra() {
        statuses.push(token::Error::Entra(error.clone()).into());
        statuses.push(registration::Error::Entra(error.clone()).into());
        statuses.push(error.into());
    }
    statuses.extend(of_the_vault().into_iter().map(Status::from));
    let errors = of_the_vault().into_iter();
    statuses.extend(errors.map(|error| token::Error::from(error).into()));
    let errors = of_the_vault().into_iter();
    statuses.extend(errors.map(|error| registration::Error::Vault(error).into()));
    statuses
}

#[test]
fn every_reason_has_the_code_that_the_contract_names() {
    let promises = promises();
    for status in statuses() {
        let reason = reason(&status);
        let promise = &promises[&reason];
        assert!(
            promise.codes.contains(&status.code()),
            "{reason} is {:?}, promised {promise:?}",
            status.code()
        );
    }
}

#[test]
fn the_contract_names_one_code_but_for_calls_that_take_too_long() {
    for (reason, promise) in promises() {
        let expected = if reason == "IDP_UNREACHABLE" { 2 } else { 1 };
        assert_eq!(promise.codes.len(), expected, "{reason} {promise:?}");
    }
}

#[test]
fn every_reason_of_the_contract_is_sent() {
    let sent: BTreeSet<_> = statuses().iter().map(reason).collect();
    let promised: BTreeSet<_> = promises().into_keys().collect();
    assert_eq!(sent, promised);
}

#[test]
fn waiting_is_advised_exactly_where_the_contract_says_so() {
    let promises = promises();
    for status in statuses() {
        let reason = reason(&status);
        assert_eq!(
            retries(&status).is_some(),
            promises[&reason].retry,
            "{reason}"
        );
    }
}

#[test]
fn a_sealed_broker_advises_to_wait_unless_only_its_operator_can_help() {
    for cause in PASSING {
        assert!(
            cause.may_pass() && retries(&sealed(cause)).is_some(),
            "{cause:?}"
        );
    }
    let status = sealed(Cause::Store);
    assert_eq!(reason(&status), "SEALED");
    assert_eq!((status.code(), retries(&status)), (Code::Unavailable, None));
    assert!(status.message().contains("operator"), "{status:?}");
}

#[test]
fn how_long_to_wait_is_what_entra_says() {
    let throttled = entra::Error::Throttled {
        retry_after: Duration::from_secs(17),
    };
    assert_eq!(retries(&throttled.into()), Some(Duration::from_secs(17)));
}

#[test]
fn no_status_tells_paths_or_foreign_text() {
    for status in statuses() {
        let shown = format!("{status:?}");
        let details = String::from_utf8_lossy(status.details());
        assert!(
            !shown.contains(CANARY) && !details.contains(CANARY),
            "{shown}"
        );
        assert!(!status.message().contains('/'), "{}", status.message());
    }
}

#[test]
fn every_status_says_something() {
    for status in statuses() {
        let message = status.message();
        assert!(message.len() > 15 && !message.ends_with('.'), "{message}");
        assert!(message.chars().all(|c| !c.is_control()), "{message}");
    }
}

#[test]
fn an_unknown_and_a_forbidden_organization_are_the_same_to_the_byte() {
    let expected: Status = Denied::Organization.into();
    for status in [
        organization_not_found(),
        token::Error::NotFound.into(),
        token::Error::from(vault::Error::NotFound).into(),
        vault::Error::NotFound.into(),
        registration::Error::from(vault::Error::NotFound).into(),
    ] {
        assert_eq!(status.code(), expected.code());
        assert_eq!(status.message(), expected.message());
        assert_eq!(status.details(), expected.details());
        assert_eq!(format!("{status:?}"), format!("{expected:?}"));
    }
}

#[test]
fn no_rejection_is_the_broker_in_trouble() {
    for kind in KINDS {
        let status = Status::from(entra::Error::Rejected(rejection(kind, None).into()));
        assert_eq!(status.code(), Code::FailedPrecondition, "{kind:?}");
    }
}

#[test]
fn a_rejection_comes_with_its_number_and_where_it_is_explained() {
    let of = |code| {
        let rejection = rejection(RejectionKind::CredentialRejected, code);
        let status = Status::from(entra::Error::Rejected(rejection.clone().into()));
        assert!(status.message().contains(rejection.explanation));
        assert!(status.message().contains(rejection.remedy));
        status.get_error_details()
    };
    let details = of(Some(7_000_215));
    let metadata = &details.error_info().expect("a reason").metadata;
    let expected = [
        ("aadstsCode", "7000215"),
        ("traceId", "trace"),
        ("timestamp", "2026-02-01 10:00:00Z"),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(*metadata, HashMap::from(expected));
    let links = &details.help().expect("a link").links;
    assert_eq!(
        links.iter().map(|link| &*link.url).collect::<Vec<_>>(),
        ["https://login.microsoftonline.com/error?code=7000215"]
    );
    assert!(of(None).help().is_none());
}

#[test]
fn a_conflict_tells_the_revision_and_fields_are_named() {
    let conflict = Status::from(vault::Error::RevisionConflict { current: 7 });
    let details = conflict.get_error_details();
    let metadata = &details.error_info().expect("a reason").metadata;
    assert_eq!(
        metadata.get("currentRevision").map(String::as_str),
        Some("7")
    );

    let violations = vec![
        FieldViolation::new("tenant", "must be a GUID"),
        FieldViolation::new("client_id", "must be a GUID"),
    ];
    let status = fields_invalid(violations.clone());
    assert_eq!(status.message(), "tenant: must be a GUID");
    let details = status.get_error_details();
    let request = details.bad_request().expect("names the fields");
    let shown = |violations: &[FieldViolation]| format!("{violations:?}");
    assert_eq!(shown(&request.field_violations), shown(&violations));
}
