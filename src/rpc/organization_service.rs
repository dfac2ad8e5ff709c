//! `OrganizationService`: what operators call.

use std::{mem::take, sync::Arc, time::Duration};

use spiffe::SpiffeId;
use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};
use zeroize::Zeroizing;

use super::{
    admission::{Admission, Admitted},
    deny,
    fields::Fields,
    listener::Peer,
    organization_message::kek_to_destroy,
    peer_of,
    records::Records,
    status::{self, organization_not_found},
    within,
};
use crate::{
    audit::{Audit, Outcome, Record},
    authz::{Action, Caller, Denied, Policy},
    credential,
    hex::Hex,
    metrics::Metrics,
    organization::{Organization, OrganizationId, TenantName, label::Labels},
    pb::{
        admin::v1::{
            CreateJobGrantRequest, Credential, GetOrganizationRequest, GetOrganizationResponse,
            KekToDestroy, ListJobGrantsRequest, ListOrganizationsRequest,
            ListOrganizationsResponse, RegisterOrganizationRequest, RegisterOrganizationResponse,
            RevokeJobGrantRequest, RevokeOrganizationRequest, RevokeOrganizationResponse,
            RotateCredentialRequest, RotateCredentialResponse, UpdateOrganizationRequest,
            UpdateOrganizationResponse, organization_service_server,
        },
        v1::ErrorReason as Reason,
    },
    registration::{self, Mode, OldTokens, Registrar, Registration},
    vault::{self, Page, RequestMark, Vault, shred::OldCopies},
};

/// Organizations that one call looks at for a page: most may be invisible to the caller.
const LOOKED_AT_MAX: usize = 1000;

/// Messages that are about an organization.
pub(super) trait Names {
    /// Its id as the message has it; empty where it has none.
    fn organization_id(&self) -> &str;
}

/// Registers, shows, rotates and revokes.
#[derive(Debug)]
pub struct OrganizationService {
    /// What callers may do.
    pub policy: Arc<Policy>,
    /// What is registered.
    pub vault: Arc<Vault>,
    /// Changes it.
    pub registrar: Registrar,
    /// Where calls are recorded.
    pub audit: Audit,
    /// Where those are recorded that are over a limit.
    pub records: Arc<Records>,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// How long a call may take.
    pub call_timeout: Duration,
}

#[async_trait]
impl organization_service_server::OrganizationService for OrganizationService {
    async fn register_organization(
        &self,
        request: Request<RegisterOrganizationRequest>,
    ) -> Result<Response<RegisterOrganizationResponse>, Status> {
        self.recorded("RegisterOrganization", request, Self::register)
            .await
    }

    async fn get_organization(
        &self,
        request: Request<GetOrganizationRequest>,
    ) -> Result<Response<GetOrganizationResponse>, Status> {
        self.recorded("GetOrganization", request, Self::find).await
    }

    async fn list_organizations(
        &self,
        request: Request<ListOrganizationsRequest>,
    ) -> Result<Response<ListOrganizationsResponse>, Status> {
        self.recorded("ListOrganizations", request, Self::list)
            .await
    }

    async fn update_organization(
        &self,
        request: Request<UpdateOrganizationRequest>,
    ) -> Result<Response<UpdateOrganizationResponse>, Status> {
        self.recorded("UpdateOrganization", request, Self::update)
            .await
    }

    async fn rotate_credential(
        &self,
        request: Request<RotateCredentialRequest>,
    ) -> Result<Response<RotateCredentialResponse>, Status> {
        self.recorded("RotateCredential", request, Self::rotate)
            .await
    }

    async fn revoke_organization(
        &self,
        request: Request<RevokeOrganizationRequest>,
    ) -> Result<Response<RevokeOrganizationResponse>, Status> {
        self.recorded("RevokeOrganization", request, Self::revoke)
            .await
    }
}

impl OrganizationService {
    /// Has a call of somebody identified done, recorded and counted.
    async fn recorded<Q: Names, A: Names>(
        &self,
        rpc: &'static str,
        request: Request<Q>,
        work: impl AsyncFnOnce(&Self, &SpiffeId, Q) -> Result<A, Status>,
    ) -> Result<Response<A>, Status> {
        let peer = peer_of(&request)?;
        let answer = match peer.caller() {
            Ok(caller) => match self.admission().admit(&peer, caller, rpc, Instant::now()) {
                Ok(admitted) => {
                    self.answer(&peer, &admitted, rpc, request.into_inner(), work)
                        .await
                }
                // On record, if that is due.
                Err(over) => Err(over),
            },
            Err(unidentified) => Err(unidentified.into()),
        };
        let outcome = answer
            .as_ref()
            .map_or_else(status::reason, |_| Outcome::Done.as_str());
        self.metrics.called(rpc, outcome);
        answer.map(Response::new)
    }

    async fn answer<Q: Names, A: Names>(
        &self,
        peer: &Peer,
        admitted: &Admitted<'_>,
        rpc: &'static str,
        request: Q,
        work: impl AsyncFnOnce(&Self, &SpiffeId, Q) -> Result<A, Status>,
    ) -> Result<A, Status> {
        let caller = admitted.caller();
        let named = request.organization_id().to_owned();
        if let Ok(organization) = OrganizationId::parse(&named) {
            admitted.asks_about(&organization);
        }
        let answer = match admitted.begin() {
            Ok(_under_way) => work(self, caller.id(), request).await,
            Err(over) => Err(over),
        };
        let about = match &answer {
            Ok(answer) if !answer.organization_id().is_empty() => answer.organization_id(),
            _ => &named,
        };
        self.record(peer, caller, rpc, about, answer.as_ref().err())
            .and(answer)
    }

    fn admission(&self) -> Admission<'_> {
        Admission {
            policy: &self.policy,
            records: &self.records,
            metrics: &self.metrics,
        }
    }

    fn record(
        &self,
        peer: &Peer,
        caller: &Caller,
        rpc: &'static str,
        about: &str,
        refused: Option<&Status>,
    ) -> Result<(), Status> {
        // What can be no id may be anything, of any length.
        let organization = OrganizationId::parse(about).ok();
        let record = Record {
            time: self.registrar.now(),
            rpc,
            caller: caller.name(),
            organization: organization.as_ref().map_or("", OrganizationId::as_str),
            resource: None,
            sharepoint_host: None,
            job_id: None,
            outcome: refused.map_or(Outcome::Done, |status| {
                Outcome::Refused(status::reason(status))
            }),
            reason: None,
            again: None,
            token: None,
        };
        peer.answers_after(self.audit.record(&record)?);
        Ok(())
    }

    async fn register(
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

    async fn find(
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

    async fn list(
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
            let allowed =
                self.policy
                    .check(caller, Action::List, &organization.id, self.vault.labels());
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

    async fn rotate(
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

    async fn revoke(
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
        let work = self.registrar.revoke(id, revision, old_copies, by);
        let organization = within(self.call_timeout, Reason::StoreUnavailable, work).await??;
        let keks_to_destroy = match old_copies {
            OldCopies::Leave => Vec::new(),
            OldCopies::Shred => self.keks_to_destroy().await?,
        };
        Ok(RevokeOrganizationResponse {
            organization: Some(organization.into()),
            keks_to_destroy,
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

    /// What the request is remembered by; its id has been taken out of it.
    pub(super) fn mark(&self, request_id: String, request: &impl prost::Message) -> RequestMark {
        let content = Zeroizing::new(request.encode_to_vec());
        self.vault.mark(&request_id, &content)
    }

    pub(super) fn allow(
        &self,
        caller: &SpiffeId,
        action: Action,
        id: &OrganizationId,
    ) -> Result<(), Status> {
        let allowed = self.policy.check(caller, action, id, self.vault.labels());
        allowed.map_err(|denied| deny(caller, action, Some(id), denied))
    }

    fn allow_any(&self, caller: &SpiffeId, action: Action) -> Result<(), Status> {
        let allowed = self.policy.check_any(caller, action);
        allowed.map_err(|denied| deny(caller, action, None, denied))
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

    async fn credential(
        &self,
        fields: &mut Fields,
        message: Option<Credential>,
    ) -> Result<Option<credential::Credential>, Status> {
        let parsing = fields.credential(message, self.registrar.now());
        within(self.call_timeout, Reason::LimitReached, parsing).await
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

macro_rules! names {
    (itself: $($itself:ty),+; answer: $($answer:ty),+) => {
        $(impl Names for $itself {
            fn organization_id(&self) -> &str {
                &self.organization_id
            }
        })+
        $(impl Names for $answer {
            fn organization_id(&self) -> &str {
                self.organization.as_ref().map_or("", |organization| &organization.organization_id)
            }
        })+
    };
}
names! {
    itself: CreateJobGrantRequest, ListJobGrantsRequest, RevokeJobGrantRequest,
        RegisterOrganizationRequest, GetOrganizationRequest, UpdateOrganizationRequest,
        RotateCredentialRequest, RevokeOrganizationRequest;
    answer: RegisterOrganizationResponse, GetOrganizationResponse, UpdateOrganizationResponse,
        RotateCredentialResponse, RevokeOrganizationResponse
}

impl Names for ListOrganizationsRequest {
    fn organization_id(&self) -> &str {
        ""
    }
}

impl Names for ListOrganizationsResponse {
    fn organization_id(&self) -> &str {
        ""
    }
}

pub(super) fn by(caller: &SpiffeId, mark: RequestMark, mode: Mode) -> registration::Request {
    registration::Request {
        caller: caller.clone(),
        mark,
        mode,
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

fn mode(validate_only: bool) -> Mode {
    if validate_only {
        Mode::ValidateOnly
    } else {
        Mode::Store
    }
}
