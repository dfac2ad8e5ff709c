use std::net::IpAddr;

use hyper::header::{HeaderName, HeaderValue};

use super::*;
use crate::{authz::Policy, config::Config, rpc::peer, tls::Found};

const WORKER: &str = "spiffe://kodo.test/worker";

/// As a broker has it that serves a proxy in plaintext.
fn identification(listen: &str, identity: &str) -> Arc<Identification> {
    let config = Config::parse(&format!(
        "[server]\nlisten = \"{listen}\"\n[identity]\ntrust_domain = \"kodo.test\"\n{identity}\n\
         [policy]\nfile = \"/p\"\n[store]\nkind = \"memory\"\n[kek]\nfile = \"/k\"\n"
    ));
    let identity = config.expect("a configuration").identity;
    let found = Found::read(None, &identity, None).expect("nothing to read");
    let material = found.material(peer::trust_domain_of);
    let tls = LiveTls::new(material.expect("nothing to be wrong"));
    let policy = LivePolicy::new(Policy::default());
    Identification::new(&identity, tls, policy, Arc::new(Metrics::new()))
}

fn address(text: &str) -> Origin {
    let address: IpAddr = text.parse().expect("an address");
    Origin::Address(address)
}

fn callers(of: &Arc<Identification>, origin: Origin) -> Callers {
    let material = of.tls.current();
    of.callers(origin, None, &material)
}

fn named(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let headers = headers.iter().map(|(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    headers.collect()
}

#[test]
fn only_who_is_trusted_names_callers() {
    const LOOPBACK: &str = "127.0.0.1:0";
    const SOCKET: &str = "unix:/run/proxy.sock";
    let networks = "trusted_proxies = [\"10.1.0.0/16\", \"::1\"]";
    let users = "trusted_proxies = [\"uid:101\"]";
    for (listen, proxies, origin, trusted) in [
        (LOOPBACK, "", address("127.0.0.1"), true),
        (LOOPBACK, "", address("::1"), true),
        (LOOPBACK, "", address("10.1.0.1"), false),
        (LOOPBACK, "", Origin::User(101), false),
        (LOOPBACK, "", Origin::Unknown, false),
        (LOOPBACK, networks, address("10.1.255.1"), true),
        (LOOPBACK, networks, address("::1"), true),
        (LOOPBACK, networks, address("10.2.0.1"), false),
        (LOOPBACK, networks, address("127.0.0.1"), false),
        (LOOPBACK, networks, Origin::Unknown, false),
        (SOCKET, users, Origin::User(101), true),
        (SOCKET, users, Origin::User(0), false),
        (SOCKET, users, address("127.0.0.1"), false),
        (SOCKET, users, Origin::Unknown, false),
    ] {
        let of = identification(listen, &format!("mode = \"xfcc\"\n{proxies}"));
        let callers = callers(&of, origin);
        assert_eq!(
            !callers.are_nobody(),
            trusted,
            "{listen} {proxies} {origin}"
        );
        let peer = callers.of(&named(&[(XFCC, "URI=spiffe://kodo.test/worker")]));
        let found = peer.caller().map(Caller::name);
        let expected = if trusted {
            Ok(WORKER)
        } else {
            Err(Unidentified::NoProxy)
        };
        assert_eq!(found, expected, "{listen} {proxies} {origin}");
    }
}

#[test]
fn callers_of_one_connection_leave_by_the_same_way() {
    let of = identification("127.0.0.1:0", "mode = \"xfcc\"");
    let (one, other) = (callers(&of, address("::1")), callers(&of, address("::1")));
    let worker = named(&[(XFCC, "URI=spiffe://kodo.test/worker")]);
    let admin = named(&[(XFCC, "URI=spiffe://kodo.test/admin")]);
    let routes = [one.of(&worker), one.of(&admin), one.of(&named(&[]))];
    for peer in &routes {
        assert!(Arc::ptr_eq(peer.route(), routes[0].route()));
    }
    assert!(!Arc::ptr_eq(other.of(&worker).route(), routes[0].route()));
    assert!(one.one().is_none(), "there are many");
}

#[test]
fn in_plaintext_no_certificate_ends_and_none_is_distrusted() {
    let of = identification("127.0.0.1:0", "mode = \"xfcc\"");
    let callers = callers(&of, address("::1"));
    assert_eq!(callers.good_for(), Duration::MAX);
    assert!(!callers.distrusted().is_cancelled());
}
