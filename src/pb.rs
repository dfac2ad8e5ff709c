//! The generated code of `proto/`, seen by the rest of the crate only through this file, with a
//! redacted `Debug` for every message that carries a secret or a token.
//!
//! Only `rpc` and `client` (and what is built on `client`) may use it.
#![cfg_attr(
    any(feature = "client", feature = "server"),
    expect(clippy::allow_attributes_without_reason, reason = "generated code")
)]
#![cfg_attr(
    feature = "server",
    expect(
        clippy::allow_attributes,
        clippy::too_many_lines,
        reason = "generated code"
    )
)]

#[cfg(any(feature = "client", feature = "server"))]
pub mod codec;

/// The worker's contract, `kodo.broker.v1`.
pub mod v1 {
    tonic::include_proto!("kodo.broker.v1");
}

/// The operator's contract.
pub mod admin {
    /// `kodo.broker.admin.v1`.
    pub mod v1 {
        tonic::include_proto!("kodo.broker.admin.v1");
    }
}

/// The compiled descriptor set, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The `domain` of every `google.rpc.ErrorInfo` of the broker.
pub const ERROR_DOMAIN: &str = "broker.kodo";

/// What stands for a secret in debug output.
const REDACTED: &str = "[redacted]";

impl v1::ErrorReason {
    /// The `reason` of the `google.rpc.ErrorInfo`: the value's name without its prefix.
    #[must_use]
    pub fn reason(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix("ERROR_REASON_").unwrap_or(name)
    }

    /// The value that a `google.rpc.ErrorInfo` names, `None` for one of a newer broker.
    #[must_use]
    pub fn from_reason(reason: &str) -> Option<Self> {
        Self::from_str_name(&format!("ERROR_REASON_{reason}"))
    }
}

impl std::fmt::Debug for v1::GetTokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GetTokenResponse")
            .field("access_token", &REDACTED)
            .field("token_type", &self.token_type)
            .field("expire_time", &self.expire_time)
            .field("refresh_time", &self.refresh_time)
            .field("resource_url", &self.resource_url)
            .field("client_id", &self.client_id)
            .field("credential_version", &self.credential_version)
            .field("fingerprint", &self.fingerprint)
            .finish()
    }
}

impl std::fmt::Debug for admin::v1::ClientSecretCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSecretCredential")
            .field("value", &REDACTED)
            .field("expire_time", &self.expire_time)
            .finish()
    }
}

impl std::fmt::Debug for admin::v1::PemCertificateCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PemCertificateCredential")
            .field("pem", &REDACTED)
            .finish()
    }
}

impl std::fmt::Debug for admin::v1::Pkcs12CertificateCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pkcs12CertificateCredential")
            .field("pfx", &REDACTED)
            .field("password", &REDACTED)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{admin::v1 as admin, v1};

    #[test]
    fn debug_of_a_message_with_a_secret_does_not_show_it() {
        let canary = "canary-6f1d2a";
        let token = v1::GetTokenResponse {
            access_token: canary.into(),
            ..Default::default()
        };
        let kinds = [
            admin::credential::Kind::ClientSecret(admin::ClientSecretCredential {
                value: canary.into(),
                expire_time: None,
            }),
            admin::credential::Kind::PemCertificate(admin::PemCertificateCredential {
                pem: canary.into(),
            }),
            admin::credential::Kind::Pkcs12Certificate(admin::Pkcs12CertificateCredential {
                pfx: canary.into(),
                password: canary.into(),
            }),
        ];
        let mut shown = format!("{token:?}");
        for kind in kinds {
            let credential = Some(admin::Credential { kind: Some(kind) });
            shown += &format!(
                "{:?}{:?}",
                admin::RegisterOrganizationRequest {
                    credential: credential.clone(),
                    ..Default::default()
                },
                admin::RotateCredentialRequest {
                    credential,
                    ..Default::default()
                },
            );
        }
        assert!(shown.contains("[redacted]"));
        assert!(!shown.contains(canary));
        assert!(!shown.contains(&format!("{:?}", canary.as_bytes())));
    }

    #[test]
    fn every_reason_survives_the_way_through_its_name() {
        for number in 0..64 {
            if let Ok(reason) = v1::ErrorReason::try_from(number) {
                assert_eq!(v1::ErrorReason::from_reason(reason.reason()), Some(reason));
            }
        }
        assert_eq!(v1::ErrorReason::IdpThrottled.reason(), "IDP_THROTTLED");
    }
}
