//! How long a token may be used, whatever this machine's clock shows.
//!
//! The broker tells ends as wall-clock times. This machine's wall clock may be wrong, and a token
//! that is used after its end costs a refused request. So a token's life is the difference of two
//! readings of one clock, the broker's: the end that it tells, and the `Date` header of the same
//! answer. That life is counted by the monotonic clock, from before the request was sent, and less
//! the second that `Date` is rounded by: it comes out shorter than it is, never longer.
//!
//! Where something on the way strips `Date`, this machine's wall clock stands in for it.
//!
//! The monotonic clock of Linux stands still while a machine is suspended. So the wall clock is
//! watched besides: a token is over as soon as either of the two says so.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use crate::clock::Clock;

/// How far `Date`, in whole seconds, may be behind the clock that it was read from.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);
/// No token of Entra lives longer (continuous access evaluation: up to 28 hours). An end beyond that
/// is a wrong clock.
const LIFE_MAX: Duration = Duration::from_secs(48 * 3600);

/// What the broker's clock showed at an instant of ours, or a little later.
#[derive(Clone, Copy, Debug)]
pub(super) struct BrokerTime {
    clock: Clock,
    instant: Instant,
    wall: SystemTime,
}

/// From when on to replace a token, and until when to use it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    clock: Clock,
    /// When to ask for the next one.
    pub(super) refresh_at: Instant,
    /// When it ends.
    pub(super) expires_at: Instant,
    /// When it ends by this machine's wall clock, if that runs on undisturbed.
    local_expire_time: SystemTime,
}

impl BrokerTime {
    /// `sent` is when the request was sent, `date` the answer's header.
    pub(super) fn new(clock: Clock, sent: Instant, date: Option<&str>) -> Self {
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        Self {
            clock,
            instant: sent,
            wall: match date {
                Some(date) => date + DATE_RESOLUTION,
                None => clock.wall(sent),
            },
        }
    }

    /// Reads the header out of an answer.
    pub(super) fn of(clock: Clock, sent: Instant, metadata: &MetadataMap) -> Self {
        let date = metadata.get("date").and_then(|date| date.to_str().ok());
        Self::new(clock, sent, date)
    }

    /// The life of a token with these times.
    pub(super) fn life(&self, expire_time: SystemTime, refresh_time: SystemTime) -> Life {
        let ahead = |time: SystemTime| {
            let ahead = time.duration_since(self.wall).unwrap_or(Duration::ZERO);
            self.instant + ahead.min(LIFE_MAX)
        };
        let expires_at = ahead(expire_time);
        Life {
            clock: self.clock,
            refresh_at: ahead(refresh_time).min(expires_at),
            expires_at,
            local_expire_time: self.clock.wall(expires_at),
        }
    }
}

impl Life {
    /// What is left, zero after the end.
    pub(super) fn remaining(&self, now: Instant) -> Duration {
        let by_wall = self.local_expire_time.duration_since(self.clock.now());
        let by_wall = by_wall.unwrap_or(Duration::ZERO);
        self.expires_at.saturating_duration_since(now).min(by_wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06T08:49:37Z.
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn date() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// What is left of an hour at once and `after` a while, where this machine's clock shows `local`.
    async fn left(local: SystemTime, date_header: Option<&str>, after: Duration) -> [Duration; 2] {
        let sent = Instant::now();
        let broker = BrokerTime::new(Clock::starting_at(local), sent, date_header);
        let life = broker.life(date() + seconds(3600), date() + seconds(1800));
        let at_once = life.remaining(Instant::now());
        tokio::time::advance(after).await;
        [at_once, life.remaining(Instant::now())]
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_wrong_by_an_hour_makes_no_difference() {
        for local in [date(), date() + seconds(3600), date() - seconds(3600)] {
            let [at_once, later] = left(local, Some(DATE), seconds(600)).await;
            assert_eq!((at_once, later), (seconds(3599), seconds(2999)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_date_the_own_clock_counts() {
        for header in [None, Some("yesterday"), Some("")] {
            let [at_once, later] = left(date() + seconds(100), header, seconds(600)).await;
            assert_eq!((at_once, later), (seconds(3500), seconds(2900)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn life_ends_and_is_not_negative() {
        let [_, over] = left(date(), Some(DATE), seconds(3599)).await;
        assert_eq!(over, Duration::ZERO);
        let [_, over] = left(date(), Some(DATE), seconds(9999)).await;
        assert_eq!(over, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_only_the_wall_clock_saw_counts() {
        let sent = Instant::now();
        let broker = BrokerTime::new(Clock::starting_at(date()), sent, Some(DATE));
        let mut life = broker.life(date() + seconds(3600), date() + seconds(1800));
        // As after an hour of suspension: the wall clock is ahead of what the monotonic one counted.
        life.clock = Clock::starting_at(date() + seconds(3600));
        assert_eq!(life.remaining(Instant::now()), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_absurd_end_is_cut() {
        let broker = BrokerTime::new(Clock::starting_at(date()), Instant::now(), None);
        let end = date() + seconds(1 << 40);
        let life = broker.life(end, end);
        assert_eq!(life.remaining(Instant::now()), LIFE_MAX);
    }
}
