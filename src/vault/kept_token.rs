//! Access tokens kept for the next start, so that a restart costs Entra nothing.
//!
//! A kept token is sealed under the key that its organization has at that moment. Rotating and
//! revoking give the organization a new key and delete its kept tokens in the same transaction; one
//! that is written while that happens is either refused, since it is written only to the record that
//! it was made for, or left behind for nobody, since no key opens it. The price: after a restart
//! shortly after a rotation, each token of that organization is asked for once.
//!
//! A kept token spares a request and is worth no more than that: whatever is wrong with one, it is as
//! if there were none.

use std::time::{Duration, SystemTime};

use super::{Error, TOKENS, Vault, envelope::Index};
use crate::{
    organization::{ClientId, OrganizationId, Resource, State},
    secret::AccessToken,
    store::{self, Compare, Key, SCAN_MAX, Transaction, Write},
};

mod stored;

use stored::{Header, Slot};

/// How far ahead of the clock a token may have been issued: clocks are corrected by little all the
/// time. Where it is more, the clock was set back, and times of before tell nothing.
const SKEW: Duration = Duration::from_secs(30);

/// A token on its way into the store or out of it. Times are whole milliseconds.
#[derive(Debug)]
pub struct KeptToken {
    /// The token.
    pub access_token: AccessToken,
    /// The base URL of the API that it is for.
    pub audience_url: String,
    /// The application that it was issued to.
    pub client_id: ClientId,
    /// The credential that it was obtained with.
    pub credential_version: u64,
    /// When it was asked for.
    pub issue_time: SystemTime,
    /// From when on it is to be renewed.
    pub refresh_time: SystemTime,
    /// When it ends.
    pub expire_time: SystemTime,
}

/// Tokens that are deleted in one transaction.
const DELETED_AT_ONCE: usize = 32;

/// What one call of [`Vault::sweep_tokens`] did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Tokens that were deleted.
    pub deleted: usize,
    /// Where the next call goes on; `None` if this was the last page.
    pub next: Option<Key>,
}

impl Vault {
    /// Keeps a token for the next start, in place of any kept before. It is not kept, and that is no
    /// error, where the organization is not active, has another credential than the token was obtained
    /// with, or changes meanwhile.
    ///
    /// # Errors
    /// Those of the store, of the KEK and of a damaged organization.
    pub async fn keep_token(
        &self,
        organization: &OrganizationId,
        resource: &Resource,
        token: &KeptToken,
    ) -> Result<(), Error> {
        let index = self.root.index(organization);
        let Some(found) = self.find(&index).await? else {
            return Ok(());
        };
        let current = &found.record.organization;
        let version = current.credential.as_ref().map(|info| info.version);
        if current.state != State::Active || version != Some(token.credential_version) {
            return Ok(());
        }
        let slot = self.slot(&index, resource);
        let sealed = stored::seal(&slot, found.generation, &found.key, token)?;
        let transaction = Transaction {
            compares: vec![found.unchanged(&index)],
            writes: vec![Write::Put(slot.key(), sealed)],
        };
        match self.store.commit(transaction).await {
            Ok(_) | Err(store::Error::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The token that is kept, opened only now. `None` if there is none, if it has ended at `now`,
    /// or if it cannot be used: it was issued after `now`, since the clock was set back; it was kept
    /// before the organization changed; or it is damaged, which is logged.
    ///
    /// # Errors
    /// Those of the store and of the KEK.
    pub async fn kept_token(
        &self,
        organization: &OrganizationId,
        resource: &Resource,
        now: SystemTime,
    ) -> Result<Option<KeptToken>, Error> {
        let slot = self.slot(&self.root.index(organization), resource);
        let Some(entry) = self.store.get(&slot.key()).await? else {
            return Ok(None);
        };
        match self.open_token(&slot, &entry.value, now).await {
            Err(error @ (Error::Corrupt(_) | Error::Newer(_))) => {
                tracing::warn!(%organization, resource = resource.name(), %error, "a kept token is passed over");
                Ok(None)
            }
            outcome => outcome,
        }
    }

    /// Deletes what is kept of an organization. A token that is being kept at this moment may be kept
    /// after all.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn forget_tokens(&self, organization: &OrganizationId) -> Result<(), Error> {
        let writes = self.forgetting(&self.root.index(organization)).await?;
        if !writes.is_empty() {
            let transaction = Transaction {
                compares: vec![],
                writes,
            };
            self.store.commit(transaction).await?;
        }
        Ok(())
    }

    /// Looks at up to `limit` (at most [`SCAN_MAX`]) kept tokens after a place, and deletes those that
    /// have ended at `now` and those that are none. Opens nothing: their ends stand in clear.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn sweep_tokens(
        &self,
        now: SystemTime,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Swept, Error> {
        let limit = limit.clamp(1, SCAN_MAX);
        let found = self.store.scan(TOKENS, after, limit).await?;
        let full = found.len() == limit;
        let next = found.last().filter(|_| full).map(|(key, _)| key.clone());
        let mut ended = Vec::new();
        for (key, entry) in found {
            let has_ended = match stored::parse(&entry.value) {
                Ok((header, _)) => header.has_ended(now),
                // A newer broker wrote it, and may come back.
                Err(Error::Newer(_)) => false,
                Err(_) => true,
            };
            if has_ended {
                let unchanged = Compare::Unchanged(key.clone(), entry.revision);
                ended.push((unchanged, Write::Delete(key)));
            }
        }
        let mut deleted = 0;
        for part in ended.chunks(DELETED_AT_ONCE) {
            let (compares, writes) = part.iter().cloned().unzip();
            match self.store.commit(Transaction { compares, writes }).await {
                Ok(_) => deleted += part.len(),
                // One of them was just replaced; the others are swept the next time.
                Err(store::Error::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Swept { deleted, next })
    }

    /// Deletes what is kept of an organization: at most as many tokens as it has resources and
    /// SharePoint hosts, which are fewer than [`SCAN_MAX`].
    pub(super) async fn forgetting(&self, index: &Index) -> Result<Vec<Write>, Error> {
        let prefix = [TOKENS, index].concat();
        let found = self.store.scan(&prefix, None, SCAN_MAX).await?;
        Ok(found
            .into_iter()
            .map(|(key, _)| Write::Delete(key))
            .collect())
    }

    async fn open_token(
        &self,
        slot: &Slot,
        value: &[u8],
        now: SystemTime,
    ) -> Result<Option<KeptToken>, Error> {
        let (header, sealed) = stored::parse(value)?;
        if header.has_ended(now) {
            return Ok(None);
        }
        // The organization itself must be there and whole: a token spares a request, not that.
        let found = self.find(&slot.index).await?;
        let found = found.ok_or(Error::Corrupt("a token of no organization"))?;
        if found.generation != header.generation || found.record.organization.state != State::Active
        {
            return Ok(None);
        }
        let token = stored::open(slot, &header, &found.key, sealed)?;
        Ok((token.issue_time <= now + SKEW).then_some(token))
    }

    fn slot(&self, index: &Index, resource: &Resource) -> Slot {
        let host = match resource {
            Resource::SharePoint(Some(host)) => host.as_str(),
            _ => "",
        };
        // No name holds a zero byte, and no host is empty.
        let name = [resource.name(), host].join("\0");
        Slot {
            store: self.root.id,
            index: *index,
            resource: self.root.digest(b"resource", name.as_bytes()),
        }
    }
}

impl Header {
    fn has_ended(&self, now: SystemTime) -> bool {
        self.expire_time() <= now
    }
}

/// Decodes bytes as a kept token and as what is inside one. What decodes comes back the same.
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    let _ = stored::parse(bytes);
    stored::fuzz(bytes);
}

#[cfg(test)]
pub(super) mod tests;
