//! The one thread that writes.

use std::{mem, sync::Arc, time::Duration};

use super::{RETRY, group::Group, segment::Medium};

/// Looks after what is due by time at least so often.
const TICK: Duration = Duration::from_secs(1);

/// Makes lines durable, group by group.
pub(super) struct Writer {
    group: Arc<Group>,
    medium: Box<dyn Medium>,
    /// What is to become durable next.
    lines: Vec<u8>,
}

impl Writer {
    pub(super) fn new(group: Arc<Group>, medium: Box<dyn Medium>) -> Self {
        Self {
            group,
            medium,
            lines: Vec::new(),
        }
    }

    /// Writes until the log ends.
    pub(super) fn run(mut self) {
        loop {
            let taken = self.group.take(mem::take(&mut self.lines), TICK);
            self.lines = taken.lines;
            if !self.commit() {
                return;
            }
            self.group.succeed(taken.end);
            if taken.ended {
                return;
            }
        }
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
        true
    }
}

impl Drop for Writer {
    /// Also where it has panicked: then nothing is handed out any more.
    fn drop(&mut self) {
        self.group.finish();
    }
}
