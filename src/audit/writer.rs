//! The one thread that writes.

use std::{io, mem, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    RETRY,
    copy::Copier,
    group::{Facts, Group},
    key::LineKey,
    line::{CHECKPOINT_LINES, Chain, LINE_END, Mark},
    segment::{Medium, Opened},
};
use crate::clock::Clock;

/// Looks after what is due by time at least so often.
const TICK: Duration = Duration::from_secs(1);
/// How long a line may be the last one without being signed.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// Makes lines durable, group by group.
struct Writer {
    group: Arc<Group>,
    medium: Box<dyn Medium>,
    chain: Chain,
    clock: Clock,
    copier: Option<Copier>,
    /// What is to become durable next.
    lines: Vec<u8>,
    /// Since when there are lines behind the last signed one.
    unsigned_since: Option<Instant>,
}

/// When a log can be written.
pub(super) enum Begins {
    Now(Opened),
    /// Once this succeeds.
    Later(Box<dyn FnMut() -> io::Result<Opened> + Send>),
}

/// Opens a log, and writes it until it ends.
pub(super) fn write(
    group: &Arc<Group>,
    begins: Begins,
    key: Arc<LineKey>,
    clock: Clock,
    copier: Option<Copier>,
) {
    // Also where nothing is ever opened.
    let ended = Ended(group.clone());
    let opened = match begins {
        Begins::Now(opened) => Some(opened),
        Begins::Later(open) => wait_for(group, open),
    };
    if let Some(opened) = opened {
        Writer::new(group.clone(), opened, key, clock, copier).run();
    }
    drop(ended);
}

/// Tries until it succeeds, or the log ends.
fn wait_for(group: &Group, mut open: impl FnMut() -> io::Result<Opened>) -> Option<Opened> {
    loop {
        match open() {
            Ok(opened) => return Some(opened),
            Err(error) => group.fail(&error),
        }
        if !group.pause(RETRY) {
            return None;
        }
    }
}

/// Tells that nothing more is written, also where that comes of a panic: then nothing is handed out any
/// more.
struct Ended(Arc<Group>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Writer {
    fn new(
        group: Arc<Group>,
        opened: Opened,
        key: Arc<LineKey>,
        clock: Clock,
        copier: Option<Copier>,
    ) -> Self {
        let Opened { medium, recovered } = opened;
        if let Some(damage) = &recovered.damage {
            tracing::error!(
                damage,
                "THE AUDIT LOG IS DAMAGED: a further file goes on behind it; keep what is there, and look at it with `kodo-broker audit verify`"
            );
        }
        let chain = Chain::new(key, recovered.log.clone(), recovered.head);
        let mut opening = chain.introduction();
        opening.version = Some(env!("CARGO_PKG_VERSION").to_owned());
        recovered.tell(&mut opening);
        let facts = Facts {
            log: recovered.log,
            damaged: recovered.damage.is_some(),
        };
        // Nobody else opens it.
        let _ = group.facts.set(facts);
        let mut writer = Self {
            group,
            medium,
            chain,
            clock,
            copier,
            lines: Vec::new(),
            unsigned_since: None,
        };
        if recovered.needs_line_end {
            writer.lines.extend_from_slice(LINE_END);
        }
        writer.mark("open", &opening);
        writer
    }

    /// Writes until the log ends.
    fn run(mut self) {
        let mut spare = Vec::new();
        if !self.commit() {
            return;
        }
        self.group.recover();
        loop {
            let taken = self.group.take(mem::take(&mut spare), TICK);
            self.add(&taken.lines);
            spare = taken.lines;
            spare.clear();
            if taken.ended {
                self.mark("close", &Mark::default());
            }
            if !self.commit() {
                return;
            }
            self.group.succeed(taken.end);
            if taken.ended || (self.medium.is_full() && !self.go_on()) {
                return;
            }
        }
    }

    /// Adds lines to the chain, and signs where that is due.
    fn add(&mut self, bodies: &[u8]) {
        for body in bodies
            .split(|byte| *byte == b'\n')
            .filter(|body| !body.is_empty())
        {
            self.chain.add(&mut self.lines, body);
            self.unsigned_since.get_or_insert_with(Instant::now);
            if self.chain.unsigned >= CHECKPOINT_LINES {
                self.mark("checkpoint", &Mark::default());
            }
        }
        let waited = self.unsigned_since.map(|since| since.elapsed());
        if waited.is_some_and(|waited| waited >= CHECKPOINT_INTERVAL) {
            self.mark("checkpoint", &Mark::default());
        }
    }

    fn mark(&mut self, kind: &str, mark: &Mark) {
        self.chain
            .mark(&mut self.lines, kind, self.clock.now(), mark);
        self.unsigned_since = None;
    }

    /// Ends the file and begins another one. False if the log ends meanwhile.
    fn go_on(&mut self) -> bool {
        self.mark("end", &Mark::default());
        if !self.commit() {
            return false;
        }
        let first = self.chain.head.seq + 1;
        while let Err(error) = self.medium.begin(first) {
            self.group.fail(&error);
            if !self.group.pause(RETRY) {
                return false;
            }
        }
        let introduction = self.chain.introduction();
        self.mark("begin", &introduction);
        let begun = self.commit();
        if begun {
            self.group.recover();
        }
        begun
    }

    /// Makes the lines durable, however often that has to be tried. False if it was in vain, and the
    /// log ends.
    fn commit(&mut self) -> bool {
        while !self.lines.is_empty() {
            match self.medium.put(&self.lines) {
                Ok(()) => {
                    if let Some(copier) = &self.copier {
                        copier.add(&self.lines);
                    }
                    self.lines.clear();
                }
                Err(error) => {
                    self.group.fail(&error);
                    if !self.group.pause(RETRY) {
                        return false;
                    }
                }
            }
        }
        self.group.head.send_replace(self.chain.head);
        true
    }
}
