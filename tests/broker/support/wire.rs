//! Requests as bytes, for what no correct client would send.

use std::str::FromStr as _;

use prost::{
    bytes::{Buf as _, BufMut as _},
    encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint},
};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// Calls an RPC, named as `/package.Service/Method`, with a message that is whatever these bytes are.
pub(crate) async fn call(
    channel: &Channel,
    rpc: &str,
    message: Vec<u8>,
) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("connects");
    let path = PathAndQuery::from_str(rpc).expect("a path");
    let answer = grpc.unary(Request::new(message), path, Verbatim).await?;
    Ok(answer.into_inner())
}

/// A codec that does nothing.
#[derive(Clone, Copy, Debug)]
struct Verbatim;

impl Codec for Verbatim {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Verbatim {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Verbatim {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// What a field is given.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing.
    Absent,
    /// Once each, in a row.
    Bytes(Vec<Vec<u8>>),
    /// A number or an enum value.
    Number(u64),
}

/// A message with one field replaced; `path` has the numbers of the fields on the way to it.
pub(crate) fn replaced(message: &[u8], path: &[u32], value: &Value) -> Vec<u8> {
    let (&tag, below) = path.split_first().expect("a path names a field");
    let mut result = Vec::new();
    let mut inner = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let before = rest;
        let (found, wire_type) = decode_key(&mut rest).expect("a valid message");
        match wire_type {
            WireType::Varint => drop(decode_varint(&mut rest)),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest).expect("a valid message");
                let length = usize::try_from(length).expect("a short message");
                if found == tag {
                    inner = rest[..length].to_vec();
                }
                rest.advance(length);
            }
            other => panic!("none of our messages has a field of type {other:?}"),
        }
        if found != tag {
            result.extend_from_slice(&before[..before.len() - rest.len()]);
        }
    }
    let value = if below.is_empty() {
        value.clone()
    } else {
        Value::Bytes(vec![replaced(&inner, below, value)])
    };
    append(&mut result, tag, &value);
    result
}

fn append(message: &mut Vec<u8>, tag: u32, value: &Value) {
    match value {
        Value::Absent => {}
        Value::Number(number) => {
            encode_key(tag, WireType::Varint, message);
            encode_varint(*number, message);
        }
        Value::Bytes(items) => {
            for item in items {
                encode_key(tag, WireType::LengthDelimited, message);
                encode_varint(item.len() as u64, message);
                message.extend_from_slice(item);
            }
        }
    }
}
