//! Keys of the audit log: under one each line has a MAC, and every so often one has a signature.
//!
//! A file holds up to 16 of them, one a line, 32 random bytes in base64: the first is used for what is
//! new, all of them verify. From each come two keys by HKDF-SHA-256, for HMAC-SHA-256 and for Ed25519.
//! The file is not the KEK and needs none, so that there is a record of a broker that is sealed, too.
//! Whoever has it can forge the log; whoever has the public key only can verify the signatures, and
//! with them every line before the last one.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use crate::{
    hex::{self, Hex},
    private_file, sealed,
    secret::SymmetricKey,
};

/// Most keys in a file.
const KEYS_MAX: usize = 16;
/// Longest file, in bytes: the keys, and a line of comment on each.
const FILE_BYTES_MAX: usize = 4096;
/// Keep these keys apart from any other use of the same input key.
const MAC: &[u8] = b"audit mac 1";
const SIGNATURE: &[u8] = b"audit signature 1";

/// A public key, which verifies signatures and makes none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// A key with all it is for.
pub(super) struct LineKey {
    mac: hmac::Key,
    pair: Ed25519KeyPair,
    pub(super) public: PublicKey,
}

/// The keys of a file; at least one.
#[derive(Clone, Debug)]
pub struct Keys(Vec<Arc<LineKey>>);

impl Keys {
    /// Reads a key file.
    ///
    /// # Errors
    /// Those of the file system, one that others can access, and one that holds anything else: with the
    /// file's name, never with what is in it.
    pub fn read(file: &Path) -> io::Result<Self> {
        let text = private_file::read(file, FILE_BYTES_MAX);
        text.and_then(|text| Self::parse(&text))
            .map_err(named(file))
    }

    /// Makes a key file where there is none.
    ///
    /// # Errors
    /// Those of the file system, with the file's name: also if it is there.
    pub fn make(file: &Path) -> io::Result<()> {
        let make = || {
            let key = sealed::random_key().ok_or_else(no_random)?;
            // Exposed: the file is what holds this key.
            let text = Zeroizing::new(BASE64_STANDARD.encode(key.expose()));
            let mut options = OpenOptions::new();
            let mut open = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)?;
            open.write_all(text.as_bytes())?;
            open.write_all(b"\n")?;
            open.sync_all()
        };
        make().map_err(named(file))
    }

    /// A key that nobody else has or will have: enough to show that what one process has written
    /// belongs together.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub(super) fn for_once() -> io::Result<Self> {
        let key = sealed::random_key().ok_or_else(no_random)?;
        Ok(Self(vec![Arc::new(LineKey::new(&key)?)]))
    }

    /// What is wrong is told by its line: what stands in it may be most of a key.
    fn parse(text: &[u8]) -> io::Result<Self> {
        let mut keys: Vec<Arc<LineKey>> = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let refused = |why: &str| io::Error::other(format!("line {}: {why}", number + 1));
            let key = key_from_base64(line).ok_or_else(|| refused("is not 32 bytes in base64"))?;
            let key = LineKey::new(&key)?;
            if keys.iter().any(|known| known.public == key.public) {
                return Err(refused("holds a key that stands before it"));
            }
            if keys.len() == KEYS_MAX {
                return Err(refused("there are more than 16 keys"));
            }
            keys.push(Arc::new(key));
        }
        if keys.is_empty() {
            return Err(io::Error::other("holds no key"));
        }
        Ok(Self(keys))
    }

    /// The one that is used for what is new.
    pub(super) fn present(&self) -> &Arc<LineKey> {
        &self.0[0]
    }

    pub(super) fn find(&self, public: PublicKey) -> Option<Arc<LineKey>> {
        self.0.iter().find(|key| key.public == public).cloned()
    }

    /// The public keys, in the order of the file.
    pub fn public(&self) -> impl Iterator<Item = PublicKey> {
        self.0.iter().map(|key| key.public)
    }
}

impl LineKey {
    fn new(key: &SymmetricKey) -> io::Result<Self> {
        let failed = || io::Error::other("the cryptographic library failed");
        let mac = sealed::derive_key(key, MAC).ok_or_else(failed)?;
        let seed = sealed::derive_key(key, SIGNATURE).ok_or_else(failed)?;
        // Exposed: both are made of these bytes.
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| failed())?;
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| failed())?;
        Ok(Self {
            mac: hmac::Key::new(hmac::HMAC_SHA256, mac.expose()),
            pair,
            public: PublicKey(public),
        })
    }

    pub(super) fn mac(&self, text: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&self.mac, text);
        *tag.as_ref()
            .first_chunk()
            .expect("HMAC-SHA-256 has 32 bytes")
    }

    pub(super) fn sign(&self, text: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(text);
        *signature
            .as_ref()
            .first_chunk()
            .expect("Ed25519 has 64 bytes")
    }
}

impl PublicKey {
    /// Reads 64 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex::parse(text).map(Self)
    }

    pub(super) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(text, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for LineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LineKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// A key in base64, leaving no copy behind. `None` if it is none.
fn key_from_base64(base64: &[u8]) -> Option<SymmetricKey> {
    // The decoder wants room for what three quarters of the text could be at most.
    let mut bytes = Zeroizing::new([0; SymmetricKey::LENGTH + 1]);
    let length = BASE64_STANDARD.decode_slice(base64, &mut *bytes).ok()?;
    SymmetricKey::new(bytes[..length].to_vec())
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = digest(&SHA256, bytes);
    *hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

fn no_random() -> io::Error {
    io::Error::other("the system gives no random bytes")
}

fn named(file: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| {
        let text = format!("the key file of the audit log {}: {error}", file.display());
        io::Error::new(error.kind(), text)
    }
}
