//! Types for what must not be seen: they cannot be printed, serialized, compared or cloned by
//! accident, and they wipe their memory when dropped.
//!
//! `expose` is the only way to the content. Each use states why it is needed.

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use zeroize::Zeroize as _;

/// More than parsing a key file has ever used.
const STACK_BYTES: usize = 128 * 1024;

/// A client secret of an application.
pub struct ClientSecret(SecretString);

/// The PKCS#8 PEM form of an application certificate's RSA key.
pub struct PrivateKey(SecretString);

/// An access token: a bearer credential until it ends.
pub struct AccessToken(SecretString);

/// 32 bytes that encrypt something.
pub struct SymmetricKey(SecretSlice<u8>);

impl ClientSecret {
    /// Takes the value over.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value.into())
    }

    /// The value. State why at each use.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PrivateKey {
    /// Takes a PKCS#8 PEM text over.
    #[must_use]
    pub fn new(pkcs8_pem: String) -> Self {
        Self(pkcs8_pem.into())
    }

    /// The PKCS#8 PEM text. State why at each use.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl AccessToken {
    /// Takes the token over.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value.into())
    }

    /// The token. State why at each use.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl SymmetricKey {
    /// Length in bytes.
    pub const LENGTH: usize = 32;

    /// Takes exactly [`Self::LENGTH`] bytes over, `None` for any other length.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() == Self::LENGTH).then(|| Self(bytes.into()))
    }

    /// The key bytes. State why at each use.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

/// Overwrites what functions that have returned may have left on this thread's stack: libraries put
/// keys there while they parse, and wipe only their heap.
#[inline(never)]
pub fn wipe_stack() {
    let mut stack = [1_u8; STACK_BYTES];
    stack.zeroize();
}

macro_rules! redacted_debug {
    ($($name:ident),+) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }
    )+};
}
redacted_debug!(ClientSecret, PrivateKey, AccessToken, SymmetricKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_type_and_nothing_else() {
        let shown = format!(
            "{:?} {:?} {:?} {:?}",
            ClientSecret::new("canary".into()),
            PrivateKey::new("canary".into()),
            AccessToken::new("canary".into()),
            SymmetricKey::new(vec![99; 32]),
        );
        assert!(
            !shown.contains("canary") && !shown.contains("99"),
            "{shown}"
        );
        assert_eq!(shown.matches("[redacted]").count(), 4);
    }

    #[test]
    fn a_key_has_exactly_32_bytes() {
        assert!(SymmetricKey::new(vec![0; 31]).is_none());
        assert!(SymmetricKey::new(vec![0; 33]).is_none());
    }
}
