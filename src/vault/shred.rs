//! Crypto-shredding: what it takes until no copy of the store, however old, opens for an organization that
//! was revoked.
//!
//! Revoking gives the record a new key and drops the old one: from then on the broker itself cannot open
//! what was before. A copy of the store's files from before has the old key still, wrapped under the KEK of
//! that time: whoever has that copy and that KEK has the credential. So the KEK must be destroyed, which
//! only its operator can do, once no key of the store names it any more. Until then this list says which
//! KEKs these are, whatever happens to the process.
//!
//! A KEK that was replaced and is still there opens copies from before it was replaced. So each KEK that
//! re-wrapping leaves behind is listed, too, and a shredding waits for all of them.
//!
//! Layout of `m/shred`: `"OBD1" | format (2)` and then, sealed by [`crate::sealed`], a list as protobuf. The
//! field numbers are an on-disk format: never reuse one. The manifest does not count the list: whoever
//! can write the store's files can take it away.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use prost::Message as _;
use tokio::{
    sync::Notify,
    time::{Instant, interval},
};

use super::{
    Error, Vault,
    envelope::{FORMAT, Reader, StoreId},
    record::{milliseconds, time},
    rewrap::Census,
};
use crate::{
    kek::KekId,
    sealed::{self, CryptoFailed},
    secret::SymmetricKey,
    store::{Key, Transaction, Update, Write},
};

const MAGIC: [u8; 4] = *b"OBD1";
const UNREADABLE: Error = Error::Corrupt("a list of KEKs to destroy that does not open");
/// KEKs that are listed at most, but for those that organizations wait for.
const LISTED_MAX: usize = 256;
/// How often it is looked whether the KEK was replaced, or is gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How often the log says what there is left to do.
const REMINDER: Duration = Duration::from_secs(24 * 3600);

/// A KEK that is to be destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Which.
    pub kek_id: KekId,
    /// Organizations that were revoked to be shredded while copies of the store from before open under it.
    /// 0: it was merely replaced.
    pub organizations: u64,
    /// When the first of them was revoked; `None` without any.
    pub since: Option<SystemTime>,
}

/// What becomes of older copies of an organization that is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldCopies {
    /// They open as long as there is the KEK that they were sealed under.
    Leave,
    /// They are to open no more: the KEK is listed as one to destroy.
    Shred,
}

/// Keeps a store's list. Cheap to clone.
#[derive(Clone)]
pub(super) struct Retirement(Arc<Keys>);

struct Keys {
    store: StoreId,
    sealing: SymmetricKey,
}

/// What the look-outs of a vault share.
#[derive(Debug, Default)]
pub(super) struct Shredding {
    /// Told when there is something new to do.
    asked: Notify,
    /// KEKs that organizations wait for, when it was last looked.
    waiting: AtomicUsize,
}

#[derive(prost::Message)]
struct Body {
    #[prost(message, repeated, tag = "1")]
    keks: Vec<StoredKek>,
}

#[derive(prost::Message)]
struct StoredKek {
    #[prost(string, tag = "1")]
    kek_id: String,
    #[prost(uint64, tag = "2")]
    organizations: u64,
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, optional, tag = "3")]
    since: Option<u64>,
}

/// Where the list is.
pub(super) fn place() -> Key {
    Key::new(b"m/", b"shred")
}

impl Retirement {
    /// That of the store with this root key.
    pub(super) fn new(store: StoreId, root_key: &SymmetricKey) -> Result<Self, CryptoFailed> {
        let sealing = sealed::derive_key(root_key, b"shred").ok_or(CryptoFailed)?;
        Ok(Self(Arc::new(Keys { store, sealing })))
    }

    /// Lists that an organization waits for the end of a KEK, and of each that was replaced before.
    pub(super) fn shredding(&self, kek_id: KekId, now: SystemTime) -> Write {
        self.update(move |list| {
            listed(list, &kek_id);
            for retired in list {
                retired.organizations += 1;
                retired.since.get_or_insert(now);
            }
        })
    }

    /// Lists KEKs that another one takes the place of.
    fn replaced(&self, by: KekId, kek_ids: Vec<KekId>) -> Write {
        self.update(move |list| {
            list.retain(|retired| retired.organizations > 0 || retired.kek_id != by);
            for kek_id in &kek_ids {
                listed(list, kek_id);
            }
        })
    }

    /// Strikes what is as it was seen.
    fn strike(&self, seen: Vec<Retired>) -> Write {
        self.update(move |list| list.retain(|retired| !seen.contains(retired)))
    }

    fn update(&self, change: impl Fn(&mut Vec<Retired>) + Send + Sync + 'static) -> Write {
        let this = self.clone();
        let update = Update::new(move |current| {
            let mut list = this.open(current).ok()?;
            change(&mut list);
            this.seal(&list).ok()
        });
        Write::Update(place(), update)
    }

    fn seal(&self, list: &[Retired]) -> Result<Vec<u8>, CryptoFailed> {
        let keks = list.iter().map(|retired| StoredKek {
            kek_id: retired.kek_id.as_str().to_owned(),
            organizations: retired.organizations,
            since: retired.since.map(milliseconds),
        });
        let body = Body {
            keks: keks.collect(),
        };
        let sealed = sealed::seal(&self.0.sealing, &self.aad(), &body.encode_to_vec())?;
        Ok([MAGIC.as_slice(), &FORMAT.to_be_bytes(), &sealed].concat())
    }

    /// The list of these bytes; none is an empty list.
    fn open(&self, stored: Option<&[u8]>) -> Result<Vec<Retired>, Error> {
        let Some(stored) = stored else {
            return Ok(Vec::new());
        };
        let mut rest = Reader(stored);
        rest.magic(MAGIC)?;
        rest.format()?;
        let text = sealed::open(&self.0.sealing, &self.aad(), rest.0).map_err(|_| UNREADABLE)?;
        let body = Body::decode(text.as_slice()).map_err(|_| UNREADABLE)?;
        let list = body.keks.into_iter().map(|stored| {
            Some(Retired {
                kek_id: KekId::parse(&stored.kek_id)?,
                organizations: stored.organizations,
                since: stored.since.map(time),
            })
        });
        list.collect::<Option<_>>().ok_or(UNREADABLE)
    }

    fn aad(&self) -> Vec<u8> {
        [
            MAGIC.as_slice(),
            &self.0.store,
            b"shred",
            &FORMAT.to_be_bytes(),
        ]
        .concat()
    }
}

/// When the log said last what there is left to do, and what that was.
#[derive(Default)]
struct Reminder {
    last: Option<(Instant, Vec<KekId>, KekId)>,
}

impl Reminder {
    /// Whether it is to be said again: after a while, or at once if something else is to be done now.
    fn is_due(&mut self, left: &[Retired], present: &KekId) -> bool {
        if left.is_empty() {
            self.last = None;
            return false;
        }
        let kek_ids: Vec<_> = left.iter().map(|retired| retired.kek_id.clone()).collect();
        if let Some((at, of, under)) = &self.last
            && at.elapsed() < REMINDER
            && (of, under) == (&kek_ids, present)
        {
            return false;
        }
        self.last = Some((Instant::now(), kek_ids, present.clone()));
        true
    }
}

/// Sees to it that a KEK is listed. One that organizations wait for is never dropped for that.
fn listed(list: &mut Vec<Retired>, kek_id: &KekId) {
    if list.iter().any(|retired| retired.kek_id == *kek_id) {
        return;
    }
    if list.len() >= LISTED_MAX {
        // The oldest that nobody waits for.
        if let Some(at) = list.iter().position(|retired| retired.organizations == 0) {
            list.remove(at);
        }
    }
    list.push(Retired {
        kek_id: kek_id.clone(),
        organizations: 0,
        since: None,
    });
}

impl Vault {
    /// The KEKs that are to be destroyed, in the order in which they were listed.
    ///
    /// # Errors
    /// Those of the store and of a damaged list.
    pub async fn retired(&self) -> Result<Vec<Retired>, Error> {
        let stored = self.store.get(&place()).await?;
        let stored = stored.as_ref().map(|entry| entry.value.as_slice());
        self.root.retirement.open(stored)
    }

    /// KEKs that organizations wait for, when it was last looked.
    #[must_use]
    pub fn keks_waited_for(&self) -> usize {
        self.shredding.waiting.load(Ordering::Relaxed)
    }

    /// Lists the KEKs that re-wrapping is about to leave behind.
    pub(super) async fn leave_behind(&self, census: &Census, by: &KekId) -> Result<(), Error> {
        let old = census.keys.keys().filter(|id| *id != by.as_str());
        let old: Vec<_> = old.filter_map(|id| KekId::parse(id)).collect();
        self.note(self.root.retirement.replaced(by.clone(), old))
            .await
    }

    /// An organization is to be shredded.
    pub(super) fn shred_soon(&self) {
        self.shredding.asked.notify_one();
    }

    /// Re-wraps the keys once a KEK that organizations wait for was replaced, and strikes each KEK off the
    /// list that is gone: now and then, and when there is something new. Goes on until it is dropped.
    pub async fn follow_shredding(&self) {
        let mut looks = interval(LOOK_INTERVAL);
        let mut reminder = Reminder::default();
        let mut rewrapped_under = None;
        let mut trouble = None;
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.shredding.asked.notified() => {}
            }
            let outcome = self.shred(&mut rewrapped_under).await;
            let error = outcome.as_ref().err().map(ToString::to_string);
            if let Some(error) = error.as_ref().filter(|_| error != trouble) {
                tracing::warn!(%error, "cannot go on with shredding; trying again");
            }
            trouble = error;
            let waited_for = async {
                let list = self.retired().await?.into_iter();
                Ok::<_, Error>(list.filter(|retired| retired.organizations > 0).collect())
            };
            // Whatever came of it, there is as much left as the list says.
            let left: Vec<_> = match outcome {
                Ok(left) => left,
                Err(_) => waited_for.await.unwrap_or_default(),
            };
            self.shredding.waiting.store(left.len(), Ordering::Relaxed);
            if reminder.is_due(&left, &self.keys.current()) {
                self.remind(&left);
            }
        }
    }

    /// Does what can be done, and returns what organizations wait for still. `rewrapped_under` is the KEK
    /// that all keys were seen wrapped under.
    pub(super) async fn shred(
        &self,
        rewrapped_under: &mut Option<KekId>,
    ) -> Result<Vec<Retired>, Error> {
        let list = self.retired().await?;
        let present = self.keys.current();
        let is_replaced = |retired: &&Retired| retired.kek_id != present;
        let wait = list.iter().filter(|retired| retired.organizations > 0);
        if wait.clone().any(|retired| retired.kek_id != present)
            && rewrapped_under.as_ref() != Some(&present)
        {
            match self.rewrap(None, |_| ()).await {
                Ok(_) => *rewrapped_under = Some(present.clone()),
                // By an operator: it is looked again.
                Err(Error::Busy(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let closed = list.iter().filter(is_replaced);
        let closed = closed.filter(|retired| !self.keys.opens(&retired.kek_id));
        let mut gone: Vec<_> = closed.cloned().collect();
        if gone.is_empty() {
            return Ok(wait.cloned().collect());
        }
        let census = self.census().await?;
        gone.retain(|retired| {
            let keys = census.under(&retired.kek_id);
            if keys > 0 {
                let kek_id = retired.kek_id.as_str();
                tracing::error!(kek_id, keys, "keys are wrapped under a KEK that is not there; configure it again until they are re-wrapped");
            }
            keys == 0
        });
        self.note(self.root.retirement.strike(gone.clone())).await?;
        for retired in gone {
            let (kek_id, organizations) = (retired.kek_id.as_str(), retired.organizations);
            tracing::info!(
                kek_id,
                organizations,
                "a KEK is gone, and with it what copies of the store held under it"
            );
        }
        let list = self.retired().await?.into_iter();
        Ok(list.filter(|retired| retired.organizations > 0).collect())
    }

    fn remind(&self, left: &[Retired]) {
        let present = self.keys.current();
        for retired in left {
            let (kek_id, organizations) = (retired.kek_id.as_str(), retired.organizations);
            if retired.kek_id == present {
                tracing::warn!(
                    kek_id,
                    organizations,
                    "organizations are not shredded yet: older copies of the store open under the present KEK; replace it"
                );
            } else {
                tracing::warn!(
                    kek_id,
                    organizations,
                    "organizations are not shredded yet: older copies of the store open under a KEK that was replaced; destroy it"
                );
            }
        }
    }

    async fn note(&self, write: Write) -> Result<(), Error> {
        let transaction = Transaction {
            compares: Vec::new(),
            writes: vec![write],
        };
        match self.store.commit(transaction).await {
            Ok(_) => Ok(()),
            Err(crate::store::Error::NotUpdated) => Err(UNREADABLE),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Debug for Retirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Retirement")
    }
}

#[cfg(test)]
mod tests;
