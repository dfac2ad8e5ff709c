//! The versions of a Transit key, and the KEK ids that stand for them.
//!
//! `transit-<digest>:vN`: the digest is made of namespace, mount and name of the key, the version and
//! the time when that version was made. So a key that was deleted and made anew under its old name
//! has other ids, and records of the former are refused by name, not as damaged.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};

use super::{KekId, wire};
use crate::{config::TransitConfig, hex::Hex};

const PREFIX: &str = "transit-";
/// Types of keys that bind associated data.
const TYPES: [&str; 4] = [
    "aes128-gcm96",
    "aes256-gcm96",
    "chacha20-poly1305",
    "xchacha20-poly1305",
];

/// What is known of a key. By default: nothing.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// Those that may still decrypt.
    ids: BTreeMap<u32, KekId>,
    /// The newest, which encrypts.
    latest: u32,
    /// Whether each use is under a key of its own, made of this one and a context.
    pub(super) derived: bool,
}

impl Versions {
    /// What an answer about a key says.
    pub(super) fn of(config: &TransitConfig, answer: &[u8]) -> Result<Self, String> {
        let key = wire::key(answer).ok_or("it answers with what describes no key")?;
        if !TYPES.contains(&key.kind) {
            return Err(format!(
                "the key's type is none of {}; make one of these",
                TYPES.join(", ")
            ));
        }
        let mut ids = BTreeMap::new();
        for (version, made) in key.versions {
            if version >= key.min_decryption_version {
                ids.insert(version, id(config, version, made));
            }
        }
        if !ids.contains_key(&key.latest_version) {
            return Err("it does not tell of the key's latest version".to_owned());
        }
        Ok(Self {
            ids,
            latest: key.latest_version,
            derived: key.derived,
        })
    }

    /// What new keys are wrapped under.
    pub(super) fn current(&self) -> Option<KekId> {
        self.ids.get(&self.latest).cloned()
    }

    /// The version that an id stands for.
    pub(super) fn version(&self, kek_id: &KekId) -> Option<u32> {
        let (_, version) = kek_id.as_str().rsplit_once(":v")?;
        let version = version.parse().ok()?;
        (self.ids.get(&version)? == kek_id).then_some(version)
    }

    /// Whether an id looks like one of a Transit key.
    pub(super) fn may_name(kek_id: &KekId) -> bool {
        kek_id.as_str().starts_with(PREFIX)
    }
}

/// The version in `vault:vN:…`.
pub(super) fn of_ciphertext(ciphertext: &[u8]) -> Option<u32> {
    let rest = ciphertext.strip_prefix(b"vault:v")?;
    let end = rest.iter().position(|byte| *byte == b':')?;
    str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

fn id(config: &TransitConfig, version: u32, made: u64) -> KekId {
    let mut digest = Context::new(&SHA256);
    digest.update(b"kodo-broker transit key\0");
    let namespace = config.namespace.as_deref().unwrap_or_default();
    for name in [namespace, &config.mount, &config.key] {
        // As they are told apart in a path: none of them begins or ends with it.
        digest.update(name.trim_matches('/').as_bytes());
        digest.update(b"\0");
    }
    digest.update(&version.to_be_bytes());
    digest.update(&made.to_be_bytes());
    let digest = digest.finish();
    let id = format!("{PREFIX}{}:v{version}", Hex(&digest.as_ref()[..8]));
    KekId::parse(&id).expect("at most 36 printable characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "address = \"https://localhost\"\nkey = \"broker\"\n";

    fn config(more: &str) -> TransitConfig {
        toml::from_str(&format!("{CONFIG}{more}")).expect("a configuration")
    }

    fn answer(kind: &str, latest: u32, least: u32, versions: &str) -> String {
        format!(
            r#"{{"data":{{"type":"{kind}","derived":false,"latest_version":{latest},"min_decryption_version":{least},"keys":{versions},"name":"broker"}}}}"#
        )
    }

    fn versions(latest: u32, least: u32, versions: &str) -> Versions {
        let answer = answer("aes256-gcm96", latest, least, versions);
        Versions::of(&config(""), answer.as_bytes()).expect("a key")
    }

    #[test]
    fn an_id_names_one_version_of_one_key() {
        let two = versions(2, 1, r#"{"1":1700000000,"2":1700000001}"#);
        let current = two.current().expect("there is one");
        assert!(current.as_str().starts_with("transit-") && current.as_str().ends_with(":v2"));
        assert_eq!(two.version(&current), Some(2));
        let older = versions(1, 1, r#"{"1":1700000000}"#)
            .current()
            .expect("one");
        assert_eq!(two.version(&older), Some(1));
        assert!(!two.derived);
        // Made anew under its name: another key.
        let anew = versions(1, 1, r#"{"1":1700000009}"#)
            .current()
            .expect("one");
        assert_eq!(two.version(&anew), None);
        let mut ids = vec![older];
        for more in ["mount = \"other\"", "namespace = \"team\""] {
            let answer = answer("aes256-gcm96", 1, 1, r#"{"1":1700000000}"#);
            let other = Versions::of(&config(more), answer.as_bytes()).expect("a key");
            ids.push(other.current().expect("one"));
        }
        ids.dedup();
        assert_eq!(ids.len(), 3, "{ids:?}");
    }

    #[test]
    fn a_version_below_the_least_for_decryption_opens_nothing() {
        let first = versions(1, 1, r#"{"1":1}"#).current().expect("one");
        let third = versions(3, 3, r#"{"1":1,"2":2,"3":3}"#);
        assert_eq!(third.version(&first), None);
        assert!(
            third
                .current()
                .is_some_and(|id| third.version(&id) == Some(3))
        );
    }

    #[test]
    fn what_is_no_key_to_wrap_with_is_refused() {
        let refused =
            |answer: &str| Versions::of(&config(""), answer.as_bytes()).expect_err("refused");
        let rsa = answer("rsa-2048", 1, 1, r#"{"1":{"public_key":"-"}}"#);
        assert!(refused(&rsa).contains("aes256-gcm96"));
        assert!(refused(&answer("aes256-gcm96", 2, 1, r#"{"1":1}"#)).contains("latest"));
        for odd in [
            "",
            "{}",
            "[]",
            r#"{"data":null}"#,
            "<html>",
            r#"{"data":{"type":"aes256-gcm96"}}"#,
        ] {
            assert!(refused(odd).contains("describes no key"), "{odd}");
        }
    }

    #[test]
    fn the_version_of_a_ciphertext_is_read_from_its_front() {
        assert_eq!(of_ciphertext(b"vault:v1:AAAA"), Some(1));
        assert_eq!(of_ciphertext(b"vault:v4294967295:"), Some(u32::MAX));
        for odd in [
            "",
            "vault:v",
            "vault:v1",
            "vault:vx:",
            "vault:v4294967296:",
            "v1:AAAA",
            "vault:v-1:",
        ] {
            assert_eq!(of_ciphertext(odd.as_bytes()), None, "{odd}");
        }
    }
}
