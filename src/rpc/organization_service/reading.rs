//! `GetOrganization` and `ListOrganizations`.

use spiffe::SpiffeId;
use tonic::Status;

use super::OrganizationService;
use crate::{
    authz::Action,
    hex::Hex,
    organization::Organization,
    pb::{
        admin::v1::{
            GetOrganizationRequest, GetOrganizationResponse, ListOrganizationsRequest,
            ListOrganizationsResponse,
        },
        v1::ErrorReason as Reason,
    },
    rpc::{fields::Fields, status::organization_not_found, within},
    vault::{self, Page},
};

/// Organizations that one call looks at for a page: most may be invisible to the caller.
const LOOKED_AT_MAX: usize = 1000;

impl OrganizationService {
    pub(super) async fn find(
        &self,
        caller: &SpiffeId,
        request: GetOrganizationRequest,
    ) -> Result<GetOrganizationResponse, Status> {
        let mut fields = Fields::default();
        let id = fields.organization_id(&request.organization_id);
        let id = id.ok_or_else(|| fields.into_status())?;
        self.allow(caller, Action::Get, &id)?;
        let found = within(
            self.call_timeout,
            Reason::StoreUnavailable,
            self.vault.organization(&id),
        )
        .await??;
        let organization = found.ok_or_else(organization_not_found)?;
        Ok(GetOrganizationResponse {
            organization: Some(organization.into()),
        })
    }

    pub(super) async fn list(
        &self,
        caller: &SpiffeId,
        request: ListOrganizationsRequest,
    ) -> Result<ListOrganizationsResponse, Status> {
        self.allow_any(caller, Action::List)?;
        let mut fields = Fields::default();
        let after = fields.page_token(&request.page_token);
        let size = fields.page_size(request.page_size);
        let labels = fields.labels(&request.labels).unwrap_or_default();
        if !fields.is_clean() {
            return Err(fields.into_status());
        }
        let visible = |organization: &Organization| {
            let mut labels = labels.iter();
            if !labels.all(|label| organization.labels.contains(label)) {
                return false;
            }
            let (id, known) = (&organization.id, self.vault.labels());
            let allowed = self.policy.check(caller, Action::List, id, known);
            allowed.is_ok()
        };
        let listing = self.page(after, size, visible);
        let page = within(self.call_timeout, Reason::StoreUnavailable, listing).await??;
        let next = page.next.map(|place| Hex(&place).to_string());
        Ok(ListOrganizationsResponse {
            organizations: page.organizations.into_iter().map(Into::into).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    /// A page of organizations that the caller may see. So that pages tell little of others, it goes
    /// on over those, up to a bound.
    async fn page(
        &self,
        mut after: Option<[u8; 32]>,
        size: usize,
        visible: impl Fn(&Organization) -> bool,
    ) -> Result<Page, vault::Error> {
        let mut found = Page::default();
        let mut looked_at = 0;
        loop {
            let page = self
                .vault
                .list(after, size - found.organizations.len())
                .await?;
            looked_at += page.organizations.len();
            let seen = page.organizations.into_iter().filter(&visible);
            found.organizations.extend(seen);
            found.next = page.next;
            let full = found.organizations.len() == size;
            if full || page.next.is_none() || looked_at >= LOOKED_AT_MAX {
                return Ok(found);
            }
            after = page.next;
        }
    }
}
