//! Reading a token request: form, client authentication, scope.

use axum::http::{HeaderMap, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use url::form_urlencoded;

use super::{assertion::Assertion, error_response::Rejection};
use crate::secret::ClientSecret;

const FORM: &str = "application/x-www-form-urlencoded";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A form as it came, of which nothing but its encoding has been checked. It holds the client's
/// credential and therefore has no `Debug`.
pub(super) struct TokenRequest {
    parameters: Vec<(String, String)>,
    /// Client id and secret of an `Authorization: Basic` header (RFC 6749 §2.3.1).
    basic: Option<(String, String)>,
}

/// How the client proves who it is.
pub(super) enum ClientProof {
    Secret(ClientSecret),
    Assertion(Assertion),
}

impl TokenRequest {
    /// Reads a body. One that is not a form counts as a form without parameters, as with Entra.
    pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Self {
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let is_form = content_type
            .and_then(|value| value.split(';').next())
            .is_some_and(|value| value.trim().eq_ignore_ascii_case(FORM));
        let parameters = if is_form {
            form_urlencoded::parse(body).into_owned().collect()
        } else {
            Vec::new()
        };
        Self {
            parameters,
            basic: basic_authorization(headers),
        }
    }

    /// The value of a parameter; an empty one counts as missing (RFC 6749 §3.2).
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, Rejection> {
        self.parameter(name)
            .ok_or_else(|| Rejection::missing_parameter(name))
    }

    /// The client id, of the form or of the header.
    pub(super) fn client_id(&self) -> Option<&str> {
        let of_header = self.basic.as_ref().map(|(id, _)| id.as_str());
        self.parameter("client_id").or(of_header)
    }

    /// Whether the request has a secret, an assertion, or neither.
    pub(super) fn proof(&self) -> Result<ClientProof, Rejection> {
        if let Some(jwt) = self.parameter("client_assertion") {
            if self.required("client_assertion_type")? != JWT_BEARER {
                return Err(Rejection::missing_parameter("client_assertion_type"));
            }
            let assertion = Assertion::parse(jwt).ok_or_else(Rejection::malformed_jwt)?;
            return Ok(ClientProof::Assertion(assertion));
        }
        let of_header = self.basic.as_ref().map(|(_, secret)| secret.as_str());
        self.parameter("client_secret")
            .or(of_header)
            .map(|secret| ClientProof::Secret(ClientSecret::new(secret.into())))
            .ok_or_else(Rejection::unauthenticated)
    }

    /// Checks what can be checked without a directory and gives the identifier URI of the one
    /// resource.
    pub(super) fn resource(&self) -> Result<&str, Rejection> {
        if let Some(name) = self.repeated() {
            return Err(Rejection::repeated_parameter(name));
        }
        let grant_type = self.required("grant_type")?;
        if grant_type != "client_credentials" {
            return Err(Rejection::unsupported_grant_type(grant_type));
        }
        if self.client_id().is_none() {
            return Err(Rejection::missing_parameter("client_id"));
        }
        if self.parameter("resource").is_some() {
            return Err(Rejection::resource_parameter());
        }
        let scope = self.required("scope")?;
        if scope.split_ascii_whitespace().count() > 1 {
            return Err(Rejection::several_scopes(scope));
        }
        scope
            .strip_suffix("/.default")
            .filter(|identifier| !identifier.is_empty())
            .ok_or_else(|| Rejection::scope_without_default(scope))
    }

    fn repeated(&self) -> Option<&str> {
        let mut names: Vec<_> = self.parameters.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        let pair = names.windows(2).find(|pair| pair[0] == pair[1]);
        pair.map(|pair| pair[0].as_str())
    }
}

fn basic_authorization(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((form_decoded(id), form_decoded(secret)))
}

/// Both halves of the header are form-encoded before they are joined (RFC 6749 §2.3.1).
fn form_decoded(text: &str) -> String {
    // An ampersand that the client left as it is must not end the value.
    let escaped = format!("value={}", text.replace('&', "%26"));
    let mut pairs = form_urlencoded::parse(escaped.as_bytes());
    pairs
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAPH: &str = "https%3A%2F%2Fgraph.microsoft.com%2F.default";

    fn request(body: &str) -> TokenRequest {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, FORM.parse().unwrap());
        TokenRequest::parse(&headers, body.as_bytes())
    }

    fn refused(body: &str) -> u32 {
        request(body).resource().unwrap_err().code()
    }

    #[test]
    fn a_well_formed_request_names_one_resource() {
        let body = format!("grant_type=client_credentials&client_id=a&client_info=1&scope={GRAPH}");
        assert_eq!(
            request(&body).resource().unwrap(),
            "https://graph.microsoft.com"
        );
    }

    #[test]
    fn each_mistake_has_its_number() {
        let base = "grant_type=client_credentials&client_id=a&scope=";
        assert_eq!(refused(""), 900_144);
        assert_eq!(refused("grant_type=password&client_id=a"), 70_003);
        assert_eq!(
            refused("grant_type=client_credentials&scope=x/.default"),
            900_144
        );
        assert_eq!(refused(base), 900_144);
        assert_eq!(
            refused(&format!("{base}https://graph.microsoft.com/User.Read")),
            1_002_012
        );
        assert_eq!(refused(&format!("{base}.default")), 1_002_012);
        let twice_encoded = GRAPH.replace('%', "%25");
        assert_eq!(refused(&format!("{base}{twice_encoded}")), 1_002_012);
        assert_eq!(refused(&format!("{base}{GRAPH}+{GRAPH}")), 70_011);
        assert_eq!(refused(&format!("{base}{GRAPH}&scope={GRAPH}")), 9_000_411);
        assert_eq!(refused(&format!("{base}{GRAPH}&resource=x")), 901_002);
    }

    #[test]
    fn a_body_that_is_no_form_has_no_parameters() {
        let body = b"grant_type=client_credentials";
        let request = TokenRequest::parse(&HeaderMap::new(), body);
        assert!(request.parameter("grant_type").is_none());
    }

    #[test]
    fn a_secret_comes_in_the_form_or_in_the_header() {
        let secret = |request: &TokenRequest| match request.proof() {
            Ok(ClientProof::Secret(secret)) => secret.expose().to_owned(),
            _ => panic!("no secret"),
        };
        let form = request("client_id=a&client_secret=s3cr3t%2B%2F%3D%26%25+~x");
        assert_eq!(secret(&form), "s3cr3t+/=&% ~x");

        let mut headers = HeaderMap::new();
        let credentials = STANDARD.encode("a:s3cr3t%2B%2F%3D%26%25+~x");
        let value = format!("Basic {credentials}").parse().unwrap();
        headers.insert(header::AUTHORIZATION, value);
        let header = TokenRequest::parse(&headers, b"");
        assert_eq!(header.client_id(), Some("a"));
        assert_eq!(secret(&header), "s3cr3t+/=&% ~x");

        let Err(rejection) = request("client_id=a").proof() else {
            panic!("authenticated by nothing");
        };
        assert_eq!(rejection.code(), 7_000_218);
    }
}
