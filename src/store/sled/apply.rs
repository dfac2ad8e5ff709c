//! One transaction on sled's trees.

use sled::transaction::{TransactionError, Transactional as _, TransactionalTree};

use super::{
    super::{Compare, Error, Revision, Transaction, Write},
    database::Database,
    rows::{Refusal, Rows},
};

/// Holds the number of the last commit, 8 bytes.
const REVISION: &[u8] = b"revision";

impl Database {
    /// Applies a transaction in memory. An inner error means that it was not, and nothing is wrong; an
    /// outer one that one of the two trees may have changed.
    pub(super) fn apply(
        &self,
        transaction: &Transaction,
    ) -> Result<Result<Revision, Error>, sled::Error> {
        let trees = self.trees();
        let applied = (&trees.records, &trees.parts, &trees.counters).transaction(
            |(records, parts, counters)| apply(transaction, &Rows { records, parts }, counters),
        );
        match applied {
            Ok(revision) => Ok(Ok(Revision(revision))),
            Err(TransactionError::Abort(error)) => Ok(Err(error)),
            Err(TransactionError::Storage(error)) => Err(error),
        }
    }
}

/// sled may run it several times, so it does nothing but read and write the trees.
fn apply(
    transaction: &Transaction,
    rows: &Rows<'_>,
    counters: &TransactionalTree,
) -> Result<u64, Refusal> {
    for compare in &transaction.compares {
        let (Compare::Absent(key) | Compare::Unchanged(key, _)) = compare;
        let current = rows.revision(key)?;
        if !compare.holds(|_| current) {
            return Err(Refusal::Abort(Error::Conflict));
        }
    }
    let last = counters.get(REVISION)?;
    let last = last
        .as_deref()
        .and_then(|value| value.first_chunk().copied());
    let last = last.map_or(0, u64::from_be_bytes);
    if transaction.writes.is_empty() {
        return Ok(last);
    }
    let revision = last + 1;
    counters.insert(REVISION, &revision.to_be_bytes())?;
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
    Ok(revision)
}
