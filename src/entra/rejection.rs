//! What Entra's refusals mean, and what to do about each.
//!
//! Microsoft says: decide by the OAuth `error` and the HTTP status; AADSTS numbers are for people
//! and may change. So a number that the table knows is explained; one that it does not falls to the
//! safe class of its `error`. Numbers and meanings: Microsoft's page "Microsoft Entra
//! authentication and authorization error codes".

use std::fmt;

mod table;

use table::{Row, TABLE};

/// A refusal of Entra.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What it is about.
    pub kind: RejectionKind,
    /// The AADSTS number, if there was one.
    pub code: Option<u32>,
    /// The OAuth `error`.
    pub error: String,
    /// What happened, in a sentence.
    pub explanation: &'static str,
    /// What to do, in a sentence.
    pub remedy: &'static str,
    /// What Microsoft's support asks for.
    pub support: Support,
    /// Version of the credential that was refused, if it has one already.
    pub credential_version: Option<u64>,
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    /// Wrong secret, or a certificate that the application does not have.
    CredentialRejected,
    /// The secret or certificate has ended.
    CredentialExpired,
    /// The certificate was revoked.
    CredentialRevoked,
    /// No such application in the tenant.
    ApplicationNotFound,
    /// The application is disabled or of the wrong type.
    ApplicationDisabled,
    /// No such tenant, or it is blocked.
    TenantUnavailable,
    /// The tenant is in another cloud.
    WrongCloud,
    /// The API is not there for this tenant.
    ResourceUnavailable,
    /// Nobody has consented.
    ConsentRequired,
    /// A policy of the tenant forbids it.
    BlockedByPolicy,
    /// The clocks disagree.
    ClockSkew,
    /// Too many requests.
    Throttled,
    /// Entra itself is in trouble.
    Transient,
    /// Anything else.
    Other,
}

/// What Microsoft's support asks for. Identifies a request, tells no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Support {
    /// Entra's id of the request.
    pub trace_id: Option<String>,
    /// The id that joins several requests.
    pub correlation_id: Option<String>,
    /// Entra's time of it.
    pub timestamp: Option<String>,
}

impl Rejection {
    /// Classifies a refusal. `description` decides only where one number means two things; nothing
    /// of it is kept.
    #[must_use]
    pub fn new(error: &str, code: Option<u32>, description: &str, support: Support) -> Self {
        let row = code.and_then(known).or_else(|| by_error(error));
        let row = row.unwrap_or(&table::UNKNOWN);
        let row = match code {
            // "The key used is expired" comes under the number of "signature cannot be verified".
            Some(700_027) if description.contains("expired") => &table::CERTIFICATE_EXPIRED,
            _ => row,
        };
        Self {
            kind: row.kind,
            code,
            error: error.to_owned(),
            explanation: row.explanation,
            remedy: row.remedy,
            support,
            credential_version: None,
        }
    }
}

impl Rejection {
    /// The same, classified by the HTTP status too: 401 is for clients that did not authenticate (RFC
    /// 6749 §5.2). It decides only where neither number nor `error` is known, since the statuses of
    /// Entra drift.
    #[must_use]
    pub fn of_status(self, status: u16) -> Self {
        let row = match status {
            401 => &table::INVALID_CLIENT,
            _ => return self,
        };
        if self.code.and_then(known).is_some() || by_error(&self.error).is_some() {
            return self;
        }
        Self {
            kind: row.kind,
            explanation: row.explanation,
            remedy: row.remedy,
            ..self
        }
    }

    /// Whether it may only mean that a change has not reached all of Entra's servers: a new secret,
    /// certificate, federated credential, application or consent. That takes seconds, rarely minutes;
    /// outside such a window the refusal is final, and to retry it would be abuse.
    #[must_use]
    pub fn may_be_propagation(&self) -> bool {
        self.code
            .is_some_and(|code| table::PROPAGATING.contains(&code))
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "Entra refuses: {} (AADSTS{code})", self.explanation),
            None => write!(f, "Entra refuses: {} ({})", self.explanation, self.error),
        }
    }
}

fn known(code: u32) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.codes.contains(&code))
}

fn by_error(error: &str) -> Option<&'static Row> {
    Some(match error {
        "invalid_client" => &table::INVALID_CLIENT,
        "unauthorized_client" => &table::UNAUTHORIZED_CLIENT,
        // npm oidc-provider and RFC 8707 say `invalid_target` where Entra says `invalid_resource`.
        "invalid_resource" | "invalid_target" => &table::INVALID_RESOURCE,
        "invalid_tenant" => &table::INVALID_TENANT,
        "consent_required" => &table::CONSENT_REQUIRED,
        "interaction_required" => &table::INTERACTION_REQUIRED,
        // RFC 6749 §4.1.2.1 has the first two; the last is Entra's own.
        "temporarily_unavailable" | "server_error" | "request_timeout" => &table::TEMPORARY,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn kind(error: &str, code: impl Into<Option<u32>>) -> RejectionKind {
        Rejection::new(error, code.into(), "", Support::default()).kind
    }

    #[test]
    fn no_number_stands_in_two_rows() {
        let mut seen = HashSet::new();
        for code in TABLE.iter().flat_map(|row| row.codes) {
            assert!(seen.insert(code), "{code}");
        }
        assert!(seen.len() > 80, "{}", seen.len());
    }

    #[test]
    fn numbers_are_classified() {
        for (code, expected) in [
            (7_000_215, RejectionKind::CredentialRejected),
            (7_000_222, RejectionKind::CredentialExpired),
            (700_027, RejectionKind::CredentialRejected),
            (7_000_214, RejectionKind::CredentialRevoked),
            (700_016, RejectionKind::ApplicationNotFound),
            (7_000_112, RejectionKind::ApplicationDisabled),
            (90_002, RejectionKind::TenantUnavailable),
            (900_382, RejectionKind::WrongCloud),
            (500_011, RejectionKind::ResourceUnavailable),
            (65_001, RejectionKind::ConsentRequired),
            (700_022, RejectionKind::Other),
            (501_051, RejectionKind::ConsentRequired),
            (53_003, RejectionKind::BlockedByPolicy),
            (700_024, RejectionKind::ClockSkew),
            (50_196, RejectionKind::Throttled),
            (90_033, RejectionKind::Transient),
        ] {
            assert_eq!(kind("invalid_request", code), expected, "{code}");
        }
    }

    #[test]
    fn an_unknown_number_falls_to_the_class_of_its_error() {
        assert_eq!(kind("invalid_client", 1), RejectionKind::CredentialRejected);
        assert_eq!(
            kind("invalid_target", None),
            RejectionKind::ResourceUnavailable
        );
        assert_eq!(kind("temporarily_unavailable", 1), RejectionKind::Transient);
        assert_eq!(
            kind("interaction_required", 1),
            RejectionKind::BlockedByPolicy
        );
        assert_eq!(kind("what_is_this", 1), RejectionKind::Other);
    }

    #[test]
    fn where_nothing_else_is_known_the_status_decides() {
        let of = |error: &str, code: Option<u32>, status| {
            let rejection = Rejection::new(error, code, "", Support::default());
            rejection.of_status(status).kind
        };
        let refused = RejectionKind::CredentialRejected;
        assert_eq!(of("what_is_this", None, 401), refused);
        assert_eq!(of("what_is_this", Some(1), 401), refused);
        assert_eq!(of("what_is_this", Some(1), 400), RejectionKind::Other);
        assert_eq!(of("what_is_this", Some(1), 403), RejectionKind::Other);
        let consent = RejectionKind::ConsentRequired;
        assert_eq!(of("consent_required", Some(1), 401), consent);
        assert_eq!(of("what_is_this", Some(65_001), 401), consent);
        // Known, and known to be nothing that waiting or another credential changes.
        assert_eq!(
            of("invalid_request", Some(90_036), 401),
            RejectionKind::Other
        );
    }

    #[test]
    fn what_may_only_have_to_spread_is_told_from_what_is_final() {
        let of = |code| Rejection::new("invalid_client", code, "", Support::default());
        for code in table::PROPAGATING {
            assert!(known(*code).is_some(), "{code} is explained");
            assert!(of(Some(*code)).may_be_propagation(), "{code}");
        }
        for code in [None, Some(7_000_112), Some(53_003), Some(90_002), Some(1)] {
            assert!(!of(code).may_be_propagation(), "{code:?}");
        }
    }

    #[test]
    fn one_number_that_means_two_things_is_told_apart_by_its_text() {
        let expired = Rejection::new(
            "invalid_client",
            Some(700_027),
            "AADSTS700027: … [Reason - The key used is expired.",
            Support::default(),
        );
        assert_eq!(expired.kind, RejectionKind::CredentialExpired);
    }

    #[test]
    fn every_row_says_what_happened_and_what_to_do() {
        for row in TABLE {
            for sentence in [row.explanation, row.remedy] {
                assert!(
                    sentence.len() > 20 && !sentence.ends_with('.'),
                    "{sentence}"
                );
            }
        }
    }
}
