//! One transaction on sled's trees.

use sled::transaction::{TransactionError, Transactional as _, TransactionalTree};

use super::{
    super::{Compare, Error, Key, Revision, Transaction, Write},
    database::{Database, Trees},
    failed,
    rows::{Refusal, Rows},
    sum::Sum,
};

/// Holds the number of the last commit, 8 bytes.
const REVISION: &[u8] = b"revision";
/// Holds the sum of all entries, 8 bytes.
const SUM: &[u8] = b"sum";

/// What came of a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applied {
    pub(super) revision: Revision,
    /// How many rows it wrote or removed.
    pub(super) rows: usize,
}

impl Database {
    /// Applies a transaction in memory. An inner error means that it was not, and nothing is wrong; an
    /// outer one that some of the trees may have changed.
    pub(super) fn apply(
        &self,
        transaction: &Transaction,
    ) -> Result<Result<Applied, Error>, sled::Error> {
        let trees = self.trees();
        let applied = (&trees.records, &trees.parts, &trees.counters).transaction(
            |(records, parts, counters)| apply(transaction, &Rows::new(records, parts), counters),
        );
        match applied {
            Ok(applied) => Ok(Ok(applied)),
            Err(TransactionError::Abort(error)) => Ok(Err(error)),
            Err(TransactionError::Storage(error)) => Err(error),
        }
    }

    /// The last commit.
    pub(super) fn revision(&self) -> Result<Revision, Error> {
        let stored = self.trees().counters.get(REVISION).map_err(failed)?;
        Ok(Revision(stored.map_or(0, |stored| number(&stored))))
    }

    /// Whether it holds what it says that it holds.
    pub(super) fn is_whole(&self) -> Result<bool, Error> {
        let Trees {
            records, counters, ..
        } = self.trees();
        let Some(sum) = counters.get(SUM).map_err(failed)? else {
            // It is from before there was one.
            return Ok(true);
        };
        let mut found = Sum::default();
        for row in records {
            let (key, stored) = row.map_err(failed)?;
            let key = Key(key.to_vec());
            let entry = self.trees().entry_of(&key, stored)?;
            let entry = entry.ok_or_else(|| failed("an entry was removed meanwhile"))?;
            found.toggle(&key, entry.revision);
        }
        Ok(Sum::read(&sum) == Some(found))
    }
}

/// sled may run it several times, so it does nothing but read and write the trees.
fn apply(
    transaction: &Transaction,
    rows: &Rows<'_>,
    counters: &TransactionalTree,
) -> Result<Applied, Refusal> {
    for compare in &transaction.compares {
        let (Compare::Absent(key) | Compare::Unchanged(key, _)) = compare;
        let current = rows.revision(key)?;
        if !compare.holds(|_| current) {
            return Err(Refusal::Abort(Error::Conflict));
        }
    }
    let last = counters.get(REVISION)?.map_or(0, |stored| number(&stored));
    if transaction.writes.is_empty() {
        let revision = Revision(last);
        return Ok(Applied { revision, rows: 0 });
    }
    let revision = last + 1;
    for write in &transaction.writes {
        match write {
            Write::Put(key, value) => rows.put(key, revision, value)?,
            Write::Delete(key) => rows.remove(key)?,
            Write::Update(key, update) => {
                let current = rows.value(key)?;
                let value = update.apply(current.as_deref()).map_err(Refusal::Abort)?;
                rows.put(key, revision, &value)?;
            }
        }
    }
    counters.insert(REVISION, &revision.to_be_bytes())?;
    let sum = match counters.get(SUM)? {
        Some(stored) => Sum::read(&stored),
        None => (last == 0).then(Sum::default),
    };
    if let Some(sum) = sum {
        counters.insert(SUM, &sum.with(rows.changed()).bytes())?;
    }
    Ok(Applied {
        revision: Revision(revision),
        rows: rows.touched(),
    })
}

fn number(stored: &[u8]) -> u64 {
    stored
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
