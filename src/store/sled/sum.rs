//! A sum of what a database holds, kept in it with each commit: after a failed write it tells whether
//! the disk holds all of what was acknowledged.

use aws_lc_rs::digest::{SHA256, digest};

use super::super::{Key, Revision};

/// Of some entries: their keys and the commits that wrote them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// Without an entry, or with it: once each.
    pub(super) fn toggle(&mut self, key: &Key, revision: Revision) {
        let entry = [&revision.0.to_be_bytes(), key.as_bytes()].concat();
        let digest = digest(&SHA256, &entry);
        let first = digest.as_ref().first_chunk().expect("32 bytes");
        self.0 ^= u64::from_be_bytes(*first);
    }

    /// Of these entries and those, where none is in both.
    pub(super) fn with(self, others: Self) -> Self {
        Self(self.0 ^ others.0)
    }

    pub(super) fn read(stored: &[u8]) -> Option<Self> {
        Some(Self(u64::from_be_bytes(stored.try_into().ok()?)))
    }

    pub(super) fn bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}
