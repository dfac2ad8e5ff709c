//! The client assertion: a JWT signed with the application's certificate key (RFC 7523 §2.2), in the
//! form of Microsoft's page "certificate credentials": PS256, certificate named by `x5t#S256`.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use url::Url;
use uuid::Uuid;

use super::Error;
use crate::{
    credential::{Certificate, Thumbprints},
    organization::ClientId,
};

/// The `client_assertion_type`.
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How far before now an assertion begins, for a clock that is ahead of Entra's.
const BACKDATE: Duration = Duration::from_secs(30);
/// How long an assertion lives. One is made for each request, so it need not live longer.
const LIFE: Duration = Duration::from_secs(300);

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: String,
    sub: String,
    jti: String,
    nbf: u64,
    exp: u64,
}

/// Signs an assertion for one request to the token endpoint `audience`.
///
/// # Errors
/// [`Error::Assertion`] if the key cannot sign, which intake rules out.
pub fn sign(
    certificate: &Certificate,
    client_id: ClientId,
    audience: &Url,
    now_unix_seconds: u64,
) -> Result<String, Error> {
    let mut header = Header::new(Algorithm::PS256);
    header.x5t_s256 = Some(BASE64_URL_SAFE_NO_PAD.encode(Thumbprints::of(&certificate.der).sha256));
    let begins = now_unix_seconds.saturating_sub(BACKDATE.as_secs());
    let claims = Claims {
        aud: audience.as_str(),
        iss: client_id.to_string(),
        sub: client_id.to_string(),
        jti: Uuid::new_v4().to_string(),
        nbf: begins,
        exp: begins + LIFE.as_secs(),
    };
    // Exposed: signing needs the key.
    let key = EncodingKey::from_rsa_pem(certificate.key.expose().as_bytes());
    let key = key.map_err(|_| Error::Assertion)?;
    jsonwebtoken::encode(&header, &claims, &key).map_err(|_| Error::Assertion)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;
    use crate::{credential::intake, simulator::pki};

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn an_assertion_has_the_documented_form_and_its_own_id() {
        let identity = pki::application_certificate(&Default::default()).expect("a certificate");
        let pem = identity.bundle_pem();
        let now = crate::clock::Clock::system().now();
        let Ok(crate::credential::Credential::Certificate(certificate)) = intake::pem(&pem, now)
        else {
            panic!("a certificate credential");
        };
        let client_id = ClientId::parse("8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a").expect("a GUID");
        let audience = Url::parse("https://login.example/t/oauth2/v2.0/token").expect("a URL");
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate.der).expect("parses");
        let key = DecodingKey::from_rsa_der(&parsed.public_key().subject_public_key.data);
        let mut validation = Validation::new(Algorithm::PS256);
        validation.set_audience(&[audience.as_str()]);
        validation.validate_exp = false;
        let mut ids = HashSet::new();
        for _ in 0..20 {
            let token = sign(&certificate, client_id, &audience, NOW).expect("signs");
            let data = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation)
                .expect("verifies");
            let claims = data.claims;
            assert_eq!(claims["iss"], client_id.to_string());
            assert_eq!(claims["sub"], client_id.to_string());
            assert_eq!(
                (claims["nbf"].as_u64(), claims["exp"].as_u64()),
                (Some(NOW - 30), Some(NOW + 270))
            );
            assert_eq!(data.header.typ.as_deref(), Some("JWT"));
            assert_eq!(
                data.header.x5t_s256.as_ref().map(String::len),
                Some(43),
                "unpadded"
            );
            assert!(ids.insert(claims["jti"].to_string()));
        }
    }
}
