//! `RegisterOrganization`.

use std::mem::take;

use spiffe::SpiffeId;
use tonic::Status;

use super::{OrganizationService, by, mode};
use crate::{
    authz::{Action, Denied},
    organization::{OrganizationId, TenantName, label::Labels},
    pb::{
        admin::v1::{RegisterOrganizationRequest, RegisterOrganizationResponse},
        v1::ErrorReason as Reason,
    },
    registration::Registration,
    rpc::{deny, fields::Fields, within},
    vault::RequestMark,
};

impl OrganizationService {
    pub(super) async fn register(
        &self,
        caller: &SpiffeId,
        mut request: RegisterOrganizationRequest,
    ) -> Result<RegisterOrganizationResponse, Status> {
        self.allow_any(caller, Action::Register)?;
        let mark = self.mark(take(&mut request.request_id), &request);
        let mode = mode(request.validate_only);
        let registration = self.registration(caller, request, &mark).await?;
        let by = by(caller, mark, mode);
        let work = self.registrar.register(registration, by);
        let changed = within(self.call_timeout, Reason::IdpUnreachable, work).await??;
        Ok(RegisterOrganizationResponse {
            organization: Some(changed.organization.into()),
            warnings: changed.warnings.into_iter().map(Into::into).collect(),
        })
    }

    /// Whether a caller may register an organization with this id and these labels.
    fn allow_new(
        &self,
        caller: &SpiffeId,
        id: &OrganizationId,
        labels: &Labels,
    ) -> Result<(), Status> {
        let action = Action::Register;
        let allowed = self
            .policy
            .check_labels(caller, action, id, [&Labels::NONE, labels]);
        allowed.map_err(|denied| {
            // An id that is not the caller's to register may or may not exist: both look the same.
            let denied = denied.max(Denied::Action);
            deny(caller, action, Some(id), denied)
        })
    }

    async fn registration(
        &self,
        caller: &SpiffeId,
        request: RegisterOrganizationRequest,
        mark: &RequestMark,
    ) -> Result<Registration, Status> {
        let mut fields = Fields::default();
        fields.request_id(&mark.request_id);
        let id = match request.organization_id.as_str() {
            "" => Some(self.vault.generated_id(&mark.request_id)),
            given => fields.take("organization_id", OrganizationId::parse(given)),
        };
        let labels = fields.labels(&request.labels);
        if let (Some(id), Some(labels)) = (&id, &labels) {
            self.allow_new(caller, id, labels)?;
        }
        let display_name = fields.display_name(request.display_name);
        let tenant = fields.take("tenant", TenantName::parse(&request.tenant));
        let cloud = fields.cloud(request.cloud);
        let client_id = fields.client_id(&request.client_id);
        let sharepoint_root_host = fields.root_host(&request.sharepoint_root_host, cloud);
        let sharepoint_hosts = fields.hosts(&request.sharepoint_hosts, cloud);
        let credential = self.credential(&mut fields, request.credential).await?;
        match (
            id,
            labels,
            display_name,
            tenant,
            cloud,
            client_id,
            credential,
            fields.is_clean(),
        ) {
            (
                Some(id),
                Some(labels),
                Some(display_name),
                Some(tenant),
                Some(cloud),
                Some(client_id),
                Some(credential),
                true,
            ) => Ok(Registration {
                id,
                display_name,
                tenant,
                cloud,
                client_id,
                credential,
                sharepoint_root_host,
                sharepoint_hosts,
                labels,
            }),
            _ => Err(fields.into_status()),
        }
    }
}
