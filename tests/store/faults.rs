//! Each call to the disk fails once: the store does what it was asked or says that it did not, and
//! what it acknowledged is there when the disk is well again.

use std::{
    path::Path,
    process::{Child, Output},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    load::{self, Counts},
    report,
    role::{self, Line, Role, lines},
    shim,
};

/// Runs beside each other.
const LANES: u64 = 4;
/// Longest that a run may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Beyond it, something repeats itself for ever.
const CALLS_MAX: u64 = 5000;
/// What is done on the failing disk: further operations of the broker are further entries.
const SCRIPTS: &[(&str, Role)] = &[(
    "open, commit, reopen, commit",
    Role {
        writers: 2,
        commits: 4,
        largest: 2048,
        opens: 2,
    },
)];
/// Ways in which a call fails, as `disk.c` names them.
const KINDS: &[&str] = &["eio", "enospc", "full", "eintr", "short"];

#[test]
fn each_call_that_fails_is_told_or_made_good() {
    for (script, role) in SCRIPTS {
        for kind in KINDS {
            let began = Instant::now();
            let next = AtomicU64::new(1);
            let refused = AtomicU64::new(0);
            let findings = Mutex::new(Vec::new());
            thread::scope(|scope| {
                for _ in 0..LANES {
                    scope.spawn(|| {
                        loop {
                            let call = next.fetch_add(1, Ordering::Relaxed);
                            assert!(call < CALLS_MAX, "{script}: {kind} has no end");
                            match run(*role, call, kind) {
                                Ok(None) => break,
                                Ok(Some(refusals)) => {
                                    refused.fetch_add(u64::from(refusals > 0), Ordering::Relaxed);
                                }
                                Err(finding) => findings
                                    .lock()
                                    .expect("no panic")
                                    .push(format!("call {call}: {finding}")),
                            }
                        }
                    });
                }
            });
            let calls = next.into_inner() - 1 - LANES;
            report(&format!(
                "{script}: {kind} at each of {calls} calls, {} runs refused something, in {:.0?}",
                refused.into_inner(),
                began.elapsed()
            ));
            let findings = findings.into_inner().expect("no panic");
            assert!(
                findings.is_empty(),
                "{script}: {kind}:\n{}",
                findings.join("\n")
            );
            assert!(calls > 20, "{script}: {kind}: only {calls} calls seen");
        }
    }
}

/// Fails one call. `None` if there was no such call, else how often the store refused.
fn run(role: Role, call: u64, kind: &str) -> Result<Option<usize>, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("store");
    let fired = folder.path().join("fired");
    let mut command = role.command(&directory);
    shim::put_under(&mut command, &directory);
    command
        .env("KODO_DISK_FAIL", format!("{call} {kind}"))
        .env("KODO_DISK_FIRED", &fired);
    let child = command.spawn().expect("starts");
    let (output, told) = watch(child)?;
    let (mut acknowledged, mut sent, mut refused) = (Counts::new(), Counts::new(), 0);
    let mut has = Counts::new();
    for line in told {
        match line {
            Line::Has(writer, count) => drop(has.insert(writer, count)),
            Line::Ready => check(&has, &acknowledged, &sent, "on the failing disk")?,
            Line::Sent(writer, count) => drop(sent.insert(writer, count)),
            Line::Acknowledged(writer, count) => drop(acknowledged.insert(writer, count)),
            Line::Refused(_) => refused += 1,
        }
    }
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{}: {said}", output.status));
    }
    if !fired.exists() {
        return Ok(None);
    }
    let found = read(&directory, role)?;
    check(&found, &acknowledged, &sent, "after it")?;
    Ok(Some(refused))
}

fn check(found: &Counts, acknowledged: &Counts, sent: &Counts, at: &str) -> Result<(), String> {
    std::panic::catch_unwind(|| load::compare(found, acknowledged, sent, at))
        .map_err(|_| format!("{at}: {found:?}, acknowledged {acknowledged:?}, sent {sent:?}"))
}

/// Reads a child to its end, within `PATIENCE`.
fn watch(mut child: Child) -> Result<(Output, Vec<Line>), String> {
    let told = lines(&mut child);
    let id = child.id();
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || {
        let told: Vec<_> = told.collect();
        let output = child.wait_with_output().expect("has ended");
        let _ = done.send((output, told));
    });
    outcome.recv_timeout(PATIENCE).map_err(|_| {
        let pid = nix::unistd::Pid::from_raw(id.cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        format!("hangs for {PATIENCE:?}")
    })
}

/// What a store holds on a disk that is well.
pub(crate) fn read(directory: &Path, role: Role) -> Result<Counts, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let store = role::open(directory).await.map_err(|e| e.to_string())?;
        let counts = load::counts(&store, role.writers, role.largest).await;
        counts.map_err(|error| error.to_string())
    })
}
