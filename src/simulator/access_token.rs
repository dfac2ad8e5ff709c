//! Access tokens: signed JWTs with the claims of the v1.0 format, which Graph, Exchange and
//! SharePoint ask for whichever endpoint issues them.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{
    error::Unspecified,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{self, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::resource::Resource;

/// `iat` and `nbf` lie this far back, so that `exp - iat` is not the token's life: a client that
/// computes it from them is caught.
const BACKDATED: Duration = Duration::from_secs(5 * 60);
/// In `wids` of every application token, although it is the id of no directory role.
const NO_DIRECTORY_ROLE: &str = "0997a1d0-0d1d-4acb-b408-d5ca73121e90";

/// The key of the simulator, new with each.
pub(super) struct SigningKey {
    key: KeyPair,
    id: String,
}

/// What a token is issued for.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) tenant: Uuid,
    pub(super) client_id: Uuid,
    pub(super) service_principal_id: Uuid,
    pub(super) resource: Resource,
    /// The identifier URI as the scope had it.
    pub(super) identifier: String,
    pub(super) roles: Vec<String>,
    pub(super) authentication: AuthenticationClass,
    pub(super) lifetime: Duration,
    pub(super) refresh_after: Option<Duration>,
}

/// The claim `appidacr`, by which SharePoint tells secrets from certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthenticationClass {
    Secret,
    Certificate,
}

/// The claims that the simulator's own Graph reads back.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) aud: String,
    pub(super) exp: u64,
    pub(super) tid: String,
    /// Opaque to everybody else: here it holds when the token was issued, in milliseconds, since `iat`
    /// is backdated and whole seconds.
    aio: String,
    #[serde(default)]
    pub(super) roles: Vec<String>,
}

// === impl SigningKey ===

impl SigningKey {
    pub(super) fn generate() -> Result<Self, Unspecified> {
        Ok(Self {
            key: KeyPair::generate(KeySize::Rsa2048)?,
            id: URL_SAFE_NO_PAD.encode(Uuid::new_v4()),
        })
    }

    /// The key set (RFC 7517) that verifies what this key signs.
    pub(super) fn key_set(&self) -> Value {
        let public = self.key.public_key();
        let encode = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
        json!({"keys": [{
            "kty": "RSA",
            "use": "sig",
            "kid": self.id,
            "x5t": self.id,
            "n": encode(public.modulus().big_endian_without_leading_zero()),
            "e": encode(public.exponent().big_endian_without_leading_zero()),
        }]})
    }

    /// Issues the token of a grant.
    pub(super) fn issue(&self, grant: &Grant, now: SystemTime) -> Result<String, Unspecified> {
        let header = json!({"typ": "JWT", "alg": "RS256", "x5t": self.id, "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(&grant.claims(now)));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(
            &signature::RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            message.as_bytes(),
            &mut signature,
        )?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token of this key that has not ended.
    pub(super) fn verify(&self, token: &str, now: SystemTime) -> Option<Claims> {
        let (message, signature) = token.rsplit_once('.')?;
        let (_, claims) = message.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        signature::UnparsedPublicKey::new(
            &signature::RSA_PKCS1_2048_8192_SHA256,
            self.key.public_key().as_ref(),
        )
        .verify(message.as_bytes(), &signature)
        .ok()?;
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        (claims.exp > seconds(now)).then_some(claims)
    }
}

// === impl Claims ===

impl Claims {
    /// When the token was issued.
    pub(super) fn issued_at(&self) -> SystemTime {
        let bytes = URL_SAFE_NO_PAD.decode(&self.aio).ok();
        let bytes: Option<[u8; 8]> = bytes.and_then(|bytes| bytes.try_into().ok());
        let issued = Duration::from_millis(bytes.map_or(0, u64::from_be_bytes));
        SystemTime::UNIX_EPOCH + issued
    }
}

// === impl Grant ===

impl Grant {
    fn claims(&self, now: SystemTime) -> Value {
        let issuer = format!("https://sts.windows.net/{}/", self.tenant);
        let start = seconds(now - BACKDATED);
        let mut claims = json!({
            "aud": self.audience(),
            "iss": issuer,
            "iat": start,
            "nbf": start,
            "exp": seconds(now + self.lifetime),
            "aio": URL_SAFE_NO_PAD.encode(milliseconds(now).to_be_bytes()),
            "app_displayname": "simulated application",
            "appid": self.client_id.to_string(),
            "appidacr": match self.authentication {
                AuthenticationClass::Secret => "1",
                AuthenticationClass::Certificate => "2",
            },
            "idp": issuer,
            "idtyp": "app",
            "oid": self.service_principal_id.to_string(),
            "rh": URL_SAFE_NO_PAD.encode(Uuid::new_v4()),
            "sub": self.service_principal_id.to_string(),
            "tenant_region_scope": "EU",
            "tid": self.tenant.to_string(),
            "uti": URL_SAFE_NO_PAD.encode(Uuid::new_v4()),
            "ver": "1.0",
            "wids": [NO_DIRECTORY_ROLE],
        });
        // Without a permission there is no claim, rather than an empty one; the token is issued.
        if !self.roles.is_empty() {
            claims["roles"] = json!(self.roles);
        }
        claims
    }

    /// The identifier, to which Exchange tokens are seen to add a slash.
    fn audience(&self) -> String {
        let identifier = self.identifier.trim_end_matches('/');
        match self.resource {
            Resource::Exchange => format!("{identifier}/"),
            Resource::Graph | Resource::SharePoint | Resource::AzureAdGraph => identifier.into(),
        }
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn seconds(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, jwk::JwkSet};

    use super::*;

    fn grant() -> Grant {
        Grant {
            tenant: Uuid::new_v4(),
            client_id: Uuid::new_v4(),
            service_principal_id: Uuid::new_v4(),
            resource: Resource::Exchange,
            identifier: "https://outlook.office365.com".into(),
            roles: vec!["full_access_as_app".into()],
            authentication: AuthenticationClass::Certificate,
            lifetime: Duration::from_secs(3600),
            refresh_after: None,
        }
    }

    #[test]
    fn a_token_verifies_with_the_published_key() {
        let key = SigningKey::generate().unwrap();
        let grant = grant();
        let token = key
            .issue(&grant, crate::clock::Clock::system().now())
            .unwrap();
        let keys: JwkSet = serde_json::from_value(key.key_set()).unwrap();
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&["https://outlook.office365.com/"]);
        let public = DecodingKey::from_jwk(&keys.keys[0]).unwrap();
        let claims = decode::<Value>(&token, &public, &validation)
            .unwrap()
            .claims;
        assert_eq!(claims["appid"], json!(grant.client_id.to_string()));
        assert_eq!(claims["appidacr"], "2");
        assert_eq!(claims["idtyp"], "app");
        assert_eq!(claims["roles"], json!(["full_access_as_app"]));
        assert_eq!(
            claims["iss"],
            format!("https://sts.windows.net/{}/", grant.tenant)
        );
        let life = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        assert_eq!(life, 3900);
    }

    #[test]
    fn a_grant_without_permissions_has_no_roles() {
        let mut grant = grant();
        grant.roles.clear();
        assert!(
            grant
                .claims(crate::clock::Clock::system().now())
                .get("roles")
                .is_none()
        );
    }

    #[test]
    fn a_foreign_or_ended_token_does_not_verify() {
        let key = SigningKey::generate().unwrap();
        let now = crate::clock::Clock::system().now();
        let token = key.issue(&grant(), now).unwrap();
        assert!(key.verify(&token, now).is_some());
        assert!(
            key.verify(&token, now + Duration::from_secs(3601))
                .is_none()
        );
        assert!(
            SigningKey::generate()
                .unwrap()
                .verify(&token, now)
                .is_none()
        );
    }
}
