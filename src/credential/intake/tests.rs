use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::LazyLock,
};

use proptest::prelude::*;
use url::Url;

use super::*;
use crate::{
    clock::Clock,
    credential::Thumbprints,
    entra::client_assertion,
    organization::ClientId,
    simulator::pki::{ApplicationCertificate, Identity, KeyKind, application_certificate},
};

mod pem;
mod pkcs12;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Made once: a key takes its time.
static RSA: LazyLock<Identity> = LazyLock::new(|| identity(KeyKind::Rsa2048));
static OTHER_RSA: LazyLock<Identity> = LazyLock::new(|| identity(KeyKind::Rsa2048));

fn identity(key: KeyKind) -> Identity {
    let content = ApplicationCertificate {
        key,
        ..Default::default()
    };
    application_certificate(&content).expect("a certificate")
}

fn now() -> SystemTime {
    Clock::system().now()
}

fn der(certificate_pem: &str) -> Vec<u8> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes());
    der.expect("a certificate").to_vec()
}

fn key_der(key_pem: &str) -> Vec<u8> {
    let der = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).expect("a key");
    der.secret_der().to_vec()
}

/// Runs openssl over an input. It must be installed, as `tests/run` sees to.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let child = command.stderr(Stdio::piped()).spawn();
    let mut child = child.expect("openssl is installed");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A command that reads nothing may be gone already.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("openssl ends");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {complaint}"
    );
    output.stdout
}

#[track_caller]
fn certificate(outcome: Result<Credential, Malformed>) -> Certificate {
    match outcome.expect("accepted") {
        Credential::Certificate(certificate) => certificate,
        Credential::ClientSecret { .. } => panic!("a client secret"),
    }
}

/// The refusal says this.
#[track_caller]
fn refused(outcome: Result<Credential, Malformed>, says: &str) {
    let Malformed(reason) = outcome.expect_err("refused");
    assert!(reason.contains(says), "{reason}");
}

#[track_caller]
fn signs(certificate: &Certificate) {
    let client_id = ClientId::parse("8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a").expect("a GUID");
    let audience = Url::parse("https://login.example/t/oauth2/v2.0/token").expect("a URL");
    let assertion = client_assertion::sign(certificate, client_id, &audience, 1_800_000_000);
    assert_eq!(assertion.expect("signs").split('.').count(), 3);
}

fn secret(value: &str) -> Result<Credential, Malformed> {
    client_secret(value.to_owned(), None, now())
}

#[test]
fn a_secret_id_is_refused_in_every_form_of_a_guid() {
    for id in [
        "8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a",
        "8D7F1C1E-0C5E-4A5C-9D6A-3F1F6F0F9B1A",
        "8d7f1c1e0c5e4a5c9d6a3f1f6f0f9b1a",
        "{8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a}",
        "urn:uuid:8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a",
        "00000000-0000-0000-0000-000000000000",
    ] {
        refused(secret(id), "\"Value\"");
    }
}

#[test]
fn a_secret_has_16_to_4096_characters() {
    for length in [0, 1, 15, 4097, 100_000] {
        refused(secret(&"x".repeat(length)), "16 to 4096");
    }
    for length in [16, 40, 4096] {
        assert!(secret(&"x".repeat(length)).is_ok(), "{length}");
    }
}

#[test]
fn a_secret_is_printable_ascii_and_was_copied_without_its_surroundings() {
    for bad in [
        " 3.abcdefghijklmnopqrstuvwxyz",
        "3.abcdefghijklmnopqrstuvwxyz ",
        "3.abcdefghijklmnopqrstuvwxyz\n",
        "3.abcdefghijklm\r\nnopqrstuvwxyz",
        "3.abcdefghijklm\tnopqrstuvwxyz",
        "3.abcdefghijklm\0nopqrstuvwxyz",
        "3.abcdefghijklm\u{7f}nopqrstuvwxyz",
        "3.abcdefghijklmnöpqrstuvwxyz",
        "\u{feff}3.abcdefghijklmnopqrstuvwxyz",
        "3.abcdefghijklmnopqrstuvwxyz\u{a0}",
    ] {
        refused(secret(bad), "printable ASCII");
    }
}

#[test]
fn a_secret_is_kept_as_it_came() {
    let value = r##"Abc8Q~!"#$%&'()*+,-./:;<=>?@[\]^_`{|} x"##;
    let Ok(Credential::ClientSecret { value: kept, .. }) = secret(value) else {
        panic!("accepted");
    };
    assert_eq!(kept.expose(), value);
}

#[test]
fn an_expired_secret_is_refused_and_one_that_will_expire_says_when() {
    let now = now();
    let value = || "x".repeat(40);
    refused(client_secret(value(), Some(now), now), "has passed");
    refused(client_secret(value(), Some(now - DAY), now), "has passed");
    let soon = now + Duration::from_millis(1);
    let credential = client_secret(value(), Some(soon), now).expect("accepted");
    assert_eq!(credential.info(1).expires, Some(soon));
}

proptest! {
    #[test]
    fn no_text_makes_the_intake_of_secrets_panic(text in any::<String>()) {
        if let Err(Malformed(reason)) = secret(&text) {
            prop_assert!(text.is_empty() || text.len() < 8 || !reason.contains(&text));
        }
    }
}
