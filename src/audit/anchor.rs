//! The last line of the log, kept outside of it: without that, nobody can see that lines at the end are
//! missing.

use std::{fs, io, path::Path};

use serde::Deserialize;

use super::{
    key::{LineKey, PublicKey},
    line::{Head, signature_bytes},
    verify::Trust,
};
use crate::{
    hex::{self, Hex},
    private_file,
};

/// Longest anchor, in bytes.
const BYTES_MAX: usize = 4096;

/// What was the last line of a log at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The id of the log.
    pub log: String,
    /// The line.
    pub head: Head,
}

#[derive(Deserialize)]
struct Stored {
    log: String,
    seq: u64,
    hash: String,
    public_key: String,
    signature: String,
}

impl Anchor {
    /// Reads an anchor, `None` if there is no file.
    ///
    /// # Errors
    /// Those of the file system, and one that is not as it was written, with the file's name.
    pub fn read(file: &Path, trust: &Trust) -> io::Result<Option<Self>> {
        let named = |error: io::Error| {
            let text = format!("the anchor of the audit log {}: {error}", file.display());
            io::Error::new(error.kind(), text)
        };
        match fs::metadata(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named(error)),
            Ok(_) => {}
        }
        let text = private_file::read_shared(file, BYTES_MAX).map_err(named)?;
        let anchor = Self::parse(&text, trust).map_err(|why| named(io::Error::other(why)))?;
        Ok(Some(anchor))
    }

    fn parse(text: &[u8], trust: &Trust) -> Result<Self, String> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let stored: Stored =
            serde_json::from_slice(text).map_err(|_| "it cannot be read".to_owned())?;
        let key = PublicKey::parse(&stored.public_key).ok_or("it names no key")?;
        if !trust.knows(key) {
            return Err(format!("the key {key} is not known"));
        }
        let hash = hex::parse(&stored.hash).ok_or("it has no hash")?;
        let anchor = Self {
            log: stored.log,
            head: Head {
                seq: stored.seq,
                hash,
            },
        };
        let signature = signature_bytes(stored.signature.as_bytes());
        let signed = signature
            .is_some_and(|signature| key.verifies(anchor.signed(key).as_bytes(), &signature));
        signed
            .then_some(anchor)
            .ok_or_else(|| "it was changed".to_owned())
    }

    /// Puts an anchor in the place of the one that is there.
    pub(super) fn write(&self, file: &Path, key: &LineKey) -> io::Result<()> {
        let signed = self.signed(key.public);
        let signature = key.sign(signed.as_bytes());
        let text = format!("{signed},\"signature\":\"{}\"}}\n", Hex(&signature));
        private_file::replace(file, text.as_bytes())
    }

    fn signed(&self, key: PublicKey) -> String {
        let Self {
            log,
            head: Head { seq, hash },
        } = self;
        // A log's id has no character that JSON escapes, or it has no signature of ours.
        format!(
            "{{\"log\":\"{log}\",\"seq\":{seq},\"hash\":\"{}\",\"public_key\":\"{key}\"",
            Hex(hash)
        )
    }
}
