//! What goes to the token endpoint and what comes back (RFC 6749 §4.4, §5.1, §5.2).
//!
//! Answers are parsed strictly: whatever is odd is no token. Nothing of an answer's text is passed
//! on but what was matched against a narrow alphabet, since it may come from anywhere.

use std::time::Duration;

use serde::Deserialize;

use super::{
    Grant,
    rejection::{Rejection, Support},
};
use crate::secret::AccessToken;

/// Longest token, in bytes. Those of Entra have 1.5 to 3.5 KB.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Longest life that is believed: what continuous access evaluation gives.
const LIFE_MAX: Duration = Duration::from_secs(28 * 3600);

#[derive(Deserialize)]
struct GrantBody {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<Seconds>,
    refresh_in: Option<serde_json::Value>,
}

/// Seconds as a number or as a string of digits: Entra's endpoints send both.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    error: Option<serde_json::Value>,
    error_codes: Option<serde_json::Value>,
    error_description: Option<serde_json::Value>,
    trace_id: Option<serde_json::Value>,
    correlation_id: Option<serde_json::Value>,
    timestamp: Option<serde_json::Value>,
}

/// Parses the answer that holds a token.
///
/// # Errors
/// What is wrong with it, without anything of its text.
pub fn grant(body: &[u8]) -> Result<Grant, &'static str> {
    let body: GrantBody =
        serde_json::from_slice(body).map_err(|_| "it is no JSON object as expected")?;
    let token = body
        .access_token
        .map(AccessToken::new)
        .ok_or("it has no access_token")?;
    // Exposed: its form is checked, so that it fits into a header.
    let text = token.expose().as_bytes();
    if text.is_empty() || text.len() > TOKEN_BYTES_MAX || !text.iter().all(u8::is_ascii_graphic) {
        return Err("its access_token cannot be one");
    }
    if !body
        .token_type
        .is_some_and(|kind| kind.eq_ignore_ascii_case("bearer"))
    {
        return Err("its token_type is not Bearer");
    }
    let expires_in = body.expires_in.and_then(|seconds| seconds.duration());
    let expires_in = expires_in
        .filter(|life| !life.is_zero())
        .ok_or("its expires_in is no number of seconds")?;
    let expires_in = expires_in.min(LIFE_MAX);
    // An odd hint is no reason to refuse a good token.
    let refresh_in = body
        .refresh_in
        .and_then(|value| serde_json::from_value::<Seconds>(value).ok())
        .and_then(|seconds| seconds.duration())
        .filter(|refresh| !refresh.is_zero() && *refresh < expires_in);
    Ok(Grant {
        access_token: token,
        expires_in,
        refresh_in,
    })
}

/// Parses an answer that refuses. `None` if it is not an OAuth error at all.
#[must_use]
pub fn rejection(body: &[u8]) -> Option<Rejection> {
    let body: ErrorBody = serde_json::from_slice(body).ok()?;
    let text = |value: Option<serde_json::Value>| match value {
        Some(serde_json::Value::String(text)) => Some(text),
        _ => None,
    };
    let error = text(body.error).filter(|error| is_word(error))?;
    let description = text(body.error_description).unwrap_or_default();
    let support = Support {
        trace_id: text(body.trace_id).filter(|id| is_word(id)),
        correlation_id: text(body.correlation_id).filter(|id| is_word(id)),
        timestamp: text(body.timestamp).filter(|time| is_word(time)),
    };
    let code = first_code(body.error_codes).or_else(|| code_in(&description));
    Some(Rejection::new(&error, code, &description, support))
}

impl Seconds {
    fn duration(&self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Self::Text(_) => None,
        };
        seconds.map(Duration::from_secs)
    }
}

/// `error_codes` is an array of numbers; libraries have met strings in it.
fn first_code(codes: Option<serde_json::Value>) -> Option<u32> {
    match codes?.as_array()?.first()? {
        serde_json::Value::Number(number) => number.as_u64()?.try_into().ok(),
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// The number in a text that begins with `AADSTS7000215: …`.
fn code_in(description: &str) -> Option<u32> {
    let digits = description.strip_prefix("AADSTS")?;
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// What error names, GUIDs and times are made of.
fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-:. +".contains(&b))
}

#[cfg(test)]
mod tests;
