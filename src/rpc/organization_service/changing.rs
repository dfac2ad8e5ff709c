//! `RotateCredential` and `RevokeOrganization`.

use std::mem::take;

use spiffe::SpiffeId;
use tonic::Status;

use super::{OrganizationService, by, mode};
use crate::{
    authz::Action,
    pb::{
        admin::v1::{
            KekToDestroy, RevokeOrganizationRequest, RevokeOrganizationResponse,
            RotateCredentialRequest, RotateCredentialResponse,
        },
        v1::ErrorReason as Reason,
    },
    registration::{Mode, OldTokens},
    rpc::{fields::Fields, organization_message::kek_to_destroy, within},
    vault::shred::OldCopies,
};

impl OrganizationService {
    pub(super) async fn rotate(
        &self,
        caller: &SpiffeId,
        mut request: RotateCredentialRequest,
    ) -> Result<RotateCredentialResponse, Status> {
        self.allow_any(caller, Action::Rotate)?;
        let mark = self.mark(take(&mut request.request_id), &request);
        let mode = mode(request.validate_only);
        let old_tokens = old_tokens(request.forget_tokens);
        let mut fields = Fields::default();
        fields.request_id(&mark.request_id);
        let id = fields.organization_id(&request.organization_id);
        if let Some(id) = &id {
            // Before a key is derived for somebody who may not rotate it.
            self.allow(caller, Action::Rotate, id)?;
        }
        let revision = fields.revision(request.revision);
        let credential = self.credential(&mut fields, request.credential).await?;
        let (Some(id), Some(revision), Some(credential), true) =
            (id, revision, credential, fields.is_clean())
        else {
            return Err(fields.into_status());
        };
        let by = by(caller, mark, mode);
        let work = self
            .registrar
            .rotate(id, revision, credential, old_tokens, by);
        let changed = within(self.call_timeout, Reason::IdpUnreachable, work).await??;
        Ok(RotateCredentialResponse {
            organization: Some(changed.organization.into()),
            warnings: changed.warnings.into_iter().map(Into::into).collect(),
        })
    }

    pub(super) async fn revoke(
        &self,
        caller: &SpiffeId,
        mut request: RevokeOrganizationRequest,
    ) -> Result<RevokeOrganizationResponse, Status> {
        let mark = self.mark(take(&mut request.request_id), &request);
        let mut fields = Fields::default();
        fields.request_id(&mark.request_id);
        let id = fields.organization_id(&request.organization_id);
        let revision = fields.revision(request.revision);
        let (Some(id), Some(revision), true) = (id, revision, fields.is_clean()) else {
            return Err(fields.into_status());
        };
        self.allow(caller, Action::Revoke, &id)?;
        let mode = Mode::Store;
        let old_copies = old_copies(request.shred);
        let by = by(caller, mark, mode);
        let work = self.registrar.revoke(id.clone(), revision, old_copies, by);
        let organization = within(self.call_timeout, Reason::StoreUnavailable, work).await??;
        let keks_to_destroy = match old_copies {
            OldCopies::Leave => Vec::new(),
            OldCopies::Shred => self.keks_to_destroy().await?,
        };
        Ok(RevokeOrganizationResponse {
            organization: Some(organization.into()),
            keks_to_destroy,
            outstanding_tokens: Some(self.outstanding(&id)),
        })
    }

    /// The KEKs that open copies of the store from before.
    async fn keks_to_destroy(&self) -> Result<Vec<KekToDestroy>, Status> {
        let reading = self.vault.retired();
        let retired = within(self.call_timeout, Reason::StoreUnavailable, reading).await??;
        let keks = retired
            .iter()
            .filter(|retired| retired.organizations > 0)
            .map(|retired| kek_to_destroy(retired, &self.vault));
        Ok(keks.collect())
    }
}

fn old_tokens(forget: bool) -> OldTokens {
    if forget {
        OldTokens::Forget
    } else {
        OldTokens::Serve
    }
}

fn old_copies(shred: bool) -> OldCopies {
    if shred {
        OldCopies::Shred
    } else {
        OldCopies::Leave
    }
}
