//! Looks at how long the broker's certificate is still good for.
//!
//! One from a file that has ended is shown on: clients refuse it, or their operators know why they do
//! not. An SVID that has ended means that nobody vouches for the broker any more, so it lets nobody in,
//! and says that it is not ready.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::{Clock, unix_seconds},
    metrics::Metrics,
    rpc::Health,
    tls::{LiveTls, Validity},
};

/// Of a certificate's life, the last part in which there should be a next one: renewal is usual after a
/// half (SPIRE) or two thirds (cert-manager).
const LAST_PART: u32 = 4;

/// Looks at it, and tells once what there is to tell.
pub(super) struct Expiry {
    tls: Arc<LiveTls>,
    clock: Clock,
    /// Whether it is an SVID.
    is_svid: bool,
    told: Option<(Validity, Stage)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Good,
    Near,
    Over,
}

impl Expiry {
    pub(super) fn new(tls: Arc<LiveTls>, clock: Clock, is_svid: bool, metrics: &Metrics) -> Self {
        let shown = tls.clone();
        metrics.gauge(
            "server_certificate_expiry_timestamp_seconds",
            "When the broker's certificate ends, in seconds since 1970; 0 without one",
            move || {
                let ends = shown
                    .current()
                    .shown
                    .as_ref()
                    .map_or(0, |shown| unix_seconds(shown.validity.not_after));
                usize::try_from(ends).unwrap_or(usize::MAX)
            },
        );
        Self {
            tls,
            clock,
            is_svid,
            told: None,
        }
    }

    /// Looks now.
    pub(super) async fn look(&mut self, health: Option<&Health>) {
        let Some(validity) = self
            .tls
            .current()
            .shown
            .as_ref()
            .map(|shown| shown.validity)
        else {
            return;
        };
        let stage = stage(&validity, &self.clock);
        self.tell(validity, stage);
        if !self.is_svid {
            return;
        }
        let ended = stage == Stage::Over;
        let had_ended = self.tls.has_ended();
        self.tls.set_ended(ended);
        if let Some(health) = health
            && (ended || had_ended)
        {
            health.set_certified(!ended).await;
        }
    }

    fn tell(&mut self, validity: Validity, stage: Stage) {
        let now = Some((validity, stage));
        if self.told == now {
            return;
        }
        self.told = now;
        let left = validity.not_after.duration_since(self.clock.now());
        let left_seconds = left.map_or(0, |left| left.as_secs());
        match stage {
            Stage::Good => {}
            Stage::Near => tracing::warn!(
                left_seconds,
                "the broker's certificate ends soon and was not renewed"
            ),
            Stage::Over if self.is_svid => tracing::error!(
                "EXPIRED: the broker's SVID has ended and the Workload API gives no other; no connection is let in until it does"
            ),
            Stage::Over => {
                tracing::error!("EXPIRED: the broker's certificate has ended; clients refuse it");
            }
        }
    }
}

pub(super) fn stage(validity: &Validity, clock: &Clock) -> Stage {
    let Ok(left) = validity.not_after.duration_since(clock.now()) else {
        return Stage::Over;
    };
    let life = validity.not_after.duration_since(validity.not_before);
    let life = life.unwrap_or(Duration::ZERO);
    if left.is_zero() {
        Stage::Over
    } else if left < life / LAST_PART {
        Stage::Near
    } else {
        Stage::Good
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_near_its_end_in_its_last_quarter() {
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let hour = Duration::from_secs(3600);
        let validity = Validity {
            not_before: from,
            not_after: from + hour,
        };
        for (minutes, expected) in [
            (0, Stage::Good),
            (45, Stage::Good),
            (46, Stage::Near),
            (59, Stage::Near),
            (60, Stage::Over),
            (90, Stage::Over),
        ] {
            let clock = Clock::starting_at(from + hour * minutes / 60);
            assert_eq!(stage(&validity, &clock), expected, "{minutes}");
        }
    }
}
