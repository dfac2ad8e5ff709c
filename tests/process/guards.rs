//! The guards of the process: what they do to one that serves, and that it does not start where one of
//! them fails.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use nix::unistd::geteuid;

use crate::{
    program::{Ended, PROGRAM, finish},
    site::{Serving, Site, files_below},
};

/// Somebody without rights.
const NOBODY: u32 = 65_534;

/// What `/proc/PID/status` says of something.
fn status(process: u32, of: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(of));
    let value = line.and_then(|line| line.strip_prefix(':'));
    value
        .unwrap_or_else(|| panic!("{of} is missing"))
        .trim()
        .to_owned()
}

fn assert_guarded(serving: &Serving) {
    let process = serving.process.id();
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).expect("it runs");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let core: Vec<_> = core
        .expect("every process has it")
        .split_whitespace()
        .collect();
    assert_eq!(core[4..6], ["0", "0"]);
    assert_eq!(status(process, "NoNewPrivs"), "1");
    assert_eq!(status(process, "Umask"), "0077");
    // The files of a process that is closed belong to root, whoever runs it.
    let memory = fs::metadata(format!("/proc/{process}/mem")).expect("it runs");
    assert_eq!(memory.uid(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_user_cannot_look_into_a_broker_that_serves() {
    let site = Site::new().await;
    let is_root = geteuid().is_root();
    let as_nobody = |mut command: Command| {
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    if is_root {
        give_away(&site.path(""));
    }
    let serving = site.serve_as(as_nobody(site.serve_command())).await;
    assert_guarded(&serving);
    let mut open = Command::new("sleep");
    let mut open = as_nobody({
        open.arg("60");
        open
    })
    .spawn()
    .expect("sleeps");
    let look = |process: u32, name: &str| {
        let mut command = Command::new("head");
        command.args(["-c", "1", &format!("/proc/{process}/{name}")]);
        finish(as_nobody(command), b"")
    };
    // Each needs the right to trace the process.
    for name in ["environ", "auxv"] {
        look(open.id(), name).expect_code(0);
    }
    open.kill().expect("it sleeps");
    open.wait().expect("it was started by us");
    for name in ["mem", "environ", "auxv", "maps"] {
        let ended = look(serving.process.id(), name);
        assert!(
            ended.code != Some(0) && ended.err.contains("Permission denied"),
            "{name}: {ended:?}"
        );
    }
    serving.stop();
    for (path, _) in files_below(&site.path("data")) {
        let mode = fs::metadata(&path).expect("a file").mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
}

/// Makes nobody the owner of a folder.
fn give_away(folder: &Path) {
    chown(folder, Some(NOBODY), Some(NOBODY)).expect("root may");
    for (path, _) in files_below(folder) {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
}

/// A run under strace, with what it traces.
fn traced(site: &Site, options: &[&str]) -> (Ended, String) {
    let file = site.shown("trace");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-o", &file])
        .args(options)
        .arg(PROGRAM)
        .args(site.serve_line());
    let ended = finish(command, b"");
    (ended, fs::read_to_string(file).expect("a trace"))
}

/// The calls of a trace.
fn calls(trace: &str) -> Vec<&str> {
    trace
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(_, call)| call.trim())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_fails_refuses_the_start_before_anything_is_read() {
    let site = Site::new().await;
    // So that an unguarded start ends as well.
    site.write("policy.toml", "not a policy");
    let (ended, trace) = traced(&site, &["-e", "trace=prctl,prlimit64,openat"]);
    ended.expect_code(78);
    let plain = calls(&trace);
    let at = |begin: &str| {
        let found = plain.iter().position(|call| call.starts_with(begin));
        found.unwrap_or_else(|| panic!("no {begin} in {plain:#?}"))
    };
    let read = plain.iter().position(|call| call.contains("broker.toml"));
    let read = read.expect("it reads its configuration");
    for (call, outcome, told) in [
        (
            "prlimit64(0, RLIMIT_CORE, {",
            "error=EPERM",
            "core files cannot be turned off",
        ),
        (
            "prctl(PR_SET_DUMPABLE",
            "error=EINVAL",
            "cannot be closed to debuggers",
        ),
        (
            "prctl(PR_GET_DUMPABLE",
            "retval=1",
            "cannot be closed to debuggers",
        ),
        (
            "prctl(PR_SET_NO_NEW_PRIVS",
            "error=EPERM",
            "new privileges cannot be given up",
        ),
        (
            "prctl(PR_GET_NO_NEW_PRIVS",
            "retval=0",
            "new privileges cannot be given up",
        ),
    ] {
        assert!(at(call) < read, "{call} comes too late");
        let (name, _) = call.split_once('(').expect("a call");
        let number = plain[..=at(call)]
            .iter()
            .filter(|call| call.starts_with(name))
            .count();
        let inject = format!("inject={name}:{outcome}:when={number}");
        let options = ["-e", "trace=prctl,prlimit64,openat", "-e", &inject];
        let (ended, trace) = traced(&site, &options);
        let ended = ended.expect_code(78);
        assert!(ended.error().contains(told), "{call}: {ended:?}");
        assert!(ended.error().contains("--insecure-dev"), "{ended:?}");
        assert!(!trace.contains("broker.toml"), "{call}: {trace}");
    }
}

/// A command in a place where there is a swap device, and no right to lock memory.
fn with_swap(site: &Site, line: &[String]) -> Command {
    let swaps = "Filename Type Size Used Priority\n/dev/sda2 partition 2097148 0 -2\n";
    let swaps = site.write("swaps", swaps);
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount --bind \"$0\" /proc/swaps && ulimit -l 64 && exec \"$@\"")
        .args([swaps.as_str(), PROGRAM])
        .args(line);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_can_be_swapped_refuses_the_start_except_for_development() {
    let site = Site::new().await;
    let strict = site.serve_line();
    let ended = finish(with_swap(&site, &strict), b"").expect_code(78);
    assert!(ended.error().contains("MemorySwapMax=0"), "{ended:?}");
    let lenient = [&strict[..], &["--insecure-dev".to_owned()]].concat();
    let serving = site.serve_as(with_swap(&site, &lenient)).await;
    assert_guarded(&serving);
    let ended = serving.stop();
    assert!(ended.err.contains("A GUARD IS MISSING"), "{ended:?}");
    assert!(ended.err.contains("LimitMEMLOCK=infinity"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_locked_where_there_is_no_limit_to_it() {
    let site = Site::new().await;
    let serving = site.serve().await;
    let locked = status(serving.process.id(), "VmLck");
    let kilobytes: u64 = locked.trim_end_matches(" kB").parse().expect("a number");
    let limits = fs::read_to_string(format!("/proc/{}/limits", serving.process.id()));
    let limits = limits.expect("it runs");
    let unlimited = limits.lines().any(|line| {
        line.starts_with("Max locked memory") && line.matches("unlimited").count() == 2
    });
    let exempt = u64::from_str_radix(&status(serving.process.id(), "CapEff"), 16);
    let exempt = exempt.expect("a number") >> 14 & 1 == 1;
    assert_eq!(kilobytes > 1024, unlimited || exempt, "{locked}");
}
