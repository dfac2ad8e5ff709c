//! TLS handshakes under way are bounded. Where there is no place for another, the oldest gives way, if
//! it had time enough: those who only hold a place keep nobody else out.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Time enough, of the client and of a busy broker. Without it a crowd of callers that all come at once
/// would push each other out for ever.
const UNDISTURBED: Duration = Duration::from_secs(1);

/// Bounds handshakes.
#[derive(Debug)]
pub(super) struct Handshakes {
    places: Arc<Semaphore>,
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    begun: u64,
    /// By number, so the first is the oldest.
    handshakes: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    begun: Instant,
    give_way: CancellationToken,
}

/// The place of one handshake, given back when dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    number: u64,
    /// Cancelled when it has to give way.
    pub(super) give_way: CancellationToken,
    under_way: Arc<Mutex<UnderWay>>,
    _place: OwnedSemaphorePermit,
}

impl Handshakes {
    /// At most so many at a time.
    pub(super) fn new(max: NonZeroU32) -> Self {
        let max = usize::try_from(max.get()).unwrap_or(usize::MAX);
        Self {
            places: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            under_way: Arc::default(),
        }
    }

    /// Waits for a place.
    pub(super) async fn place(&self) -> Handshake {
        let mut free = std::pin::pin!(self.places.clone().acquire_owned());
        let free = loop {
            let oldest = self.oldest();
            let enough = async {
                match oldest {
                    Some(begun) => sleep_until(begun + UNDISTURBED).await,
                    // All places are about to be given back.
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                free = &mut free => break free,
                () = enough => self.end_oldest(),
            }
        };
        self.begin(free.expect("it is never closed"))
    }

    fn oldest(&self) -> Option<Instant> {
        let under_way = lock(&self.under_way);
        let oldest = under_way.handshakes.first_key_value();
        oldest.map(|(_, place)| place.begun)
    }

    fn end_oldest(&self) {
        if let Some((_, oldest)) = lock(&self.under_way).handshakes.pop_first() {
            oldest.give_way.cancel();
        }
    }

    fn begin(&self, place: OwnedSemaphorePermit) -> Handshake {
        let give_way = CancellationToken::new();
        let mut under_way = lock(&self.under_way);
        under_way.begun += 1;
        let number = under_way.begun;
        let of_it = Place {
            begun: Instant::now(),
            give_way: give_way.clone(),
        };
        under_way.handshakes.insert(number, of_it);
        Handshake {
            number,
            give_way,
            under_way: self.under_way.clone(),
            _place: place,
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        lock(&self.under_way).handshakes.remove(&self.number);
    }
}

fn lock(under_way: &Mutex<UnderWay>) -> std::sync::MutexGuard<'_, UnderWay> {
    // Nothing that can panic happens under the lock.
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    fn two() -> Handshakes {
        Handshakes::new(NonZeroU32::new(2).expect("two"))
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way_once_it_had_time() {
        let handshakes = two();
        let first = handshakes.place().await;
        advance(Duration::from_millis(400)).await;
        let second = handshakes.place().await;
        let mut third = Box::pin(handshakes.place());
        assert!(third.as_mut().now_or_never().is_none(), "there is no place");
        advance(UNDISTURBED - Duration::from_millis(401)).await;
        assert!(third.as_mut().now_or_never().is_none(), "not yet");
        assert!(!first.give_way.is_cancelled());
        advance(Duration::from_millis(2)).await;
        assert!(
            third.as_mut().now_or_never().is_none(),
            "it has to go first"
        );
        assert!(first.give_way.is_cancelled());
        assert!(!second.give_way.is_cancelled());
        drop(first);
        let third = third.now_or_never().expect("there is a place");
        assert!(!third.give_way.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_back_is_taken_and_nobody_gives_way() {
        let handshakes = two();
        let (first, second) = (handshakes.place().await, handshakes.place().await);
        let mut third = Box::pin(handshakes.place());
        assert!(third.as_mut().now_or_never().is_none(), "there is no place");
        drop(second);
        let _third = third.now_or_never().expect("there is one");
        advance(UNDISTURBED * 2).await;
        assert!(!first.give_way.is_cancelled(), "nobody waits");
        assert_eq!(lock(&handshakes.under_way).handshakes.len(), 2);
    }
}
