use std::collections::BTreeSet;

use super::*;

const EXAMPLE: &str = include_str!("../../deploy/broker.toml");

/// The example with its commented-out options switched on, and whatever `edit` does to it.
fn example(edit: impl FnOnce(&str) -> String) -> Result<Config, String> {
    Config::parse(&edit(EXAMPLE))
}

#[test]
fn the_example_is_a_valid_configuration_with_the_default_limits() {
    let config = example(str::to_owned).expect("parses");
    assert_eq!(
        format!("{:?}", config.server.limits),
        format!("{:?}", LimitsConfig::default())
    );
    assert_eq!(
        format!("{:?}", config.tokens),
        format!("{:?}", TokensConfig::default())
    );
    assert_eq!(
        format!("{:?}", config.entra),
        format!("{:?}", EntraConfig::default())
    );
    assert_eq!(
        format!("{:?}", config.log),
        format!("{:?}", LogConfig::default())
    );
}

#[test]
fn every_configuration_that_is_shipped_parses() {
    for (file, text) in [
        ("systemd", include_str!("../../deploy/systemd/broker.toml")),
        (
            "base",
            include_str!("../../deploy/kustomize/base/broker.toml"),
        ),
        ("envoy", include_str!("../../deploy/envoy/broker.toml")),
        (
            "transit",
            include_str!("../../deploy/kustomize/transit/broker.toml"),
        ),
        (
            "spire",
            include_str!("../../deploy/kustomize/spire/broker.toml"),
        ),
    ] {
        let config = Config::parse(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let transit = matches!(config.kek, KekConfig::Transit(_));
        assert_eq!(transit, file == "transit");
    }
}

#[test]
fn the_options_that_the_example_only_mentions_exist() {
    let options = |line: &str| {
        // Those of other modes of identification are for tests of theirs, and what is set in is for
        // another choice.
        let of_proxy = line.contains("xfcc_by") || line.contains("linkerd_namespace");
        line.starts_with("# ")
            && !line.starts_with("#  ")
            && !of_proxy
            && (line.contains(" = \"")
                || line.contains("_seconds = ")
                || line.starts_with("# [entra")
                || line.starts_with("# [kek")
                || line.starts_with("# [[identity")
                || line.starts_with("# threads"))
    };
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| if options(line) { &line[2..] } else { line })
        .map(|line| format!("{line}\n"))
        .collect();
    let config = Config::parse(&uncommented).expect("parses");
    assert_eq!(config.identity.trust_domains().count(), 2);
    assert!(config.server.admin_listen.is_some());
    assert!(config.entra.extra_ca_file.is_some() && config.entra.proxy_url.is_some());
    let KekConfig::Both {
        transit, wrap_with, ..
    } = config.kek
    else {
        panic!("both are there");
    };
    assert_eq!(wrap_with, WrapWith::File);
    let short = "[kek.transit]\naddress = \"https://openbao.example:8200\"\nkey = \"kodo-broker\"\n\
                 [kek.transit.kubernetes]\nrole = \"kodo-broker\"";
    let KekConfig::Transit(defaults) = kek(short).expect("parses") else {
        panic!("it is there alone");
    };
    assert_eq!(
        format!("{:?}", (&transit.mount, &transit.kubernetes)),
        format!("{:?}", (&defaults.mount, &defaults.kubernetes)),
    );
    assert_eq!(
        (
            transit.connect_timeout(),
            transit.request_timeout(),
            transit.refresh_interval()
        ),
        (
            defaults.connect_timeout(),
            defaults.request_timeout(),
            defaults.refresh_interval()
        ),
    );
    config
        .entra
        .authorities()
        .expect("the mentioned authorities are acceptable");
}

#[test]
fn every_option_is_in_the_example() {
    let text = [
        include_str!("../config.rs"),
        include_str!("server.rs"),
        include_str!("identity.rs"),
        include_str!("identity/federated.rs"),
        include_str!("entra.rs"),
        include_str!("kek.rs"),
        include_str!("tls.rs"),
    ]
    .concat();
    let named: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(": "))
        .map(|(name, _)| name.trim_start_matches("pub "))
        .filter(|name| {
            name.ends_with("_seconds") || name.ends_with("_max") || name.ends_with("_file")
        })
        .collect();
    assert!(named.len() > 12, "{named:?}");
    for name in named {
        assert!(EXAMPLE.contains(&format!("{name} = ")), "{name}");
    }
}

/// The example with another section for the KEK.
fn kek(section: &str) -> Result<KekConfig, String> {
    let file = "file = \"/etc/kodo-broker/kek\"";
    assert!(EXAMPLE.contains("\n[kek]\n") && EXAMPLE.contains(file));
    let config = example(|text| text.replace("\n[kek]\n", "\n").replace(file, section));
    config.map(|config| config.kek)
}

#[test]
fn what_the_kek_is_must_be_said_once() {
    const FILE: &str = "[kek]\nfile = \"kek\"\n";
    const TRANSIT: &str = "[kek.transit]\naddress = \"https://o.example\"\nkey = \"k\"\n";
    let both = |wrap_with: &str| kek(&format!("{FILE}{wrap_with}\n{TRANSIT}"));
    assert!(matches!(kek(FILE), Ok(KekConfig::File(file)) if file == Path::new("kek")));
    assert!(matches!(kek(TRANSIT), Ok(KekConfig::Transit(_))));
    assert!(matches!(
        both("wrap_with = \"transit\""),
        Ok(KekConfig::Both {
            wrap_with: WrapWith::Transit,
            ..
        })
    ));
    for (refused, why) in [
        (kek("[kek]"), "is missing"),
        (both(""), "`wrap_with` must say"),
        (
            kek(&format!("{FILE}wrap_with = \"transit\"")),
            "names what is not there",
        ),
        (both("wrap_with = \"other\""), "unknown variant"),
        (kek(&format!("{TRANSIT}mont = \"x\"")), "unknown field"),
        (kek(&TRANSIT.replace("https://", "")), "address"),
    ] {
        let error = refused.expect_err("refused");
        assert!(error.contains(why) && error.contains("line"), "{error}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    for (section, line) in [
        ("[server]", "lisen = 1"),
        ("[store]", "dir = \"x\""),
        ("[tokens]", "margin = 1"),
        ("[kek]", "fil = \"x\""),
    ] {
        let error = example(|text| text.replace(section, &format!("{section}\n{line}")))
            .expect_err("refused");
        assert!(
            error.contains("unknown field") && error.contains("line"),
            "{error}"
        );
    }
}

#[test]
fn a_copy_of_the_audit_log_stays_on_the_machine() {
    let with = |address: &str| {
        let example = include_str!("../../deploy/broker.toml");
        let line = "# syslog = \"127.0.0.1:601\"";
        assert!(example.contains(line));
        Config::parse(&example.replace(line, &format!("syslog = \"{address}\"")))
    };
    for address in ["127.0.0.1:601", "[::1]:601"] {
        let config = with(address).expect("is valid");
        assert_eq!(config.audit.syslog, address.parse().ok());
    }
    for address in ["10.0.0.1:601", "0.0.0.0:601", "collector:601"] {
        let error = with(address).expect_err(address).to_string();
        assert!(error.contains("syslog"), "{error}");
    }
}

#[test]
fn an_authority_off_loopback_needs_the_key_that_says_unsafe() {
    let with = |section: &str, url: &str| {
        let entry =
            format!("[entra.{section}.global]\nauthority_url = \"{url}\"\ngraph_url = \"{url}\"\n");
        let config = example(|text| format!("{text}\n{entry}")).expect("parses");
        config
            .entra
            .authorities()
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert!(with("loopback_authority", "https://127.0.0.1:1").is_ok());
    let refused = with("loopback_authority", "https://login.example").expect_err("refused");
    assert!(refused.contains("loopback"), "{refused}");
    assert!(with("unsafe_authority", "https://login.example").is_ok());
    assert!(with("unsafe_authority", "http://login.example").is_err());
}

#[test]
fn a_limit_of_zero_is_refused() {
    let error = example(|text| text.replace("drain_seconds = 20", "drain_seconds = 0"))
        .expect_err("refused");
    assert!(error.contains("nonzero"), "{error}");
}

/// The example with other certificates and CAs.
fn certificates(tls: &str, identity: &str) -> Result<TlsConfig, String> {
    let files = EXAMPLE
        .lines()
        .filter(|line| line.starts_with("certificate_file") || line.starts_with("key_file"));
    let cas = EXAMPLE
        .lines()
        .filter(|line| line.starts_with("client_ca_file"));
    let (files, cas): (Vec<_>, Vec<_>) = (files.collect(), cas.collect());
    assert_eq!((files.len(), cas.len()), (2, 1));
    let config = example(|text| {
        let text = text.replace(files[0], tls).replace(files[1], "");
        text.replace("source = \"files\"\n", "")
            .replace("min_version = \"1.3\"\n", "")
            .replace(cas[0], identity)
    });
    config.map(|config| config.server.tls.expect("it is there"))
}

#[test]
fn certificates_come_from_one_source_and_so_do_the_cas() {
    const FILES: &str = "certificate_file = \"c\"\nkey_file = \"k\"";
    const CA: &str = "client_ca_file = \"ca\"";
    const AGENT: &str = "source = \"workload_api\"\nsocket = \"unix:///run/agent.sock\"";
    let federated = |ca: &str| {
        format!("{CA}\n[[identity.federated]]\ntrust_domain = \"partner.example\"\n{ca}")
    };
    let files = certificates(FILES, CA).expect("parses");
    assert!(matches!(files.source, TlsSource::Files { .. }));
    assert_eq!(files.min_version, TlsVersion::V1_3);
    let older = certificates(&format!("{FILES}\nmin_version = \"1.2\""), CA).expect("parses");
    assert_eq!(older.min_version, TlsVersion::V1_2);
    let agent = certificates(AGENT, "").expect("parses");
    let TlsSource::WorkloadApi(agent) = agent.source else {
        panic!("another source: {agent:?}");
    };
    assert_eq!(agent.start_timeout(), Duration::from_secs(30));
    certificates(FILES, &federated(CA)).expect("parses");
    let twice = federated(CA).replace("partner.example", "kodo.example");
    for (tls, identity, why) in [
        ("certificate_file = \"c\"", CA, "needs certificate_file and"),
        (&format!("{FILES}\nsocket = \"s\""), CA, "takes neither"),
        (&format!("{AGENT}\n{FILES}"), "", "takes neither"),
        ("source = \"workload_api\"", "", "needs socket"),
        ("source = \"spire\"", "", "unknown variant"),
        (
            &format!("{FILES}\nmin_version = \"1.1\""),
            CA,
            "unknown variant",
        ),
        (&format!("{FILES}\nciphers = \"x\""), CA, "unknown field"),
        (FILES, "", "kodo.example needs a client_ca_file"),
        (
            FILES,
            &federated(""),
            "partner.example needs a client_ca_file",
        ),
        (FILES, &twice, "stands there twice"),
        (AGENT, CA, "leave client_ca_file out"),
    ] {
        let error = certificates(tls, identity).expect_err(why);
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn what_a_restart_is_needed_for_is_told_from_what_it_is_not() {
    let of = |edit: &dyn Fn(&str) -> String| example(edit).expect("parses").not_reloaded();
    let before = of(&str::to_owned);
    assert!(before.is_some());
    for reloaded in [
        "/etc/kodo-broker/tls/ca.crt",
        "/etc/kodo-broker/policy.toml",
    ] {
        let changed = of(&|text| text.replace(reloaded, "/etc/other"));
        assert_eq!(before, changed, "{reloaded}");
    }
    assert_eq!(
        before,
        of(&|text| text.replace("filter = \"info\"", "filter = \"warn\""))
    );
    assert_ne!(
        before,
        of(&|text| text.replace("drain_seconds = 20", "drain_seconds = 21"))
    );
    assert_ne!(
        before,
        of(&|text| text
            .replace("\n# xfcc_by = ", "\nxfcc_by = ")
            .replace("\n# trusted_proxies = ", "\ntrusted_proxies = ")
            .replace("\nmode = \"mtls\"", "\nmode = \"xfcc\""))
    );
}
