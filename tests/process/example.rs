//! The files under `deploy/` that a broker reads.

use std::{fs, path::Path, slice};

use kodo_broker::{authz::Policy, config::Config};

use crate::site::files_below;

fn examples(name: &str) -> Vec<(String, String)> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let files = files_below(&deploy).into_iter();
    let named = files.filter(|(path, _)| path.file_name().is_some_and(|file| file == name));
    let examples: Vec<_> = named
        .map(|(path, content)| {
            let text = String::from_utf8(content).expect("UTF-8");
            (path.display().to_string(), text)
        })
        .collect();
    assert!(examples.len() > 1, "only {} of {name}", examples.len());
    examples
}

#[test]
fn every_configuration_that_is_shipped_is_one() {
    for (path, text) in examples("broker.toml") {
        let config = Config::parse(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        config
            .entra
            .authorities()
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[test]
fn every_policy_that_is_shipped_is_one_and_grants_something() {
    let config = examples("broker.toml").swap_remove(0).1;
    let trust_domain = Config::parse(&config)
        .expect("parses")
        .identity
        .trust_domain;
    for (path, text) in examples("policy.toml") {
        let policy = Policy::parse(&text, slice::from_ref(&trust_domain));
        let policy = policy.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_ne!(
            format!("{policy:?}"),
            format!("{:?}", Policy::default()),
            "{path}"
        );
    }
}

#[test]
fn a_configuration_that_is_none_is_told_from_one() {
    let (_, text) = examples("broker.toml").swap_remove(0);
    assert!(Config::parse(&text.replace("[store]", "[stor]")).is_err());
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("broker.toml"), text).expect("a writable folder");
    assert!(Config::load(&folder.path().join("broker.toml")).is_ok());
}
