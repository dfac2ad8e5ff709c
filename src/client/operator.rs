//! The operator's side of the contract.

use tonic::{Streaming, transport::Channel};

use super::{ConnectionConfig, Error, Origin, connection::Connection};
use crate::pb::admin::v1::{
    BackUpStoreRequest, BackUpStoreResponse, CreateJobGrantRequest, CreateJobGrantResponse,
    GetExposureRequest, GetExposureResponse, GetOrganizationRequest, GetOrganizationResponse,
    GetStoreStatusRequest, GetStoreStatusResponse, ListJobGrantsRequest, ListJobGrantsResponse,
    ListOrganizationsRequest, ListOrganizationsResponse, RegisterOrganizationRequest,
    RegisterOrganizationResponse, ResumeOrganizationRequest, ResumeOrganizationResponse,
    RevokeJobGrantRequest, RevokeJobGrantResponse, RevokeOrganizationRequest,
    RevokeOrganizationResponse, RewrapKeysRequest, RewrapKeysResponse, RotateCredentialRequest,
    RotateCredentialResponse, SuspendOrganizationRequest, SuspendOrganizationResponse,
    TraceTokenRequest, TraceTokenResponse, UpdateOrganizationRequest, UpdateOrganizationResponse,
    audit_service_client::AuditServiceClient, job_grant_service_client::JobGrantServiceClient,
    organization_service_client::OrganizationServiceClient,
    store_service_client::StoreServiceClient,
};

/// Registers, reads, changes, rotates, suspends and revokes organizations. Cheap to clone: clones share the
/// connection.
///
/// ```no_run
/// use kodo_broker::client::{ConnectionConfig, Operator};
/// use kodo_broker::pb::admin::v1::ListOrganizationsRequest;
///
/// # async fn example() -> Result<(), kodo_broker::client::Error> {
/// let config = ConnectionConfig::load("/etc/kodo/connection.toml")?;
/// let operator = Operator::connect(&config).await?;
/// let mut request = ListOrganizationsRequest::default();
/// loop {
///     let page = operator.list_page(request.clone()).await?;
///     for organization in page.organizations {
///         println!("{} {}", organization.organization_id, organization.tenant_id);
///     }
///     if page.next_page_token.is_empty() {
///         break;
///     }
///     request.page_token = page.next_page_token;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Of every method: as the comment of its RPC in `organization_service.proto` tells, and
/// [`Origin::Connection`](super::Origin::Connection) if there was no answer. A change that got no
/// answer may have been made: repeat it with the same `request_id`, and it is not made twice.
#[derive(Clone, Debug)]
pub struct Operator {
    connection: Connection,
}

impl Operator {
    /// Connects as the operator whose certificate the configuration names.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`](super::Client::connect).
    pub async fn connect(config: &ConnectionConfig) -> Result<Self, Error> {
        let connection = Connection::open(config).await?;
        Ok(Self { connection })
    }

    /// Registers an organization.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn register(
        &self,
        request: RegisterOrganizationRequest,
    ) -> Result<RegisterOrganizationResponse, Error> {
        self.call(request, async |mut service, request| {
            service.register_organization(request).await
        })
        .await
    }

    /// Returns one organization.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn get(
        &self,
        request: GetOrganizationRequest,
    ) -> Result<GetOrganizationResponse, Error> {
        self.call(request, async |mut service, request| {
            service.get_organization(request).await
        })
        .await
    }

    /// Returns one page of the organizations. An empty page need not be the last: follow
    /// `next_page_token` until it is empty.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn list_page(
        &self,
        request: ListOrganizationsRequest,
    ) -> Result<ListOrganizationsResponse, Error> {
        self.call(request, async |mut service, request| {
            service.list_organizations(request).await
        })
        .await
    }

    /// Changes the display name or the labels of an organization.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn update(
        &self,
        request: UpdateOrganizationRequest,
    ) -> Result<UpdateOrganizationResponse, Error> {
        self.call(request, async |mut service, request| {
            service.update_organization(request).await
        })
        .await
    }

    /// Replaces the credential of an organization.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn rotate(
        &self,
        request: RotateCredentialRequest,
    ) -> Result<RotateCredentialResponse, Error> {
        self.call(request, async |mut service, request| {
            service.rotate_credential(request).await
        })
        .await
    }

    /// Revokes an organization for good.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn revoke(
        &self,
        request: RevokeOrganizationRequest,
    ) -> Result<RevokeOrganizationResponse, Error> {
        self.call(request, async |mut service, request| {
            service.revoke_organization(request).await
        })
        .await
    }

    /// Suspends an organization until it is resumed.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn suspend(
        &self,
        request: SuspendOrganizationRequest,
    ) -> Result<SuspendOrganizationResponse, Error> {
        self.call(request, async |mut service, request| {
            service.suspend_organization(request).await
        })
        .await
    }

    /// Ends the suspension of an organization.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn resume(
        &self,
        request: ResumeOrganizationRequest,
    ) -> Result<ResumeOrganizationResponse, Error> {
        self.call(request, async |mut service, request| {
            service.resume_organization(request).await
        })
        .await
    }

    /// Tells of a job that runs.
    ///
    /// # Errors
    ///
    /// As the comment of the RPC in `job_grant_service.proto` tells.
    pub async fn create_job_grant(
        &self,
        request: CreateJobGrantRequest,
    ) -> Result<CreateJobGrantResponse, Error> {
        let call = async |mut jobs: JobGrantServiceClient<Channel>, request| {
            jobs.create_job_grant(request).await
        };
        self.call_of(JobGrantServiceClient::new, request, call)
            .await
    }

    /// Returns the jobs of an organization that run.
    ///
    /// # Errors
    ///
    /// As the comment of the RPC in `job_grant_service.proto` tells.
    pub async fn list_job_grants(
        &self,
        request: ListJobGrantsRequest,
    ) -> Result<ListJobGrantsResponse, Error> {
        let call = async |mut jobs: JobGrantServiceClient<Channel>, request| {
            jobs.list_job_grants(request).await
        };
        self.call_of(JobGrantServiceClient::new, request, call)
            .await
    }

    /// Ends a job before its time.
    ///
    /// # Errors
    ///
    /// As the comment of the RPC in `job_grant_service.proto` tells.
    pub async fn revoke_job_grant(
        &self,
        request: RevokeJobGrantRequest,
    ) -> Result<RevokeJobGrantResponse, Error> {
        let call = async |mut jobs: JobGrantServiceClient<Channel>, request| {
            jobs.revoke_job_grant(request).await
        };
        self.call_of(JobGrantServiceClient::new, request, call)
            .await
    }

    /// Tells how the store is.
    ///
    /// # Errors
    ///
    /// As the comment of the RPC in `store_service.proto` tells.
    pub async fn store_status(&self) -> Result<GetStoreStatusResponse, Error> {
        let request = self.connection.request(GetStoreStatusRequest {});
        let response = self.store().get_store_status(request).await?;
        Ok(response.into_inner())
    }

    /// Has keys re-wrapped. The last message has `finished`.
    ///
    /// # Errors
    ///
    /// As the comment of the RPC in `store_service.proto` tells, here or as the last item of the stream.
    pub async fn rewrap_keys(
        &self,
        request: RewrapKeysRequest,
    ) -> Result<Streaming<RewrapKeysResponse>, Error> {
        // It has no deadline: it takes as long as it takes.
        let response = self.store().rewrap_keys(request).await?;
        Ok(response.into_inner())
    }

    /// Takes a backup. The last message has `finished`; without it the backup is none.
    ///
    /// # Errors
    ///
    /// As the comment of the RPC in `store_service.proto` tells, here or as the last item of the stream.
    pub async fn back_up_store(&self) -> Result<Streaming<BackUpStoreResponse>, Error> {
        let response = self.store().back_up_store(BackUpStoreRequest {}).await?;
        Ok(response.into_inner())
    }

    /// Tells who was given a token.
    ///
    /// # Errors
    ///
    /// As the comment of the RPC in `audit_service.proto` tells.
    pub async fn trace_token(
        &self,
        request: TraceTokenRequest,
    ) -> Result<TraceTokenResponse, Error> {
        let request = self.connection.request(request);
        let response = self.audit().trace_token(request).await?;
        Ok(response.into_inner())
    }

    /// Tells which tokens of an organization may still be good.
    ///
    /// # Errors
    ///
    /// As the comment of the RPC in `audit_service.proto` tells.
    pub async fn exposure(
        &self,
        request: GetExposureRequest,
    ) -> Result<GetExposureResponse, Error> {
        let request = self.connection.request(request);
        let response = self.audit().get_exposure(request).await?;
        Ok(response.into_inner())
    }

    fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.connection.channel.clone())
    }

    fn store(&self) -> StoreServiceClient<Channel> {
        StoreServiceClient::new(self.connection.channel.clone())
    }

    async fn call<Q: Clone, A>(
        &self,
        request: Q,
        call: impl AsyncFn(
            OrganizationServiceClient<Channel>,
            tonic::Request<Q>,
        ) -> Result<tonic::Response<A>, tonic::Status>,
    ) -> Result<A, Error> {
        self.call_of(OrganizationServiceClient::new, request, call)
            .await
    }

    /// Makes a call of a service; once more if there is no answer, since the broker closes connections
    /// that are idle, and a call may cross that on its way. Nothing is done twice: each change has a
    /// `request_id`, or is the same however often it is done.
    async fn call_of<S, Q: Clone, A>(
        &self,
        service: impl Fn(Channel) -> S,
        request: Q,
        call: impl AsyncFn(S, tonic::Request<Q>) -> Result<tonic::Response<A>, tonic::Status>,
    ) -> Result<A, Error> {
        let once = || {
            let request = self.connection.request(request.clone());
            call(service(self.connection.channel.clone()), request)
        };
        let error = match once().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => Error::from(status),
        };
        if error.origin() != Origin::Connection || error.code() != tonic::Code::Unavailable {
            return Err(error);
        }
        Ok(once().await?.into_inner())
    }
}
