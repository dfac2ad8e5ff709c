//! Every reason of the contract is given by something that can happen, with the code that the
//! contract says.

mod cause;
mod stored;

use kodo_broker::{
    pb::{
        self,
        v1::{ErrorReason, Resource},
    },
    simulator::fault::Fault,
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{WRONG_SECRET, reason};

/// Makes the broker give a reason. What cannot be made to happen has no place in the contract.
async fn provoke(reason: ErrorReason) -> Status {
    use ErrorReason as R;
    match reason {
        R::Unspecified => panic!("never sent"),
        R::FieldInvalid => cause::call(Resource::Unspecified).await,
        R::PeerIdentityInvalid => cause::without_identity().await,
        R::CallerNotAuthorized => cause::list_as_worker().await,
        R::ResourceNotAllowed => cause::with_a_grant_for_graph_only().await,
        R::OrganizationNotFound => cause::call(Resource::Graph).await,
        R::OrganizationAlreadyExists => cause::register_twice().await,
        R::OrganizationRevoked => cause::after_revocation().await,
        R::OrganizationSuspended => cause::while_suspended().await,
        R::OrganizationNotSuspended => cause::resume_an_active_one().await,
        R::RevisionConflict => cause::rotate_from(7).await,
        R::RequestIdReused => cause::reuse_request_id().await,
        R::CredentialRejected => cause::register_with(WRONG_SECRET).await,
        R::CredentialExpired => cause::refused_with("invalid_client", 7_000_222).await,
        R::CredentialRevoked => cause::refused_with("invalid_client", 7_000_214).await,
        R::CertificateRequired => cause::with_secret(Resource::Sharepoint).await,
        R::ApplicationNotFound => cause::refused_with("unauthorized_client", 700_016).await,
        R::ApplicationDisabled => cause::refused_with("unauthorized_client", 7_000_112).await,
        R::TenantUnavailable => cause::refused_with("invalid_request", 90_002).await,
        R::WrongCloud => cause::refused_with("invalid_request", 900_382).await,
        R::ResourceUnavailable => cause::refused_with("invalid_resource", 500_011).await,
        R::ConsentRequired => cause::refused_with("invalid_grant", 65_001).await,
        R::BlockedByPolicy => cause::refused_with("interaction_required", 53_003).await,
        R::SharepointHostNotListed => cause::with_a_foreign_host().await,
        R::SharepointHostUnknown => cause::without_sharepoint().await,
        R::ClockSkew => cause::half_an_hour_late().await,
        R::IdpRejected => cause::refused_with("invalid_request", 123_456).await,
        R::IdpThrottled => cause::answered(Fault::throttled(Some(1))).await,
        R::IdpUnreachable => cause::answered(Fault::html(503).times(2)).await,
        R::IdpAnswerInvalid => cause::answered(Fault::html(200)).await,
        R::LimitReached => cause::with_one_slot().await,
        R::StoreUnavailable => stored::without_the_number_of_its_commit().await,
        R::Sealed => stored::under_another_kek().await,
        R::RecordCorrupt => stored::with_a_bit_flipped().await,
        R::ShuttingDown => cause::changed_again_and_again().await,
        R::Internal => stored::with_a_key_that_cannot_sign().await,
        R::DelegatedAccessUnavailable => cause::in_the_name_of_a_user().await,
        R::AuditUnavailable => cause::with_a_full_audit_device().await,
    }
}

#[tokio::test]
async fn every_reason_is_given_by_something_with_the_code_of_the_contract() {
    let mut walked = 0;
    for (name, promise) in promises() {
        let expected = ErrorReason::from_str_name(&name).expect("of the same descriptors");
        if expected == ErrorReason::Unspecified {
            continue;
        }
        let status = provoke(expected).await;
        assert_eq!(reason(&status), Some(expected), "{status:?}");
        assert_eq!(screaming(status.code()), promise.code, "{name}: {status:?}");
        let waiting_helps = status.get_details_retry_info().is_some();
        assert_eq!(waiting_helps, promise.with_retry_info, "{name}: {status:?}");
        assert!(status.message().len() > 15, "{name}: {}", status.message());
        walked += 1;
    }
    assert!(walked > 30, "{walked}");
}

/// What the comment of a reason says.
struct Promise {
    code: String,
    with_retry_info: bool,
}

/// All values of the enum with what their comments begin with: `UNAVAILABLE with RetryInfo. …`.
fn promises() -> Vec<(String, Promise)> {
    /// Numbers of fields in `descriptor.proto`: `FileDescriptorProto.enum_type` and
    /// `EnumDescriptorProto.value`.
    const ENUM: i32 = 5;
    const VALUE: i32 = 2;
    let files = FileDescriptorSet::decode(pb::DESCRIPTORS)
        .expect("made by our own build")
        .file;
    let declares = |file: &&prost_types::FileDescriptorProto| {
        file.enum_type
            .first()
            .is_some_and(|first| first.name() == "ErrorReason")
    };
    let file = files
        .iter()
        .find(declares)
        .expect("ErrorReason is declared");
    let locations = &file
        .source_code_info
        .as_ref()
        .expect("comments are kept")
        .location;
    let promise = |at: usize| {
        let at = i32::try_from(at).expect("a few");
        let path = [ENUM, 0, VALUE, at];
        let location = locations.iter().find(|location| location.path == path);
        let comment = location.expect("it has a place").leading_comments();
        let first = comment.trim().split('.').next().unwrap_or_default();
        Promise {
            code: first.trim_end_matches(" with RetryInfo").to_owned(),
            with_retry_info: first.ends_with(" with RetryInfo"),
        }
    };
    let values = file.enum_type[0].value.iter().enumerate();
    values
        .map(|(at, value)| (value.name().to_owned(), promise(at)))
        .collect()
}

/// `FailedPrecondition` as `FAILED_PRECONDITION`.
fn screaming(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
