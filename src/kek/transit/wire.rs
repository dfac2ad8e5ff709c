//! What is said to a Transit engine, and what it answers.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::http::Body;
use crate::secret::{AccessToken, SymmetricKey};

/// Room for a body about a key: it must not grow, which would leave pieces behind.
const ROOM: usize = 1024;

#[derive(Serialize)]
struct Encryption<'a> {
    plaintext: &'a str,
    associated_data: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
    key_version: u32,
}

#[derive(Serialize)]
struct Decryption<'a> {
    ciphertext: &'a str,
    associated_data: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
}

#[derive(Serialize)]
struct KubernetesLogin<'a> {
    role: &'a str,
    jwt: &'a str,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Auth<T> {
    auth: T,
}

#[derive(Deserialize)]
struct Ciphertext {
    ciphertext: String,
}

/// Borrowed, so that the only copy is the one in the answer, which is wiped.
#[derive(Deserialize)]
struct Plaintext<'a> {
    plaintext: &'a str,
}

#[derive(Deserialize)]
struct KeyAnswer<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a str,
    #[serde(default)]
    derived: bool,
    latest_version: u32,
    min_decryption_version: u32,
    keys: BTreeMap<u32, serde_json::Value>,
}

#[derive(Deserialize)]
struct TokenAnswer<'a> {
    #[serde(borrow)]
    client_token: &'a str,
    lease_duration: u64,
    renewable: bool,
}

#[derive(Deserialize)]
struct Lookup {
    ttl: u64,
    renewable: bool,
}

#[derive(Deserialize)]
struct Renewal {
    lease_duration: u64,
    renewable: bool,
}

#[derive(Deserialize)]
struct Refusal<'a> {
    #[serde(borrow)]
    errors: Vec<Cow<'a, str>>,
}

/// A key as the engine describes it.
pub(super) struct Key<'a> {
    pub(super) kind: &'a str,
    pub(super) derived: bool,
    pub(super) latest_version: u32,
    pub(super) min_decryption_version: u32,
    /// Each with the second when it was made.
    pub(super) versions: BTreeMap<u32, u64>,
}

/// How long a token lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// In seconds; 0 for one that does not end.
    pub(super) seconds: u64,
    pub(super) renewable: bool,
}

pub(super) fn encryption(version: u32, dek: &SymmetricKey, aad: &str, derived: bool) -> Body {
    // Exposed: what is wrapped are the key's bytes.
    let plaintext = Zeroizing::new(BASE64_STANDARD.encode(dek.expose()));
    body(
        ROOM,
        &Encryption {
            plaintext: &plaintext,
            associated_data: aad,
            context: derived.then_some(aad),
            key_version: version,
        },
    )
}

pub(super) fn decryption(ciphertext: &str, aad: &str, derived: bool) -> Body {
    body(
        ROOM,
        &Decryption {
            ciphertext,
            associated_data: aad,
            context: derived.then_some(aad),
        },
    )
}

pub(super) fn kubernetes_login(role: &str, jwt: &str) -> Body {
    body(
        ROOM + jwt.len() + role.len(),
        &KubernetesLogin { role, jwt },
    )
}

/// A body without content, of a request that changes something.
pub(super) fn nothing() -> Body {
    Body::from_static(b"{}")
}

fn body(room: usize, content: &impl Serialize) -> Body {
    let mut json = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *json, content).expect("strings and numbers are JSON");
    // Wiped with its last copy, which the HTTP library has.
    Body::from_owner(json)
}

pub(super) fn ciphertext(answer: &[u8]) -> Option<String> {
    let answer: Data<Ciphertext> = serde_json::from_slice(answer).ok()?;
    Some(answer.data.ciphertext)
}

pub(super) fn plaintext(answer: &[u8]) -> Option<&str> {
    let answer: Data<Plaintext<'_>> = serde_json::from_slice(answer).ok()?;
    Some(answer.data.plaintext)
}

/// A key of a type whose versions are told otherwise comes without versions.
pub(super) fn key(answer: &[u8]) -> Option<Key<'_>> {
    let answer: Data<KeyAnswer<'_>> = serde_json::from_slice(answer).ok()?;
    let key = answer.data;
    let made = |(version, made): (u32, serde_json::Value)| Some((version, made.as_u64()?));
    Some(Key {
        kind: key.kind,
        derived: key.derived,
        latest_version: key.latest_version,
        min_decryption_version: key.min_decryption_version,
        versions: key.keys.into_iter().filter_map(made).collect(),
    })
}

/// What a login gives.
pub(super) fn token(answer: &[u8]) -> Option<(AccessToken, Life)> {
    let answer: Auth<TokenAnswer<'_>> = serde_json::from_slice(answer).ok()?;
    let life = Life {
        seconds: answer.auth.lease_duration,
        renewable: answer.auth.renewable,
    };
    let token = answer.auth.client_token;
    (!token.is_empty()).then(|| (AccessToken::new(token.to_owned()), life))
}

/// What a token says of itself.
pub(super) fn looked_up(answer: &[u8]) -> Option<Life> {
    let answer: Data<Lookup> = serde_json::from_slice(answer).ok()?;
    Some(Life {
        seconds: answer.data.ttl,
        renewable: answer.data.renewable,
    })
}

pub(super) fn renewed(answer: &[u8]) -> Option<Life> {
    let answer: Auth<Renewal> = serde_json::from_slice(answer).ok()?;
    Some(Life {
        seconds: answer.auth.lease_duration,
        renewable: answer.auth.renewable,
    })
}

/// Whether one of the errors that a refusal names has these words. They are looked for, and never
/// passed on: what a server says may be what it was told.
pub(super) fn says(answer: &[u8], words: &str) -> bool {
    let answer: Option<Refusal<'_>> = serde_json::from_slice(answer).ok();
    answer.is_some_and(|refusal| refusal.errors.iter().any(|error| error.contains(words)))
}
