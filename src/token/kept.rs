//! Tokens on their way into the vault and out of it: between monotonic time, which ends with the
//! process, and wall-clock time, which does not.

use tokio::time::Instant;

use super::{Token, holders::Holders};
use crate::{clock::Clock, entra::cloud::Audience, secret::AccessToken, vault::KeptToken};

impl Token {
    /// The token with its times on the wall clock.
    pub(super) fn to_kept(&self, clock: Clock) -> KeptToken {
        KeptToken {
            // Exposed: it is handed to the vault, which seals it.
            access_token: AccessToken::new(self.access_token.expose().to_owned()),
            audience_url: self.audience.url().to_owned(),
            client_id: self.client_id,
            credential_version: self.credential_version,
            issue_time: clock.wall(self.issued_at),
            refresh_time: clock.wall(self.refresh_at),
            expire_time: clock.wall(self.expires_at),
        }
    }

    /// The token with its times on the monotonic clock. `None` if it has ended, or is for an API that
    /// there is not.
    pub(super) fn from_kept(kept: KeptToken, clock: Clock) -> Option<Self> {
        let (now, wall) = (Instant::now(), clock.now());
        let instant = |time| match kept.expire_time.duration_since(time) {
            Ok(before_end) => {
                let end = now + kept.expire_time.duration_since(wall).ok()?;
                end.checked_sub(before_end)
            }
            Err(_) => None,
        };
        let token = Self {
            fingerprint: super::fingerprint(&kept.access_token),
            audience: Audience::of_url(&kept.audience_url)?,
            client_id: kept.client_id,
            credential_version: kept.credential_version,
            issued_at: instant(kept.issue_time)?,
            refresh_at: instant(kept.refresh_time)?,
            expires_at: instant(kept.expire_time)?,
            holders: Holders::default(),
            access_token: kept.access_token,
        };
        (!token.has_expired(now)).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tokio::time::advance;

    use super::*;
    use crate::organization::{ClientId, Cloud};

    fn token(life: Duration) -> Token {
        let access_token = AccessToken::new("a token".into());
        let now = Instant::now();
        Token {
            fingerprint: crate::token::fingerprint(&access_token),
            access_token,
            audience: Audience::graph(Cloud::Global),
            client_id: ClientId::parse("0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9").expect("a GUID"),
            credential_version: 3,
            issued_at: now,
            refresh_at: now + life / 2,
            expires_at: now + life,
            holders: Holders::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_comes_back_with_what_is_left_of_its_life() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let clock = Clock::starting_at(start);
        let life = Duration::from_secs(3600);
        let before = token(life);
        let kept = before.to_kept(clock);
        advance(life / 4).await;
        // Another process: the monotonic clock begins anew, the wall clock goes on.
        let clock = Clock::starting_at(start + life / 4);
        let after = Token::from_kept(kept, clock).expect("has not ended");
        assert_eq!(after.fingerprint, before.fingerprint);
        assert_eq!(after.expires_at - Instant::now(), life / 4 * 3);
        assert_eq!(after.refresh_at - Instant::now(), life / 4);
        assert_eq!((after.life(), after.credential_version), (life, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_ended_or_is_for_nothing_does_not_come_back() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let clock = Clock::starting_at(start);
        let life = Duration::from_secs(3600);
        let later = Clock::starting_at(start + life);
        assert!(Token::from_kept(token(life).to_kept(clock), later).is_none());
        let mut kept = token(life).to_kept(clock);
        kept.audience_url = "https://graph.example".into();
        assert!(Token::from_kept(kept, clock).is_none());
    }
}
