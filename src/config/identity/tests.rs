use super::*;
use crate::config::Config;

/// A configuration with these lines in `[server]` and `[identity]`.
fn parse(server: &str, identity: &str) -> Result<Config, String> {
    Config::parse(&format!(
        "[server]\n{server}\n[identity]\ntrust_domain = \"kodo.test\"\n{identity}\n\
         [policy]\nfile = \"/p\"\n[store]\nkind = \"memory\"\n[kek]\nfile = \"/k\"\n"
    ))
}

const ANYWHERE: &str = "listen = \"0.0.0.0:8443\"";
const LOOPBACK: &str = "listen = \"127.0.0.1:8443\"";
const SOCKET: &str = "listen = \"unix:/run/kodo-broker/proxy.sock\"";
const TLS: &str = "tls = { certificate_file = \"/c\", key_file = \"/k\" }";
const CA: &str = "client_ca_file = \"/ca\"";
const PARTNER: &str = "[[identity.federated]]\ntrust_domain = \"partner.test\"";
const XFCC: &str = "mode = \"xfcc\"";
const LINKERD: &str = "mode = \"linkerd\"";

#[test]
fn what_can_be_told_apart_safely_is_accepted() {
    let with_tls = |listen: &str| format!("{listen}\n{TLS}");
    for (server, identity) in [
        (with_tls(ANYWHERE), CA.to_owned()),
        (with_tls(ANYWHERE), format!("mode = \"mtls\"\n{CA}")),
        (LOOPBACK.into(), XFCC.into()),
        (LOOPBACK.into(), LINKERD.into()),
        ("listen = \"[::1]:1\"".into(), XFCC.into()),
        ("listen = \"[::ffff:127.0.0.1]:1\"".into(), XFCC.into()),
        (
            LOOPBACK.into(),
            format!("{XFCC}\nxfcc_by = \"spiffe://kodo.test/broker\""),
        ),
        (
            SOCKET.into(),
            format!("{XFCC}\ntrusted_proxies = [\"uid:0\", \"uid:101\"]"),
        ),
        (
            ANYWHERE.into(),
            format!("{XFCC}\ntrusted_proxies = [\"127.0.0.6\", \"10.1.0.0/16\", \"fd00::/64\"]"),
        ),
        (
            ANYWHERE.into(),
            format!("{LINKERD}\nlinkerd_namespace = \"l5d\"\ntrusted_proxies = [\"::1\"]"),
        ),
        (
            with_tls(ANYWHERE),
            format!("{XFCC}\ntrusted_proxies = [\"10.0.0.7\"]"),
        ),
        (
            with_tls(ANYWHERE),
            format!("{XFCC}\n{CA}\ntrusted_proxies = [\"10.0.0.7\"]"),
        ),
        (LOOPBACK.into(), format!("{XFCC}\n{PARTNER}")),
        (
            format!("{LOOPBACK}\nadmin_listen = \"[::1]:8444\""),
            XFCC.into(),
        ),
        (
            format!("{SOCKET}\nadmin_listen = \"unix:/run/kodo-broker/admin.sock\""),
            format!("{XFCC}\ntrusted_proxies = [\"uid:101\"]"),
        ),
        (
            format!("{ANYWHERE}\ntls = {{ source = \"workload_api\", socket = \"unix:/s\" }}"),
            format!("{XFCC}\ntrusted_proxies = [\"10.0.0.7\"]"),
        ),
    ] {
        let parsed = parse(&server, &identity);
        assert!(parsed.is_ok(), "{server} {identity}: {parsed:?}");
    }
}

/// A line each: what `[server]` has, what `[identity]` has, and what is said of it.
type Unsafe<'a> = (&'a str, &'a str, &'a str);

#[track_caller]
fn assert_refused(cases: &[Unsafe<'_>]) {
    for (server, identity, expected) in cases {
        let refused = parse(server, identity).expect_err("is refused");
        assert!(refused.contains(expected), "{server} {identity}: {refused}");
    }
}

#[test]
fn certificates_need_tls_and_a_ca_and_no_header_beside_them() {
    let tls = &format!("{ANYWHERE}\n{TLS}");
    let with_ca = |line: &str| format!("{CA}\n{line}");
    let by = "xfcc_by = \"spiffe://kodo.test/broker\"";
    assert_refused(&[
        (ANYWHERE, CA, "[server.tls] is missing"),
        (LOOPBACK, CA, "[server.tls] is missing"),
        (tls, "", "kodo.test needs a client_ca_file"),
        (
            &format!("{SOCKET}\n{TLS}"),
            CA,
            "a unix socket is for a proxy",
        ),
        (
            &format!("{tls}\nadmin_listen = \"unix:/run/kodo-broker/admin.sock\""),
            CA,
            "a unix socket is for a proxy",
        ),
        (
            tls,
            &with_ca("trusted_proxies = [\"127.0.0.1\"]"),
            "no header is believed",
        ),
        (tls, &with_ca(by), "no header is believed"),
        (
            tls,
            &with_ca("linkerd_namespace = \"l5d\""),
            "is for the mode \"linkerd\"",
        ),
        (tls, &with_ca("mode = \"none\""), "unknown variant"),
        (tls, &with_ca("mode = [\"mtls\", \"xfcc\"]"), "mode"),
    ]);
}

#[test]
fn headers_of_whoever_comes_are_refused_with_what_to_do() {
    let tls = &format!("{ANYWHERE}\n{TLS}");
    let xfcc = |line: &str| format!("{XFCC}\n{line}");
    let linkerd = |line: &str| format!("{LINKERD}\n{line}");
    let uid = &xfcc("trusted_proxies = [\"uid:1\"]");
    let by = "xfcc_by = \"spiffe://kodo.test/broker\"";
    assert_refused(&[
        (ANYWHERE, XFCC, "could be anybody"),
        (tls, XFCC, "could be anybody"),
        ("listen = \"[::]:8443\"", LINKERD, "could be anybody"),
        ("listen = \"10.0.0.1:8443\"", LINKERD, "could be anybody"),
        (SOCKET, XFCC, "name the proxy's user"),
        (
            SOCKET,
            &xfcc("trusted_proxies = [\"127.0.0.1\"]"),
            "has no address",
        ),
        (
            SOCKET,
            &xfcc("trusted_proxies = [\"uid:1\", \"10.0.0.1\"]"),
            "has no address",
        ),
        (LOOPBACK, uid, "goes with a unix socket"),
        (&format!("{SOCKET}\n{TLS}"), uid, "not with a unix socket"),
        (LOOPBACK, &xfcc(CA), "client_ca_file without [server.tls]"),
        (
            LOOPBACK,
            &xfcc(&format!("{PARTNER}\n{CA}")),
            "partner.test has a client_ca_file without",
        ),
        (LOOPBACK, &xfcc(&format!("{PARTNER}\n{PARTNER}")), "twice"),
        (
            &format!("{LOOPBACK}\nadmin_listen = \"0.0.0.0:8444\""),
            XFCC,
            "could be anybody",
        ),
        (
            &format!("{SOCKET}\nadmin_listen = \"127.0.0.1:8444\""),
            uid,
            "must both be unix sockets",
        ),
        (LOOPBACK, &linkerd(by), "is for the mode \"xfcc\""),
        (
            LOOPBACK,
            &xfcc("linkerd_namespace = \"l5d\""),
            "is for the mode \"linkerd\"",
        ),
        (
            LOOPBACK,
            &linkerd("linkerd_namespace = \"a.b\""),
            "is no name of a namespace",
        ),
        (
            LOOPBACK,
            &linkerd("linkerd_namespace = \"\""),
            "is no name of a namespace",
        ),
        ("listen = \"unix:proxy.sock\"", XFCC, "must begin with `/`"),
        ("listen = \"localhost:8443\"", XFCC, "neither an address"),
        (LOOPBACK, &xfcc("xfcc_by = \"broker\""), "xfcc_by"),
    ]);
}

#[test]
fn proxies_are_named_by_address_network_or_user() {
    let parse = |text: &str| TrustedProxy::try_from(text.to_owned()).map(|proxy| proxy.to_string());
    for (text, shown) in [
        ("127.0.0.6", "127.0.0.6/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("fd00::/32", "fd00::/32"),
        ("uid:0", "uid:0"),
        ("self", "self"),
    ] {
        assert_eq!(parse(text).as_deref(), Ok(shown));
    }
    for bad in [
        "",
        "localhost",
        "10.0.0.1:80",
        "10.0.0.0/33",
        "10.0.0",
        "uid:",
        "uid:-1",
        "uid:envoy",
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0/7",
        "fd00::/31",
        "spiffe://kodo.test/broker",
        "*",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_options_that_the_example_mentions_for_proxies_exist() {
    const EXAMPLE: &str = include_str!("../../../deploy/broker.toml");
    for (mode, own, others) in [
        ("xfcc", "xfcc_by", "linkerd_namespace"),
        ("linkerd", "linkerd_namespace", "xfcc_by"),
    ] {
        let (own, others) = (format!("# {own} = "), format!("# {others} = "));
        assert!(EXAMPLE.contains(&own) && EXAMPLE.contains(&others));
        let text = EXAMPLE
            .replace("\nmode = \"mtls\"\n", &format!("\nmode = \"{mode}\"\n"))
            .replace("# trusted_proxies = ", "trusted_proxies = ")
            .replace(&own, &own[2..]);
        let config = Config::parse(&text).unwrap_or_else(|error| panic!("{mode}: {error}"));
        assert_eq!(config.identity.mode.name(), mode);
        assert_eq!(config.identity.trusted_proxies.len(), 2);
    }
    let config = Config::parse(EXAMPLE).expect("parses");
    assert_eq!(config.identity.mode, IdentityMode::default());
    let mentioned = format!(
        "linkerd_namespace = \"{}\"",
        config.identity.linkerd_namespace()
    );
    assert!(EXAMPLE.contains(&mentioned));
}
