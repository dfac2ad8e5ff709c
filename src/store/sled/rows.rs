//! How an entry lies in sled's trees: small values in the row of their key, larger ones in parts.
//!
//! sled puts what is larger than a quarter of one of its segments into files of their own, which it never
//! syncs, and it writes a whole leaf of its tree, up to 16 rows and a few, as one. Segments that are large
//! enough for leaves of the largest values would make the smallest store some 40 MiB; so no row is large.

use std::cell::Cell;

use sled::{
    IVec, Tree,
    transaction::{ConflictableTransactionError, TransactionalTree},
};

use super::{
    super::{Entry, Error, KEY_BYTES_MAX, Key, Revision, VALUE_BYTES_MAX},
    database::Trees,
    failed,
    sum::Sum,
};

/// Most that a row holds of a value.
const ROW_BYTES_MAX: usize = 2 * 1024;
/// Size of sled's segments; it cannot be changed later.
pub(super) const SEGMENT_BYTES: usize = 256 * 1024;
/// Rows that are written before sled is waited for. It hands full segments to seven threads, and hangs
/// where all of them wait for a lock that is held until its file was truncated, which is the task of one
/// of them (`bump_tip` in its `segment.rs`). Even if each of these rows has two leaves written anew, that
/// is fewer segments.
pub(super) const ROWS_AT_ONCE: usize = 16;
const _: () = assert!(ROWS_AT_ONCE * 2 * LEAF_BYTES_MAX < 6 * SEGMENT_BYTES);
/// A leaf of sled's tree: up to 16 rows, and as many as it may take over from a leaf beside it.
const LEAF_BYTES_MAX: usize = (16 + 4) * (ROW_BYTES_MAX + KEY_BYTES_MAX + 64);
const _: () = assert!(LEAF_BYTES_MAX < SEGMENT_BYTES / 4);
/// In a row's revision: what follows is the length of the value, 4 bytes, which lies in parts.
const IN_PARTS: u64 = 1 << 63;

/// A row, read.
enum Row<'a> {
    Whole(Revision, &'a [u8]),
    InParts(Revision, usize),
}

impl<'a> Row<'a> {
    fn read(stored: &'a [u8]) -> Result<Self, Error> {
        let short = || failed("a record is shorter than its header");
        let (revision, rest) = stored.split_first_chunk().ok_or_else(short)?;
        let revision = u64::from_be_bytes(*revision);
        if revision & IN_PARTS == 0 {
            return Ok(Self::Whole(Revision(revision), rest));
        }
        let length = rest.try_into().map_err(|_| short())?;
        let length = u32::from_be_bytes(length) as usize;
        if length > VALUE_BYTES_MAX {
            return Err(failed("a record is longer than any may be"));
        }
        Ok(Self::InParts(Revision(revision & !IN_PARTS), length))
    }

    fn revision(&self) -> Revision {
        match *self {
            Self::Whole(revision, _) | Self::InParts(revision, _) => revision,
        }
    }

    /// The key of the entry, the revision, 8 bytes, and the number of the part, 2.
    fn part_keys(&self, key: &Key) -> impl Iterator<Item = Vec<u8>> + use<> {
        let length = match *self {
            Self::Whole(..) => 0,
            Self::InParts(_, length) => length,
        };
        let parts = u16::try_from(length.div_ceil(ROW_BYTES_MAX)).expect("far fewer");
        let entry = [key.as_bytes(), &self.revision().0.to_be_bytes()].concat();
        (0..parts).map(move |part| [&entry[..], &part.to_be_bytes()].concat())
    }
}

impl Trees {
    /// The entry of a key.
    pub(super) fn entry(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let stored = self.records.get(key.as_bytes()).map_err(failed)?;
        stored.map_or(Ok(None), |stored| self.entry_of(key, stored))
    }

    /// The entry of a row that was read just now. `None` if it was removed since.
    pub(super) fn entry_of(&self, key: &Key, mut stored: IVec) -> Result<Option<Entry>, Error> {
        loop {
            let row = Row::read(&stored)?;
            let found = match row {
                Row::Whole(_, value) => Some(value.to_vec()),
                Row::InParts(_, length) => joined(&self.parts, length, row.part_keys(key))?,
            };
            if let Some(value) = found {
                let revision = row.revision();
                return Ok(Some(Entry { value, revision }));
            }
            // A part is missing: the entry was changed meanwhile, or else the store is damaged.
            let Some(now) = self.records.get(key.as_bytes()).map_err(failed)? else {
                return Ok(None);
            };
            if Row::read(&now)?.revision() == row.revision() {
                return Err(failed("a part of a record is missing"));
            }
            stored = now;
        }
    }
}

/// The value, unless one of its parts is missing.
fn joined(
    parts: &Tree,
    length: usize,
    keys: impl Iterator<Item = Vec<u8>>,
) -> Result<Option<Vec<u8>>, Error> {
    let mut value = Vec::with_capacity(length);
    for key in keys {
        match parts.get(key).map_err(failed)? {
            Some(part) => value.extend_from_slice(&part),
            None => return Ok(None),
        }
    }
    if value.len() != length {
        return Err(failed("a record is not as long as it says"));
    }
    Ok(Some(value))
}

pub(super) type Refusal = ConflictableTransactionError<Error>;

/// The trees within a transaction.
pub(super) struct Rows<'a> {
    records: &'a TransactionalTree,
    parts: &'a TransactionalTree,
    changed: Cell<Sum>,
    touched: Cell<usize>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(records: &'a TransactionalTree, parts: &'a TransactionalTree) -> Self {
        Self {
            records,
            parts,
            changed: Cell::default(),
            touched: Cell::default(),
        }
    }

    /// How many rows were written or removed so far.
    pub(super) fn touched(&self) -> usize {
        self.touched.get()
    }

    fn touch(&self, rows: usize) {
        self.touched.set(self.touched.get() + rows);
    }

    /// What was removed so far, and what was put.
    pub(super) fn changed(&self) -> Sum {
        self.changed.get()
    }

    fn toggle(&self, key: &Key, revision: Revision) {
        let mut changed = self.changed.get();
        changed.toggle(key, revision);
        self.changed.set(changed);
    }

    pub(super) fn revision(&self, key: &Key) -> Result<Option<Revision>, Refusal> {
        let stored = self.records.get(key.as_bytes())?;
        let row = stored.as_deref().map(Row::read).transpose();
        Ok(row.map_err(Refusal::Abort)?.map(|row| row.revision()))
    }

    pub(super) fn value(&self, key: &Key) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(stored) = self.records.get(key.as_bytes())? else {
            return Ok(None);
        };
        let row = Row::read(&stored).map_err(Refusal::Abort)?;
        if let Row::Whole(_, value) = row {
            return Ok(Some(value.to_vec()));
        }
        let mut value = Vec::new();
        for part in row.part_keys(key) {
            let part = self.parts.get(part)?;
            let missing = || Refusal::Abort(failed("a part of a record is missing"));
            value.extend_from_slice(&part.ok_or_else(missing)?);
        }
        Ok(Some(value))
    }

    pub(super) fn put(&self, key: &Key, revision: u64, value: &[u8]) -> Result<(), Refusal> {
        let row = if value.len() <= ROW_BYTES_MAX {
            [&revision.to_be_bytes(), value].concat()
        } else {
            let length = u32::try_from(value.len()).expect("checked to be within the limits");
            let revision = revision | IN_PARTS;
            [&revision.to_be_bytes()[..], &length.to_be_bytes()].concat()
        };
        let parts: Vec<_> = Row::read(&row)
            .map_err(Refusal::Abort)?
            .part_keys(key)
            .collect();
        let replaced = self.records.insert(key.as_bytes(), row)?;
        self.removed(key, replaced)?;
        self.toggle(key, Revision(revision));
        self.touch(1 + parts.len());
        for (part, bytes) in parts.into_iter().zip(value.chunks(ROW_BYTES_MAX)) {
            self.parts.insert(part, bytes)?;
        }
        Ok(())
    }

    pub(super) fn remove(&self, key: &Key) -> Result<(), Refusal> {
        let removed = self.records.remove(key.as_bytes())?;
        self.removed(key, removed)
    }

    /// What there is to do about a row that is no longer there.
    fn removed(&self, key: &Key, stored: Option<IVec>) -> Result<(), Refusal> {
        let Some(stored) = stored else { return Ok(()) };
        let row = Row::read(&stored).map_err(Refusal::Abort)?;
        self.toggle(key, row.revision());
        self.touch(1);
        for part in row.part_keys(key) {
            self.parts.remove(part)?;
            self.touch(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
