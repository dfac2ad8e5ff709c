//! `GetToken` on the short way: the request is read and the answer is written here, without tonic's
//! codec and its streams of messages.
//!
//! Only a request as clients usually send it goes this way. Anything else (compressed, too long, cut
//! off, not to be decoded) is handed back with what was read of it, and gets tonic's answer.

use http_body_util::Full;
use hyper::{Method, Request, Response, body::Bytes};
use prost::{
    Message as _,
    bytes::{BufMut as _, BytesMut},
    encoding::{self, WireType, encode_key, encode_varint},
};
use prost_types::Timestamp;

use super::{
    TOKEN_REQUEST_BYTES_MAX, deadline,
    listener::Peer,
    request_body::RequestBody,
    status,
    token_service::{GET_TOKEN, TokenService},
    unary::{self, Answer, PREFIX_BYTES, read, response},
};
use crate::{
    clock::Clock,
    hex::{self, Hex},
    pb::v1::{GetTokenRequest, GetTokenResponse},
    token::Token,
};

/// The path of the RPC.
pub(super) const PATH: &str = "/kodo.broker.v1.TokenService/GetToken";
/// What every token is.
const TOKEN_TYPE: &str = "Bearer";
/// Enough for every field but the token, tags and lengths included.
const OTHER_FIELDS_BYTES: usize = 512;

/// Answers a request, or hands it back.
pub(super) async fn answer(
    service: &TokenService,
    peer: &Peer,
    request: Request<RequestBody>,
) -> Result<Response<Answer>, Request<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let usual = head.method == Method::POST && !head.headers.contains_key("grpc-encoding");
    let read = match read(body, TOKEN_REQUEST_BYTES_MAX).await {
        Ok(read) => read,
        Err(status) => {
            service.metrics.called(GET_TOKEN, status::reason(&status));
            return Ok(unary::answer(status.into_http()));
        }
    };
    let message = read.message().filter(|_| usual);
    let Some(request) = message.and_then(|message| GetTokenRequest::decode(message).ok()) else {
        return Err(Request::from_parts(head, Full::new(read.into_bytes())));
    };
    // Boxed, so that a call whose request does not come takes little.
    let token = Box::pin(service.hand_out(peer, request, deadline(&head.headers)));
    Ok(match token.await {
        Ok((token, delivery)) => response(encoded(&token, service.clock), delivery),
        Err(status) => unary::answer(status.into_http()),
    })
}

/// The answer with a token.
pub(super) fn message(token: &Token, clock: Clock) -> GetTokenResponse {
    GetTokenResponse {
        // Exposed: handing it to an authorized caller is what it is for.
        access_token: token.access_token.expose().to_owned(),
        token_type: TOKEN_TYPE.to_owned(),
        expire_time: Some(clock.wall(token.expires_at).into()),
        refresh_time: Some(clock.wall(token.refresh_at).into()),
        resource_url: token.audience.url().to_owned(),
        client_id: token.client_id.to_string(),
        credential_version: token.credential_version,
        fingerprint: Hex(&token.fingerprint).to_string(),
    }
}

/// The same as bytes, with its prefix. Written from the token itself: to make the
/// message first would copy every text once more.
pub(super) fn encoded(token: &Token, clock: Clock) -> Bytes {
    // Exposed: handing it to an authorized caller is what it is for.
    let access_token = token.access_token.expose();
    let mut to = BytesMut::with_capacity(access_token.len() + OTHER_FIELDS_BYTES);
    to.put_bytes(0, PREFIX_BYTES);
    put_text(&mut to, 1, access_token);
    put_text(&mut to, 2, TOKEN_TYPE);
    let [expire_time, refresh_time] = clock.walls([token.expires_at, token.refresh_at]);
    encoding::message::encode(3, &Timestamp::from(expire_time), &mut to);
    encoding::message::encode(4, &Timestamp::from(refresh_time), &mut to);
    put_text(&mut to, 5, token.audience.url());
    put_text(&mut to, 6, &token.client_id.to_string());
    if token.credential_version != 0 {
        encode_key(7, WireType::Varint, &mut to);
        encode_varint(token.credential_version, &mut to);
    }
    put_text(&mut to, 8, hex::digits(&token.fingerprint, &mut [0; 64]));
    let length = to.len() - PREFIX_BYTES;
    let length = u32::try_from(length)
        .expect("a token is far below 4 GiB: the endpoint's answer is bounded");
    to[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    to.freeze()
}

/// A text, left out where it is empty, as proto3 does.
fn put_text(to: &mut BytesMut, tag: u32, text: &str) {
    if text.is_empty() {
        return;
    }
    encode_key(tag, WireType::LengthDelimited, to);
    encode_varint(text.len() as u64, to);
    to.put_slice(text.as_bytes());
}

#[cfg(test)]
pub(super) mod tests;
