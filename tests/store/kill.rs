//! A killed process has lost nothing that its store had acknowledged.

use std::{
    process::{Child, Output},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    is_long_run,
    load::{self, Counts},
    numbers::Numbers,
    report,
    role::{Line, Role, lines},
    seed,
};

const SEED: u64 = 0x6b69_6c6c;
const CYCLES: u64 = 1000;
const CYCLES_LONG: u64 = 20_000;
/// Stores that are killed beside each other; they mostly wait for the disk.
const LANES: u64 = 4;
const ROLE: Role = Role {
    writers: 8,
    commits: u64::MAX / 2,
    largest: 4096,
    opens: 1,
};

struct Outcome {
    acknowledged: u64,
    killed_while_opening: u64,
    slowest_open: Duration,
}

#[test]
fn nothing_acknowledged_is_lost_to_a_kill() {
    let cycles = if is_long_run() { CYCLES_LONG } else { CYCLES };
    let seed = seed(SEED);
    let began = Instant::now();
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| thread::spawn(move || kill_again_and_again(seed + lane, cycles / LANES)))
        .collect();
    let mut total = Outcome {
        acknowledged: 0,
        killed_while_opening: 0,
        slowest_open: Duration::ZERO,
    };
    for lane in lanes {
        let outcome = lane.join().expect("nothing lost");
        total.acknowledged += outcome.acknowledged;
        total.killed_while_opening += outcome.killed_while_opening;
        total.slowest_open = total.slowest_open.max(outcome.slowest_open);
    }
    report(&format!(
        "seed {seed:#x}: {cycles} kills in {:.0?}, {} of them while the store opened; {} commits \
         acknowledged, none lost; slowest start {:.0?}",
        began.elapsed(),
        total.killed_while_opening,
        total.acknowledged,
        total.slowest_open,
    ));
    assert!(total.acknowledged > cycles, "the kills come too early");
    assert!(total.killed_while_opening < cycles / 2);
}

fn kill(mut child: Child, wait: Duration) -> JoinHandle<Output> {
    thread::spawn(move || {
        thread::sleep(wait);
        child.kill().expect("not waited for yet");
        child.wait_with_output().expect("has ended")
    })
}

/// Kills 20 to 200 ms after the start, or after the store was open.
fn kill_again_and_again(seed: u64, cycles: u64) -> Outcome {
    let mut numbers = Numbers(seed);
    let directory = tempfile::tempdir().expect("a folder");
    let (mut acknowledged, mut sent) = (Counts::new(), Counts::new());
    let mut outcome = Outcome {
        acknowledged: 0,
        killed_while_opening: 0,
        slowest_open: Duration::ZERO,
    };
    for cycle in 0..cycles {
        let at = format!("seed {seed:#x}, cycle {cycle}");
        let began = Instant::now();
        let mut child = ROLE.command(directory.path()).spawn().expect("starts");
        let mut lines = lines(&mut child);
        let wait = Duration::from_millis(20 + numbers.below(181));
        let mut alive = Some(child);
        let mut kill_later = || alive.take().map(|child| kill(child, wait));
        let mut killer = if cycle % 4 == 0 { kill_later() } else { None };
        let (mut found, mut ready) = (Counts::new(), false);
        for line in lines.by_ref() {
            match line {
                Line::Has(writer, count) => drop(found.insert(writer, count)),
                Line::Ready => {
                    ready = true;
                    load::compare(&found, &acknowledged, &sent, &at);
                    // What was on its way and is there is as good as acknowledged.
                    (acknowledged, sent) = (found.clone(), found.clone());
                    outcome.slowest_open = outcome.slowest_open.max(began.elapsed());
                    killer = killer.or_else(&mut kill_later);
                }
                Line::Sent(writer, count) => drop(sent.insert(writer, count)),
                Line::Acknowledged(writer, count) => {
                    acknowledged.insert(writer, count);
                    outcome.acknowledged += 1;
                }
                Line::Refused(reason) => panic!("{at}: {reason}"),
            }
        }
        let killer = killer.or_else(&mut kill_later).expect("one kill");
        let output = killer.join().expect("kills");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{at}: {said}");
        outcome.killed_while_opening += u64::from(!ready);
    }
    outcome
}
