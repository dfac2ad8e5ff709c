//! `OrganizationService`: what operators call.

use std::{mem::take, sync::Arc, time::Duration};

use spiffe::SpiffeId;
use tonic::{Request, Response, Status, async_trait};
use zeroize::Zeroizing;

use super::{caller, fields::Fields, status::organization_not_found, within};
use crate::{
    authz::{Action, Policy},
    hex::Hex,
    organization::{OrganizationId, TenantName},
    pb::admin::v1::{
        GetOrganizationRequest, GetOrganizationResponse, ListOrganizationsRequest,
        ListOrganizationsResponse, RegisterOrganizationRequest, RegisterOrganizationResponse,
        RevokeOrganizationRequest, RevokeOrganizationResponse, RotateCredentialRequest,
        RotateCredentialResponse, organization_service_server,
    },
    registration::{Mode, Registrar, Registration},
    vault::{RequestMark, Vault},
};

/// Registers, shows, rotates and revokes.
#[derive(Debug)]
pub struct OrganizationService {
    /// What callers may do.
    pub policy: Arc<Policy>,
    /// What is registered.
    pub vault: Arc<Vault>,
    /// Changes it.
    pub registrar: Registrar,
    /// How long a call may take.
    pub call_timeout: Duration,
}

#[async_trait]
impl organization_service_server::OrganizationService for OrganizationService {
    async fn register_organization(
        &self,
        request: Request<RegisterOrganizationRequest>,
    ) -> Result<Response<RegisterOrganizationResponse>, Status> {
        let caller = caller(&request)?;
        self.policy.check_any(&caller, Action::Register)?;
        let mut request = request.into_inner();
        let mark = self.mark(take(&mut request.request_id), &request);
        let mode = mode(request.validate_only);
        let registration = self.registration(request, &mark).await?;
        let id = registration.id.clone();
        // One that is not the caller's to register may or may not exist: both look the same.
        let allowed = self.policy.check(&caller, Action::Register, &id);
        allowed.map_err(|_| crate::authz::Denied::Action)?;
        let work = self.registrar.register(registration, mark, mode);
        let outcome = within(self.call_timeout, work).await?;
        log(&caller, "register", &id, mode, outcome.as_ref().err());
        let changed = outcome?;
        Ok(Response::new(RegisterOrganizationResponse {
            organization: Some(changed.organization.into()),
            warnings: changed.warnings.into_iter().map(Into::into).collect(),
        }))
    }

    async fn get_organization(
        &self,
        request: Request<GetOrganizationRequest>,
    ) -> Result<Response<GetOrganizationResponse>, Status> {
        let caller = caller(&request)?;
        let mut fields = Fields::default();
        let id = fields.organization_id(&request.get_ref().organization_id);
        let id = id.ok_or_else(|| fields.refused())?;
        self.policy.check(&caller, Action::Get, &id)?;
        let found = within(self.call_timeout, self.vault.organization(&id)).await??;
        let organization = found.ok_or_else(organization_not_found)?;
        Ok(Response::new(GetOrganizationResponse {
            organization: Some(organization.into()),
        }))
    }

    async fn list_organizations(
        &self,
        request: Request<ListOrganizationsRequest>,
    ) -> Result<Response<ListOrganizationsResponse>, Status> {
        let caller = caller(&request)?;
        self.policy.check_any(&caller, Action::List)?;
        let mut fields = Fields::default();
        let after = fields.page_token(&request.get_ref().page_token);
        let size = fields.page_size(request.get_ref().page_size);
        if !fields.is_clean() {
            return Err(fields.refused());
        }
        let page = within(self.call_timeout, self.vault.list(after, size)).await??;
        let visible = page.organizations.into_iter().filter(|organization| {
            self.policy
                .check(&caller, Action::List, &organization.id)
                .is_ok()
        });
        Ok(Response::new(ListOrganizationsResponse {
            organizations: visible.map(Into::into).collect(),
            next_page_token: page
                .next
                .map(|place| Hex(&place).to_string())
                .unwrap_or_default(),
        }))
    }

    async fn rotate_credential(
        &self,
        request: Request<RotateCredentialRequest>,
    ) -> Result<Response<RotateCredentialResponse>, Status> {
        let caller = caller(&request)?;
        // Before a key is derived for somebody who may not rotate anything.
        self.policy.check_any(&caller, Action::Rotate)?;
        let mut request = request.into_inner();
        let mark = self.mark(take(&mut request.request_id), &request);
        let mode = mode(request.validate_only);
        let mut fields = Fields::default();
        fields.request_id(&mark.request_id);
        let id = fields.organization_id(&request.organization_id);
        let revision = fields.revision(request.revision);
        let credential = within(
            self.call_timeout,
            fields.credential(request.credential, self.registrar.now()),
        )
        .await?;
        let (Some(id), Some(revision), Some(credential), true) =
            (id, revision, credential, fields.is_clean())
        else {
            return Err(fields.refused());
        };
        self.policy.check(&caller, Action::Rotate, &id)?;
        let work = self.registrar.rotate(&id, revision, credential, mark, mode);
        let outcome = within(self.call_timeout, work).await?;
        log(&caller, "rotate", &id, mode, outcome.as_ref().err());
        let changed = outcome?;
        Ok(Response::new(RotateCredentialResponse {
            organization: Some(changed.organization.into()),
            warnings: changed.warnings.into_iter().map(Into::into).collect(),
        }))
    }

    async fn revoke_organization(
        &self,
        request: Request<RevokeOrganizationRequest>,
    ) -> Result<Response<RevokeOrganizationResponse>, Status> {
        let caller = caller(&request)?;
        let mut request = request.into_inner();
        let mark = self.mark(take(&mut request.request_id), &request);
        let mut fields = Fields::default();
        fields.request_id(&mark.request_id);
        let id = fields.organization_id(&request.organization_id);
        let revision = fields.revision(request.revision);
        let (Some(id), Some(revision), true) = (id, revision, fields.is_clean()) else {
            return Err(fields.refused());
        };
        self.policy.check(&caller, Action::Revoke, &id)?;
        let outcome = within(
            self.call_timeout,
            self.registrar.revoke(&id, revision, mark),
        )
        .await?;
        log(&caller, "revoke", &id, Mode::Store, outcome.as_ref().err());
        Ok(Response::new(RevokeOrganizationResponse {
            organization: Some(outcome?.into()),
        }))
    }
}

impl OrganizationService {
    /// What the request is remembered by; its id has been taken out of it.
    fn mark(&self, request_id: String, request: &impl prost::Message) -> RequestMark {
        let content = Zeroizing::new(request.encode_to_vec());
        self.vault.mark(&request_id, &content)
    }

    async fn registration(
        &self,
        request: RegisterOrganizationRequest,
        mark: &RequestMark,
    ) -> Result<Registration, Status> {
        let mut fields = Fields::default();
        fields.request_id(&mark.request_id);
        let id = match request.organization_id.as_str() {
            "" => Some(self.vault.generated_id(&mark.request_id)),
            given => fields.take("organization_id", OrganizationId::parse(given)),
        };
        let display_name = fields.display_name(request.display_name);
        let tenant = fields.take("tenant", TenantName::parse(&request.tenant));
        let cloud = fields.cloud(request.cloud);
        let client_id = fields.client_id(&request.client_id);
        let sharepoint_root_host = fields.root_host(&request.sharepoint_root_host, cloud);
        let sharepoint_hosts = fields.hosts(&request.sharepoint_hosts, cloud);
        let credential = within(
            self.call_timeout,
            fields.credential(request.credential, self.registrar.now()),
        )
        .await?;
        match (
            id,
            display_name,
            tenant,
            cloud,
            client_id,
            credential,
            fields.is_clean(),
        ) {
            (
                Some(id),
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
            }),
            _ => Err(fields.refused()),
        }
    }
}

fn mode(validate_only: bool) -> Mode {
    if validate_only {
        Mode::ValidateOnly
    } else {
        Mode::Store
    }
}

/// Who changed what, or tried to.
fn log(
    caller: &SpiffeId,
    action: &'static str,
    organization: &OrganizationId,
    mode: Mode,
    error: Option<&crate::registration::Error>,
) {
    let stored = error.is_none() && mode == Mode::Store;
    match error {
        None => tracing::info!(%caller, action, %organization, stored, "administration"),
        Some(error) => {
            tracing::warn!(%caller, action, %organization, stored, %error, "administration")
        }
    }
}
