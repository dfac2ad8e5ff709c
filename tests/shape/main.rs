//! Reads the sources and keeps what `src/lib.rs` promises about their shape.
//!
//! Each check is a function from sources to complaints, so that a test can show it sources that
//! are not in order: one that cannot complain keeps nothing.

mod arrows;
mod repository;
mod source;

use std::{fs, path::Path};

use source::Source;

/// The sources of the crate without the files that are tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).expect("a folder of sources") {
            let path = item.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(root).expect("below the root");
            let name = name.to_str().expect("a plain name").to_owned();
            if name.ends_with(".rs") && !is_test_file(&name) {
                let text = fs::read_to_string(&path).expect("a readable source");
                sources.push(Source::parse(&name, &text));
            }
        }
    }
    assert!(sources.len() > 60, "only {} sources found", sources.len());
    sources
}

/// `tests.rs` and what is below it, and the suite that every store is tested with.
fn is_test_file(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/") || name == "src/store/conformance.rs"
}

/// Fails with all complaints at once.
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// What may be named only in some files.
struct Rule {
    /// How the path begins, or, with a leading `*`, how it ends.
    path: &'static str,
    /// Beginnings of the names of the files that may.
    files: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        path: "crate::pb",
        files: &["src/pb", "src/rpc", "src/client", "src/cli"],
    },
    Rule {
        path: "tonic",
        // `app` names the transport's error; that it does not name `Status` is the next rule.
        files: &[
            "src/pb",
            "src/rpc",
            "src/client",
            "src/cli",
            "src/healthcheck.rs",
            "src/app.rs",
        ],
    },
    Rule {
        path: "*tonic::Status",
        files: &["src/pb/codec.rs", "src/rpc", "src/client", "src/cli"],
    },
    Rule {
        path: "tonic_types",
        files: &["src/pb/codec.rs", "src/rpc", "src/client", "src/cli"],
    },
    Rule {
        path: "reqwest",
        files: &["src/entra/http.rs", "src/kek/transit/http.rs"],
    },
    Rule {
        path: "sled",
        files: &["src/store/sled.rs", "src/store/sled/"],
    },
    Rule {
        path: "aws_lc_rs::aead",
        files: &["src/sealed.rs"],
    },
    Rule {
        path: "*SystemTime::now",
        files: &["src/clock.rs"],
    },
    Rule {
        path: "axum",
        files: &["src/simulator"],
    },
    Rule {
        path: "clap",
        files: &["src/main.rs", "src/cli", "src/dev.rs"],
    },
    Rule {
        path: "hyper",
        files: &["src/rpc"],
    },
    Rule {
        path: "rustix",
        files: &["src/lockdown.rs", "src/store/sled/"],
    },
    Rule {
        path: "socket2",
        files: &["src/rpc/cores.rs"],
    },
    Rule {
        path: "prometheus_client",
        files: &["src/metrics.rs"],
    },
    Rule {
        path: "jsonwebtoken",
        files: &["src/entra/client_assertion.rs"],
    },
    Rule {
        path: "p12_keystore",
        files: &["src/credential/intake.rs"],
    },
    Rule {
        path: "papaya",
        files: &["src/token/cache.rs", "src/organization/label_index.rs"],
    },
];

/// Rooms in which nothing of these may be named.
const SILENT: &[(&str, &[&str])] = &[
    // No HTTP and no disk; what is below it is behind the vault and the seam to Entra.
    (
        "token",
        &[
            "std::fs",
            "std::io",
            "std::net",
            "std::path",
            "tokio::fs",
            "tokio::net",
            "url",
        ],
    ),
    // It tells of its changes, and waits for nothing.
    (
        "authz",
        &[
            "std::io",
            "tokio::fs",
            "tokio::io",
            "tokio::net",
            "tokio::task",
            "tokio::time",
        ],
    ),
    ("store", &["crate::secret", "crate::sealed", "prost"]),
    ("organization", &["std::fs", "std::io", "tokio"]),
    ("credential", &["std::fs", "std::io", "tokio"]),
];

fn begins(path: &[String], start: &str) -> bool {
    let start: Vec<_> = start.split("::").collect();
    path.len() >= start.len() && path.iter().zip(start).all(|(word, wanted)| word == wanted)
}

fn matches(path: &[String], pattern: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(end) => format!("::{}", path.join("::")).ends_with(&format!("::{end}")),
        None => begins(path, pattern),
    }
}

fn out_of_place(sources: &[Source], rules: &[Rule]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for named in source.paths() {
            for rule in rules {
                let allowed = rule.files.iter().any(|file| source.file.starts_with(file));
                if !allowed && matches(&named.path, rule.path) {
                    let (file, line, path) = (&source.file, named.line, named.path.join("::"));
                    complaints.push(format!(
                        "{file}:{line}: `{path}` belongs to {}",
                        rule.files.join(", ")
                    ));
                }
            }
        }
    }
    complaints
}

fn loud(sources: &[Source], silent: &[(&str, &[&str])]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let rooms = silent.iter().filter(|(room, _)| *room == source.room());
        for path in rooms.flat_map(|(_, paths)| *paths) {
            // What the engine of a store does with files is its own matter.
            let engine = source.file.starts_with("src/store/sled");
            let named = source.paths().into_iter();
            let bad = named.filter(|named| !engine && begins(&named.path, path));
            complaints.extend(bad.map(|named| {
                let (file, line) = (&source.file, named.line);
                format!(
                    "{file}:{line}: `{}` is nothing for `{}`",
                    named.path.join("::"),
                    source.room()
                )
            }));
        }
    }
    complaints
}

/// What makes code end in a panic, or a test not run.
const FORBIDDEN: &[&[&str]] = &[
    &[".", "unwrap", "("],
    &["todo", "!"],
    &["unimplemented", "!"],
    &["dbg", "!"],
    &["#", "[", "ignore"],
];

fn forbidden(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for tokens in FORBIDDEN {
            let lines = source.lines_with(tokens).into_iter();
            complaints
                .extend(lines.map(|line| format!("{}:{line}: {}", source.file, tokens.concat())));
        }
    }
    complaints
}

#[test]
fn libraries_are_used_only_where_they_belong() {
    assert_none(&out_of_place(&sources(), RULES));
}

#[test]
fn a_library_out_of_place_is_found() {
    let seeded = [
        ("src/token/mint.rs", "use tonic::Status;"),
        ("src/token/mint.rs", "fn f() { crate::pb::v1::g() }"),
        ("src/vault.rs", "use reqwest::Client;"),
        ("src/vault.rs", "use aws_lc_rs::{aead::Aad, rand};"),
        ("src/app.rs", "fn f() -> tonic::Status { g() }"),
        ("src/store.rs", "pub mod other; use sled::Db;"),
        (
            "src/token.rs",
            "use std::time; fn f() { time::SystemTime::now() }",
        ),
    ];
    for (file, text) in seeded {
        let found = out_of_place(&[Source::parse(file, text)], RULES);
        assert!(!found.is_empty(), "{file}: {text}");
    }
    let sound = [
        ("src/rpc.rs", "use tonic::{Request, Status};"),
        (
            "src/store.rs",
            "pub mod sled; fn f() { sled::SledStore::open() }",
        ),
        ("src/store/sled/writer.rs", "use sled::Db;"),
        (
            "src/vault.rs",
            "#[cfg(test)] mod tests { use reqwest::Client; }",
        ),
    ];
    for (file, text) in sound {
        assert_none(&out_of_place(&[Source::parse(file, text)], RULES));
    }
}

#[test]
fn rooms_know_nothing_of_what_is_beneath_them() {
    assert_none(&loud(&sources(), SILENT));
    let seeded = Source::parse("src/token/cache.rs", "use std::{fs, sync::Arc};");
    assert_eq!(loud(&[seeded], SILENT).len(), 1);
    let seeded = Source::parse("src/store/memory.rs", "use crate::secret::ClientSecret;");
    assert_eq!(loud(&[seeded], SILENT).len(), 1);
}

#[test]
fn nothing_in_the_sources_panics_on_purpose() {
    assert_none(&forbidden(&sources()));
    for text in [
        "fn f() { g().unwrap() }",
        "fn f() { todo!() }",
        "#[ignore] fn f() {}",
    ] {
        assert_eq!(
            forbidden(&[Source::parse("src/x.rs", text)]).len(),
            1,
            "{text}"
        );
    }
    let sound = "fn f() { g().unwrap_or_default(); /* todo!() */ }";
    assert_none(&forbidden(&[Source::parse("src/x.rs", sound)]));
}
