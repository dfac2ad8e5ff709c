//! Trouble with changed files, told as it is worth.

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::metrics::Metrics;

/// Looks in a row that fail before it is told: files may be replaced one after the other.
const DOUBTS: u32 = 2;
/// Least time between two alarms, and between two of the same text.
const PAUSE: Duration = Duration::from_secs(10);
const REMINDER_PAUSE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Alarm {
    /// Looks in a row that failed.
    doubts: u32,
    told: Option<(String, Instant)>,
    /// What the figure shows.
    raised: Arc<AtomicBool>,
}

impl Alarm {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let raised = Arc::new(AtomicBool::new(false));
        let shown = raised.clone();
        metrics.gauge(
            "reload_failed",
            "Whether changed files cannot be used, so that what was read before stays in force: 1 or 0",
            move || shown.load(Ordering::Relaxed).into(),
        );
        Self {
            doubts: 0,
            told: None,
            raised,
        }
    }

    /// One more look has failed. Whether that was told; whoever asked for the look is told at once.
    pub(super) fn raise(&mut self, error: &impl Display, asked: bool) -> bool {
        self.doubts = self.doubts.saturating_add(1);
        if self.doubts < DOUBTS && !asked {
            return false;
        }
        self.raised.store(true, Ordering::Relaxed);
        let text = error.to_string();
        let due = self.told.as_ref().is_none_or(|(told, at)| {
            let pause = if *told == text { REMINDER_PAUSE } else { PAUSE };
            at.elapsed() >= pause
        });
        if due || asked {
            tracing::error!(%error, "NOT RELOADED: what was read before stays in force");
            self.told = Some((text, Instant::now()));
        }
        due || asked
    }

    pub(super) fn over(&mut self) {
        self.doubts = 0;
        if self.raised.swap(false, Ordering::Relaxed) {
            tracing::info!("the files can be used again");
            // The same trouble is told again if it comes back, but not at once.
            if let Some((text, _)) = &mut self.told {
                text.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trouble_is_told_once_it_lasts_and_not_again_and_again() {
        let mut alarm = Alarm::new(&Metrics::new());
        assert!(!alarm.raise(&"half", false), "files may be on their way");
        alarm.over();
        assert!(!alarm.raise(&"bad", false));
        assert!(alarm.raise(&"bad", false));
        for _ in 0..500 {
            advance(Duration::from_secs(1)).await;
            assert!(!alarm.raise(&"bad", false));
        }
        assert!(alarm.raise(&"bad", true), "who asks is answered");
        advance(REMINDER_PAUSE).await;
        assert!(alarm.raise(&"bad", false), "it is not forgotten");
        // Trouble that comes and goes, of ever other kinds: six a minute at most.
        let mut told = 0;
        for number in 0..60 {
            alarm.over();
            for _ in 0..DOUBTS {
                told += u32::from(alarm.raise(&number, false));
            }
            advance(Duration::from_secs(1)).await;
        }
        assert!((1..=6).contains(&told), "{told}");
    }
}
