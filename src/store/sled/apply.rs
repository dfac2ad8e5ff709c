//! One transaction on sled's trees.

use sled::transaction::{
    ConflictableTransactionError, TransactionError, Transactional as _, TransactionalTree,
};

use super::{
    super::{Compare, Error, Revision, Transaction, Write},
    database::Database,
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
        let applied = (&self.trees().records, &self.trees().counters)
            .transaction(|(records, counters)| apply(transaction, records, counters));
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
    records: &TransactionalTree,
    counters: &TransactionalTree,
) -> Result<u64, ConflictableTransactionError<Error>> {
    let abort = |error| Err(ConflictableTransactionError::Abort(error));
    let number = |stored: Option<sled::IVec>| {
        let bytes = stored
            .as_deref()
            .and_then(|value| value.first_chunk().copied());
        bytes.map(u64::from_be_bytes)
    };
    for compare in &transaction.compares {
        let (Compare::Absent(key) | Compare::Unchanged(key, _)) = compare;
        let current = number(records.get(key.as_bytes())?).map(Revision);
        if !compare.holds(|_| current) {
            return abort(Error::Conflict);
        }
    }
    let last = number(counters.get(REVISION)?).unwrap_or(0);
    if transaction.writes.is_empty() {
        return Ok(last);
    }
    let revision = last + 1;
    counters.insert(REVISION, &revision.to_be_bytes())?;
    for write in &transaction.writes {
        match write {
            Write::Put(key, value) => records.insert(
                key.as_bytes(),
                [&revision.to_be_bytes(), value.as_slice()].concat(),
            )?,
            Write::Delete(key) => records.remove(key.as_bytes())?,
            Write::Update(key, update) => {
                let stored = records.get(key.as_bytes())?;
                let current = stored
                    .as_deref()
                    .and_then(|stored| stored.split_first_chunk::<8>());
                let value = update
                    .apply(current.map(|(_, value)| value))
                    .map_err(ConflictableTransactionError::Abort)?;
                records.insert(
                    key.as_bytes(),
                    [&revision.to_be_bytes(), value.as_slice()].concat(),
                )?
            }
        };
    }
    Ok(revision)
}
