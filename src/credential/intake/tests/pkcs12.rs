//! Certificates and keys as PKCS#12, as several programs write them.

use p12_keystore::{LocalKeyId, PrivateKey as StoredKey, PrivateKeyChain};

use super::*;

use super::super::pkcs12 as intake_pkcs12;

const PASSWORD: &str = "correct horse & bätteri";

fn pkcs12(pfx: &[u8], password: &str) -> Result<Credential, Malformed> {
    intake_pkcs12(pfx, password, now())
}

/// A file with one entry per identity: its key, and the certificates of the texts.
fn file(entries: &[(&Identity, &[&str])], password: &str) -> Vec<u8> {
    let mut keystore = KeyStore::new();
    for (number, (identity, certificates)) in (1_u8..).zip(entries) {
        let key = StoredKey::from_der(&key_der(&identity.key_pem)).expect("a key");
        let certificates = certificates
            .iter()
            .map(|pem| p12_keystore::Certificate::from_der(&der(pem)).expect("a certificate"));
        let chain = PrivateKeyChain::new(LocalKeyId(vec![number]), key, certificates);
        let entry = KeyStoreEntry::PrivateKeyChain(chain);
        keystore.add_entry(&format!("entry {number}"), entry);
    }
    let writer = keystore.writer(password).encryption_iterations(1000);
    writer.mac_iterations(1000).write().expect("writes")
}

fn one() -> Vec<u8> {
    file(&[(&RSA, &[&RSA.certificate_pem])], PASSWORD)
}

#[test]
fn a_file_with_one_pair_is_accepted() {
    let certificate = certificate(pkcs12(&one(), PASSWORD));
    assert_eq!(certificate.der, der(&RSA.certificate_pem));
    assert_eq!(certificate.key_bits, 2048);
    signs(&certificate);
}

#[test]
fn files_of_openssl_are_accepted_in_old_and_new_encryption() {
    // The last is what Windows and old openssl write: RC2 and triple DES.
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("bundle.pem");
    std::fs::write(&bundle, RSA.bundle_pem()).expect("writes");
    let bundle = bundle.to_str().expect("text");
    for encryption in [
        "",
        "-macalg sha1 -certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES",
        "-keypbe NONE -certpbe NONE",
        "-legacy",
    ] {
        let mut arguments = vec![
            "pkcs12",
            "-export",
            "-in",
            bundle,
            "-passout",
            "pass:secret",
        ];
        arguments.extend(encryption.split_whitespace());
        let pfx = openssl(&arguments, b"");
        let certificate = certificate(pkcs12(&pfx, "secret"));
        assert_eq!(certificate.der, der(&RSA.certificate_pem), "{encryption}");
        signs(&certificate);
        refused(pkcs12(&pfx, "Secret"), "password");
    }
}

#[test]
fn a_wrong_password_is_refused() {
    for wrong in [
        "",
        "correct horse & batteri",
        "correct horse & bätteri ",
        "\0",
    ] {
        refused(pkcs12(&one(), wrong), "password");
    }
}

#[test]
fn an_empty_password_is_a_password() {
    let pfx = file(&[(&RSA, &[&RSA.certificate_pem])], "");
    assert!(pkcs12(&pfx, "").is_ok());
    refused(pkcs12(&pfx, "x"), "password");
}

#[test]
fn a_password_of_more_than_1024_bytes_is_refused() {
    let longest = "x".repeat(PASSWORD_BYTES_MAX);
    let pfx = file(&[(&RSA, &[&RSA.certificate_pem])], &longest);
    assert!(pkcs12(&pfx, &longest).is_ok());
    refused(pkcs12(&pfx, &format!("{longest}x")), "1024");
}

#[test]
fn garbage_and_cut_files_are_refused() {
    let pfx = one();
    for bytes in [b"".as_slice(), b"garbage", RSA.bundle_pem().as_bytes()] {
        refused(pkcs12(bytes, PASSWORD), "not readable");
    }
    for length in [1, 10, pfx.len() / 2, pfx.len() - 1] {
        refused(pkcs12(&pfx[..length], PASSWORD), "not readable");
    }
    let mut changed = pfx.clone();
    changed[pfx.len() / 2] ^= 1;
    refused(pkcs12(&changed, PASSWORD), "not readable");
}

#[test]
fn a_file_of_more_than_64_kib_is_refused() {
    refused(pkcs12(&vec![0x30; FILE_BYTES_MAX + 1], ""), "64 KiB");
}

#[test]
fn two_keys_are_refused() {
    let pfx = file(
        &[
            (&RSA, &[&RSA.certificate_pem]),
            (&OTHER_RSA, &[&OTHER_RSA.certificate_pem]),
        ],
        PASSWORD,
    );
    refused(pkcs12(&pfx, PASSWORD), "more than one private key");
}

#[test]
fn half_of_the_pair_is_refused() {
    refused(pkcs12(&file(&[], PASSWORD), PASSWORD), "no private key");
    let key_only = file(&[(&RSA, &[])], PASSWORD);
    refused(pkcs12(&key_only, PASSWORD), "no certificate");
}

#[test]
fn what_a_pem_text_is_refused_for_is_refused_here() {
    let elliptic = identity(KeyKind::EcP256);
    let pfx = file(&[(&elliptic, &[&elliptic.certificate_pem])], PASSWORD);
    refused(pkcs12(&pfx, PASSWORD), "RSA");
    let mismatched = file(&[(&RSA, &[&OTHER_RSA.certificate_pem])], PASSWORD);
    refused(pkcs12(&mismatched, PASSWORD), "does not belong");
    refused(
        intake_pkcs12(&one(), PASSWORD, now() + 400 * DAY),
        "has expired",
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>(), password in any::<String>()) {
        prop_assert!(pkcs12(&bytes, &password).is_err());
    }

    #[test]
    fn no_changed_byte_makes_it_panic(
        position in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        static PFX: LazyLock<Vec<u8>> = LazyLock::new(one);
        let mut bytes = PFX.clone();
        let position = position.index(bytes.len());
        bytes[position] = byte;
        if let Ok(Credential::Certificate(certificate)) = pkcs12(&bytes, PASSWORD) {
            prop_assert_eq!(&certificate.der, &der(&RSA.certificate_pem));
        }
    }
}
