//! A store in memory, for trials and tests. Nothing survives the process.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{Entry, Error, Key, Revision, SCAN_MAX, Store, Transaction, Write};

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// A std mutex: it is never held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    revision: u64,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held cannot have left half a transaction: see `commit`.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        Ok(self.lock().entries.get(key).cloned())
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, Error> {
        let first = Key(prefix.to_vec());
        let start = match after {
            Some(key) if *key >= first => Bound::Excluded(key),
            _ => Bound::Included(&first),
        };
        let state = self.lock();
        let entries = state.entries.range::<Key, _>((start, Bound::Unbounded));
        Ok(entries
            .take_while(|(key, _)| key.0.starts_with(prefix))
            .take(limit.min(SCAN_MAX))
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect())
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, Error> {
        if !transaction.within_limits() {
            return Err(Error::OutOfLimits);
        }
        let mut state = self.lock();
        let revision_of = |key: &Key| state.entries.get(key).map(|entry| entry.revision);
        if !transaction
            .compares
            .iter()
            .all(|compare| compare.holds(revision_of))
        {
            return Err(Error::Conflict);
        }
        if transaction.writes.is_empty() {
            return Ok(Revision(state.revision));
        }
        let mut changes = Vec::with_capacity(transaction.writes.len());
        for write in transaction.writes {
            changes.push(match write {
                Write::Put(key, value) => (key, Some(value)),
                Write::Delete(key) => (key, None),
                Write::Update(key, update) => {
                    let current = state.entries.get(&key);
                    let value = update.apply(current.map(|entry| entry.value.as_slice()))?;
                    (key, Some(value))
                }
            });
        }
        state.revision += 1;
        let revision = Revision(state.revision);
        for (key, value) in changes {
            match value {
                Some(value) => state.entries.insert(key, Entry { value, revision }),
                None => state.entries.remove(&key),
            };
        }
        Ok(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn the_memory_store_conforms() {
        conformance::check(&MemoryStore::default()).await;
    }
}
