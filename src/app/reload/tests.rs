use std::fs;

use super::*;

const PROXIED: &str = r#"
[server]
listen = "127.0.0.1:0"
[identity]
mode = "xfcc"
trust_domain = "kodo.test"
[policy]
file = "{folder}/policy.toml"
[store]
kind = "memory"
[kek]
file = "{folder}/kek"
"#;

/// A configuration in a folder, and what puts another one in its place.
fn configured(folder: &tempfile::TempDir) -> (Config, impl Fn(&str)) {
    let (at, file) = (folder.path().to_owned(), folder.path().join("broker.toml"));
    fs::write(at.join("policy.toml"), "").expect("a writable folder");
    let write = move |text: &str| {
        let text = text.replace("{folder}", &at.display().to_string());
        fs::write(at.join("broker.toml"), text).expect("a writable folder");
    };
    write(PROXIED);
    (Config::load(&file).expect("a configuration"), write)
}

#[tokio::test]
async fn without_tls_trust_domains_policy_and_log_filter_are_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (config, write) = configured(&folder);
    let origin = Origin::open(&config).await.expect("nothing to connect to");
    let set = origin.read().expect("reads").set().expect("a set");
    assert!(set.tls.shown.is_none());
    assert_eq!(set.tls.domains.len(), 1);
    let unchanged = origin.changed(set.digest).expect("reads");
    assert!(unchanged.is_none());

    let partner = "[[identity.federated]]\ntrust_domain = \"partner.test\"\n";
    write(&format!("{PROXIED}{partner}[log]\nfilter = \"warn\"\n"));
    let changed = origin.changed(set.digest).expect("reads").expect("a set");
    assert_eq!(changed.tls.domains.len(), 2);
    assert!(changed.rest.is_some() && changed.rest == set.rest);
}

#[tokio::test]
async fn another_way_to_tell_callers_apart_is_refused_until_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (config, write) = configured(&folder);
    let origin = Origin::open(&config).await.expect("nothing to connect to");
    let in_force = origin.read().expect("reads").digest;
    let with_tls =
        "threads = 1\ntls = { certificate_file = \"/c\", key_file = \"/k\" }\n[identity]";
    for changed in [
        PROXIED.replace("xfcc", "linkerd"),
        PROXIED.replace("[identity]", with_tls),
    ] {
        write(&changed);
        let refused = origin.changed(in_force).err();
        assert!(matches!(refused, Some(Error::OtherMode)), "{refused:?}");
    }
    write(PROXIED);
    assert!(origin.changed(in_force).expect("reads").is_none());
}
