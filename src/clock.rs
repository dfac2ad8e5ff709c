//! The rim between monotonic and wall-clock time.
//!
//! Inside, every instant is a tokio [`Instant`], which tests can pause and advance. Wall-clock time
//! appears only in what leaves the process (replies, assertions, records), and comes from here.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Tells the wall-clock time and converts instants to it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Wall-clock and monotonic reading of one moment. `None` follows the system's clock.
    anchor: Option<(SystemTime, Instant)>,
}

impl Clock {
    /// The system's clock, steps and corrections included.
    #[must_use]
    pub fn system() -> Self {
        Self { anchor: None }
    }

    /// A clock that shows `now` at this moment and then runs with tokio's, so that a test which
    /// pauses tokio's clock has paused this one too.
    #[must_use]
    pub fn starting_at(now: SystemTime) -> Self {
        Self {
            anchor: Some((now, Instant::now())),
        }
    }

    /// The wall-clock time, in whole milliseconds: what is told now is what is stored, and read back.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        truncated(match self.anchor {
            Some((wall, instant)) => wall + instant.elapsed(),
            None => system_now(),
        })
    }

    /// The wall-clock time of an instant, in whole milliseconds.
    #[must_use]
    pub fn wall(&self, instant: Instant) -> SystemTime {
        let [wall] = self.walls([instant]);
        wall
    }

    /// The same of several instants, for little more than of one.
    #[must_use]
    pub fn walls<const N: usize>(&self, instants: [Instant; N]) -> [SystemTime; N] {
        let (now, wall) = (Instant::now(), self.now());
        instants.map(|instant| {
            truncated(match instant.checked_duration_since(now) {
                Some(ahead) => wall + ahead,
                None => wall - now.duration_since(instant),
            })
        })
    }

    /// Seconds since the Unix epoch, 0 before it.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        unix_seconds(self.now())
    }
}

/// Seconds of `time` since the Unix epoch, 0 before it.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

fn truncated(time: SystemTime) -> SystemTime {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    time - Duration::from_nanos(u64::from(since.subsec_nanos() % 1_000_000))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the only place that reads the wall clock"
)]
fn system_now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_anchored_clock_runs_with_tokio_time() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let clock = Clock::starting_at(start);
        let later = Instant::now() + Duration::from_secs(90);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(clock.unix_seconds(), 1_060);
        assert_eq!(clock.wall(later), start + Duration::from_secs(90));
        assert_eq!(
            clock.wall(later - Duration::from_secs(80)),
            start + Duration::from_secs(10)
        );
    }
}
