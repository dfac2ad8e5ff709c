//! How far long work has come: a line on a terminal that is written over, and nothing anywhere else.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use tokio::time::Instant;

/// Width of the bar, in characters.
const WIDTH: u64 = 30;
/// Not written more often than this.
const INTERVAL: Duration = Duration::from_millis(100);

/// A line on the terminal.
pub(super) struct Progress {
    /// What is counted.
    what: &'static str,
    shown: bool,
    began: Instant,
    last: Option<Instant>,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            shown: io::stderr().is_terminal(),
            began: Instant::now(),
            last: None,
        }
    }

    /// Shows that so many of so many are done.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        let now = Instant::now();
        if !self.shown || self.last.is_some_and(|last| now - last < INTERVAL) {
            return;
        }
        self.last = Some(now);
        let line = line(self.what, done, total, now - self.began);
        // Progress that cannot be seen is none.
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
    }

    /// Takes the line away.
    pub(super) fn end(&mut self) {
        if self.last.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, total: u64, took: Duration) -> String {
    let done = done.min(total);
    let (percent, filled) = match total {
        0 => (100, WIDTH),
        total => (done * 100 / total, done * WIDTH / total),
    };
    let bar: String = (0..WIDTH)
        .map(|at| if at < filled { '#' } else { '.' })
        .collect();
    let left = match u32::try_from(done) {
        Ok(done @ 1..) => {
            let left = took.as_secs_f64() / f64::from(done);
            // Far below 2^52.
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let left = left * (total - u64::from(done)) as f64;
            format!(", {left:.0} s left")
        }
        _ => String::new(),
    };
    format!("[{bar}] {percent:>3} %  {done} of {total} {what}{left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is_and_how_long_it_takes() {
        let took = Duration::from_secs(10);
        assert_eq!(
            line("keys", 250, 1000, took),
            "[#######.......................]  25 %  250 of 1000 keys, 30 s left"
        );
        assert_eq!(
            line("keys", 0, 1000, took),
            "[..............................]   0 %  0 of 1000 keys"
        );
        assert!(line("keys", 5, 0, took).contains("100 %"));
        assert!(line("keys", u64::MAX, 3, took).contains("100 %  3 of 3"));
    }
}
