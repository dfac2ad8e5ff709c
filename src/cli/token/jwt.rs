//! A look into a token, for people who diagnose. Nothing is verified and nothing depends on it: to
//! its holder an access token is opaque.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost_types::Timestamp;
use serde_json::{Map, Value};

use crate::cli::value;

/// Claims worth a look: for whom, to which application (`azp` in tokens of version 2) of which
/// tenant, with which permissions, until when.
const CLAIMS: &[&str] = &["aud", "appid", "azp", "tid", "roles", "exp"];

/// Name and text of each part of the header and of a few claims, `None` if it is no signed JWT.
pub(super) fn decode(token: &str) -> Option<Vec<(String, String)>> {
    let mut parts = token.split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let header = object(header)?;
    let claims = object(claims)?;
    let header = header
        .iter()
        .map(|(name, value)| (format!("header {name}"), show(value)));
    let claims = CLAIMS.iter().filter_map(|&name| {
        let claim = claims.get(name)?;
        let time = claim.as_i64().filter(|_| name == "exp");
        let shown = time.map_or_else(
            || show(claim),
            |seconds| value::show_time(&Timestamp { seconds, nanos: 0 }),
        );
        Some((format!("claim {name}"), shown))
    });
    Some(header.chain(claims).collect())
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(show).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{header}.{claims}.c2lnbmF0dXJl")
    }

    #[test]
    fn header_and_a_few_claims_are_shown() {
        let token = token(
            r#"{"alg":"RS256","typ":"JWT"}"#,
            r#"{"aud":"https://graph.microsoft.com","secret":"canary","exp":1800000000,
                "roles":["Sites.Read.All","User.Read.All"],"tid":7}"#,
        );
        let shown = decode(&token).expect("a JWT");
        let shown: Vec<String> = shown
            .iter()
            .map(|(name, text)| format!("{name}={text}"))
            .collect();
        assert_eq!(
            shown,
            [
                "header alg=RS256",
                "header typ=JWT",
                "claim aud=https://graph.microsoft.com",
                "claim tid=7",
                "claim roles=Sites.Read.All, User.Read.All",
                "claim exp=2027-01-15T08:00:00Z",
            ]
        );
    }

    #[test]
    fn anything_else_is_opaque() {
        let json = URL_SAFE_NO_PAD.encode("{}");
        for token in [
            "",
            "canary",
            "a.b.c",
            "..",
            &format!("{json}.{json}"),
            &format!("{json}.{json}.a.b.c"),
        ] {
            assert!(decode(token).is_none(), "{token}");
        }
        assert_eq!(
            decode(&token("{}", r#"{"exp":"soon"}"#))
                .expect("a JWT")
                .len(),
            1
        );
        assert!(decode(&token("{}", &format!(r#"{{"exp":{}}}"#, i64::MAX))).is_some());
    }
}
