//! Who callers are: what an operator is told of it, and what the program does not start with.

use serde_json::Value;

use crate::{command_line::json, site::Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_shown_who_it_is_and_what_it_may() {
    let site = Site::new().await;
    let serving = site.serve().await;
    let shown = site
        .call("worker", &["-o", "json", "whoami"])
        .expect_code(0);
    let shown = json(&shown.out);
    let id = shown["spiffe_id"].as_str().expect("a text");
    assert!(
        id.starts_with("spiffe://") && id.ends_with("/worker"),
        "{id}"
    );
    assert_eq!(shown["source"], "mtls");
    let grants = shown["grants"].as_array().expect("a list");
    let [grant] = grants.as_slice() else {
        panic!("{grants:?}")
    };
    let policy = std::fs::read_to_string(site.path("policy.toml")).expect("it is there");
    let line = grant["line"]
        .as_u64()
        .and_then(|line| usize::try_from(line).ok());
    let line = line.expect("a number") - 1;
    assert_eq!(policy.lines().nth(line), Some("[[grant]]"));
    let text = grant["text"].as_str().expect("a text");
    assert!(text.starts_with("get_token of * for "), "{text}");
    let table = site.call("worker", &["whoami"]).expect_code(0).out;
    for said in [id, "mtls", text] {
        assert!(table.contains(said), "{table}");
    }
    let admin = site.call("admin", &["-o", "json", "whoami"]).expect_code(0);
    assert_ne!(json(&admin.out)["grants"], Value::Null);
    serving.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_starts_where_callers_could_be_anybody() {
    let site = Site::new().await;
    let sound = site.configuration("info");
    let without = |text: &str, names: &[&str]| {
        let kept = text
            .lines()
            .filter(|line| !names.iter().any(|name| line.starts_with(name)));
        kept.map(|line| format!("{line}\n")).collect::<String>()
    };
    let without_tls = without(&sound, &["[server.tls]", "certificate_file", "key_file"]);
    let plain = without(&without_tls, &["client_ca_file"]);
    let everywhere = plain.replace("\nlisten = \"127.0.0.1:0\"", "\nlisten = \"0.0.0.0:0\"");
    let of = |text: &str, lines: &str| text.replace("[identity]", &format!("[identity]\n{lines}"));
    for (configuration, said) in [
        (without_tls.clone(), "[server.tls] is missing"),
        (
            without(&sound, &["client_ca_file"]),
            "needs a client_ca_file",
        ),
        (
            of(&sound, "trusted_proxies = [\"127.0.0.1\"]"),
            "no header is believed",
        ),
        (of(&everywhere, "mode = \"xfcc\""), "could be anybody"),
        (of(&everywhere, "mode = \"linkerd\""), "could be anybody"),
        (
            of(&plain, "mode = \"xfcc\"\ntrusted_proxies = [\"0.0.0.0/0\"]"),
            "too wide",
        ),
        (
            of(&without_tls, "mode = \"xfcc\""),
            "client_ca_file without [server.tls]",
        ),
    ] {
        site.write("broker.toml", configuration);
        let refused = site.refused(78);
        assert!(refused.err.contains(said), "{refused:?}");
    }
    assert!(!site.path("data").exists(), "a store was made all the same");
}
