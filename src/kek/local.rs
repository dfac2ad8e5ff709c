//! A KEK from a file: for a single node, a systemd credential or a mounted Kubernetes secret.

use std::path::Path;

use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{Error, KekId, KeyProvider};
use crate::{hex::Hex, private_file, sealed, secret::SymmetricKey};

/// Longest KEK file, in bytes: 44 characters of base64 and white space around them.
const FILE_BYTES_MAX: usize = 256;

/// A KEK that was read from a file.
#[derive(Debug)]
pub struct FileKey {
    id: KekId,
    key: SymmetricKey,
}

impl FileKey {
    /// Reads the key from a file: 32 bytes in base64.
    ///
    /// # Errors
    /// [`Error::File`] if the file is missing, malformed or open to others.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let refused = |reason: String| Error::File {
            file: file.to_owned(),
            reason,
        };
        let text =
            private_file::read(file, FILE_BYTES_MAX).map_err(|error| refused(error.to_string()))?;
        let bytes = BASE64_STANDARD
            .decode(text.trim_ascii())
            .unwrap_or_default();
        let key = SymmetricKey::new(bytes).ok_or_else(|| {
            refused("must hold 32 bytes in base64, as `openssl rand -base64 32` makes them".into())
        })?;
        Ok(Self::new(key))
    }

    /// Wraps with this key.
    #[must_use]
    pub fn new(key: SymmetricKey) -> Self {
        // Exposed: the id is a digest of the key, which tells nothing of 32 random bytes.
        let mut fingerprint = Context::new(&SHA256);
        fingerprint.update(b"kodo-broker kek id\0");
        fingerprint.update(key.expose());
        let fingerprint = fingerprint.finish();
        let id = format!("file-{}", Hex(&fingerprint.as_ref()[..8]));
        Self {
            id: KekId::parse(&id).expect("21 printable characters"),
            key,
        }
    }
}

#[async_trait]
impl KeyProvider for FileKey {
    fn current(&self) -> KekId {
        self.id.clone()
    }

    async fn wrap_dek(&self, dek: &SymmetricKey, aad: &[u8]) -> Result<Vec<u8>, Error> {
        // Exposed: what is wrapped are the key's bytes.
        sealed::seal(&self.key, aad, dek.expose()).map_err(|_| Error::CryptoFailed)
    }

    async fn unwrap_dek(
        &self,
        kek_id: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, Error> {
        if *kek_id != self.id {
            return Err(Error::UnknownKek(kek_id.clone()));
        }
        let bytes = sealed::open(&self.key, aad, wrapped).map_err(|_| Error::DoesNotOpen)?;
        SymmetricKey::new(bytes.to_vec()).ok_or(Error::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn write(mode: u32, content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().expect("a folder");
        let file = directory.path().join("kek");
        fs::write(&file, content).expect("writes");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("sets the mode");
        (directory, file)
    }

    const KEY: &[u8] = b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

    #[test]
    fn only_a_file_closed_to_others_is_read() {
        for mode in [0o600, 0o400, 0o440, 0o640] {
            let (_directory, file) = write(mode, KEY);
            assert!(FileKey::load(&file).is_ok(), "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o620, 0o610, 0o777] {
            let (_directory, file) = write(mode, KEY);
            let error = FileKey::load(&file).expect_err("refused").to_string();
            assert!(error.contains("chmod"), "{mode:o}: {error}");
        }
    }

    #[test]
    fn a_malformed_key_is_refused_without_showing_it() {
        for content in [
            b"".as_slice(),
            b"c2hvcnQ=",
            b"not base64 at all",
            &[b'A'; 300],
        ] {
            let (_directory, file) = write(0o600, content);
            let error = FileKey::load(&file).expect_err("refused").to_string();
            let remedy = ["openssl rand", "is longer than 256 bytes"];
            assert!(remedy.iter().any(|text| error.contains(text)), "{error}");
            assert!(content.is_empty() || !error.contains(&*String::from_utf8_lossy(content)));
        }
    }

    #[tokio::test]
    async fn a_wrapped_key_opens_only_under_its_kek_and_place() {
        let provider = FileKey::new(SymmetricKey::new(vec![1; 32]).expect("32 bytes"));
        let other = FileKey::new(SymmetricKey::new(vec![2; 32]).expect("32 bytes"));
        let dek = SymmetricKey::new(vec![9; 32]).expect("32 bytes");
        let id = provider.current();
        let wrapped = provider.wrap_dek(&dek, b"place").await.expect("wraps");
        let opened = provider
            .unwrap_dek(&id, &wrapped, b"place")
            .await
            .expect("opens");
        assert_eq!(opened.expose(), dek.expose());
        let moved = provider.unwrap_dek(&id, &wrapped, b"elsewhere").await;
        assert!(matches!(moved, Err(Error::DoesNotOpen)));
        let foreign = other.unwrap_dek(&id, &wrapped, b"place").await;
        assert!(matches!(foreign, Err(Error::UnknownKek(named)) if named == id));
    }
}
