//! What holds for the files of the repository, whatever is in them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::assert_none;

/// No source is longer, in lines.
const LINES_MAX: usize = 600;
/// Names that say nothing of what a file is about.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "common", "helpers", "helper", "manager", "misc", "mod",
];

/// Every file below the root that git does not ignore, with its text; an empty one for bytes.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ignored = fs::read_to_string(root.join(".gitignore")).expect("a .gitignore");
    let ignored: Vec<_> = ignored
        .lines()
        .map(|line| line.trim_end_matches('/'))
        .collect();
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).expect("a folder") {
            let path = item.expect("a readable folder").path();
            let name = relative(&path, root);
            let last = name.rsplit('/').next().unwrap_or_default();
            let rooted = format!("/{name}");
            if last == ".git" || ignored.contains(&last) || ignored.contains(&rooted.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
                Err(error) => panic!("{name}: {error}"),
            };
            files.push((name, text));
        }
    }
    assert!(files.len() > 100, "only {} files found", files.len());
    files
}

fn relative(path: &Path, root: &Path) -> String {
    let relative: PathBuf = path.strip_prefix(root).expect("below the root").into();
    relative.to_str().expect("a plain name").to_owned()
}

fn sources(files: &[(String, String)]) -> impl Iterator<Item = &(String, String)> {
    files.iter().filter(|(name, _)| name.ends_with(".rs"))
}

fn too_long(files: &[(String, String)]) -> Vec<String> {
    let lines = sources(files).map(|(name, text)| (name, text.lines().count()));
    lines
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(name, lines)| format!("{name} has {lines} lines, more than {LINES_MAX}"))
        .collect()
}

fn badly_named(files: &[(String, String)]) -> Vec<String> {
    let says_nothing = |name: &str| {
        let mut parts = name
            .split('/')
            .map(|part| part.split('.').next().unwrap_or_default());
        parts.any(|part| EMPTY_NAMES.contains(&part))
    };
    sources(files)
        .filter(|(name, _)| says_nothing(name))
        .map(|(name, _)| format!("{name}: the name does not say what is in it"))
        .collect()
}

fn undocumented(files: &[(String, String)]) -> Vec<String> {
    sources(files)
        .filter(|(name, _)| !name.ends_with("/tests.rs"))
        .filter(|(_, text)| !text.starts_with("//! ") && !text.starts_with("#![no_main]\n//! "))
        .map(|(name, _)| format!("{name} does not begin with what it is for (`//!`)"))
        .collect()
}

/// Places that only one machine has.
fn of_one_machine(files: &[(String, String)]) -> Vec<String> {
    let places = ["home", "root", "work"].map(|name| format!("/{name}/"));
    let mut complaints = Vec::new();
    for (name, text) in files {
        for (number, line) in text.lines().enumerate() {
            // Part of a longer path, as `deploy/work/`, it is none of a machine.
            let found = places.iter().any(|place| {
                line.match_indices(place.as_str()).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_.-}~".contains(c))
                })
            });
            if found {
                complaints.push(format!(
                    "{name}:{}: names a place of one machine",
                    number + 1
                ));
            }
        }
    }
    complaints
}

/// Dependencies without a word on what they are for.
fn unexplained(manifest: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut depends = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            depends = line.ends_with("dependencies]");
        } else if depends && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let reason = line.rsplit_once(" # ").map(|(_, reason)| reason.trim());
            if reason.is_none_or(str::is_empty) {
                complaints.push(format!("no reason is given for: {line}"));
            }
        }
    }
    complaints
}

fn seeded(name: &str, text: &str) -> [(String, String); 1] {
    [(name.to_owned(), text.to_owned())]
}

#[test]
fn no_source_is_too_long() {
    assert_none(&too_long(&files()));
    let long = "\n".repeat(LINES_MAX + 1);
    assert_eq!(too_long(&seeded("src/x.rs", &long)).len(), 1);
    assert_none(&too_long(&seeded("src/x.rs", &long[1..])));
}

#[test]
fn every_source_is_named_after_what_is_in_it() {
    assert_none(&badly_named(&files()));
    for name in [
        "src/utils.rs",
        "src/x/mod.rs",
        "tests/common/x.rs",
        "src/manager.rs",
    ] {
        assert_eq!(badly_named(&seeded(name, "")).len(), 1, "{name}");
    }
    assert_none(&badly_named(&seeded("src/modular.rs", "")));
}

#[test]
fn every_source_begins_with_what_it_is_for() {
    assert_none(&undocumented(&files()));
    assert_eq!(undocumented(&seeded("src/x.rs", "use std::io;\n")).len(), 1);
    assert_none(&undocumented(&seeded("src/x/tests.rs", "use super::*;\n")));
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    assert_none(&of_one_machine(&files()));
    let place = ["", "root", "x"].join("/");
    assert_eq!(
        of_one_machine(&seeded("x.md", &format!("see {place}"))).len(),
        1
    );
    assert_none(&of_one_machine(&seeded(
        "x.md",
        &format!("see deploy{place}"),
    )));
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = files().into_iter().find(|(name, _)| name == "Cargo.toml");
    assert_none(&unexplained(&manifest.expect("a manifest").1));
    let bad = "[dependencies]\na = \"1\"\nb = \"1\" # why\n[dev-dependencies]\nc = { version = \"1\" } #\n";
    assert_eq!(unexplained(bad).len(), 2);
}

/// Tests that a text names and that do not exist: words in backquotes with the form of such a name.
fn missing_tests(text: &str, files: &[(String, String)]) -> Vec<String> {
    let is_name = |word: &&str| {
        word.matches('_').count() >= 2
            && word
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let exists = |name: &str| {
        let heads = [format!("fn {name}("), format!("def {name}(")];
        let mut tests = files
            .iter()
            .filter(|(file, _)| file.ends_with(".rs") || file.ends_with(".py"));
        tests.any(|(_, text)| heads.iter().any(|head| text.contains(head)))
    };
    let named = text.split('`').skip(1).step_by(2).filter(is_name);
    named
        .filter(|name| !exists(name))
        .map(|name| format!("there is no test `{name}`"))
        .collect()
}

#[test]
fn every_test_that_is_named_as_a_proof_exists() {
    let files = files();
    let security = files.iter().find(|(name, _)| name == "SECURITY.md");
    let text = &security.expect("a SECURITY.md").1;
    assert!(text.matches("_").count() > 100, "it names no tests");
    assert_none(&missing_tests(text, &files));
    let bad = "proven by `a_test_that_there_is_not`, not by `RLIMIT_CORE` or `serve`";
    assert_eq!(missing_tests(bad, &files).len(), 1);
    let good = "proven by `every_test_that_is_named_as_a_proof_exists`";
    assert_none(&missing_tests(good, &files));
}
