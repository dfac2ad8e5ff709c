//! The one thread that writes.

use std::{mem, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    RETRY,
    group::Group,
    line::{CHECKPOINT_LINES, Chain, Mark},
    segment::Medium,
};
use crate::clock::Clock;

/// Looks after what is due by time at least so often.
const TICK: Duration = Duration::from_secs(1);
/// How long a line may be the last one without being signed.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// Makes lines durable, group by group.
pub(super) struct Writer {
    group: Arc<Group>,
    medium: Box<dyn Medium>,
    chain: Chain,
    clock: Clock,
    /// What is to become durable next.
    lines: Vec<u8>,
    /// Since when there are lines behind the last signed one.
    unsigned_since: Option<Instant>,
}

impl Writer {
    /// `before` is what has to stand before the first line, which says what `opening` says.
    pub(super) fn new(
        group: Arc<Group>,
        medium: Box<dyn Medium>,
        chain: Chain,
        clock: Clock,
        before: &[u8],
        opening: &Mark,
    ) -> Self {
        let mut writer = Self {
            group,
            medium,
            chain,
            clock,
            lines: before.to_vec(),
            unsigned_since: None,
        };
        writer.mark("open", opening);
        writer
    }

    /// Writes until the log ends.
    pub(super) fn run(mut self) {
        let mut spare = Vec::new();
        if !self.commit() {
            return;
        }
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
                Ok(()) => self.lines.clear(),
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

impl Drop for Writer {
    /// Also where it has panicked: then nothing is handed out any more.
    fn drop(&mut self) {
        self.group.finish();
    }
}
