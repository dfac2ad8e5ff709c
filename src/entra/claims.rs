//! What an API demands of a token beyond what it has: the `claims` of a `WWW-Authenticate` challenge
//! (OpenID Connect Core 1.0 §5.5), as continuous access evaluation sends it. See Microsoft's page
//! "Claims challenges, claims requests and client capabilities".

use base64::{
    Engine as _,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Map, Value};

/// Longest challenge, in bytes, as an API sends it.
pub const CHALLENGE_BYTES_MAX: usize = 8 * 1024;

/// APIs send either alphabet, with padding or without.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// A claims request, to be passed on to Entra as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimsChallenge(String);

/// The text is no claims challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no claims challenge")]
pub struct NoChallenge;

impl ClaimsChallenge {
    /// Parses the value of the `claims` parameter: JSON in base64 or base64url.
    ///
    /// # Errors
    /// [`NoChallenge`] unless it is an object of JSON that asks something of the access token.
    pub fn parse(text: &str) -> Result<Self, NoChallenge> {
        if text.len() > CHALLENGE_BYTES_MAX {
            return Err(NoChallenge);
        }
        let engines = [&STANDARD, &URL_SAFE].map(|alphabet| GeneralPurpose::new(alphabet, LENIENT));
        let decoded = engines.iter().find_map(|engine| engine.decode(text).ok());
        let claims: Map<String, Value> =
            serde_json::from_slice(&decoded.ok_or(NoChallenge)?).map_err(|_| NoChallenge)?;
        // Of the tokens that OpenID Connect knows, an API can speak of this one only.
        match claims.get("access_token") {
            Some(Value::Object(wanted)) if !wanted.is_empty() => {
                Ok(Self(Value::Object(claims).to_string()))
            }
            _ => Err(NoChallenge),
        }
    }

    /// The JSON, for the `claims` parameter of a token request.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    use super::*;

    const CLAIMS: &str = r#"{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}"#;

    #[test]
    fn a_challenge_is_json_in_either_base64() {
        for text in [
            BASE64_STANDARD.encode(CLAIMS),
            BASE64_URL_SAFE_NO_PAD.encode(CLAIMS),
        ] {
            let challenge = ClaimsChallenge::parse(&text).expect("a challenge");
            assert_eq!(challenge.as_json(), CLAIMS);
        }
    }

    #[test]
    fn anything_else_is_none() {
        let long = format!(r#"{{"access_token":{{"a":"{}"}}}}"#, "x".repeat(9000));
        for text in [
            CLAIMS.to_owned(),
            String::new(),
            BASE64_STANDARD.encode("[]"),
            BASE64_STANDARD.encode("{}"),
            BASE64_STANDARD.encode(r#"{"access_token":null}"#),
            BASE64_STANDARD.encode(r#"{"id_token":{"acr":null}}"#),
            BASE64_STANDARD.encode(long),
        ] {
            assert_eq!(ClaimsChallenge::parse(&text), Err(NoChallenge), "{text}");
        }
    }
}
