//! Claims challenges: what an API demands of a token beyond what it has.

use http_auth::{ChallengeRef, parser::ChallengeParser};

/// Longest challenge that the broker takes, in bytes.
const LENGTH_MAX: usize = 8 * 1024;

/// The `claims` of a `WWW-Authenticate` challenge, by which an API tells that a token, though not
/// ended, is not enough any more: continuous access evaluation. See Microsoft's page "Claims
/// challenges, claims requests and client capabilities". It is no secret.
///
/// ```
/// use kodo_broker::client::ClaimsChallenge;
///
/// let header = r#"Bearer realm="", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ==""#;
/// let challenge = ClaimsChallenge::from_www_authenticate(header).expect("it has one");
/// assert_eq!(challenge.as_str(), "eyJhY2Nlc3NfdG9rZW4iOnt9fQ==");
/// // Nothing that a report would have to pass on:
/// assert_eq!(ClaimsChallenge::from_www_authenticate("Bearer error=\"invalid_token\""), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimsChallenge(String);

impl ClaimsChallenge {
    /// Reads it out of the value of a `WWW-Authenticate` header (RFC 9110 §11.6.1): one or several
    /// challenges with their parameters in any order. An answer may have several such headers: try
    /// each. `None` if no `Bearer` challenge in it has `error="insufficient_claims"` and `claims`.
    #[must_use]
    pub fn from_www_authenticate(value: &str) -> Option<Self> {
        // Up to the first that is none by the grammar; what comes before it is good.
        let mut challenges = ChallengeParser::new(value).map_while(Result::ok);
        challenges.find_map(|challenge| {
            let is_wanted = challenge.scheme.eq_ignore_ascii_case("Bearer")
                && parameter(&challenge, "error")? == "insufficient_claims";
            Self::new(&parameter(&challenge, "claims").filter(|_| is_wanted)?)
        })
    }

    /// Takes the value of a `claims` parameter. `None` if it is empty, longer than 8 KiB or not
    /// printable ASCII, which no challenge is.
    #[must_use]
    pub fn new(claims: &str) -> Option<Self> {
        let is_sound = (1..=LENGTH_MAX).contains(&claims.len())
            && claims.bytes().all(|byte| byte.is_ascii_graphic());
        is_sound.then(|| Self(claims.to_owned()))
    }

    /// The value of the `claims` parameter, as it came: base64.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The first parameter of this name, which may be written in any case.
fn parameter(challenge: &ChallengeRef<'_>, name: &str) -> Option<String> {
    let mut parameters = challenge.params.iter();
    let (_, value) = parameters.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    Some(value.to_unescaped())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLAIMS: &str = "eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZX19fQ==";

    fn read(header: &str) -> Option<String> {
        ClaimsChallenge::from_www_authenticate(header).map(|challenge| challenge.0)
    }

    #[test]
    fn a_challenge_is_found_wherever_it_stands() {
        for header in [
            // As Microsoft Graph, SharePoint and Exchange write it.
            format!(
                r#"Bearer realm="", authorization_uri="https://login.example/common/oauth2/authorize", client_id="00000003-0000-0000-c000-000000000000", error="insufficient_claims", claims="{CLAIMS}""#
            ),
            format!(r#"NTLM, Negotiate, Bearer claims="{CLAIMS}",error="insufficient_claims""#),
            format!(
                r#"Basic realm="a, b=\"c\"", bearer Error=insufficient_claims , CLAIMS="{CLAIMS}", Digest nonce="x""#
            ),
            format!(
                r#"Bearer error="invalid_token", Bearer error="insufficient_claims", claims="{CLAIMS}""#
            ),
            format!(r#"Bearer error="insufficient_claims", claims="{CLAIMS}", Broken ,,= "#),
        ] {
            assert_eq!(read(&header).as_deref(), Some(CLAIMS), "{header}");
        }
    }

    #[test]
    fn what_is_none_is_not_taken_for_one() {
        for header in [
            String::new(),
            "Bearer".into(),
            format!(r#"Bearer claims="{CLAIMS}""#),
            r#"Bearer error="insufficient_claims""#.into(),
            r#"Bearer error="insufficient_claims", claims="""#.into(),
            format!(r#"Bearer error="invalid_token", claims="{CLAIMS}""#),
            format!(r#"PoP error="insufficient_claims", claims="{CLAIMS}""#),
            // Of two challenges, each has half.
            format!(r#"Bearer error="insufficient_claims", Bearer claims="{CLAIMS}""#),
            // Within a quoted text.
            format!(r#"Bearer realm="error=\"insufficient_claims\", claims=\"{CLAIMS}\"""#),
            format!(
                r#"Bearer error="insufficient_claims", claims="{}""#,
                "a".repeat(8193)
            ),
        ] {
            assert_eq!(read(&header), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(header in ".{0,200}") {
            let _ = read(&header);
        }

        #[test]
        fn nothing_that_looks_like_a_header_makes_it_panic(
            header in r#"((Bearer|Basic|claims|error|insufficient_claims|=|"|\\|,| ){0,30})"#,
        ) {
            let _ = read(&header);
        }

        #[test]
        fn every_challenge_is_read_back_among_others(
            claims in "[A-Za-z0-9+/_-]{1,100}={0,2}",
            realm in r"[ !#-\[\]-~]{0,30}",
            order in Just(["claims", "error", "realm"]).prop_shuffle(),
            before in prop::collection::vec("(NTLM|Negotiate|Basic realm=\"x, y\"|Bearer a=b)", 0..3),
        ) {
            let parameters = order.map(|name| match name {
                "claims" => format!("claims=\"{claims}\""),
                "error" => "error=\"insufficient_claims\"".to_owned(),
                _ => format!("realm=\"{realm}\""),
            });
            let challenge = format!("Bearer {}", parameters.join(", "));
            let header = before.into_iter().chain([challenge]).collect::<Vec<_>>().join(", ");
            prop_assert_eq!(read(&header), Some(claims));
        }
    }
}
