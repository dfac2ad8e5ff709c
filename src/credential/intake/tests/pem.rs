//! Certificates and keys in PEM form, as several programs write them.

use super::*;
use crate::simulator::pki::CertificateAuthority;

fn pem(text: &str) -> Result<Credential, Malformed> {
    intake_pem(text, now())
}

use super::super::pem as intake_pem;

/// A PEM section of these bytes.
fn section(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// The RSA key as PKCS#1, which is what the PKCS#8 form has inside of its last OCTET STRING.
fn pkcs1_pem() -> String {
    let pkcs8 = key_der(&RSA.key_pem);
    // Four bytes of SEQUENCE, a version, the algorithm of RSA, four bytes of OCTET STRING.
    let inner = &pkcs8[4 + 3 + 15 + 4..];
    assert_eq!(inner[..2], [0x30, 0x82], "a long SEQUENCE");
    section("RSA PRIVATE KEY", inner)
}

#[test]
fn rsa_keys_of_2048_bits_and_more_are_accepted() {
    for (kind, bits) in [(KeyKind::Rsa2048, 2048), (KeyKind::Rsa3072, 3072)] {
        let identity = identity(kind);
        let certificate = certificate(pem(&identity.bundle_pem()));
        assert_eq!(certificate.key_bits, bits);
        assert_eq!(certificate.der, der(&identity.certificate_pem));
        signs(&certificate);
    }
}

#[test]
fn the_order_of_key_and_certificates_does_not_matter() {
    let leaf = &RSA.certificate_pem;
    let authority = CertificateAuthority::new("issuer").expect("an authority");
    let issuer = authority.certificate_pem();
    let foreign = &OTHER_RSA.certificate_pem;
    let key = &RSA.key_pem;
    for parts in [
        [key, leaf, &issuer, foreign],
        [leaf, key, foreign, &issuer],
        [&issuer, foreign, leaf, key],
        [foreign, key, &issuer, leaf],
    ] {
        let text: String = parts.map(String::as_str).concat();
        assert_eq!(certificate(pem(&text)).der, der(leaf));
    }
}

#[test]
fn other_line_ends_and_text_around_the_sections_do_not_matter() {
    let bundle = RSA.bundle_pem();
    for text in [
        bundle.replace('\n', "\r\n"),
        format!("Bag Attributes\n    localKeyID: 01\nsubject=CN = x\n{bundle}\n\n"),
        bundle.trim_end().to_owned(),
    ] {
        assert!(pem(&text).is_ok(), "{text}");
    }
}

#[test]
fn a_pkcs1_key_is_accepted_and_stored_as_pkcs8() {
    let certificate = certificate(pem(&format!("{}{}", pkcs1_pem(), RSA.certificate_pem)));
    // Exposed: its form is compared.
    assert_eq!(
        key_der(certificate.key.expose()),
        key_der(&RSA.key_pem),
        "the same key"
    );
    assert!(certificate.key.expose().starts_with("-----BEGIN PRIVATE"));
    signs(&certificate);
}

#[test]
fn openssl_reads_the_same_key_and_thumbprints() {
    let certificate = certificate(pem(&RSA.bundle_pem()));
    let thumbprints = Thumbprints::of(&certificate.der);
    let digests = [
        ("-sha256", thumbprints.sha256.as_slice()),
        ("-sha1", &thumbprints.sha1),
    ];
    for (algorithm, digest) in digests {
        let arguments = ["x509", "-noout", "-fingerprint", algorithm];
        let output = openssl(&arguments, RSA.certificate_pem.as_bytes());
        let output = String::from_utf8(output).expect("text");
        let (_, shown) = output.trim().split_once('=').expect("name=value");
        let ours = crate::hex::Hex(digest).to_string();
        assert_eq!(shown.replace(':', "").to_ascii_lowercase(), ours);
    }
    let modulus =
        |command, input: &str| openssl(&[command, "-noout", "-modulus"], input.as_bytes());
    // Exposed: another program reads it.
    let of_key = modulus("rsa", certificate.key.expose());
    assert_eq!(of_key, modulus("x509", &RSA.certificate_pem));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let text = format!("{}{}", OTHER_RSA.certificate_pem, RSA.key_pem);
    refused(pem(&text), "does not belong");
}

#[test]
fn keys_that_entra_does_not_take_are_refused() {
    for kind in [KeyKind::EcP256, KeyKind::Ed25519] {
        refused(pem(&identity(kind).bundle_pem()), "RSA");
    }
    // The key form of SEC 1, which `openssl ecparam -genkey` writes.
    let text = section("EC PRIVATE KEY", &[0x30, 0]);
    refused(pem(&format!("{text}{}", RSA.certificate_pem)), "RSA");
    // An RSA key that came with the certificate of another kind of key.
    let elliptic = identity(KeyKind::EcP256).certificate_pem;
    refused(
        pem(&format!("{elliptic}{}", RSA.key_pem)),
        "does not belong",
    );
}

#[test]
fn an_rsa_key_of_1024_bits_is_refused() {
    let key = openssl(&["genrsa", "1024"], b"");
    let arguments = "req -x509 -new -key /dev/stdin -subj /CN=short -days 3";
    let arguments: Vec<_> = arguments.split(' ').collect();
    let text = openssl(&arguments, &key);
    let text = String::from_utf8([text, key].concat()).expect("PEM");
    refused(pem(&text), "2048");
}

#[test]
fn a_certificate_outside_its_validity_is_refused() {
    let bundle = RSA.bundle_pem();
    let expires = certificate(pem(&bundle)).expires;
    refused(intake_pem(&bundle, expires), "has expired");
    refused(intake_pem(&bundle, expires + DAY), "has expired");
    assert!(intake_pem(&bundle, expires - Duration::from_millis(1)).is_ok());
    // It was made two hours ago.
    refused(intake_pem(&bundle, now() - 3 * HOUR), "not valid yet");
}

#[test]
fn half_of_the_pair_is_refused() {
    refused(pem(&RSA.certificate_pem), "no private key");
    refused(pem(&RSA.key_pem), "no certificate");
}

#[test]
fn an_encrypted_key_is_told_to_be_decrypted() {
    let text = section("ENCRYPTED PRIVATE KEY", &[0x30, 0]);
    for text in [
        format!("{text}{}", RSA.certificate_pem),
        format!("{}{text}", RSA.certificate_pem),
    ] {
        refused(pem(&text), "decrypt it first");
    }
    // The older form, which is no valid PEM by RFC 7468.
    let old = pkcs1_pem().replacen(
        "KEY-----\n",
        "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\n",
        1,
    );
    for text in [
        format!("{old}{}", RSA.certificate_pem),
        format!("{}{old}", RSA.certificate_pem),
    ] {
        refused(pem(&text), "decrypt it first");
    }
}

#[test]
fn garbage_is_refused() {
    for text in ["", "hello", "\0\0\0", "-----BEGIN CERTIFICATE REQUEST-----"] {
        assert!(pem(text).is_err(), "{text:?}");
    }
    let broken = RSA.bundle_pem().replacen("MII", "M*I", 1);
    refused(pem(&broken), "not readable as PEM");
    let cut = RSA.bundle_pem();
    assert!(pem(&cut[..cut.len() - 30]).is_err());
    let no_certificate = format!("{}{}", section("CERTIFICATE", b"no DER"), RSA.key_pem);
    refused(pem(&no_certificate), "cannot be read");
    let no_key = format!(
        "{}{}",
        section("PRIVATE KEY", b"no DER"),
        RSA.certificate_pem
    );
    refused(pem(&no_key), "RSA");
}

#[test]
fn a_text_of_more_than_64_kib_is_refused() {
    let bundle = RSA.bundle_pem();
    let padded = |length: usize| format!("{bundle}{}", "\n".repeat(length - bundle.len()));
    assert!(pem(&padded(FILE_BYTES_MAX)).is_ok());
    refused(pem(&padded(FILE_BYTES_MAX + 1)), "64 KiB");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        label in "(CERTIFICATE|PRIVATE KEY|RSA PRIVATE KEY|EC PRIVATE KEY)",
        bytes in any::<Vec<u8>>(),
        text in "\\PC{0,80}",
    ) {
        let certificate = section("CERTIFICATE", &bytes);
        let key = section(&label, &bytes);
        for text in [&text, &key, &format!("{certificate}{key}"), &format!("{key}{text}")] {
            prop_assert!(pem(text).is_err());
        }
        let _ = pem(&format!("{certificate}{}", RSA.key_pem));
        let _ = pem(&format!("{key}{}", RSA.certificate_pem));
    }

    #[test]
    fn a_changed_byte_makes_it_refuse_or_changes_nothing_of_the_pair(
        position in any::<prop::sample::Index>(),
        bit in 0..7_u8,
    ) {
        let mut bytes = RSA.bundle_pem().into_bytes();
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        let text = String::from_utf8(bytes).expect("still ASCII");
        if let Ok(Credential::Certificate(certificate)) = pem(&text) {
            let key = PrivateKeyDer::from_pem_slice(certificate.key.expose().as_bytes());
            prop_assert!(key.is_ok());
            signs(&certificate);
        }
    }
}

#[test]
fn of_certificates_of_one_key_the_one_that_lasts_longest_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key.pem");
    std::fs::write(&key, &RSA.key_pem).expect("writes");
    let renewed = |days: &str| {
        let arguments = [
            "req",
            "-x509",
            "-new",
            "-subj",
            "/CN=renewed",
            "-days",
            days,
            "-key",
        ];
        let arguments = arguments.iter().copied().chain(key.to_str());
        let text = openssl(&arguments.collect::<Vec<_>>(), b"");
        String::from_utf8(text).expect("PEM")
    };
    let (early, late) = (renewed("400"), renewed("500"));
    for order in [[&early, &late], [&late, &early]] {
        let text = format!("{}{}{}", order[0], RSA.key_pem, order[1]);
        assert_eq!(certificate(pem(&text)).der, der(&late));
    }
}
