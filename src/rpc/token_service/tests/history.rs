//! What is written down, and the judge.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Something that happened with an organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A caller has a token, of this version of the credential.
    Given { organization: usize, version: u64 },
    /// A call was told that it is suspended; its place in the history is when it began.
    RefusedSuspended { organization: usize, begun: usize },
    /// Somebody begins to suspend or revoke it.
    Stopping { organization: usize },
    /// The suspension was answered.
    Suspended { organization: usize },
    /// Somebody begins to resume it.
    Resuming { organization: usize },
    /// The resumption was answered.
    Resumed { organization: usize },
    /// A rotation that takes old tokens back was answered; this is the new version.
    RotatedLeaked { organization: usize, version: u64 },
    /// The revocation was answered.
    Revoked { organization: usize },
}

/// A history while it is made.
#[derive(Debug, Default)]
pub(super) struct History {
    next: AtomicUsize,
    events: Mutex<Vec<(usize, Event)>>,
}

/// What was in histories.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) given: usize,
    pub(super) refused: usize,
    pub(super) suspended: usize,
    pub(super) resumed: usize,
    pub(super) revoked: usize,
}

/// What holds of an organization at a moment.
#[derive(Debug, Default)]
struct Promised {
    stopped: bool,
    for_good: bool,
    /// Tokens of lower versions were taken back.
    version: u64,
    /// Since when it gets tokens, if it does for sure.
    open_since: Option<usize>,
}

impl History {
    /// The place of what happens now.
    pub(super) fn now(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes down what happens now.
    pub(super) fn note(&self, event: Event) {
        let now = self.now();
        self.events.lock().expect("no panic").push((now, event));
    }

    pub(super) fn events(&self) -> Vec<(usize, Event)> {
        self.events.lock().expect("no panic").clone()
    }

    /// Of events in this order, one a place.
    pub(super) fn of(events: Vec<Event>) -> Vec<(usize, Event)> {
        events.into_iter().enumerate().collect()
    }
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.given += other.given;
        self.refused += other.refused;
        self.suspended += other.suspended;
        self.resumed += other.resumed;
        self.revoked += other.revoked;
    }
}

/// Whether every promise was kept.
pub(super) fn judge(events: &[(usize, Event)]) -> Result<Counts, String> {
    let mut promised: HashMap<usize, Promised> = HashMap::new();
    let mut counts = Counts::default();
    for (at, event) in events {
        let organization = match event {
            Event::Given { organization, .. }
            | Event::RefusedSuspended { organization, .. }
            | Event::Stopping { organization }
            | Event::Suspended { organization }
            | Event::Resuming { organization }
            | Event::Resumed { organization }
            | Event::RotatedLeaked { organization, .. }
            | Event::Revoked { organization } => *organization,
        };
        let known = promised.entry(organization).or_insert(Promised {
            open_since: Some(0),
            ..Promised::default()
        });
        match event {
            Event::Given { version, .. } => {
                counts.given += 1;
                if known.stopped {
                    return Err(format!("at {at} a token of a stopped organization"));
                }
                if *version < known.version {
                    return Err(format!("at {at} a token of a leaked credential"));
                }
            }
            Event::RefusedSuspended { begun, .. } => {
                counts.refused += 1;
                if known.open_since.is_some_and(|since| since < *begun) {
                    return Err(format!("at {at} a refusal after the resumption"));
                }
            }
            Event::Stopping { .. } => known.open_since = None,
            Event::Suspended { .. } => {
                counts.suspended += 1;
                known.stopped = true;
            }
            Event::Resuming { .. } => known.stopped = known.for_good,
            Event::Resumed { .. } => {
                counts.resumed += 1;
                known.open_since = Some(*at);
            }
            Event::RotatedLeaked { version, .. } => known.version = *version,
            Event::Revoked { .. } => {
                counts.revoked += 1;
                (known.stopped, known.for_good) = (true, true);
            }
        }
    }
    Ok(counts)
}
