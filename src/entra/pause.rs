//! How long Entra does not want to hear of an application.
//!
//! A map of its own rather than a cache crate with times to live: moka's clock cannot be paused, and
//! these times must not depend on when a crate finds time to tidy.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::{Error, http::RETRY_MAX, paced::Source};

/// Most pauses that are kept. Beyond it those that end first are forgotten first.
const PAUSES_MAX: usize = 100_000;

/// The pauses under way, each with what those who ask meanwhile are told.
#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    pauses: HashMap<Source, (Instant, Error)>,
    /// By when they end.
    ends: BTreeSet<(Instant, Source)>,
}

impl Pauses {
    /// Begins a pause if the error asks for one. A longer one that is under way stays.
    pub(super) fn heed(&self, source: &Source, error: &Error) {
        let asked = match error {
            Error::Throttled { retry_after } => Some(*retry_after),
            Error::Unreachable { retry_after, .. } => *retry_after,
            _ => None,
        };
        let Some(pause) = asked else { return };
        let now = Instant::now();
        let until = now + pause.min(RETRY_MAX);
        let mut kept = self.kept();
        kept.forget_ended(now);
        if let Some((current, _)) = kept.pauses.get(source) {
            if *current >= until {
                return;
            }
            let old = (*current, source.clone());
            kept.ends.remove(&old);
        } else if kept.pauses.len() >= PAUSES_MAX
            && let Some((_, first)) = kept.ends.pop_first()
        {
            kept.pauses.remove(&first);
        }
        kept.ends.insert((until, source.clone()));
        kept.pauses.insert(source.clone(), (until, error.clone()));
    }

    /// Whether a request may leave now.
    ///
    /// # Errors
    /// That with which the pause began, with what is left of the time.
    pub(super) fn check(&self, source: &Source) -> Result<(), Error> {
        let now = Instant::now();
        let mut kept = self.kept();
        kept.forget_ended(now);
        let Some((until, error)) = kept.pauses.get(source) else {
            return Ok(());
        };
        let left = until.duration_since(now);
        Err(match error.clone() {
            Error::Unreachable {
                host,
                trouble,
                reason,
                ..
            } => Error::Unreachable {
                host,
                trouble,
                reason,
                retry_after: Some(left),
            },
            _ => Error::Throttled { retry_after: left },
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing is left half done where a panic could have been.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_ended(&mut self, now: Instant) {
        while let Some((until, source)) = self.ends.first()
            && *until <= now
        {
            self.pauses.remove(source);
            self.ends.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::{
        entra::{Trouble, paced::Service},
        organization::{Cloud, TenantName},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn source(name: &str) -> Source {
        Source {
            service: Service::Login,
            cloud: Cloud::Global,
            tenant: TenantName::Domain(name.into()),
            client_id: None,
        }
    }

    fn throttled(seconds: u32) -> Error {
        Error::Throttled {
            retry_after: SECOND * seconds,
        }
    }

    fn left(pauses: &Pauses, name: &str) -> Option<u64> {
        match pauses.check(&source(name)) {
            Ok(()) => None,
            Err(Error::Throttled { retry_after }) => Some(retry_after.as_secs()),
            Err(Error::Unreachable { retry_after, .. }) => {
                Some(retry_after.expect("it is told").as_secs() + 1000)
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_of_one_source_and_ends() {
        let pauses = Pauses::default();
        pauses.heed(&source("a"), &throttled(10));
        assert_eq!(left(&pauses, "a"), Some(10));
        assert_eq!(left(&pauses, "b"), None);
        advance(SECOND * 4).await;
        assert_eq!(left(&pauses, "a"), Some(6));
        // A shorter one does not cut it, a longer one prolongs it.
        pauses.heed(&source("a"), &throttled(2));
        assert_eq!(left(&pauses, "a"), Some(6));
        pauses.heed(&source("a"), &throttled(1_000));
        assert_eq!(left(&pauses, "a"), Some(300));
        advance(SECOND * 300).await;
        assert_eq!(left(&pauses, "a"), None);
        let kept = pauses.kept();
        assert!(kept.pauses.is_empty() && kept.ends.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_is_a_pause_only_where_it_says_how_long() {
        let pauses = Pauses::default();
        let unreachable = |retry_after| Error::Unreachable {
            host: "login.example".into(),
            trouble: Trouble::Server,
            reason: "it answers 503".into(),
            retry_after,
        };
        pauses.heed(&source("a"), &unreachable(None));
        assert_eq!(left(&pauses, "a"), None);
        pauses.heed(&source("a"), &unreachable(Some(SECOND * 9)));
        assert_eq!(left(&pauses, "a"), Some(1009));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_end_makes_room() {
        let pauses = Pauses::default();
        pauses.heed(&source("first"), &throttled(10));
        for number in 1..PAUSES_MAX {
            pauses.heed(&source(&number.to_string()), &throttled(20));
        }
        assert_eq!(left(&pauses, "first"), Some(10));
        pauses.heed(&source("last"), &throttled(20));
        assert_eq!(left(&pauses, "first"), None);
        assert_eq!(left(&pauses, "last"), Some(20));
        assert_eq!(pauses.kept().ends.len(), PAUSES_MAX);
    }
}
