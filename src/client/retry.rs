//! When a call is tried again: only where that can help, a bounded number of times, and never beyond
//! the time that its caller has.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::{Instant, sleep};

use super::Error;

/// First pause after a lost connection, before jitter, which at most doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause after a lost connection, before jitter.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// No wait that the broker asks for may be longer.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Pauses that double, with jitter, so that many clients do not come back at one instant.
#[derive(Debug)]
pub(super) struct Pauses(<ExponentialBuilder as backon::BackoffBuilder>::Backoff);

impl Pauses {
    pub(super) fn new() -> Self {
        Self::between(PAUSE_MIN, PAUSE_MAX)
    }

    pub(super) fn between(min: Duration, max: Duration) -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(min)
            .with_max_delay(max)
            .without_max_times()
            .with_jitter();
        Self(pauses.build())
    }

    /// How long to wait after a connection was lost.
    pub(super) fn after_loss(&mut self) -> Duration {
        self.0.next().unwrap_or(PAUSE_MAX)
    }

    /// How long to wait after this error. `None` if waiting would not help.
    pub(super) fn after(&mut self, error: &Error) -> Option<Duration> {
        // Drawn in any case: it is also the jitter on what the broker asks for.
        let pause = self.after_loss();
        match error.retry_after() {
            Some(delay) => Some(delay.min(RETRY_AFTER_MAX) + pause.min(delay / 4).max(PAUSE_MIN)),
            None if error.is_lost() && !error.is_certificate_refusal() => Some(pause),
            None => None,
        }
    }
}

/// Calls, and calls again where [`Pauses::after`] has hope, up to `max_attempts` times and until
/// `deadline`, which may move while the call is under way. `attempt` is told how much time is left.
pub(super) async fn call<T, F>(
    max_attempts: u32,
    deadline: impl Fn() -> Instant,
    mut attempt: impl FnMut(Duration) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut pauses = Pauses::new();
    let mut attempts = 0;
    loop {
        let left = deadline().saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::out_of_time());
        }
        attempts += 1;
        let error = match attempt(left).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let pause = pauses.after(&error);
        let Some(pause) = pause.filter(|_| attempts < max_attempts) else {
            return Err(error);
        };
        // Whoever would have to wait beyond the deadline learns of the error now.
        if Instant::now() + pause >= deadline() {
            return Err(error);
        }
        sleep(pause).await;
    }
}
