use std::{net::IpAddr, time::Duration};

use hyper::header::HeaderValue;

use super::*;
use crate::{audit::Place, authz::Policy, rpc::peer, tls::Found};

fn identification(mode: &str, proxies: &[&str]) -> Arc<Identification> {
    let text =
        format!("trust_domain = \"kodo.test\"\nmode = \"{mode}\"\ntrusted_proxies = {proxies:?}");
    let config: IdentityConfig = toml::from_str(&text).expect("a section");
    let found = Found::read(None, &config, None).expect("nothing to read");
    let material = found.material(peer::trust_domain_of);
    let tls = LiveTls::new(material.expect("nothing to be wrong"));
    let policy = LivePolicy::new(Policy::default());
    Identification::new(&config, tls, policy, Arc::new(Metrics::new()))
}

fn on(of: &Arc<Identification>, origin: Origin) -> Callers {
    let material = of.tls.current();
    of.callers(origin, None, &material)
}

fn from(address: &str) -> Origin {
    let address: IpAddr = address.parse().expect("an address");
    Origin::Address(address.to_canonical())
}

fn naming(who: &str) -> HeaderMap {
    let value = format!("Hash=00;URI=spiffe://kodo.test/{who}");
    HeaderMap::from_iter([(
        hyper::header::HeaderName::from_static(XFCC),
        HeaderValue::from_str(&value).expect("a header"),
    )])
}

fn name(callers: &Callers, headers: &HeaderMap) -> Result<String, Unidentified> {
    callers
        .of(headers)
        .caller()
        .map(|caller| caller.name().to_owned())
}

#[test]
fn only_those_who_are_named_are_proxies() {
    let named = identification("xfcc", &["127.0.0.6", "10.1.0.0/16", "fd00::/64"]);
    let users = identification("xfcc", &["uid:101"]);
    let nobody = identification("xfcc", &[]);
    let own = identification("xfcc", &["self"]);
    let ip = |text: &str| text.parse().expect("an address");
    for (identification, origin, trusted) in [
        (&own, Origin::Own(ip("10.0.0.7")), true),
        (&own, Origin::Own(ip("127.0.0.1")), true),
        (&own, from("10.0.0.7"), false),
        (&own, from("127.0.0.1"), false),
        (&own, Origin::User(0), false),
        (&named, Origin::Own(ip("10.1.0.7")), true),
        (&named, Origin::Own(ip("10.0.0.7")), false),
        (&nobody, Origin::Own(ip("127.0.0.1")), true),
        (&nobody, Origin::Own(ip("10.0.0.7")), false),
        (&named, from("127.0.0.6"), true),
        (&named, from("::ffff:127.0.0.6"), true),
        (&named, from("10.1.255.255"), true),
        (&named, from("fd00::1"), true),
        (&named, from("127.0.0.1"), false),
        (&named, from("10.2.0.0"), false),
        (&named, from("fd00:0:0:1::"), false),
        (&named, from("::1"), false),
        (&named, Origin::User(101), false),
        (&named, Origin::Unknown, false),
        (&users, Origin::User(101), true),
        (&users, Origin::User(0), false),
        (&users, from("127.0.0.1"), false),
        (&nobody, from("127.0.0.1"), true),
        (&nobody, from("127.1.2.3"), true),
        (&nobody, from("::1"), true),
        (&nobody, from("::ffff:127.0.0.1"), true),
        (&nobody, from("10.0.0.1"), false),
        (&nobody, from("fe80::1"), false),
        (&nobody, Origin::User(0), false),
        (&nobody, Origin::Unknown, false),
    ] {
        let callers = on(identification, origin);
        assert_eq!(callers.are_nobody(), !trusted, "{origin}");
        let expected = if trusted {
            Ok("spiffe://kodo.test/worker".to_owned())
        } else {
            Err(Unidentified::NoProxy)
        };
        assert_eq!(name(&callers, &naming("worker")), expected, "{origin}");
    }
}

#[test]
fn a_proxy_is_asked_for_no_certificate_and_no_certificate_for_a_header() {
    let certificates = identification("mtls", &[]);
    let callers = on(&certificates, from("127.0.0.1"));
    assert!(callers.are_nobody());
    assert_eq!(
        name(&callers, &naming("worker")),
        Err(Unidentified::Unreadable)
    );
}

#[test]
fn all_callers_of_a_connection_wait_for_the_same_record() {
    let identification = identification("xfcc", &[]);
    let callers = on(&identification, from("127.0.0.1"));
    let another = on(&identification, from("127.0.0.1"));
    let (one, two) = (callers.of(&naming("one")), callers.of(&naming("two")));
    let nobody = callers.of(&HeaderMap::new());
    one.answers_after(Place::new(7));
    assert_eq!(callers.outgoing().recorded(), Place::new(7));
    // Whoever is answered next on the connection.
    assert_eq!(two.recorded(), Place::new(7));
    assert_eq!(nobody.recorded(), Place::new(7));
    assert_eq!(callers.of(&naming("three")).recorded(), Place::new(7));
    assert_eq!(another.of(&naming("one")).recorded(), Place::default());
    // And tokens leave by the same way.
    assert!(Arc::ptr_eq(one.route(), nobody.route()));
    assert!(!Arc::ptr_eq(
        one.route(),
        another.of(&naming("one")).route()
    ));
    assert!(callers.one().is_none(), "there are many");
}

#[test]
fn in_plaintext_no_certificate_ends_and_none_is_distrusted() {
    let identification = identification("xfcc", &[]);
    let callers = on(&identification, from("127.0.0.1"));
    assert_eq!(callers.good_for(), Duration::MAX);
    assert!(!callers.distrusted().is_cancelled());
}

#[test]
fn who_was_named_before_is_found_and_not_read_again() {
    let identification = identification("xfcc", &[]);
    let callers = on(&identification, from("127.0.0.1"));
    let (first, second) = (callers.of(&naming("one")), callers.of(&naming("one")));
    let caller = |peer: &Peer| std::ptr::from_ref(peer.caller().expect("somebody"));
    assert_eq!(caller(&first), caller(&second));
    // Another connection of the same proxy knows nothing of it.
    let another = on(&identification, from("127.0.0.1"));
    assert_ne!(caller(&first), caller(&another.of(&naming("one"))));
}
