//! What a token may do, read from its `roles` claim: for diagnosis only. Nothing is allowed or refused
//! because of it; that is for the API.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::{organization::Resource, secret::AccessToken};

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    roles: Vec<String>,
}

/// The application permissions of a token. `None` if it is in a form that tells nothing: tokens are
/// opaque to all but the API that they are for.
#[must_use]
pub fn of(token: &AccessToken) -> Option<Vec<String>> {
    // Exposed: the claims are in the token. What is taken from it are names of permissions.
    let mut parts = token.expose().split('.');
    let (Some(_), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let claims = zeroize::Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?);
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    Some(claims.roles)
}

/// The roles that backup and restore need of an API and a token does not have.
#[must_use]
pub fn missing(resource: &Resource, roles: &[String]) -> Vec<&'static str> {
    let has = |wanted: &str| roles.iter().any(|role| role == wanted);
    let needed = needed(resource).iter().copied();
    needed
        .filter(|role| !has(role) && !has(&role.replace(".Read", ".ReadWrite")))
        .collect()
}

/// The application permissions of the set-up guide for the API. One to read is also had by whoever may
/// write, so that those are not listed twice. Delegated ones are never in such a token.
fn needed(resource: &Resource) -> &'static [&'static str] {
    match resource {
        Resource::Graph => &[
            "Calendars.ReadWrite",
            "Contacts.ReadWrite",
            "Files.ReadWrite.All",
            "Mail.ReadWrite",
            "Sites.ReadWrite.All",
            "User.Read.All",
        ],
        Resource::Exchange => &["full_access_as_app"],
        Resource::SharePoint(_) => &["Sites.FullControl.All", "User.ReadWrite.All"],
        Resource::AzureAdGraph => &["Directory.Read.All"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> AccessToken {
        let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
        AccessToken::new(format!("header.{claims}.signature"))
    }

    #[test]
    fn roles_are_read_from_a_token_that_has_claims() {
        let read = of(&token(
            r#"{"roles":["Mail.Read","User.Read.All"],"aud":"x"}"#,
        ));
        assert_eq!(read.expect("claims"), ["Mail.Read", "User.Read.All"]);
        assert_eq!(of(&token("{}")), Some(vec![]));
        for opaque in ["opaque", "a.b.c", "a.b", "a.e30.c.d", ""] {
            assert_eq!(of(&AccessToken::new(opaque.into())), None, "{opaque}");
        }
    }

    #[test]
    fn whoever_may_write_may_read() {
        let roles = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let missing_of = |names: &[&str]| missing(&Resource::Graph, &roles(names));
        let all = [
            "Calendars.ReadWrite",
            "Contacts.ReadWrite",
            "Files.ReadWrite.All",
            "Mail.ReadWrite",
            "Sites.ReadWrite.All",
            "User.ReadWrite.All",
        ];
        assert!(missing_of(&all).is_empty());
        assert_eq!(missing_of(&all[..5]), ["User.Read.All"]);
        assert_eq!(missing_of(&[]).len(), 6);
        let read_only = roles(&["full_access"]);
        assert_eq!(
            missing(&Resource::Exchange, &read_only),
            ["full_access_as_app"]
        );
    }
}
