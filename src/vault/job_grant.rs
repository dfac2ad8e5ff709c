//! Job grants as they outlive a restart.
//!
//! `"OBJ1" | format (2) | algorithm (2) |` and then the sealed text of [`crate::sealed`], under the key
//! `j/<index of the organization><id>`. It is sealed under a key of the root, since a job is told of
//! without the organization's own key, and at a start all are opened; the associated data name the store,
//! the index and the id. A grant that ends or is ended is deleted. The manifest does not count them: one
//! that is lost is told of again, and one that somebody puts back who can write the store's files lives
//! until the end that is sealed in it, a day at most.
//!
//! The field numbers are an on-disk format: never reuse one.

use std::{fmt, time::SystemTime};

use prost::Message as _;

use super::{
    Error, Vault,
    envelope::{ALGORITHM, FORMAT, Index, Reader, StoreId},
    record::{milliseconds, time},
};
use crate::{
    organization::{
        OrganizationId, Purpose, Resource,
        job::{JobGrant, JobGrantId, JobId, Workers},
    },
    sealed::{self, CryptoFailed},
    secret::SymmetricKey,
    store::{Compare, Key, SCAN_MAX, Transaction, WRITES_MAX, Write},
};

const JOB_GRANTS: &[u8] = b"j/";
const MAGIC: [u8; 4] = *b"OBJ1";
const UNREADABLE: Error = Error::Corrupt("a job grant that does not open at its place");

/// Seals and opens job grants.
pub(super) struct JobSealing {
    store: StoreId,
    key: SymmetricKey,
}

#[derive(prost::Message)]
struct Body {
    #[prost(string, tag = "1")]
    organization_id: String,
    #[prost(string, tag = "2")]
    job_id: String,
    #[prost(string, tag = "3")]
    workers: String,
    /// By their numbers here: 1 Graph, 2 Exchange, 3 SharePoint, 4 Azure AD Graph.
    #[prost(uint32, repeated, tag = "4")]
    resources: Vec<u32>,
    /// 1 backup, 2 restore.
    #[prost(uint32, tag = "5")]
    purpose: u32,
    /// Times are milliseconds since the Unix epoch.
    #[prost(uint64, tag = "6")]
    create_time: u64,
    #[prost(uint64, tag = "7")]
    end_time: u64,
}

impl Vault {
    /// An id for a job grant: the same for the same request of the same organization.
    #[must_use]
    pub fn job_grant_id(&self, organization: &OrganizationId, request_id: &str) -> JobGrantId {
        let content = [organization.as_str(), request_id].join("\n");
        let digest = self.root.digest(b"job grant", content.as_bytes());
        JobGrantId(*digest.first_chunk().expect("HMAC-SHA-256 has 32 bytes"))
    }

    /// Keeps a job grant. Durable when this returns. `false` if there is one of this id.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn keep_job_grant(&self, grant: &JobGrant) -> Result<bool, Error> {
        let index = self.root.index(&grant.organization);
        let at = at(&index, grant.id);
        let sealed = self.root.jobs.seal(&index, grant)?;
        let transaction = Transaction {
            compares: vec![Compare::Absent(at.clone())],
            writes: vec![Write::Put(at, sealed)],
        };
        match self.store.commit(transaction).await {
            Ok(_) => Ok(true),
            Err(crate::store::Error::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a job grant, if it is there. Durable when this returns.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn drop_job_grant(
        &self,
        organization: &OrganizationId,
        id: JobGrantId,
    ) -> Result<(), Error> {
        let at = at(&self.root.index(organization), id);
        let transaction = Transaction {
            compares: vec![],
            writes: vec![Write::Delete(at)],
        };
        self.store.commit(transaction).await?;
        Ok(())
    }

    /// All job grants that have not ended. Those that have are deleted.
    ///
    /// # Errors
    /// Those of the store; [`Error::Corrupt`] for one that is damaged or at another place.
    pub async fn job_grants(&self, now: SystemTime) -> Result<Vec<JobGrant>, Error> {
        let (mut found, mut ended, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = self
                .store
                .scan(JOB_GRANTS, after.as_ref(), SCAN_MAX)
                .await?;
            let Some((last, _)) = page.last() else {
                break;
            };
            after = Some(last.clone());
            for (at, entry) in page {
                let grant = self.root.jobs.open(&at, &entry.value)?;
                if self.root.index(&grant.organization) != at.as_bytes()[2..34] {
                    return Err(UNREADABLE);
                }
                if grant.end_time > now {
                    found.push(grant);
                } else {
                    ended.push(Write::Delete(at));
                }
            }
        }
        for ended in ended.chunks(WRITES_MAX) {
            let transaction = Transaction {
                compares: vec![],
                writes: ended.to_vec(),
            };
            self.store.commit(transaction).await?;
        }
        Ok(found)
    }
}

impl JobSealing {
    /// That of the store with this root key.
    pub(super) fn new(store: StoreId, root_key: &SymmetricKey) -> Result<Self, CryptoFailed> {
        let key = sealed::derive_key(root_key, b"job grants").ok_or(CryptoFailed)?;
        Ok(Self { store, key })
    }

    fn seal(&self, index: &Index, grant: &JobGrant) -> Result<Vec<u8>, CryptoFailed> {
        let aad = self.aad(&at(index, grant.id));
        let sealed = sealed::seal(&self.key, &aad, &encode(grant))?;
        let (format, algorithm) = (FORMAT.to_be_bytes(), ALGORITHM.to_be_bytes());
        Ok([&MAGIC[..], &format, &algorithm, &sealed].concat())
    }

    fn open(&self, at: &Key, stored: &[u8]) -> Result<JobGrant, Error> {
        let mut rest = Reader(stored);
        rest.magic(MAGIC)?;
        rest.format()?;
        rest.algorithm()?;
        let text = sealed::open(&self.key, &self.aad(at), rest.0).map_err(|_| UNREADABLE)?;
        let id = at.as_bytes().last_chunk().ok_or(UNREADABLE)?;
        decode(&text, JobGrantId(*id)).ok_or(UNREADABLE)
    }

    /// The key has the index and the id, each of fixed length.
    fn aad(&self, at: &Key) -> Vec<u8> {
        let format = FORMAT.to_be_bytes();
        [&MAGIC[..], &self.store, at.as_bytes(), &format].concat()
    }
}

fn at(index: &Index, id: JobGrantId) -> Key {
    Key::new(JOB_GRANTS, &[&index[..], &id.0].concat())
}

fn encode(grant: &JobGrant) -> Vec<u8> {
    Body {
        organization_id: grant.organization.as_str().to_owned(),
        job_id: grant.job_id.as_str().to_owned(),
        workers: grant.workers.text(),
        resources: grant.resources.iter().map(resource_number).collect(),
        purpose: match grant.purpose {
            Purpose::Backup => 1,
            Purpose::Restore => 2,
        },
        create_time: milliseconds(grant.create_time),
        end_time: milliseconds(grant.end_time),
    }
    .encode_to_vec()
}

fn decode(text: &[u8], id: JobGrantId) -> Option<JobGrant> {
    let body = Body::decode(text).ok()?;
    let resources: Option<Vec<_>> = body
        .resources
        .iter()
        .map(|number| resource(*number))
        .collect();
    Some(JobGrant {
        id,
        organization: OrganizationId::parse(&body.organization_id).ok()?,
        job_id: JobId::parse(&body.job_id).ok()?,
        workers: Workers::parse(&body.workers).ok()?,
        resources: resources?,
        purpose: match body.purpose {
            1 => Purpose::Backup,
            2 => Purpose::Restore,
            _ => return None,
        },
        create_time: time(body.create_time),
        end_time: time(body.end_time),
    })
}

fn resource_number(resource: &Resource) -> u32 {
    match resource {
        Resource::Graph => 1,
        Resource::Exchange => 2,
        Resource::SharePoint(_) => 3,
        Resource::AzureAdGraph => 4,
    }
}

fn resource(number: u32) -> Option<Resource> {
    Some(match number {
        1 => Resource::Graph,
        2 => Resource::Exchange,
        3 => Resource::SharePoint(None),
        4 => Resource::AzureAdGraph,
        _ => return None,
    })
}

impl fmt::Debug for JobSealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobSealing")
    }
}

/// Decodes bytes as a job grant. What decodes comes back the same.
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    let id = JobGrantId([0; 16]);
    if let Some(grant) = decode(bytes, id) {
        assert_eq!(decode(&encode(&grant), id), Some(grant));
    }
}

#[cfg(test)]
mod tests;
