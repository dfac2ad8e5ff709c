//! `UpdateOrganization`.

use std::mem::take;

use spiffe::SpiffeId;
use tonic::Status;

use super::{OrganizationService, by};
use crate::{
    authz::Action,
    organization::{OrganizationId, label::Labels},
    pb::{
        admin::v1::{UpdateOrganizationRequest, UpdateOrganizationResponse},
        v1::ErrorReason as Reason,
    },
    registration::Mode,
    rpc::{deny, fields::Fields, status::organization_not_found, within},
    vault::{self, Changes},
};

const DISPLAY_NAME: &str = "display_name";
const LABELS: &str = "labels";

impl OrganizationService {
    pub(super) async fn update(
        &self,
        caller: &SpiffeId,
        mut request: UpdateOrganizationRequest,
    ) -> Result<UpdateOrganizationResponse, Status> {
        let mark = self.mark(take(&mut request.request_id), &request);
        let mut fields = Fields::default();
        fields.request_id(&mark.request_id);
        let id = fields.organization_id(&request.organization_id);
        let revision = fields.revision(request.revision);
        let mask = fields.mask(request.update_mask, &[DISPLAY_NAME, LABELS]);
        let named = |name: &str| mask.iter().any(|path| path == name);
        // Also those that the mask does not name: whoever sends them means something by them.
        let display_name = fields.display_name(request.display_name);
        let labels = fields.labels(&request.labels);
        let (Some(id), Some(revision), true) = (id, revision, fields.is_clean()) else {
            return Err(fields.into_status());
        };
        self.allow(caller, Action::Update, &id)?;
        let changes = Changes {
            display_name: display_name.filter(|_| named(DISPLAY_NAME)),
            labels: labels.filter(|_| named(LABELS)),
        };
        if let Some(labels) = &changes.labels {
            let allowing = self.allow_labels(caller, &id, revision, labels);
            within(self.call_timeout, Reason::StoreUnavailable, allowing).await??;
        }
        let by = by(caller, mark, Mode::Store);
        let work = self.registrar.update(id, revision, changes, by);
        let organization = within(self.call_timeout, Reason::StoreUnavailable, work).await??;
        Ok(UpdateOrganizationResponse {
            organization: Some(organization.into()),
        })
    }

    /// Whether the caller may give an organization these labels. Those that it has are the ones of the
    /// revision that is changed: the change fails if it is another one by then.
    async fn allow_labels(
        &self,
        caller: &SpiffeId,
        id: &OrganizationId,
        revision: u64,
        labels: &Labels,
    ) -> Result<(), Status> {
        let found = self.vault.organization(id).await?;
        let found = found.ok_or_else(organization_not_found)?;
        if found.revision != revision {
            // Done before, or too late: which of them, and with what labels then, the change finds out. A
            // revision that is still to come is no one's.
            if revision > found.revision {
                let current = found.revision;
                return Err(vault::Error::RevisionConflict { current }.into());
            }
            return Ok(());
        }
        let (policy, action) = (&self.policy, Action::Update);
        let allowed = policy.check_labels(caller, action, id, [&found.labels, labels]);
        allowed.map_err(|denied| deny(caller, action, Some(id), denied))
    }
}
