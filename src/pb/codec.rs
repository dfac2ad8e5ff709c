//! The codec of the generated code: prost's, but a request that is no protobuf of its type (text that
//! is not UTF-8, for one) is the caller's `INVALID_ARGUMENT` with the field's name, where tonic's own
//! codec blames the server with `INTERNAL`.

use std::{any::type_name, marker::PhantomData};

use prost::{DecodeError, Message};
use tonic::{
    Code, Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{ERROR_DOMAIN, v1::ErrorReason};

/// Encodes `E`, decodes `D`.
#[derive(Debug)]
pub struct ProtobufCodec<E, D>(PhantomData<(E, D)>);

/// Decodes `D`.
#[derive(Debug)]
pub struct ProtobufDecoder<D>(PhantomData<D>);

impl<E, D> Default for ProtobufCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for ProtobufCodec<E, D>
where
    E: Message + Send + 'static,
    D: Message + Default + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = ProstEncoder<E>;
    type Decoder = ProtobufDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProtobufDecoder(PhantomData)
    }
}

impl<D: Message + Default> Decoder for ProtobufDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let decoded = D::decode(buf);
        decoded.map(Some).map_err(|error| undecodable::<D>(&error))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// tonic allocates a buffer for each call, of 8 KiB if nothing else is said, and a stream keeps it for
/// hours. Messages that are longer have it grow.
fn buffers() -> BufferSettings {
    const BUFFER_BYTES: usize = 1024;
    /// tonic's default: so much of a stream is sent at once.
    const YIELD_BYTES: usize = 32 * 1024;
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

fn undecodable<D>(error: &DecodeError) -> Status {
    // The client decodes answers with this too, and those are not the caller's fault.
    if !type_name::<D>().ends_with("Request") {
        return Status::internal("the answer cannot be decoded; is the broker of another version?");
    }
    let field = field(&error.to_string());
    let why = "cannot be decoded: it must be as in the .proto file, and text must be UTF-8";
    let mut details =
        ErrorDetails::with_error_info(ErrorReason::FieldInvalid.reason(), ERROR_DOMAIN, []);
    details.add_bad_request_violation(&field, why);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {why}"), details)
}

/// The path of the field that prost's message names, as in `… message: GetTokenRequest.resource: …`.
/// Nothing else of it is kept.
fn field(error: &str) -> String {
    let name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let steps = error.split(": ").filter_map(|step| step.split_once('.'));
    let steps: Vec<_> = steps
        .filter(|(message, field)| name(message) && name(field))
        .collect();
    let mut path = Vec::new();
    // The innermost comes first.
    for (message, field) in steps.into_iter().rev() {
        // prost names the `oneof` and not which of its fields; the message of that field tells.
        if path.last().is_some_and(|last| last == "kind") {
            path.pop();
            path.push(snake_case(
                message.strip_suffix("Credential").unwrap_or(message),
            ));
        }
        path.push(field.to_owned());
    }
    if path.is_empty() {
        "request".to_owned()
    } else {
        path.join(".")
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use prost::bytes::Bytes;

    use super::*;
    use crate::pb::{admin::v1 as admin, v1};

    fn name<D: Message + Default>(bytes: &'static [u8]) -> String {
        let error = D::decode(Bytes::from_static(bytes))
            .err()
            .expect("is no message");
        let status = undecodable::<D>(&error);
        let details = status.get_error_details();
        let violations = details
            .bad_request()
            .map(|bad| bad.field_violations.clone());
        violations
            .unwrap_or_default()
            .first()
            .map(|v| v.field.clone())
            .unwrap_or_default()
    }

    #[test]
    fn the_field_of_text_that_is_not_utf_8_is_named() {
        assert_eq!(
            name::<v1::GetTokenRequest>(b"\x0a\x01\xff"),
            "organization_id"
        );
        let nested = b"\x3a\x05\x0a\x03\x0a\x01\xff";
        assert_eq!(
            name::<admin::RegisterOrganizationRequest>(nested),
            "credential.client_secret.value"
        );
        let nested = b"\x3a\x05\x1a\x03\x12\x01\xff";
        assert_eq!(
            name::<admin::RegisterOrganizationRequest>(nested),
            "credential.pkcs12_certificate.password"
        );
    }

    #[test]
    fn what_is_no_protobuf_at_all_is_the_request() {
        assert_eq!(name::<v1::GetTokenRequest>(b"\xff"), "request");
    }

    #[test]
    fn an_answer_that_cannot_be_decoded_is_no_fault_of_the_caller() {
        let bytes = Bytes::from_static(b"\x0a\x01\xff");
        let error = v1::GetTokenResponse::decode(bytes).expect_err("is no message");
        assert_eq!(
            undecodable::<v1::GetTokenResponse>(&error).code(),
            Code::Internal
        );
    }
}
