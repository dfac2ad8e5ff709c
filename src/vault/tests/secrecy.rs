//! What somebody who has the store, but not the KEK, can read in it.

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};

use super::*;
use crate::hex::Hex;

/// The forms in which a text could be in a store.
fn forms(text: &[u8]) -> Vec<Vec<u8>> {
    let hex = Hex(text).to_string();
    let mut forms = vec![
        text.to_vec(),
        hex.to_ascii_uppercase().into_bytes(),
        hex.into_bytes(),
        text.iter().flat_map(|byte| [*byte, 0]).collect(),
    ];
    // In base64 it depends on what is before: the first and last characters hold bits of both.
    for before in 0..3 {
        let encoded = BASE64_STANDARD_NO_PAD.encode([&vec![0; before], text].concat());
        let inner = &encoded[if before == 0 { 0 } else { before + 1 }..encoded.len() - 1];
        forms.push(inner.as_bytes().to_vec());
    }
    forms
}

pub(in super::super) fn holds(bytes: &[u8], text: &[u8]) -> bool {
    forms(text).iter().any(|form| {
        bytes
            .windows(form.len())
            .any(|window| window == form.as_slice())
    })
}

fn canaries() -> Vec<Vec<u8>> {
    let guid = |text: &str| {
        let guid = uuid::Uuid::parse_str(text).expect("a GUID");
        guid.into_bytes().to_vec()
    };
    let texts = [SECRET, TENANT, CLIENT, "canary-organization", "Canary Name"];
    let texts = texts.iter().map(|text| text.as_bytes().to_vec());
    texts.chain([guid(TENANT), guid(CLIENT)]).collect()
}

/// All keys and values of the store, one after the other.
async fn dump(store: &MemoryStore) -> Vec<u8> {
    let entries = entries(store).await.into_iter();
    entries
        .flat_map(|(key, value)| [key.as_bytes(), &value].concat())
        .collect()
}

#[test]
fn the_search_finds_what_is_there() {
    for form in forms(SECRET.as_bytes()) {
        assert!(holds(
            &[b"before", &*form, b"after"].concat(),
            SECRET.as_bytes()
        ));
    }
    for before in 0..7 {
        let text = format!("{}{SECRET} and more", "x".repeat(before));
        let encoded = BASE64_STANDARD_NO_PAD.encode(text);
        assert!(holds(encoded.as_bytes(), SECRET.as_bytes()), "{before}");
    }
}

#[tokio::test]
async fn the_store_tells_neither_secrets_nor_who_the_customers_are() {
    let fixture = Fixture::with(&["canary-organization", "other"]).await;
    let mut seen = dump(&fixture.store).await;
    fixture
        .rotate("canary-organization", 1)
        .await
        .expect("rotates");
    seen.extend(dump(&fixture.store).await);
    fixture
        .revoke("canary-organization", 2)
        .await
        .expect("revokes");
    seen.extend(dump(&fixture.store).await);
    for canary in canaries() {
        assert!(
            !holds(&seen, &canary),
            "{}",
            String::from_utf8_lossy(&canary)
        );
    }
}

#[tokio::test]
async fn what_is_stored_of_a_revoked_organization_has_no_secret_inside() {
    let fixture = Fixture::with(&["contoso"]).await;
    let index = fixture.vault.root.index(&id("contoso"));
    let plaintext = async || {
        let found = fixture.vault.find(&index).await.expect("reads");
        found.expect("is there").record.encode()
    };
    assert!(holds(&plaintext().await, SECRET.as_bytes()));
    fixture.revoke("contoso", 1).await.expect("revokes");
    assert!(!holds(&plaintext().await, SECRET.as_bytes()));
}

#[tokio::test]
async fn equal_organizations_look_different_in_every_store_and_every_generation() {
    let (one, other) = (
        Fixture::with(&["contoso"]).await,
        Fixture::with(&["contoso"]).await,
    );
    one.rotate("contoso", 1).await.expect("rotates");
    let (ones, others) = (entries(&one.store).await, entries(&other.store).await);
    for (key, value) in ones.iter().filter(|(key, _)| key.as_bytes()[0] != b'm') {
        assert!(others.iter().all(|(k, v)| k != key && v != value));
    }
}

#[tokio::test]
async fn debug_shows_no_key_and_no_secret() {
    let fixture = Fixture::with(&["contoso"]).await;
    let application = fixture.application("contoso").await;
    let shown = format!("{:?} {application:?}", fixture.vault);
    assert!(shown.contains("[redacted]"), "{shown}");
    // The memory store prints its entries, which are sealed; the KEK is 32 times the byte 1.
    assert!(!shown.contains(SECRET) && !shown.contains("[1, 1, 1, 1"));
}
