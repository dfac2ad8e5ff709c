//! Jobs that run: a scheduler tells of each, and where the policy asks for it, workers reach no other
//! organizations than those of a job.
//!
//! Every call that needs a job asks here, in memory; what is here outlives a restart in the vault. A grant
//! ends by itself, at the latest after a day.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use spiffe::SpiffeId;
use tokio::time::Instant;

use crate::{
    clock::Clock,
    organization::{
        OrganizationId, Purpose, Resource,
        job::{GRANTS_MAX, JobGrant, JobGrantId, JobId},
    },
    vault::{self, Vault},
};

/// The jobs of all organizations.
#[derive(Debug)]
pub struct Jobs {
    vault: Arc<Vault>,
    clock: Clock,
    /// By organization. A list is never changed, another one takes its place: who looks holds the lock
    /// for a copy of a pointer.
    running: Mutex<HashMap<OrganizationId, Arc<[Running]>>>,
    /// Held while something changes, so that the bound holds.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Running {
    grant: Arc<JobGrant>,
    ends_at: Instant,
}

/// What a worker asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who asks.
    pub worker: (&'a SpiffeId, &'a str),
    /// Of which organization.
    pub organization: &'a OrganizationId,
    /// For which API.
    pub resource: &'a Resource,
    /// What for; `None`: for anything.
    pub purpose: Option<Purpose>,
    /// For which job, if it says.
    pub job_id: Option<&'a JobId>,
}

/// Why a job was not taken down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The organization has as many as it may.
    #[error("the organization has {GRANTS_MAX} job grants, which is as many as it may; end some")]
    TooMany,
    /// The request id was used for another job.
    #[error("the request id was used before for a different request")]
    RequestIdReused,
    /// The store.
    #[error(transparent)]
    Vault(#[from] vault::Error),
}

impl Jobs {
    /// The jobs that a vault knows of.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn open(vault: Arc<Vault>, clock: Clock) -> Result<Self, vault::Error> {
        let jobs = Self {
            running: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            clock,
            vault,
        };
        for grant in jobs.vault.job_grants(clock.now()).await? {
            jobs.begin(grant);
        }
        Ok(jobs)
    }

    /// Whether a job runs that a worker may have a token for.
    #[must_use]
    pub fn cover(&self, asked: &Asked<'_>) -> bool {
        let Some(running) = self.of(asked.organization) else {
            return false;
        };
        let now = Instant::now();
        running.iter().any(|Running { grant, ends_at }| {
            *ends_at > now
                && asked.job_id.is_none_or(|job_id| grant.job_id == *job_id)
                && grant.workers.include(asked.worker.0, asked.worker.1)
                && grant.covers(asked.resource, asked.purpose)
        })
    }

    /// Takes a job down. Durable when this returns. The same request is answered with the same grant.
    ///
    /// # Errors
    /// [`Error`]; nothing is taken down then, unless it is one of the store.
    pub async fn create(&self, grant: JobGrant) -> Result<Arc<JobGrant>, Error> {
        let _alone = self.changing.lock().await;
        let running = self.list(&grant.organization);
        if let Some(known) = running.iter().find(|known| known.id == grant.id) {
            let same = JobGrant {
                create_time: known.create_time,
                ..grant
            };
            return if **known == same {
                Ok(known.clone())
            } else {
                Err(Error::RequestIdReused)
            };
        }
        if running.len() >= GRANTS_MAX {
            return Err(Error::TooMany);
        }
        // One of this id that is kept and does not run has ended.
        if !self.vault.keep_job_grant(&grant).await? {
            self.vault
                .drop_job_grant(&grant.organization, grant.id)
                .await?;
            self.vault.keep_job_grant(&grant).await?;
        }
        Ok(self.begin(grant))
    }

    /// The jobs of an organization that run, the oldest first.
    #[must_use]
    pub fn list(&self, organization: &OrganizationId) -> Vec<Arc<JobGrant>> {
        let now = Instant::now();
        let running = self.of(organization);
        let running = running.iter().flat_map(|running| running.iter());
        let running = running.filter(|running| running.ends_at > now);
        running.map(|running| running.grant.clone()).collect()
    }

    /// Ends a job. From now on no token is handed out for it; durable when this returns. Says whether it ran.
    ///
    /// # Errors
    /// Those of the store: it has ended all the same, until the next start.
    pub async fn end(
        &self,
        organization: &OrganizationId,
        id: JobGrantId,
    ) -> Result<bool, vault::Error> {
        let _alone = self.changing.lock().await;
        let ran = self.list(organization).iter().any(|grant| grant.id == id);
        self.replace(organization, |running| {
            running.retain(|known| known.grant.id != id)
        });
        self.vault.drop_job_grant(organization, id).await?;
        Ok(ran)
    }

    /// Forgets what has ended.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn sweep(&self) -> Result<(), vault::Error> {
        let _alone = self.changing.lock().await;
        let now = Instant::now();
        self.lock()
            .retain(|_, running| running.iter().any(|running| running.ends_at > now));
        self.vault.job_grants(self.clock.now()).await.map(drop)
    }

    /// Organizations of which a job runs.
    #[must_use]
    pub fn organizations(&self) -> usize {
        self.lock().len()
    }

    fn begin(&self, grant: JobGrant) -> Arc<JobGrant> {
        let left = grant.end_time.duration_since(self.clock.now());
        let ends_at = Instant::now() + left.unwrap_or(Duration::ZERO);
        let grant = Arc::new(grant);
        let new = grant.clone();
        self.replace(&grant.organization, |running| {
            running.push(Running {
                grant: new,
                ends_at,
            });
        });
        grant
    }

    /// Puts another list in the place of an organization's, without what has ended.
    fn replace(&self, organization: &OrganizationId, change: impl FnOnce(&mut Vec<Running>)) {
        let mut all = self.lock();
        let mut running = all
            .remove(organization)
            .map_or_else(Vec::new, |old| old.to_vec());
        let now = Instant::now();
        running.retain(|running| running.ends_at > now);
        change(&mut running);
        if !running.is_empty() {
            all.insert(organization.clone(), running.into());
        }
    }

    fn of(&self, organization: &OrganizationId) -> Option<Arc<[Running]>> {
        self.lock().get(organization).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrganizationId, Arc<[Running]>>> {
        // Nothing that can panic happens under the lock.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
