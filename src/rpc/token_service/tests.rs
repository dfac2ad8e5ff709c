//! Histories of calls, streams and reports beside suspensions, resumptions, rotations and revocations,
//! in any order and with any delays: each is written down and judged.
//!
//! Time is paused and there is one thread, so that a seed gives the same history again. What happens
//! between two steps of threads is tried in `token/delivery/tests.rs`, the way over sockets in
//! `tests/broker/suspension.rs`.

mod history;
mod world;

use history::{Event, History};
use world::World;

/// How many there are in all: each has up to twenty changes, and some hundred calls.
const HISTORIES: u64 = 250;

fn run(seed: u64) -> Vec<(usize, Event)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let world = World::new(seed).await;
        world.live().await
    })
}

#[test]
fn no_history_has_a_token_that_was_taken_back() {
    let mut total = history::Counts::default();
    for seed in 0..HISTORIES {
        let events = run(seed);
        let judged = history::judge(&events);
        match judged {
            Ok(counts) => total.add(&counts),
            Err(why) => {
                let lines: Vec<_> = events.iter().map(|event| format!("{event:?}")).collect();
                panic!("seed {seed}: {why}\n{}", lines.join("\n"));
            }
        }
    }
    // That they are worth something.
    let least = usize::try_from(HISTORIES).expect("fits");
    let enough = total.given > 20 * least
        && total.suspended > 4 * least
        && total.resumed > 2 * least
        && total.refused > 4 * least
        && total.revoked > least / 4;
    assert!(enough, "{total:?}");
}

/// The judge finds what it is there for.
#[test]
fn a_token_after_the_answer_is_found() {
    let given = |version| Event::Given {
        organization: 0,
        version,
    };
    let history = |events: Vec<Event>| History::of(events);
    let suspended = Event::Suspended { organization: 0 };
    let resuming = Event::Resuming { organization: 0 };
    let good = history(vec![given(1), suspended, resuming, given(1)]);
    assert!(history::judge(&good).is_ok());
    let late = history(vec![given(1), suspended, given(1)]);
    assert!(history::judge(&late).is_err());
    let revoked = Event::Revoked { organization: 0 };
    let late = history(vec![revoked, resuming, given(1)]);
    assert!(history::judge(&late).is_err());
    let rotated = Event::RotatedLeaked {
        organization: 0,
        version: 2,
    };
    let late = history(vec![rotated, given(1)]);
    assert!(history::judge(&late).is_err());
    let resumed = Event::Resumed { organization: 0 };
    let refused = Event::RefusedSuspended {
        organization: 0,
        begun: 4,
    };
    let late = history(vec![suspended, resuming, resumed, given(1), refused]);
    assert!(history::judge(&late).is_err());
    let other = Event::Given {
        organization: 1,
        version: 1,
    };
    assert!(history::judge(&history(vec![suspended, other])).is_ok());
}
