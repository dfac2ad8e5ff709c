use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::pem::PemObject as _;

use super::*;
use crate::simulator::pki::{CertificateAuthority, Leaf};

const WORKER: &str = "spiffe://kodo.test/ns/kodo/sa/worker";

fn domain() -> TrustDomain {
    TrustDomain::new("kodo.test").expect("a trust domain")
}

/// A self-signed certificate with one good SPIFFE ID, after a change.
fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(WORKER)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("signs").der().clone()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// The certificate of exactly this URI.
fn with_uri(text: &str) -> CertificateDer<'static> {
    certificate(|params| params.subject_alt_names = vec![uri(text)])
}

fn identified(certificate: &CertificateDer<'_>) -> Result<String, Unidentified> {
    let chain = std::slice::from_ref(certificate);
    identify(Some(chain), &[domain()]).map(|id| id.to_string())
}

#[track_caller]
fn unidentified(why: Unidentified, change: impl FnOnce(&mut CertificateParams)) {
    assert_eq!(identified(&certificate(change)), Err(why));
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

#[test]
fn a_workload_is_known_by_its_one_uri() {
    for id in [
        WORKER,
        "spiffe://kodo.test/a",
        "spiffe://kodo.test/Case/Is.kept/in_paths-0",
    ] {
        assert_eq!(identified(&with_uri(id)).as_deref(), Ok(id));
    }
}

#[test]
fn certificates_of_the_mesh_are_understood() {
    let authority = CertificateAuthority::new("mesh").expect("an authority");
    let leaf = authority.issue(&Leaf::workload(WORKER)).expect("a leaf");
    let chain = [
        der(&leaf.certificate_pem),
        der(&authority.certificate_pem()),
    ];
    let id = identify(Some(&chain), &[domain()]).expect("the first counts");
    assert_eq!(id.to_string(), WORKER);
    let [leaf, authority] = chain;
    let reversed = identify(Some(&[authority, leaf]), &[domain()]);
    assert_eq!(reversed, Err(Unidentified::Authority));
}

#[test]
fn other_names_beside_the_uri_mean_nothing() {
    let certificate = certificate(|params| {
        let evil = "spiffe://kodo.test/ns/kodo-admin/sa/operator";
        params.distinguished_name.push(DnType::CommonName, evil);
        params.subject_alt_names.extend([
            SanType::DnsName("operator.kodo.test".try_into().expect("ASCII")),
            SanType::Rfc822Name("operator@kodo.test".try_into().expect("ASCII")),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ]);
    });
    assert_eq!(identified(&certificate).as_deref(), Ok(WORKER));
}

#[test]
fn key_usage_may_be_absent_but_not_without_signatures() {
    assert!(identified(&certificate(|params| params.key_usages.clear())).is_ok());
    let more = [
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    assert!(identified(&certificate(|params| params.key_usages = more.to_vec())).is_ok());
    for usage in [
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
        KeyUsagePurpose::DataEncipherment,
        KeyUsagePurpose::ContentCommitment,
    ] {
        unidentified(Unidentified::KeyUsage, |params| {
            params.key_usages = vec![usage];
        });
    }
}

#[test]
fn who_could_sign_others_is_nobody() {
    unidentified(Unidentified::Authority, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    unidentified(Unidentified::Authority, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages.clear();
    });
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        unidentified(Unidentified::Authority, |params| {
            params.key_usages.push(usage);
        });
        unidentified(Unidentified::Authority, |params| {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![usage];
        });
    }
    let explicit = certificate(|params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(identified(&explicit).as_deref(), Ok(WORKER));
}

#[test]
fn without_exactly_one_uri_a_certificate_names_nobody() {
    let dns = || SanType::DnsName(WORKER.try_into().expect("ASCII"));
    let email = || SanType::Rfc822Name(WORKER.try_into().expect("ASCII"));
    for names in [
        vec![],
        vec![dns()],
        vec![email()],
        vec![SanType::IpAddress([10, 0, 0, 1].into())],
        vec![uri(WORKER), uri("spiffe://kodo.test/ns/other")],
        vec![uri(WORKER), uri(WORKER)],
        vec![uri(WORKER), uri("https://kodo.test")],
        vec![uri("https://kodo.test"), dns(), uri(WORKER)],
    ] {
        unidentified(Unidentified::NotOneUri, |params| {
            params.subject_alt_names = names;
            // A common name that looks like an identity is none.
            params.distinguished_name.push(DnType::CommonName, WORKER);
        });
    }
}

#[test]
fn a_uri_that_is_no_workload_is_refused() {
    for bad in [
        "",
        "spiffe://",
        "spiffe:///ns/kodo",
        // No path: that is the trust domain itself.
        "spiffe://kodo.test",
        "spiffe://kodo.test/",
        "spiffe://kodo.test/ns/kodo/",
        "spiffe://kodo.test//ns/kodo",
        "spiffe://kodo.test/ns//kodo",
        "spiffe://kodo.test/./kodo",
        "spiffe://kodo.test/ns/../kodo",
        // Parts that a SPIFFE ID does not have.
        "spiffe://kodo.test/ns/kodo?x=1",
        "spiffe://kodo.test/ns/kodo?",
        "spiffe://kodo.test/ns/kodo#x",
        "spiffe://user@kodo.test/ns/kodo",
        "spiffe://user:word@kodo.test/ns/kodo",
        "spiffe://kodo.test:8443/ns/kodo",
        // Other schemes and no scheme.
        "http://kodo.test/ns/kodo",
        "https://kodo.test/ns/kodo",
        "spiffes://kodo.test/ns/kodo",
        "spiffe:kodo.test/ns/kodo",
        "urn:spiffe:kodo.test",
        "kodo.test/ns/kodo",
        " spiffe://kodo.test/ns/kodo",
        "spiffe://kodo.test/ns/kodo ",
        // Other spellings of the same.
        "SPIFFE://kodo.test/ns/kodo",
        "Spiffe://kodo.test/ns/kodo",
        "spiffe://KODO.test/ns/kodo",
        "spiffe://kodo.TEST/ns/kodo",
        "spiffe://kodo.test/ns/k%6fdo",
        "spiffe://kodo%2etest/ns/kodo",
        "spiffe://kodo.test/ns\\kodo",
        // Patterns and control characters.
        "spiffe://kodo.test/*",
        "spiffe://*/ns/kodo",
        "spiffe://kodo.test/ns/kodo\0",
        "spiffe://kodo.test/ns/kodo\0/evil",
        "spiffe://kodo.test\0.evil/ns/kodo",
        "spiffe://kodo.test/ns/kodo\n",
    ] {
        assert_eq!(
            identified(&with_uri(bad)),
            Err(Unidentified::NoSpiffeId),
            "{bad:?}"
        );
    }
}

#[test]
fn an_id_has_at_most_2048_bytes() {
    let of_length = |length: usize| {
        let start = "spiffe://kodo.test/";
        format!("{start}{}", "x".repeat(length - start.len()))
    };
    assert!(identified(&with_uri(&of_length(2048))).is_ok());
    assert_eq!(
        identified(&with_uri(&of_length(2049))),
        Err(Unidentified::NoSpiffeId)
    );
}

#[test]
fn other_trust_domains_are_foreign_however_they_look() {
    for foreign in [
        "spiffe://other.test/ns/kodo/sa/worker",
        "spiffe://kodo.test.evil/ns/kodo/sa/worker",
        "spiffe://sub.kodo.test/ns/kodo/sa/worker",
        "spiffe://kodo.tes/ns/kodo/sa/worker",
        "spiffe://kodo.test2/ns/kodo/sa/worker",
        "spiffe://kodo-test/ns/kodo/sa/worker",
        "spiffe://test/kodo.test/ns/kodo/sa/worker",
        "spiffe://kodo.test./ns/kodo/sa/worker",
        "spiffe://kodo_test/ns/kodo/sa/worker",
    ] {
        assert_eq!(
            identified(&with_uri(foreign)),
            Err(Unidentified::ForeignTrustDomain),
            "{foreign}"
        );
    }
}

#[test]
fn without_a_readable_certificate_there_is_nobody() {
    let unreadable = Err(Unidentified::Unreadable);
    assert_eq!(identify(None, &[domain()]), unreadable);
    assert_eq!(identify(Some(&[]), &[domain()]), unreadable);
    let good = certificate(|_| {});
    for bytes in [
        b"".to_vec(),
        b"garbage".to_vec(),
        vec![0x30, 0x80],
        good[..good.len() - 1].to_vec(),
        [good.as_ref(), b"\0"].concat(),
        [good.as_ref(), good.as_ref()].concat(),
    ] {
        let chain = [CertificateDer::from(bytes), good.clone()];
        assert_eq!(identify(Some(&chain), &[domain()]), unreadable);
    }
}

#[test]
fn an_extension_that_comes_twice_or_cannot_be_read_names_nobody() {
    const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
    const ALTERNATIVE_NAME: [u64; 4] = [2, 5, 29, 17];
    const BASIC_CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];
    let other = b"spiffe://kodo.test/ns/other";
    let length = u8::try_from(other.len()).expect("short");
    let names = [&[0x30, length + 2, 0x86, length], other.as_slice()].concat();
    for (id, content) in [
        (ALTERNATIVE_NAME, names),
        (ALTERNATIVE_NAME, vec![0x30, 0x05, 0x86]),
        (KEY_USAGE, vec![0x03, 0x02, 0x02, 0x04]),
        (KEY_USAGE, vec![0x03, 0x02, 0x07, 0x80]),
        (KEY_USAGE, vec![0xff]),
        (BASIC_CONSTRAINTS, vec![0x30, 0x03, 0x01, 0x01, 0xff]),
        (BASIC_CONSTRAINTS, vec![0xff]),
    ] {
        let certificate = certificate(|params| {
            params.is_ca = IsCa::ExplicitNoCa;
            let extension = CustomExtension::from_oid_content(&id, content.clone());
            params.custom_extensions.push(extension);
        });
        assert!(identified(&certificate).is_err(), "{id:?} {content:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        prop_assert!(identified(&bytes.into()).is_err());
    }

    #[test]
    fn whoever_is_identified_is_named_so_in_the_certificate(
        position in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        static GOOD: std::sync::LazyLock<CertificateDer<'static>> =
            std::sync::LazyLock::new(|| certificate(|_| {}));
        let mut bytes = GOOD.to_vec();
        let position = position.index(bytes.len());
        bytes[position] = byte;
        if let Ok(id) = identified(&bytes.as_slice().into()) {
            prop_assert!(id.starts_with("spiffe://kodo.test/"));
            prop_assert!(bytes.windows(id.len()).any(|window| window == id.as_bytes()));
        }
    }

    #[test]
    fn an_id_is_never_read_differently_than_it_is_written(
        text in "(spiffe|SPIFFE)://(kodo\\.test|Kodo\\.test|[a-z.:@]{0,8})/?[ -~]{0,30}",
    ) {
        if let Ok(id) = identified(&with_uri(&text)) {
            prop_assert_eq!(&id, &text);
            prop_assert!(text.starts_with("spiffe://kodo.test/"));
        }
    }
}
