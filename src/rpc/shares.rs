//! How many connections each caller has: one that opens too many keeps no other caller out.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use spiffe::SpiffeId;

/// Connections of each caller. Those whose caller is not known share one share. It holds no more callers
/// than there are connections.
type Taken = Arc<Mutex<HashMap<Option<SpiffeId>, u32>>>;

/// Bounds the connections of each caller.
#[derive(Debug)]
pub(super) struct Shares {
    max: NonZeroU32,
    taken: Taken,
}

/// A connection of a caller, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    caller: Option<SpiffeId>,
    taken: Taken,
}

impl Shares {
    /// At most so many for each.
    pub(super) fn new(max: NonZeroU32) -> Self {
        Self {
            max,
            taken: Arc::default(),
        }
    }

    /// One more for a caller, if it may have it.
    pub(super) fn take(&self, caller: Option<SpiffeId>) -> Option<Share> {
        let mut shares = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = shares.entry(caller.clone()).or_default();
        if *count >= self.max.get() {
            return None;
        }
        *count += 1;
        let taken = self.taken.clone();
        Some(Share { caller, taken })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = shares.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                shares.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_its_share_and_takes_none_of_anothers() {
        let shares = Shares::new(NonZeroU32::new(2).expect("two"));
        let of = |id: &str| Some(SpiffeId::new(id).expect("an ID"));
        let (one, other) = (of("spiffe://kodo.test/a"), of("spiffe://kodo.test/b"));
        let first = shares.take(one.clone()).expect("the first");
        let _second = shares.take(one.clone()).expect("the second");
        assert!(shares.take(one.clone()).is_none());
        let another = [other, None].map(|caller| shares.take(caller).expect("another's"));
        drop(first);
        let _again = shares.take(one).expect("one was given back");
        assert_eq!(shares.taken.lock().expect("no panic").len(), 3);
        drop(another);
        let left = shares.taken.lock().expect("no panic").len();
        assert_eq!(left, 1, "nothing is kept of those who are gone");
    }
}
