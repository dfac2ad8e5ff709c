//! `SuspendOrganization` and `ResumeOrganization`.

use std::mem::take;

use spiffe::SpiffeId;
use tonic::Status;

use super::{OrganizationService, by};
use crate::{
    authz::Action,
    pb::{
        admin::v1::{
            ResumeOrganizationRequest, ResumeOrganizationResponse, SuspendOrganizationRequest,
            SuspendOrganizationResponse,
        },
        v1::ErrorReason as Reason,
    },
    registration::{Mode, Proof},
    rpc::{fields::Fields, within},
};

impl OrganizationService {
    pub(super) async fn suspend(
        &self,
        caller: &SpiffeId,
        mut request: SuspendOrganizationRequest,
    ) -> Result<SuspendOrganizationResponse, Status> {
        let mark = self.mark(take(&mut request.request_id), &request);
        let mut fields = Fields::default();
        fields.request_id(&mark.request_id);
        let id = fields.organization_id(&request.organization_id);
        let revision = fields.revision(request.revision);
        let reason = fields.reason(request.reason);
        let (Some(id), Some(revision), Some(reason), true) =
            (id, revision, reason, fields.is_clean())
        else {
            return Err(fields.into_status());
        };
        self.allow(caller, Action::Suspend, &id)?;
        let by = by(caller, mark, Mode::Store);
        let work = self.registrar.suspend(id.clone(), revision, reason, by);
        let organization = within(self.call_timeout, Reason::StoreUnavailable, work).await??;
        Ok(SuspendOrganizationResponse {
            organization: Some(organization.into()),
            outstanding_tokens: Some(self.outstanding(&id)),
        })
    }

    pub(super) async fn resume(
        &self,
        caller: &SpiffeId,
        mut request: ResumeOrganizationRequest,
    ) -> Result<ResumeOrganizationResponse, Status> {
        let mark = self.mark(take(&mut request.request_id), &request);
        let mut fields = Fields::default();
        fields.request_id(&mark.request_id);
        let id = fields.organization_id(&request.organization_id);
        let revision = fields.revision(request.revision);
        let (Some(id), Some(revision), true) = (id, revision, fields.is_clean()) else {
            return Err(fields.into_status());
        };
        self.allow(caller, Action::Resume, &id)?;
        let by = by(caller, mark, Mode::Store);
        let work = self
            .registrar
            .resume(id, revision, proof(request.verify_credential), by);
        let organization = within(self.call_timeout, Reason::IdpUnreachable, work).await??;
        Ok(ResumeOrganizationResponse {
            organization: Some(organization.into()),
        })
    }
}

fn proof(verify: bool) -> Proof {
    if verify {
        Proof::Required
    } else {
        Proof::Waived
    }
}
