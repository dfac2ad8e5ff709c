//! Each call to the disk fails once: the store does what it was asked or says that it did not, and
//! what it acknowledged is there when the disk is well again.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output},
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
    operations, report,
    role::{self, Line, Role, lines},
    shim,
};

/// Runs beside each other.
const LANES: u64 = 4;
/// Longest that a run may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Beyond it, something repeats itself for ever.
const CALLS_MAX: u64 = 5000;
const ROLE: Role = Role {
    writers: 2,
    commits: 4,
    largest: 2048,
    opens: 2,
};
/// Ways in which a call fails, as `disk.c` names them.
const KINDS: &[&str] = &["eio", "enospc", "full", "eintr", "short"];

/// Fails one call of what is done; `None` if there was no such call, else how often the store refused.
type Run<'a> = dyn Fn(u64, &str) -> Result<Option<usize>, String> + Sync + 'a;

#[test]
fn each_call_that_fails_is_told_or_made_good() {
    let run = |call, kind: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("store");
        let command = ROLE.command(&directory);
        let Some(told) = fail(command, folder.path(), call, kind)? else {
            return Ok(None);
        };
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
        let found = read(&directory, ROLE)?;
        check(&found, &acknowledged, &sent, "after it")?;
        Ok(Some(refused))
    };
    each_call("open, commit, reopen, commit", &run);
}

#[test]
fn each_call_that_fails_under_an_operator_is_told_or_made_good() {
    let prepared = tempfile::tempdir().expect("a folder");
    let from = prepared.path().join("store");
    block_on(operations::prepare(&from));
    let run = |call, kind: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("store");
        copy(&from, &directory);
        let command = role::command("operate", &directory);
        let Some(told) = fail(command, folder.path(), call, kind)? else {
            return Ok(None);
        };
        let acknowledged = |step: &str| {
            let number = operations::STEPS.iter().position(|known| *known == step);
            let number = number.expect("is a step") as u64;
            told.contains(&Line::Acknowledged(number, 1))
        };
        block_on(operations::check(&directory, acknowledged))?;
        let refused = |line: &&Line| matches!(line, Line::Refused(_));
        Ok(Some(told.iter().filter(refused).count()))
    };
    each_call("register, rotate, revoke, re-wrap, back up", &run);
}

/// Fails each call of what is done, in each way.
fn each_call(script: &str, run: &Run<'_>) {
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
                        match run(call, kind) {
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

/// Has one call of a command fail; its lines, or `None` if there was no such call.
fn fail(
    mut command: Command,
    folder: &Path,
    call: u64,
    kind: &str,
) -> Result<Option<Vec<Line>>, String> {
    let fired = folder.join("fired");
    shim::put_under(&mut command, &folder.join("store"));
    command
        .env("KODO_DISK_FAIL", format!("{call} {kind}"))
        .env("KODO_DISK_FIRED", &fired);
    let child = command.spawn().expect("starts");
    let (output, told) = watch(child)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{}: {said}", output.status));
    }
    Ok(fired.exists().then_some(told))
}

/// Copies the files of a closed store, but for the room that it keeps.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("blobs")).expect("a folder");
    for file in fs::read_dir(from).expect("a folder").flatten() {
        let is_file = file.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && file.file_name() != "kodo-broker.reserve" {
            fs::copy(file.path(), to.join(file.file_name())).expect("copies");
        }
    }
}

fn block_on<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
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
        let said = outcome.recv().map(|(output, _)| output.stderr);
        let said = said.unwrap_or_default();
        format!("hangs for {PATIENCE:?}: {}", String::from_utf8_lossy(&said))
    })
}

/// What a store holds on a disk that is well.
pub(crate) fn read(directory: &Path, role: Role) -> Result<Counts, String> {
    block_on(async {
        let store = role::open(directory).await.map_err(|e| e.to_string())?;
        let counts = load::counts(&store, role.writers, role.largest).await;
        counts.map_err(|error| error.to_string())
    })
}
