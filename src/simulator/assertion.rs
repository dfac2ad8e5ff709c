//! Client assertions (RFC 7523): reading them, and verifying them the way Entra does.

use std::time::{Duration, SystemTime};

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    certificate::{Certificate, SignatureAlgorithm, Thumbprint},
    error_response::{Rejection, rfc3339},
};

/// How far Entra's clock and the client's may be apart.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// A client assertion, taken apart and not believed yet.
pub(super) struct Assertion {
    /// Header and claims with the dot between them, the text that is signed.
    signed: String,
    signature: Vec<u8>,
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

/// What an assertion must be for.
pub(super) struct Expected<'a> {
    pub(super) client_id: Uuid,
    /// Every URL that means the token endpoint.
    pub(super) audiences: &'a [String],
    pub(super) now: SystemTime,
}

impl Assertion {
    /// Takes a compact JWT apart, `None` if it is none.
    pub(super) fn parse(jwt: &str) -> Option<Self> {
        let (signed, signature) = jwt.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part| serde_json::from_slice(&decode(part)?).ok();
        Some(Self {
            signed: signed.into(),
            signature: decode(signature)?,
            header: object(header)?,
            claims: object(claims)?,
        })
    }

    /// The `alg` of the header.
    pub(super) fn algorithm(&self) -> Option<&str> {
        self.header.get("alg")?.as_str()
    }

    /// The `jti` of the claims, which is no secret.
    pub(super) fn id(&self) -> Option<&str> {
        self.claims.get("jti")?.as_str()
    }

    /// Accepts the assertion if one of the certificates signed it for this purpose and time. That
    /// it is used once only is not asked, as Entra does not ask it.
    pub(super) fn verify(
        &self,
        expected: &Expected<'_>,
        certificates: &[Certificate],
    ) -> Result<(), Rejection> {
        let algorithm = match self.algorithm() {
            Some("PS256") => SignatureAlgorithm::Ps256,
            Some("RS256") => SignatureAlgorithm::Rs256,
            other => return Err(Rejection::unsupported_algorithm(other.unwrap_or("none"))),
        };
        let thumbprint = self
            .thumbprint()
            .ok_or_else(Rejection::missing_thumbprint)?;
        let certificate = certificates
            .iter()
            .find(|certificate| certificate.matches(&thumbprint, expected.now))
            .ok_or_else(|| Rejection::unknown_certificate(expected.client_id, &thumbprint))?;
        if !certificate.verifies(algorithm, self.signed.as_bytes(), &self.signature) {
            return Err(Rejection::bad_signature(&thumbprint));
        }
        if certificate.revoked {
            return Err(Rejection::revoked_certificate(&thumbprint));
        }
        if !certificate.is_valid_at(expected.now) {
            return Err(Rejection::expired_certificate(&thumbprint));
        }
        self.check_claims(expected)
    }

    fn check_claims(&self, expected: &Expected<'_>) -> Result<(), Rejection> {
        let is_client = |claim| {
            let value = self.claims.get(claim).and_then(Value::as_str);
            value.and_then(|value| Uuid::try_parse(value).ok()) == Some(expected.client_id)
        };
        if !is_client("iss") || !is_client("sub") {
            return Err(Rejection::foreign_assertion());
        }
        let audience = self.claims.get("aud").and_then(Value::as_str);
        if !audience.is_some_and(|audience| expected.audiences.iter().any(|ours| ours == audience))
        {
            return Err(Rejection::wrong_audience());
        }
        let expires_at = self.time("exp").ok_or_else(Rejection::malformed_jwt)?;
        // Libraries differ in whether they say when the assertion starts.
        let starts_at = self.time("nbf").unwrap_or(SystemTime::UNIX_EPOCH);
        if expires_at + CLOCK_SKEW_MAX <= expected.now || starts_at > expected.now + CLOCK_SKEW_MAX
        {
            return Err(Rejection::assertion_outside_its_time(
                &rfc3339(expected.now),
                &rfc3339(starts_at),
                &rfc3339(expires_at),
            ));
        }
        Ok(())
    }

    fn thumbprint(&self) -> Option<Thumbprint> {
        let digest = |name| decode(self.header.get(name)?.as_str()?);
        digest("x5t#S256")
            .map(Thumbprint::Sha256)
            .or_else(|| digest("x5t").map(Thumbprint::Sha1))
    }

    /// A time claim. MSAL.NET sends these as strings, and Entra takes them.
    fn time(&self, claim: &str) -> Option<SystemTime> {
        let value = self.claims.get(claim)?;
        let seconds = match value.as_str() {
            Some(text) => text.parse().ok()?,
            None => value.as_u64()?,
        };
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }
}

/// Base64 of any alphabet and padding: Microsoft's own libraries send all kinds.
fn decode(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    LENIENT
        .decode(text.replace('+', "-").replace('/', "_"))
        .ok()
}

#[cfg(test)]
pub(super) mod tests {
    use aws_lc_rs::digest;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    use serde_json::json;

    use super::*;
    use crate::simulator::pki::{ApplicationCertificate, Identity, application_certificate};

    const AUDIENCE: &str = "https://127.0.0.1:1/contoso/oauth2/v2.0/token";

    /// Signs claims the documented way: PS256 with the SHA-256 thumbprint.
    pub(in crate::simulator) fn sign(identity: &Identity, claims: &Value) -> String {
        sign_as(identity, claims, Algorithm::PS256)
    }

    /// Claims as Entra's documentation gives them.
    pub(in crate::simulator) fn claims(client_id: Uuid, audience: &str) -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        json!({
            "aud": audience,
            "iss": client_id.to_string(),
            "sub": client_id.to_string(),
            "jti": Uuid::new_v4().to_string(),
            "nbf": now,
            "exp": now + 600,
        })
    }

    fn sign_as(identity: &Identity, claims: &Value, algorithm: Algorithm) -> String {
        let der = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
        let sha256 = digest::digest(&digest::SHA256, &der);
        let mut header = Header::new(algorithm);
        header.x5t_s256 = Some(URL_SAFE_NO_PAD.encode(sha256));
        let key = EncodingKey::from_rsa_pem(identity.key_pem.as_bytes()).unwrap();
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }

    fn verdict(jwt: &str, client_id: Uuid, certificate: &Certificate) -> Result<(), u32> {
        let expected = Expected {
            client_id,
            audiences: &[AUDIENCE.into()],
            now: crate::clock::Clock::system().now(),
        };
        let assertion = Assertion::parse(jwt).unwrap();
        assertion
            .verify(&expected, std::slice::from_ref(certificate))
            .map_err(|rejection| rejection.code())
    }

    #[test]
    fn only_a_signed_assertion_for_us_and_now_is_accepted() {
        let identity = application_certificate(&ApplicationCertificate::default()).unwrap();
        let stranger = application_certificate(&ApplicationCertificate::default()).unwrap();
        let mut certificate = Certificate::from_pem(&identity.certificate_pem).unwrap();
        let id = Uuid::new_v4();
        let good = claims(id, AUDIENCE);
        let with = |claim: &str, value: Value| {
            let mut claims = good.clone();
            claims[claim] = value;
            sign(&identity, &claims)
        };
        let now = jsonwebtoken::get_current_timestamp();

        let signed = sign(&identity, &good);
        assert_eq!(verdict(&signed, id, &certificate), Ok(()));
        let rs256 = sign_as(&identity, &good, Algorithm::RS256);
        assert_eq!(verdict(&rs256, id, &certificate), Ok(()));
        let text_time = with("exp", json!((now + 60).to_string()));
        assert_eq!(verdict(&text_time, id, &certificate), Ok(()));

        let foreign = sign(&stranger, &good);
        assert_eq!(verdict(&foreign, id, &certificate), Err(700_027));
        let (signed_part, _) = signed.rsplit_once('.').unwrap();
        let (_, foreign_signature) = foreign.rsplit_once('.').unwrap();
        let forged = format!("{signed_part}.{foreign_signature}");
        assert_eq!(verdict(&forged, id, &certificate), Err(700_027));
        let rs512 = sign_as(&identity, &good, Algorithm::RS512);
        assert_eq!(verdict(&rs512, id, &certificate), Err(5_002_738));
        let audience = with("aud", json!("https://127.0.0.1:1/other/oauth2/v2.0/token"));
        assert_eq!(verdict(&audience, id, &certificate), Err(700_023));
        let issuer = with("iss", json!(Uuid::new_v4().to_string()));
        assert_eq!(verdict(&issuer, id, &certificate), Err(700_021));
        let over = with("exp", json!(now - 301));
        assert_eq!(verdict(&over, id, &certificate), Err(700_024));
        let skewed = with("exp", json!(now - 200));
        assert_eq!(verdict(&skewed, id, &certificate), Ok(()));
        let early = with("nbf", json!(now + 400));
        assert_eq!(verdict(&early, id, &certificate), Err(700_024));

        certificate.revoked = true;
        assert_eq!(verdict(&signed, id, &certificate), Err(7_000_214));
    }

    #[test]
    fn thumbprints_are_read_in_every_encoding_in_use() {
        let bytes = Some(vec![0xfb, 0xff, 0xfe, 0x01]);
        for text in ["-__-AQ", "-__-AQ==", "+//+AQ", "+//+AQ=="] {
            assert_eq!(decode(text), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_jwt_is_not_parsed() {
        for text in ["", "a.b", "a.b.c", "e30.e30", "!.e30.AA"] {
            assert!(Assertion::parse(text).is_none(), "{text}");
        }
        assert!(Assertion::parse("e30.e30.AA").is_some());
    }
}
