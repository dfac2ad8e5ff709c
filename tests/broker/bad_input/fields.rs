//! The fields of all requests, read from the descriptors that the broker is built from.

use std::collections::HashMap;

use kodo_broker::pb;
use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// A field that a caller may fill.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// `/package.Service/Method`.
    pub(super) rpc: String,
    /// As violations name it: `credential.client_secret.value`.
    pub(super) name: String,
    /// The numbers on the way to it.
    pub(super) path: Vec<u32>,
    pub(super) kind: Kind,
    /// Whether its comment says so.
    pub(super) required: bool,
    pub(super) repeated: bool,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bytes,
    Bool,
    Enum,
    PageSize,
    HttpStatus,
    /// Any number is one, and none is no limit.
    Rate,
    /// The only `uint64`.
    Revision,
    Duration,
    Timestamp,
    /// A map of texts.
    Labels,
    /// Names of fields.
    Mask,
    /// When something ends that lasts a day at most.
    End,
    /// One of ours. Its fields are fields too.
    Message,
}

/// A message with the comments of its fields.
struct Described<'a> {
    message: &'a DescriptorProto,
    comments: Vec<String>,
}

/// All fields of all requests.
pub(super) fn of_all_requests() -> Vec<Field> {
    let set = FileDescriptorSet::decode(pb::DESCRIPTORS).expect("made by our own build");
    let mut messages = HashMap::new();
    for file in &set.file {
        for (at, message) in file.message_type.iter().enumerate() {
            let name = format!(".{}.{}", file.package(), message.name());
            let comments = comments(file, at, message);
            messages.insert(name, Described { message, comments });
        }
    }
    let mut fields = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let rpc = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let whole = Field {
                    rpc,
                    name: String::new(),
                    path: Vec::new(),
                    kind: Kind::Message,
                    required: true,
                    repeated: false,
                };
                collect(&messages, method.input_type(), &whole, &mut fields);
            }
        }
    }
    fields
}

/// Comments of a message's fields. Numbers are those of `descriptor.proto`:
/// `FileDescriptorProto.message_type` and `DescriptorProto.field`.
fn comments(file: &FileDescriptorProto, at: usize, message: &DescriptorProto) -> Vec<String> {
    const MESSAGE: i32 = 4;
    const FIELD: i32 = 2;
    let number = |at: usize| i32::try_from(at).expect("a few");
    let of_field = |field: usize| {
        let path = [MESSAGE, number(at), FIELD, number(field)];
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let mut here = locations.filter(|location| location.path == path);
        let found = here
            .next()
            .map(|location| location.leading_comments().to_owned());
        found.unwrap_or_default()
    };
    (0..message.field.len()).map(of_field).collect()
}

fn collect(
    messages: &HashMap<String, Described<'_>>,
    of: &str,
    parent: &Field,
    fields: &mut Vec<Field>,
) {
    let described = &messages[of];
    for (field, comment) in described.message.field.iter().zip(&described.comments) {
        let name = if parent.name.is_empty() {
            field.name().to_owned()
        } else {
            format!("{}.{}", parent.name, field.name())
        };
        let mut path = parent.path.clone();
        path.push(u32::try_from(field.number()).expect("positive"));
        let one_of_several = field.oneof_index.is_some() && !field.proto3_optional();
        let found = Field {
            rpc: parent.rpc.clone(),
            name,
            path,
            kind: kind(field),
            required: comment.trim_end().ends_with("Required."),
            repeated: field.label() == Label::Repeated,
        };
        if found.kind == Kind::Message {
            collect(messages, field.type_name(), &found, fields);
        }
        // An empty variant of a `oneof` lacks its required field, which is a case of that field.
        if !one_of_several {
            fields.push(found);
        }
    }
}

fn kind(field: &FieldDescriptorProto) -> Kind {
    match (field.r#type(), field.type_name()) {
        (Type::String, _) => Kind::Text,
        (Type::Bytes, _) => Kind::Bytes,
        (Type::Bool, _) => Kind::Bool,
        (Type::Enum, _) => Kind::Enum,
        (Type::Uint32, _) if field.name() == "page_size" => Kind::PageSize,
        (Type::Uint32, _) if field.name() == "http_status" => Kind::HttpStatus,
        (Type::Uint32, _) if field.name() == "keys_per_second_max" => Kind::Rate,
        (Type::Uint64, _) if field.name() == "revision" => Kind::Revision,
        (Type::Message, ".google.protobuf.Duration") => Kind::Duration,
        (Type::Message, ".google.protobuf.Timestamp") if field.name() == "end_time" => Kind::End,
        (Type::Message, ".google.protobuf.Timestamp") => Kind::Timestamp,
        (Type::Message, ".google.protobuf.FieldMask") => Kind::Mask,
        (Type::Message, name) if name.ends_with(".LabelsEntry") => Kind::Labels,
        (Type::Message, name) if name.starts_with(".kodo.") => Kind::Message,
        other => panic!("{other:?} is new: tell what its wrong values are"),
    }
}
