//! `kodo-broker dev` keeps its word: what it shows has happened, and what it prints can be typed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    canary::has_jwt,
    program::{Ended, PROGRAM, Running, command, run, run_shell},
};

/// A running `dev`, with what it said until it had nothing more to say.
struct Dev {
    process: Running,
    said: Vec<String>,
    /// Where it may put temporary files.
    temporary: TempDir,
}

impl Dev {
    fn start(data_dir: Option<&str>, from: &Path) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let mut command = command();
        command.args(["dev", "--listen", "127.0.0.1:0"]);
        command.current_dir(from);
        command.env("TMPDIR", temporary.path());
        if let Some(folder) = data_dir {
            command.arg("--data-dir").arg(folder);
        }
        let process = Running::start(command);
        let said = process.out.until(|line| line.starts_with("grpcurl "));
        let said = match said {
            Ok(said) => said,
            Err(said) => panic!("{said}{:?}", process.ended()),
        };
        Self {
            process,
            said,
            temporary,
        }
    }

    /// The command lines that it ran itself, and those that it leaves to others.
    fn lines(&self) -> (Vec<&str>, Vec<&str>) {
        let is_ours = |line: &&str| line.trim_start_matches('\'').starts_with(PROGRAM);
        let lines = || self.said.iter().map(|line| line.trim_end());
        let ran = lines().filter_map(|line| line.strip_prefix("$ "));
        (
            ran.filter(is_ours).collect(),
            lines().filter(is_ours).collect(),
        )
    }

    fn text(&self) -> String {
        self.said.concat()
    }

    /// What is in the temporary folder.
    fn left_over(&self) -> Vec<PathBuf> {
        let items = fs::read_dir(self.temporary.path()).expect("a folder");
        items.map(|item| item.expect("an entry").path()).collect()
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(self) -> (Ended, TempDir) {
        self.process.signal("INT");
        (self.process.ended().expect_code(0), self.temporary)
    }
}

/// Runs a line exactly as it was printed, from anywhere.
fn typed(line: &str) -> Ended {
    run_shell(line, Path::new("/"))
}

#[test]
fn what_it_prints_can_be_typed_and_does_what_it_says() {
    let dev = Dev::start(None, Path::new("/"));
    let text = dev.text();
    for audience in [
        "https://graph.microsoft.com",
        // Exchange's audience has the slash.
        "https://outlook.office365.com/",
        "https://contoso.sharepoint.com",
    ] {
        let heads = text.lines().filter(|line| {
            line.strip_prefix("claim aud")
                .is_some_and(|rest| rest.trim() == audience)
        });
        assert_eq!(heads.count(), 1, "{audience}: {text}");
    }
    assert_eq!(text.matches("\nheader alg").count(), 3, "{text}");
    assert!(
        !has_jwt(text.as_bytes()) && !text.contains("PRIVATE KEY"),
        "{text}"
    );

    let (ran, left) = dev.lines();
    assert_eq!(ran.len(), 4, "{text}");
    for line in ran {
        typed(line).expect_code(0);
    }
    let outcomes: Vec<_> = left
        .iter()
        .map(|line| {
            let ended = typed(line);
            assert!(!has_jwt(ended.out.as_bytes()), "{line}: {}", ended.out);
            let words = line
                .split(' ')
                .skip(3)
                .take(4)
                .collect::<Vec<_>>()
                .join(" ");
            let reason = ended
                .err
                .lines()
                .find_map(|line| line.trim().strip_prefix("reason: "));
            (words, ended.code, reason.map(str::to_owned))
        })
        .collect();
    let sound = |words: &str| (words.to_owned(), Some(0), None);
    let refused = |words: &str, reason: &str| (words.to_owned(), Some(6), Some(reason.to_owned()));
    assert_eq!(
        outcomes,
        [
            sound("org register fabrikam --tenant"),
            sound("token get fabrikam graph"),
            refused("token get fabrikam sharepoint", "CERTIFICATE_REQUIRED"),
            sound("org list"),
            sound("org revoke fabrikam --yes"),
            refused("token get fabrikam graph", "ORGANIZATION_REVOKED"),
        ]
    );

    assert_eq!(dev.left_over().len(), 1);
    let (ended, temporary) = dev.interrupt();
    for word in ["ERROR", "error: ", "stopped before"] {
        assert!(!ended.err.contains(word), "{}", ended.err);
    }
    let mut left = fs::read_dir(temporary.path()).expect("a folder");
    assert!(left.next().is_none(), "the temporary folder is still there");
}

#[test]
fn a_folder_of_ones_own_is_kept_whatever_its_name() {
    let parent = tempfile::tempdir().expect("a temporary folder");
    let name = "it's a $HOME of \"one's\" own";
    let folder = parent.path().join(name);
    let first = Dev::start(Some(name), parent.path());
    assert!(first.left_over().is_empty(), "{:?}", first.left_over());
    let (_, left) = first.lines();
    let register = left[0].to_owned();
    typed(&register).expect_code(0);
    let listed = typed(left[3]).expect_code(0).out;
    assert!(
        listed.contains("contoso") && listed.contains("fabrikam"),
        "{listed}"
    );
    first.interrupt();

    let second = Dev::start(folder.to_str(), Path::new("/"));
    let (_, left) = second.lines();
    assert_eq!(typed(left[3]).expect_code(0).out, listed);
    typed(left[1]).expect_code(0);
    // It is there already, and says so.
    typed(&register).expect_code(3);
    second.interrupt();
    assert!(folder.join("store").is_dir());
}

#[test]
fn it_serves_this_machine_only() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let ended = run(&["dev", "--listen", address]).expect_code(1);
        assert!(ended.error().contains("loopback"), "{ended:?}");
        assert!(ended.out.is_empty(), "{ended:?}");
    }
}

#[test]
fn an_address_that_is_taken_is_named_and_nothing_is_left_behind() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = holder.local_addr().expect("an address").to_string();
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let mut command = command();
    command
        .args(["dev", "--listen", &address])
        .env("TMPDIR", temporary.path());
    let ended = Running::start(command).ended().expect_code(1);
    assert!(ended.error().contains(&address), "{ended:?}");
    let mut left = fs::read_dir(temporary.path()).expect("a folder");
    assert!(left.next().is_none(), "the temporary folder is still there");
}
