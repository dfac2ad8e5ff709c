//! Who was given a token, so that giving it again need not be told each time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

/// Stands for a caller: a digest of the identity.
pub type Holder = [u8; 16];

/// Most tokens are asked for by the workers of one identity, or a few. Those beyond are not
/// remembered.
const HOLDERS_MAX: usize = 8;

/// The callers who were given one token.
#[derive(Debug, Default)]
pub struct Holders(Mutex<SmallVec<[Held; 1]>>);

#[derive(Debug)]
struct Held {
    by: Holder,
    /// Where it is recorded that they were given it.
    recorded: u64,
    /// How often they were given it since that was told.
    again: u32,
}

/// The token was given to a caller who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Where it is recorded that they were given it.
    pub recorded: u64,
    /// Whether this is the first time since [`Holders::take`].
    pub is_news: bool,
}

impl Holders {
    /// Counts that the token is given to a caller again, or `None` if the caller is not known to have it.
    pub fn again(&self, by: &Holder) -> Option<Again> {
        let mut held = self.lock();
        let held = held.iter_mut().find(|held| held.by == *by)?;
        let is_news = held.again == 0;
        held.again = held.again.saturating_add(1);
        Some(Again {
            recorded: held.recorded,
            is_news,
        })
    }

    /// Remembers that a caller was given the token, and where that is recorded.
    pub fn add(&self, by: Holder, recorded: u64) {
        let mut held = self.lock();
        if held.len() < HOLDERS_MAX && held.iter().all(|held| held.by != by) {
            held.push(Held {
                by,
                recorded,
                again: 0,
            });
        }
    }

    /// How often the caller was given the token again since this was last asked.
    pub fn take(&self, by: &Holder) -> u32 {
        let mut held = self.lock();
        let held = held.iter_mut().find(|held| held.by == *by);
        held.map_or(0, |held| std::mem::take(&mut held.again))
    }

    /// Takes a count back that could not be told.
    pub fn put_back(&self, by: &Holder, count: u32) {
        let mut held = self.lock();
        if let Some(held) = held.iter_mut().find(|held| held.by == *by) {
            held.again = held.again.saturating_add(count);
        }
    }

    fn lock(&self) -> MutexGuard<'_, SmallVec<[Held; 1]>> {
        // Nothing that can panic happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_is_counted_by_itself() {
        let holders = Holders::default();
        let (a, b) = ([1; 16], [2; 16]);
        assert_eq!(holders.again(&a), None);
        holders.add(a, 7);
        holders.add(b, 9);
        let again = |recorded, is_news| Some(Again { recorded, is_news });
        assert_eq!(holders.again(&a), again(7, true));
        assert_eq!(holders.again(&a), again(7, false));
        assert_eq!(holders.again(&b), again(9, true));
        assert_eq!((holders.take(&a), holders.take(&a)), (2, 0));
        assert_eq!(holders.again(&a), again(7, true));
        assert_eq!((holders.take(&a), holders.take(&b)), (1, 1));
    }

    #[test]
    fn a_holder_stays_as_first_recorded_and_further_ones_are_not_remembered() {
        let holders = Holders::default();
        for number in 0..=u8::try_from(HOLDERS_MAX).expect("few") {
            holders.add([number; 16], 1);
            holders.add([number; 16], 2);
        }
        assert_eq!(holders.again(&[0; 16]).map(|again| again.recorded), Some(1));
        let beyond = u8::try_from(HOLDERS_MAX).expect("few");
        assert_eq!(holders.again(&[beyond; 16]), None);
    }
}
