use super::*;

const OURS: &str = "kodo.test";
const THEIRS: &str = "partner.test";

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).expect("a trust domain")
}

/// Of trust domains with these CAs each.
fn material(bundles: &[(&str, &[u8])]) -> Material {
    let domains = bundles.iter().map(|(name, _)| domain(name));
    let bundles = bundles.iter().map(|(name, cas)| {
        let cas = cas.iter().map(|ca| CertificateDer::from(vec![*ca]));
        Bundle::new(domain(name), cas.collect())
    });
    Material::new(domains.collect(), None, bundles.collect())
}

/// Who was let in before a change: by our CAs, by theirs, and without a trust domain of either.
fn let_in(tls: &LiveTls) -> [CancellationToken; 3] {
    let material = tls.current();
    [Some(domain(OURS)), Some(domain(THEIRS)), None].map(|one| material.distrusted(one.as_ref()))
}

fn told(let_in: &[CancellationToken; 3]) -> [bool; 3] {
    let_in.each_ref().map(CancellationToken::is_cancelled)
}

#[test]
fn those_are_told_whose_ca_may_be_gone() {
    let before: [(&str, &[u8]); 2] = [(OURS, b"a"), (THEIRS, b"xy")];
    for (after, expected) in [
        (&[(OURS, &b"a"[..]), (THEIRS, &b"xy"[..])][..], [false; 3]),
        (&[(OURS, b"ba"), (THEIRS, b"zyx")], [false; 3]),
        (&[(OURS, b"a"), (THEIRS, b"x")], [false, true, true]),
        (&[(OURS, b"b"), (THEIRS, b"xy")], [true, false, true]),
        (&[(OURS, b"a")], [false, true, true]),
        // A CA that is another trust domain's now vouches for this one no more.
        (&[(OURS, b"xy"), (THEIRS, b"a")], [true; 3]),
        (&[], [true; 3]),
    ] {
        let tls = LiveTls::new(material(&before));
        let let_in = let_in(&tls);
        tls.replace(material(after));
        assert_eq!(told(&let_in), expected, "{after:?}");
    }
}

#[test]
fn they_are_told_after_changes_that_were_nothing_to_them() {
    let tls = LiveTls::new(material(&[(OURS, b"a"), (THEIRS, b"x")]));
    let let_in = let_in(&tls);
    for more in [&b"ab"[..], b"abc", b"abcd"] {
        tls.replace(material(&[(OURS, more), (THEIRS, b"x")]));
        assert_eq!(told(&let_in), [false; 3]);
    }
    tls.replace(material(&[(OURS, b"bcd"), (THEIRS, b"x")]));
    assert_eq!(told(&let_in), [true, false, true]);
}

#[test]
fn who_was_asked_for_no_certificate_is_told_when_one_is_asked_for() {
    let tls = LiveTls::new(material(&[]));
    let let_in = let_in(&tls);
    tls.replace(material(&[]));
    assert_eq!(told(&let_in), [false; 3]);
    tls.replace(material(&[(OURS, b"a")]));
    assert_eq!(told(&let_in), [true; 3]);
}
