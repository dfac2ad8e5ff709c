//! The changes of an organization: each is one durable transaction, or nothing.

use std::time::SystemTime;

use super::{
    Error, Found, KEYS, RECORDS, UNREADABLE_MANIFEST, Vault,
    envelope::{self, Header, Index, WrappedKey},
    record::{MARKS_MAX, Record, RequestMark},
    shred::OldCopies,
};
use crate::{
    credential::Credential,
    organization::{
        ClientId, Cloud, Organization, OrganizationId, SharePointHost, State, Suspension, TenantId,
        label::Labels,
    },
    sealed::{self, CryptoFailed},
    store::{self, Compare, Key, Transaction, Write},
};

/// How often the key of one organization may be wrapped anew while it is revoked.
const REWRAPS_MAX: usize = 4;

/// A record to be written, and the generation of its key.
struct New {
    record: Record,
    generation: u32,
}

/// What is known of an organization before it is registered.
#[derive(Debug)]
pub struct NewOrganization {
    /// Its id.
    pub id: OrganizationId,
    /// Name for people.
    pub display_name: String,
    /// The Entra directory.
    pub tenant_id: TenantId,
    /// The cloud it is in.
    pub cloud: Cloud,
    /// The application there.
    pub client_id: ClientId,
    /// Its SharePoint root host, if known.
    pub sharepoint_root_host: Option<SharePointHost>,
    /// Further SharePoint hosts.
    pub sharepoint_hosts: Vec<SharePointHost>,
    /// What its operators group it by.
    pub labels: Labels,
}

/// What is to be changed of an organization; `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Name for people.
    pub display_name: Option<String>,
    /// All labels that it is to have.
    pub labels: Option<Labels>,
}

impl NewOrganization {
    /// As it will be, with its first credential, at revision 1.
    #[must_use]
    pub fn registered(self, credential: &Credential, now: SystemTime) -> Organization {
        Organization {
            id: self.id,
            display_name: self.display_name,
            tenant_id: self.tenant_id,
            cloud: self.cloud,
            client_id: self.client_id,
            credential: Some(credential.info(1)),
            sharepoint_root_host: self.sharepoint_root_host,
            sharepoint_hosts: self.sharepoint_hosts,
            labels: self.labels,
            state: State::Active,
            revision: 1,
            create_time: now,
            update_time: now,
        }
    }
}

impl Vault {
    /// The organization, if the request was carried out before. Durable when this returns: an
    /// earlier attempt may still wait for its disk.
    ///
    /// # Errors
    /// [`Error::RequestIdReused`], and those of reading.
    pub async fn replay(
        &self,
        id: &OrganizationId,
        mark: &RequestMark,
    ) -> Result<Option<Organization>, Error> {
        let Some(found) = self.find(&self.root.index(id)).await? else {
            return Ok(None);
        };
        if !found.did(mark)? {
            return Ok(None);
        }
        self.store.commit(Transaction::default()).await?;
        Ok(Some(found.record.organization))
    }

    /// Stores a new organization. Durable when this returns.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], and those of the store.
    pub async fn register(
        &self,
        organization: Organization,
        credential: Credential,
        mark: RequestMark,
    ) -> Result<Organization, Error> {
        let index = self.root.index(&organization.id);
        let record = Record {
            organization,
            credential: Some(credential),
            marks: vec![mark],
        };
        let at = Key::new(RECORDS, &index);
        let new = New {
            record,
            generation: 1,
        };
        let written = self.write(&index, None, new, vec![Compare::Absent(at)], vec![]);
        written.await?.ok_or(Error::AlreadyExists)
    }

    /// Replaces the credential under a new key, and deletes the tokens that were kept. Durable when
    /// this returns.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Revoked`], [`Error::RevisionConflict`], and those of the store.
    pub async fn rotate(
        &self,
        id: &OrganizationId,
        revision: u64,
        credential: Credential,
        mark: RequestMark,
        now: SystemTime,
    ) -> Result<Organization, Error> {
        self.change(id, revision, mark, now, OldCopies::Leave, |record| {
            let version = record
                .organization
                .credential
                .as_ref()
                .map_or(0, |info| info.version);
            record.organization.credential = Some(credential.info(version + 1));
            record.credential = Some(credential);
            Ok(())
        })
        .await
    }

    /// Suspends an organization: its credential stays, no token is kept. Durable when this returns.
    ///
    /// # Errors
    /// As [`Self::rotate`], and [`Error::Suspended`] if it is already.
    pub async fn suspend(
        &self,
        id: &OrganizationId,
        revision: u64,
        reason: String,
        mark: RequestMark,
        now: SystemTime,
    ) -> Result<Organization, Error> {
        self.change(id, revision, mark, now, OldCopies::Leave, |record| {
            if let State::Suspended(suspension) = &record.organization.state {
                return Err(Error::Suspended(suspension.at));
            }
            record.organization.state = State::Suspended(Suspension { at: now, reason });
            Ok(())
        })
        .await
    }

    /// Ends the suspension of an organization. Durable when this returns.
    ///
    /// # Errors
    /// As [`Self::rotate`], and [`Error::NotSuspended`].
    pub async fn resume(
        &self,
        id: &OrganizationId,
        revision: u64,
        mark: RequestMark,
        now: SystemTime,
    ) -> Result<Organization, Error> {
        self.change(id, revision, mark, now, OldCopies::Leave, |record| {
            match record.organization.state {
                State::Suspended(_) => record.organization.state = State::Active,
                State::Active | State::Revoked(_) => return Err(Error::NotSuspended),
            }
            Ok(())
        })
        .await
    }

    /// Gives an organization another name or other labels. Tokens that are kept for a restart go, with the
    /// key that they are sealed under. Durable when this returns.
    ///
    /// # Errors
    /// As [`Self::rotate`].
    pub async fn update(
        &self,
        id: &OrganizationId,
        revision: u64,
        changes: Changes,
        mark: RequestMark,
        now: SystemTime,
    ) -> Result<Organization, Error> {
        self.change(id, revision, mark, now, OldCopies::Leave, |record| {
            let organization = &mut record.organization;
            if let Some(display_name) = changes.display_name {
                organization.display_name = display_name;
            }
            if let Some(labels) = changes.labels {
                organization.labels = labels;
            }
            Ok(())
        })
        .await
    }

    /// Revokes an organization: its record keeps no secret, no token is kept, and no key opens what was
    /// before. Durable when this returns.
    ///
    /// # Errors
    /// As [`Self::rotate`].
    pub async fn revoke(
        &self,
        id: &OrganizationId,
        revision: u64,
        mark: RequestMark,
        now: SystemTime,
    ) -> Result<Organization, Error> {
        self.change(id, revision, mark, now, OldCopies::Leave, revoked(now))
            .await
    }

    /// Revokes an organization as [`Self::revoke`], and lists in the same change which KEKs must be destroyed
    /// until copies of the store from before do not open for it, either.
    ///
    /// # Errors
    /// As [`Self::rotate`].
    pub async fn revoke_and_shred(
        &self,
        id: &OrganizationId,
        revision: u64,
        mark: RequestMark,
        now: SystemTime,
    ) -> Result<Organization, Error> {
        // A list that does not open is told as such, before anything is changed.
        self.retired().await?;
        let mut tries = 0..REWRAPS_MAX;
        loop {
            let (mark, copies) = (mark.clone(), OldCopies::Shred);
            let change = self.change(id, revision, mark, now, copies, revoked(now));
            match change.await {
                // It may be its key alone that was wrapped anew: then the other KEK is the one to list.
                Err(Error::RevisionConflict { .. }) if tries.next().is_some() => {}
                outcome => {
                    self.shred_soon();
                    return outcome;
                }
            }
        }
    }

    async fn change(
        &self,
        id: &OrganizationId,
        revision: u64,
        mark: RequestMark,
        now: SystemTime,
        old_copies: OldCopies,
        apply: impl FnOnce(&mut Record) -> Result<(), Error>,
    ) -> Result<Organization, Error> {
        let index = self.root.index(id);
        let found = self.find(&index).await?.ok_or(Error::NotFound)?;
        if let State::Revoked(at) = found.record.organization.state {
            return Err(Error::Revoked(at));
        }
        let current = found.record.organization.revision;
        if current != revision {
            return Err(Error::RevisionConflict { current });
        }
        let generation = found
            .generation
            .checked_add(1)
            .ok_or(Error::Corrupt("an impossible generation"))?;
        let mut unchanged = vec![found.unchanged(&index)];
        // Nothing could open them any more.
        let mut writes = self.forgetting(&index).await?;
        if old_copies == OldCopies::Shred {
            unchanged.push(found.key_unchanged(&index));
            writes.push(self.root.retirement.shredding(found.kek_id, now));
        }
        let old = found.entry.value;
        let mut record = found.record;
        apply(&mut record)?;
        record.organization.revision = revision + 1;
        record.organization.update_time = now;
        record.marks.push(mark);
        let too_old = record.marks.len().saturating_sub(MARKS_MAX);
        record.marks.drain(..too_old);
        let conflict = Error::RevisionConflict {
            current: revision + 1,
        };
        let new = New { record, generation };
        let written = self.write(&index, Some(&old), new, unchanged, writes);
        written.await?.ok_or(conflict)
    }

    /// Writes a record in the place of an old one under a new key of the organization, both at once, with
    /// their entry in the manifest and what else there is to write. `None` if a compare does not hold.
    async fn write(
        &self,
        index: &Index,
        old: Option<&[u8]>,
        New { record, generation }: New,
        compares: Vec<Compare>,
        mut writes: Vec<Write>,
    ) -> Result<Option<Organization>, Error> {
        let place = self.place(*index);
        let had_labels = old.map(envelope::parse).transpose()?;
        let had_labels = had_labels.is_some_and(|parts| !parts.labels.is_empty());
        let changing = self.changing.read().await;
        let kek_id = self.keys.current();
        let key = sealed::random_key().ok_or(CryptoFailed)?;
        let wrapped = self
            .keys
            .wrap_dek(&kek_id, &key, &place.key_aad(generation, &kek_id))
            .await?;
        let header = Header {
            kek_hash: envelope::kek_hash(&kek_id),
            generation,
            version: record.organization.revision,
        };
        let Organization { id, labels, .. } = &record.organization;
        let labels = self.root.labels.seal(index, &header, id, labels)?;
        let sealed = envelope::seal(&place, &header, &labels, &key, &record.encode())?;
        let wrapped = WrappedKey {
            kek_id,
            generation,
            wrapped,
        };
        let counted = self.root.ledger.replaced(index, old, &sealed);
        writes.push(counted.write.clone());
        writes.push(Write::Put(Key::new(KEYS, index), wrapped.encode()));
        writes.push(Write::Put(Key::new(RECORDS, index), sealed));
        let transaction = Transaction { compares, writes };
        let committed = self.store.commit(transaction).await;
        // Whatever came of it: a change that failed may have happened.
        self.watched.changed(index);
        drop(changing);
        self.relabel(&record.organization, had_labels, &committed);
        match committed {
            Ok(_) => {
                self.reached(counted.epoch());
                Ok(Some(record.organization))
            }
            Err(store::Error::Conflict) => Ok(None),
            Err(store::Error::NotUpdated) => Err(UNREADABLE_MANIFEST),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes down what a commit made of an organization's labels.
    fn relabel(
        &self,
        organization: &Organization,
        had_labels: bool,
        committed: &Result<store::Revision, store::Error>,
    ) {
        let Organization { id, labels, .. } = organization;
        if labels.is_empty() && !had_labels {
            return;
        }
        match committed {
            Ok(_) => self.labels.set(id, organization.revision, labels),
            // Nothing was changed.
            Err(store::Error::Conflict | store::Error::NotUpdated | store::Error::OutOfLimits) => {}
            Err(_) => self.labels.doubt(id, labels),
        }
    }

    /// A change is durable.
    pub(super) fn reached(&self, epoch: u64) {
        self.epoch.send_if_modified(|last| {
            let newer = epoch > *last;
            *last = epoch.max(*last);
            newer
        });
    }
}

/// Leaves no secret in a record.
fn revoked(now: SystemTime) -> impl FnOnce(&mut Record) -> Result<(), Error> {
    move |record| {
        record.organization.credential = None;
        record.organization.state = State::Revoked(now);
        record.credential = None;
        Ok(())
    }
}

impl Found {
    /// Whether the request was carried out on this record.
    fn did(&self, mark: &RequestMark) -> Result<bool, Error> {
        let known = self
            .record
            .marks
            .iter()
            .find(|known| known.request_id == mark.request_id);
        match known {
            None => Ok(false),
            Some(known) if known.digest == mark.digest => Ok(true),
            Some(_) => Err(Error::RequestIdReused),
        }
    }
}
