//! `JobGrantService`: what a scheduler calls.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};

use super::{
    admission::Admission,
    deny,
    fields::Fields,
    listener::Peer,
    peer_of,
    records::{Asked, Records},
    status, within,
};
use crate::{
    audit::Outcome,
    authz::{Action, Caller, LivePolicy},
    clock::Clock,
    hex::{self, Hex},
    jobs::Jobs,
    metrics::Metrics,
    organization::{
        OrganizationId, Purpose, Resource,
        job::{JobGrant, JobGrantId, JobId, LIFE_MAX, Workers},
    },
    pb::{
        admin::v1::{
            self as admin, CreateJobGrantRequest, CreateJobGrantResponse, ListJobGrantsRequest,
            ListJobGrantsResponse, RevokeJobGrantRequest, RevokeJobGrantResponse,
            job_grant_service_server,
        },
        v1::{self, ErrorReason as Reason},
    },
    vault::Vault,
};

/// Takes jobs down and ends them.
#[derive(Clone, Debug)]
pub struct JobGrantService {
    /// What callers may do.
    pub policy: Arc<LivePolicy>,
    /// Which jobs run.
    pub jobs: Arc<Jobs>,
    /// Names grants, and knows labels.
    pub vault: Arc<Vault>,
    /// Tells when jobs end.
    pub clock: Clock,
    /// Where calls are recorded.
    pub records: Arc<Records>,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// How long a call may take.
    pub call_timeout: Duration,
}

#[async_trait]
impl job_grant_service_server::JobGrantService for JobGrantService {
    async fn create_job_grant(
        &self,
        request: Request<CreateJobGrantRequest>,
    ) -> Result<Response<CreateJobGrantResponse>, Status> {
        self.recorded("CreateJobGrant", request, Self::create).await
    }

    async fn list_job_grants(
        &self,
        request: Request<ListJobGrantsRequest>,
    ) -> Result<Response<ListJobGrantsResponse>, Status> {
        self.recorded("ListJobGrants", request, Self::list).await
    }

    async fn revoke_job_grant(
        &self,
        request: Request<RevokeJobGrantRequest>,
    ) -> Result<Response<RevokeJobGrantResponse>, Status> {
        self.recorded("RevokeJobGrant", request, Self::revoke).await
    }
}

impl JobGrantService {
    /// Has a call of somebody identified done, recorded and counted.
    async fn recorded<Q, A>(
        &self,
        rpc: &'static str,
        request: Request<Q>,
        work: impl AsyncFnOnce(&Self, &Caller, Q, &mut Asked) -> Result<A, Status>,
    ) -> Result<Response<A>, Status> {
        let peer = peer_of(&request)?;
        let answer = match peer.caller() {
            Ok(caller) => {
                self.answer(&peer, caller, rpc, request.into_inner(), work)
                    .await
            }
            Err(unidentified) => Err(unidentified.into()),
        };
        let outcome = answer
            .as_ref()
            .map_or_else(status::reason, |_| Outcome::Done.as_str());
        self.metrics.called(rpc, outcome);
        answer.map(Response::new)
    }

    async fn answer<Q, A>(
        &self,
        peer: &Peer,
        caller: &Caller,
        rpc: &'static str,
        request: Q,
        work: impl AsyncFnOnce(&Self, &Caller, Q, &mut Asked) -> Result<A, Status>,
    ) -> Result<A, Status> {
        let admission = Admission {
            policy: &self.policy,
            records: &self.records,
            metrics: &self.metrics,
        };
        let admitted = admission.admit(peer, caller, rpc, Instant::now())?;
        let mut asked = Asked::default();
        let answer = match admitted.begin() {
            Ok(_under_way) => {
                let work = work(self, caller, request, &mut asked);
                within(self.call_timeout, Reason::StoreUnavailable, work)
                    .await
                    .and_then(|answer| answer)
            }
            Err(over) => Err(over),
        };
        if let Some(organization) = &asked.organization {
            admitted.asks_about(organization);
        }
        let outcome = answer.as_ref().map(|_| None);
        let recorded = self.records.record(peer, caller, rpc, &asked, outcome);
        recorded.map_err(Status::from).and(answer)
    }

    async fn create(
        &self,
        caller: &Caller,
        request: CreateJobGrantRequest,
        asked: &mut Asked,
    ) -> Result<CreateJobGrantResponse, Status> {
        let now = self.clock.now();
        let mut fields = Fields::default();
        fields.request_id(&request.request_id);
        let organization = fields.organization_id(&request.organization_id);
        asked.organization.clone_from(&organization);
        let job_id = fields.take("job_id", JobId::parse(&request.job_id));
        asked.job_id.clone_from(&job_id);
        let workers = fields.take("workers", Workers::parse(&request.workers));
        let resources = job_resources(&mut fields, &request.resources);
        let purpose = fields.purpose(request.purpose);
        let end_time = fields.end_within("end_time", request.end_time, now, LIFE_MAX);
        let (Some(organization), Some(job_id), Some(workers), Some(purpose), Some(end_time), true) = (
            organization,
            job_id,
            workers,
            purpose,
            end_time,
            fields.is_clean(),
        ) else {
            return Err(fields.into_status());
        };
        self.allow(caller, &organization)?;
        self.must_exist(&organization).await?;
        let grant = JobGrant {
            id: self.vault.job_grant_id(&organization, &request.request_id),
            organization,
            job_id,
            workers,
            resources,
            purpose,
            create_time: now,
            end_time,
        };
        let grant = self.jobs.create(grant).await?;
        Ok(CreateJobGrantResponse {
            job_grant: Some((&*grant).into()),
        })
    }

    async fn list(
        &self,
        caller: &Caller,
        request: ListJobGrantsRequest,
        asked: &mut Asked,
    ) -> Result<ListJobGrantsResponse, Status> {
        let mut fields = Fields::default();
        let organization = fields.organization_id(&request.organization_id);
        asked.organization.clone_from(&organization);
        let organization = organization.ok_or_else(|| fields.into_status())?;
        self.allow(caller, &organization)?;
        self.must_exist(&organization).await?;
        let grants = self.jobs.list(&organization);
        Ok(ListJobGrantsResponse {
            job_grants: grants.iter().map(|grant| (&**grant).into()).collect(),
        })
    }

    async fn revoke(
        &self,
        caller: &Caller,
        request: RevokeJobGrantRequest,
        asked: &mut Asked,
    ) -> Result<RevokeJobGrantResponse, Status> {
        let mut fields = Fields::default();
        let organization = fields.organization_id(&request.organization_id);
        asked.organization.clone_from(&organization);
        let id = hex::parse(&request.job_grant_id).map(JobGrantId);
        if id.is_none() {
            fields.refuse(
                "job_grant_id",
                "must be the id that CreateJobGrant answers: 32 hex digits",
            );
        }
        let (Some(organization), Some(id), true) = (organization, id, fields.is_clean()) else {
            return Err(fields.into_status());
        };
        self.allow(caller, &organization)?;
        self.must_exist(&organization).await?;
        let running = self.jobs.list(&organization);
        let job = running.into_iter().find(|grant| grant.id == id);
        asked.job_id = job.map(|grant| grant.job_id.clone());
        let ran = self.jobs.end(&organization, id).await?;
        Ok(RevokeJobGrantResponse { ran })
    }

    fn allow(&self, caller: &Caller, organization: &OrganizationId) -> Result<(), Status> {
        let (action, labels) = (Action::ManageJobs, self.vault.labels());
        let allowed = self.policy.check(caller.id(), action, organization, labels);
        allowed.map_err(|denied| deny(caller.id(), action, Some(organization), denied))
    }

    async fn must_exist(&self, organization: &OrganizationId) -> Result<(), Status> {
        let found = self.vault.organization(organization).await?;
        found.map(drop).ok_or_else(status::organization_not_found)
    }
}

/// At least one, none twice.
fn job_resources(fields: &mut Fields, numbers: &[i32]) -> Vec<Resource> {
    let distinct: BTreeSet<_> = numbers.iter().collect();
    let resources = numbers
        .iter()
        .map(|number| match v1::Resource::try_from(*number) {
            Ok(v1::Resource::Graph) => Some(Resource::Graph),
            Ok(v1::Resource::Exchange) => Some(Resource::Exchange),
            Ok(v1::Resource::Sharepoint) => Some(Resource::SharePoint(None)),
            Ok(v1::Resource::AzureAdGraph) => Some(Resource::AzureAdGraph),
            Ok(v1::Resource::Unspecified) | Err(_) => None,
        });
    let resources: Option<Vec<_>> = resources.take(5).collect();
    let fits = !numbers.is_empty() && distinct.len() == numbers.len();
    match resources {
        Some(resources) if fits => resources,
        _ => {
            let why = "is required: values of the enum Resource but the first, none of them twice";
            fields.refuse("resources", why);
            Vec::new()
        }
    }
}

impl From<&JobGrant> for admin::JobGrant {
    fn from(grant: &JobGrant) -> Self {
        let resource = |resource: &Resource| match resource {
            Resource::Graph => v1::Resource::Graph.into(),
            Resource::Exchange => v1::Resource::Exchange.into(),
            Resource::SharePoint(_) => v1::Resource::Sharepoint.into(),
            Resource::AzureAdGraph => v1::Resource::AzureAdGraph.into(),
        };
        let purpose = match grant.purpose {
            Purpose::Backup => v1::Purpose::Backup,
            Purpose::Restore => v1::Purpose::Restore,
        };
        Self {
            job_grant_id: Hex(&grant.id.0).to_string(),
            organization_id: grant.organization.to_string(),
            job_id: grant.job_id.as_str().to_owned(),
            workers: grant.workers.text(),
            resources: grant.resources.iter().map(resource).collect(),
            purpose: purpose.into(),
            create_time: Some(grant.create_time.into()),
            end_time: Some(grant.end_time.into()),
        }
    }
}
