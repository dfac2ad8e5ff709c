//! What callers are told while the broker is *sealed*: it serves, and cannot open what it guards.
//!
//! Who calls is found out as ever, since that needs nothing of the store. The policy is not asked: its
//! answer depends on fields that only the services themselves read, and whoever may do nothing learns
//! here no more than what the health port tells everybody. The refusal that lasts comes once the
//! broker is open.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Request, Response, Status, async_trait};

use super::{
    audit_service::{GET_EXPOSURE, TRACE_TOKEN},
    fields::Fields,
    organization_service::Names,
    peer_of,
    records::{Asked, Records},
    report::REPORT_TOKEN,
    status,
    store_service::{BackupStream, RewrapStream},
    token_service::GET_TOKEN,
    watch::{TokenStream, WATCH_TOKEN},
};
use crate::{
    metrics::Metrics,
    organization::OrganizationId,
    pb::{
        admin::v1::{
            BackUpStoreRequest, CreateJobGrantRequest, CreateJobGrantResponse, GetExposureRequest,
            GetExposureResponse, GetOrganizationRequest, GetOrganizationResponse,
            GetStoreStatusRequest, GetStoreStatusResponse, ListJobGrantsRequest,
            ListJobGrantsResponse, ListOrganizationsRequest, ListOrganizationsResponse,
            RegisterOrganizationRequest, RegisterOrganizationResponse, ResumeOrganizationRequest,
            ResumeOrganizationResponse, RevokeJobGrantRequest, RevokeJobGrantResponse,
            RevokeOrganizationRequest, RevokeOrganizationResponse, RewrapKeysRequest,
            RotateCredentialRequest, RotateCredentialResponse, SuspendOrganizationRequest,
            SuspendOrganizationResponse, TraceTokenRequest, TraceTokenResponse,
            UpdateOrganizationRequest, UpdateOrganizationResponse, audit_service_server,
            job_grant_service_server, organization_service_server, store_service_server,
        },
        v1::{
            GetTokenRequest, GetTokenResponse, ReportTokenRequest, ReportTokenResponse,
            WatchTokenRequest, token_service_server,
        },
    },
};

/// Why the broker is sealed, as far as callers may know. The log has the whole reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is being opened for the first time.
    Opening,
    /// The key encryption key is missing, wrong or out of reach.
    Kek,
    /// Another process has the store open.
    InUse,
    /// The anchor of the store cannot be read or written.
    Anchor,
    /// The store is damaged, older than it should be, newer than the broker, or cannot be read.
    Store,
}

/// Refuses every call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Seal {
    cause: Arc<Mutex<Cause>>,
    records: Arc<Records>,
    metrics: Arc<Metrics>,
}

impl Cause {
    /// Whether it may be over without a restart, so that it is worth trying again.
    #[must_use]
    pub fn may_pass(self) -> bool {
        match self {
            Self::Opening | Self::Kek | Self::InUse | Self::Anchor => true,
            Self::Store => false,
        }
    }
}

impl Seal {
    /// The seal of a broker that has not tried yet to open its store.
    #[must_use]
    pub fn new(records: Arc<Records>, metrics: Arc<Metrics>) -> Self {
        Self {
            cause: Arc::new(Mutex::new(Cause::Opening)),
            records,
            metrics,
        }
    }

    /// Says from now on that this is why.
    pub fn because(&self, cause: Cause) {
        // Nothing that can panic happens under the lock.
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }

    fn cause(&self) -> Cause {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a call, recorded and counted as every refusal is.
    fn refuse<Q, A>(
        &self,
        rpc: &'static str,
        request: &Request<Q>,
        asked: impl FnOnce(&Q) -> Asked,
    ) -> Result<Response<A>, Status> {
        let peer = peer_of(request)?;
        let refused = match peer.caller() {
            Ok(caller) => {
                let refused = status::sealed(self.cause());
                let asked = asked(request.get_ref());
                let recorded = self
                    .records
                    .record(&peer, caller, rpc, &asked, Err(&refused));
                recorded.map_or_else(Status::from, |_| refused)
            }
            Err(unidentified) => unidentified.into(),
        };
        self.metrics.called(rpc, status::reason(&refused));
        Err(refused)
    }
}

/// What a request of an operator is about.
fn organization_of(request: &impl Names) -> Asked {
    Asked {
        // What can be no id may be anything, of any length.
        organization: OrganizationId::parse(request.organization_id()).ok(),
        ..Asked::default()
    }
}

/// What a request of a worker is about, as far as it can be read.
fn token_of(organization_id: &str, resource: i32, sharepoint_host: &str) -> Asked {
    let mut fields = Fields::default();
    Asked::read(&mut fields, organization_id, resource, sharepoint_host)
}

#[async_trait]
impl token_service_server::TokenService for Seal {
    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        self.refuse(GET_TOKEN, &request, |request| {
            let host = &request.sharepoint_host;
            token_of(&request.organization_id, request.resource, host)
        })
    }

    type WatchTokenStream = TokenStream;

    async fn watch_token(
        &self,
        request: Request<WatchTokenRequest>,
    ) -> Result<Response<TokenStream>, Status> {
        self.refuse(WATCH_TOKEN, &request, |request| {
            let host = &request.sharepoint_host;
            token_of(&request.organization_id, request.resource, host)
        })
    }

    async fn report_token(
        &self,
        request: Request<ReportTokenRequest>,
    ) -> Result<Response<ReportTokenResponse>, Status> {
        self.refuse(REPORT_TOKEN, &request, |request| {
            let host = &request.sharepoint_host;
            token_of(&request.organization_id, request.resource, host)
        })
    }
}

#[async_trait]
impl organization_service_server::OrganizationService for Seal {
    async fn register_organization(
        &self,
        request: Request<RegisterOrganizationRequest>,
    ) -> Result<Response<RegisterOrganizationResponse>, Status> {
        self.refuse("RegisterOrganization", &request, organization_of)
    }

    async fn get_organization(
        &self,
        request: Request<GetOrganizationRequest>,
    ) -> Result<Response<GetOrganizationResponse>, Status> {
        self.refuse("GetOrganization", &request, organization_of)
    }

    async fn list_organizations(
        &self,
        request: Request<ListOrganizationsRequest>,
    ) -> Result<Response<ListOrganizationsResponse>, Status> {
        self.refuse("ListOrganizations", &request, organization_of)
    }

    async fn update_organization(
        &self,
        request: Request<UpdateOrganizationRequest>,
    ) -> Result<Response<UpdateOrganizationResponse>, Status> {
        self.refuse("UpdateOrganization", &request, organization_of)
    }

    async fn rotate_credential(
        &self,
        request: Request<RotateCredentialRequest>,
    ) -> Result<Response<RotateCredentialResponse>, Status> {
        self.refuse("RotateCredential", &request, organization_of)
    }

    async fn revoke_organization(
        &self,
        request: Request<RevokeOrganizationRequest>,
    ) -> Result<Response<RevokeOrganizationResponse>, Status> {
        self.refuse("RevokeOrganization", &request, organization_of)
    }

    async fn suspend_organization(
        &self,
        request: Request<SuspendOrganizationRequest>,
    ) -> Result<Response<SuspendOrganizationResponse>, Status> {
        self.refuse("SuspendOrganization", &request, organization_of)
    }

    async fn resume_organization(
        &self,
        request: Request<ResumeOrganizationRequest>,
    ) -> Result<Response<ResumeOrganizationResponse>, Status> {
        self.refuse("ResumeOrganization", &request, organization_of)
    }
}

#[async_trait]
impl audit_service_server::AuditService for Seal {
    async fn trace_token(
        &self,
        request: Request<TraceTokenRequest>,
    ) -> Result<Response<TraceTokenResponse>, Status> {
        self.refuse(TRACE_TOKEN, &request, |_| Asked::default())
    }

    async fn get_exposure(
        &self,
        request: Request<GetExposureRequest>,
    ) -> Result<Response<GetExposureResponse>, Status> {
        self.refuse(GET_EXPOSURE, &request, organization_of)
    }
}

#[async_trait]
impl job_grant_service_server::JobGrantService for Seal {
    async fn create_job_grant(
        &self,
        request: Request<CreateJobGrantRequest>,
    ) -> Result<Response<CreateJobGrantResponse>, Status> {
        self.refuse("CreateJobGrant", &request, organization_of)
    }

    async fn list_job_grants(
        &self,
        request: Request<ListJobGrantsRequest>,
    ) -> Result<Response<ListJobGrantsResponse>, Status> {
        self.refuse("ListJobGrants", &request, organization_of)
    }

    async fn revoke_job_grant(
        &self,
        request: Request<RevokeJobGrantRequest>,
    ) -> Result<Response<RevokeJobGrantResponse>, Status> {
        self.refuse("RevokeJobGrant", &request, organization_of)
    }
}

#[async_trait]
impl store_service_server::StoreService for Seal {
    async fn get_store_status(
        &self,
        request: Request<GetStoreStatusRequest>,
    ) -> Result<Response<GetStoreStatusResponse>, Status> {
        self.refuse("GetStoreStatus", &request, |_| Asked::default())
    }

    type RewrapKeysStream = RewrapStream;

    async fn rewrap_keys(
        &self,
        request: Request<RewrapKeysRequest>,
    ) -> Result<Response<RewrapStream>, Status> {
        self.refuse("RewrapKeys", &request, |_| Asked::default())
    }

    type BackUpStoreStream = BackupStream;

    async fn back_up_store(
        &self,
        request: Request<BackUpStoreRequest>,
    ) -> Result<Response<BackupStream>, Status> {
        self.refuse("BackUpStore", &request, |_| Asked::default())
    }
}
