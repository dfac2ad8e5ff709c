//! Re-wrapping: every key of the store is wrapped anew under the present KEK, so that an older one can be
//! destroyed.
//!
//! Only wrapped keys are rewritten, some 150 bytes an organization; what is sealed under them stays. The
//! walk may be cut off anywhere and begun again: it passes over what is done. A change that comes in
//! between wins, and wraps under the present KEK by itself. At the end all keys are counted once more: that
//! no key names an older KEK is seen, not concluded.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::sleep;

use super::{
    Error, KEYS, Vault,
    envelope::{Index, WrappedKey},
    root,
};
use crate::{
    kek::KekId,
    store::{self, Compare, Entry, Key, Revision, SCAN_MAX, Transaction, Write},
};

/// Keys that are wrapped and written at once.
const PAGE: usize = 256;
/// Requests under way to a KEK that is elsewhere.
const AT_ONCE: usize = 16;
/// Walks until the count has to be right; more than one are needed only if the KEK changes meanwhile.
const WALKS_MAX: u32 = 4;

/// How many keys are wrapped under which KEK, the store's own root key among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// By the id of the KEK.
    pub keys: BTreeMap<String, u64>,
}

/// How far a walk has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Keys that were looked at.
    pub done: u64,
    /// Those of them that were wrapped anew.
    pub rewrapped: u64,
    /// Keys that there were when the walk began.
    pub total: u64,
}

/// A wrapped key where it lies.
struct Row {
    at: Key,
    index: Index,
    wrapped: WrappedKey,
    revision: Revision,
}

impl Census {
    /// Whether all keys are wrapped under this KEK.
    #[must_use]
    pub fn is_all_under(&self, kek_id: &KekId) -> bool {
        self.keys.keys().all(|id| id == kek_id.as_str())
    }

    /// Keys under one KEK.
    #[must_use]
    pub fn under(&self, kek_id: &KekId) -> u64 {
        self.keys.get(kek_id.as_str()).copied().unwrap_or(0)
    }

    /// Keys in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.keys.values().sum()
    }

    fn count(&mut self, kek_id: &KekId) {
        *self.keys.entry(kek_id.as_str().to_owned()).or_default() += 1;
    }
}

impl Vault {
    /// The KEK that new keys are wrapped under.
    #[must_use]
    pub fn kek_id(&self) -> KekId {
        self.keys.current()
    }

    /// Counts all keys by their KEK.
    ///
    /// # Errors
    /// Those of the store and of damaged keys.
    pub async fn census(&self) -> Result<Census, Error> {
        let mut census = Census::default();
        census.count(&root::kek_id(&*self.store).await?);
        let mut after = None;
        loop {
            let page = self.store.scan(KEYS, after.as_ref(), SCAN_MAX).await?;
            let Some((last, _)) = page.last() else {
                return Ok(census);
            };
            after = Some(last.clone());
            for (_, entry) in &page {
                census.count(&WrappedKey::decode(&entry.value)?.kek_id);
            }
        }
    }

    /// Wraps every key that is not wrapped under the present KEK anew, at most `per_second` of them each
    /// second, and counts what there is then. Tells now and then how far it has come.
    ///
    /// Cancel-safe: what is done is done.
    ///
    /// # Errors
    /// [`Error::Busy`] while another walk goes on, and if the KEK changes again and again; those of the
    /// KEK, of the store and of damaged keys. Every key opens all the same.
    pub async fn rewrap(
        &self,
        per_second: Option<NonZeroU32>,
        mut tell: impl FnMut(Progress),
    ) -> Result<Census, Error> {
        let Ok(_alone) = self.rewrapping.try_lock() else {
            return Err(Error::Busy("the keys are being re-wrapped already"));
        };
        for _ in 0..WALKS_MAX {
            // Whoever read the KEK before it changed has written by now.
            drop(self.changing.write().await);
            let kek_id = self.keys.current();
            let before = self.census().await?;
            if before.is_all_under(&kek_id) {
                return Ok(before);
            }
            let mut progress = Progress {
                total: before.total(),
                ..Progress::default()
            };
            tell(progress);
            self.leave_behind(&before, &kek_id).await?;
            self.walk(&kek_id, per_second, &mut progress, &mut tell)
                .await?;
        }
        Err(Error::Busy("the KEK changes again and again"))
    }

    async fn walk(
        &self,
        kek_id: &KekId,
        per_second: Option<NonZeroU32>,
        progress: &mut Progress,
        tell: &mut impl FnMut(Progress),
    ) -> Result<(), Error> {
        let rewrapped = root::rewrap(&*self.store, &*self.keys, kek_id).await?;
        progress.done += 1;
        progress.rewrapped += u64::from(rewrapped);
        let mut after = None;
        loop {
            let page = self.store.scan(KEYS, after.as_ref(), PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            let looked_at = page.len() as u64;
            let rewrapped = self.rewrap_page(kek_id, page).await?;
            progress.done += looked_at;
            progress.rewrapped += rewrapped;
            tell(*progress);
            if let Some(per_second) = per_second {
                sleep(Duration::from_secs(rewrapped) / per_second.get()).await;
            }
        }
    }

    /// Wraps those of a page that need it. Returns their number.
    async fn rewrap_page(&self, kek_id: &KekId, page: Vec<(Key, Entry)>) -> Result<u64, Error> {
        let mut old = Vec::new();
        for (at, entry) in page {
            let wrapped = WrappedKey::decode(&entry.value)?;
            if wrapped.kek_id == *kek_id {
                continue;
            }
            let index = at.as_bytes()[KEYS.len()..].try_into();
            old.push(Row {
                index: index.map_err(|_| Error::Corrupt("a key under no index"))?,
                at,
                wrapped,
                revision: entry.revision,
            });
        }
        if old.is_empty() {
            return Ok(0);
        }
        let anew: Vec<_> = old.iter().map(|row| self.wrap_anew(kek_id, row)).collect();
        let anew: Vec<_> = stream::iter(anew).buffered(AT_ONCE).try_collect().await?;
        match self.put(&anew).await {
            Err(store::Error::Conflict) => {}
            outcome => return Ok(outcome.map(|()| anew.len() as u64)?),
        }
        // One of them has changed meanwhile: the others one by one.
        let mut rewrapped = 0;
        for row in &anew {
            match self.put(std::slice::from_ref(row)).await {
                Err(store::Error::Conflict) => {}
                outcome => {
                    outcome?;
                    rewrapped += 1;
                }
            }
        }
        Ok(rewrapped)
    }

    async fn wrap_anew(&self, kek_id: &KekId, row: &Row) -> Result<(Compare, Write), Error> {
        let key = self.unwrap_key(&row.index, &row.wrapped).await?;
        let generation = row.wrapped.generation;
        let aad = self.place(row.index).key_aad(generation, kek_id);
        let wrapped = WrappedKey {
            kek_id: kek_id.clone(),
            generation,
            wrapped: self.keys.wrap_dek(kek_id, &key, &aad).await?,
        };
        Ok((
            Compare::Unchanged(row.at.clone(), row.revision),
            Write::Put(row.at.clone(), wrapped.encode()),
        ))
    }

    async fn put(&self, rows: &[(Compare, Write)]) -> Result<(), store::Error> {
        let (compares, writes) = rows.iter().cloned().unzip();
        let transaction = Transaction { compares, writes };
        self.store.commit(transaction).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests;
