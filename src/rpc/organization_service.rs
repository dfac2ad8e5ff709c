//! `OrganizationService`: what operators call.

use std::{sync::Arc, time::Duration};

use spiffe::SpiffeId;
use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};
use zeroize::Zeroizing;

use super::{
    admission::{Admission, Admitted},
    deny,
    fields::{self, Fields},
    listener::Peer,
    organization_message::outstanding,
    peer_of,
    records::Records,
    status, within,
};
use crate::{
    audit::{Audit, Kind, Outcome, Record},
    authz::{Action, Caller, LivePolicy},
    clock::Clock,
    credential,
    metrics::Metrics,
    organization::OrganizationId,
    pb::{
        admin::v1::{
            CreateJobGrantRequest, Credential, GetOrganizationRequest, GetOrganizationResponse,
            ListJobGrantsRequest, ListOrganizationsRequest, ListOrganizationsResponse,
            OutstandingTokens, RegisterOrganizationRequest, RegisterOrganizationResponse,
            ResumeOrganizationRequest, ResumeOrganizationResponse, RevokeJobGrantRequest,
            RevokeOrganizationRequest, RevokeOrganizationResponse, RotateCredentialRequest,
            RotateCredentialResponse, SuspendOrganizationRequest, SuspendOrganizationResponse,
            UpdateOrganizationRequest, UpdateOrganizationResponse, organization_service_server,
        },
        v1::ErrorReason as Reason,
    },
    registration::{self, Mode, Registrar},
    token::exposure::HandOuts,
    vault::{RequestMark, Vault},
};

mod changing;
mod reading;
mod registering;
mod suspending;
mod updating;

/// Messages that are about an organization.
pub(super) trait Names {
    /// Its id as the message has it; empty where it has none.
    fn organization_id(&self) -> &str;

    /// Why it is wanted, as the message has it, where it says.
    fn reason(&self) -> Option<&str> {
        None
    }
}

/// Registers, shows, rotates and revokes.
#[derive(Debug)]
pub struct OrganizationService {
    /// What callers may do.
    pub policy: Arc<LivePolicy>,
    /// What is registered.
    pub vault: Arc<Vault>,
    /// Changes it.
    pub registrar: Registrar,
    /// What is out there.
    pub hand_outs: Arc<HandOuts>,
    /// Tells when it ends.
    pub clock: Clock,
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

    async fn suspend_organization(
        &self,
        request: Request<SuspendOrganizationRequest>,
    ) -> Result<Response<SuspendOrganizationResponse>, Status> {
        self.recorded("SuspendOrganization", request, Self::suspend)
            .await
    }

    async fn resume_organization(
        &self,
        request: Request<ResumeOrganizationRequest>,
    ) -> Result<Response<ResumeOrganizationResponse>, Status> {
        self.recorded("ResumeOrganization", request, Self::resume)
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
                    let request = request.into_inner();
                    self.on_record(&peer, &admitted, rpc, request, work).await
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

    /// Has a call done between its intent, if it changes something, and its result.
    async fn on_record<Q: Names, A: Names>(
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
        let intent = if reads(rpc) {
            None
        } else {
            let why = request.reason().filter(|text| fields::is_reason(text));
            Some(self.intend(peer, caller, rpc, (&named, why)).await?)
        };
        let answer = match admitted.begin() {
            Ok(_under_way) => work(self, caller.id(), request).await,
            Err(over) => Err(over),
        };
        let about = match &answer {
            Ok(answer) if !answer.organization_id().is_empty() => answer.organization_id(),
            _ => &named,
        };
        let refused = answer.as_ref().err();
        self.record(peer, caller, rpc, about, intent, refused)
            .and(answer)
    }

    /// Has it on record that a call begins, before anything is done: a crash leaves that.
    async fn intend(
        &self,
        peer: &Peer,
        caller: &Caller,
        rpc: &'static str,
        (about, why): (&str, Option<&str>),
    ) -> Result<u64, Status> {
        let call = self.audit.next_call();
        let organization = OrganizationId::parse(about).ok();
        let mut record = self.line((peer, caller), rpc, organization.as_ref());
        (record.kind, record.call, record.outcome) = (Kind::Intent, Some(call), Outcome::Open);
        record.reason = why;
        let place = self.audit.record(&record)?;
        self.audit.durable(place).await?;
        Ok(call)
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
        intent: Option<u64>,
        refused: Option<&Status>,
    ) -> Result<(), Status> {
        // What can be no id may be anything, of any length.
        let organization = OrganizationId::parse(about).ok();
        let mut record = self.line((peer, caller), rpc, organization.as_ref());
        if intent.is_some() {
            (record.kind, record.call) = (Kind::Result, intent);
        }
        if let Some(status) = refused {
            record.outcome = Outcome::Refused(status::reason(status));
        }
        peer.answers_after(self.audit.record(&record)?);
        Ok(())
    }

    fn line<'a>(
        &self,
        (peer, caller): (&Peer, &'a Caller),
        rpc: &'static str,
        organization: Option<&'a OrganizationId>,
    ) -> Record<'a> {
        Record {
            kind: Kind::Call,
            time: self.registrar.now(),
            rpc,
            caller: caller.name(),
            on_word_of: peer.on_word_of(),
            organization: organization.map_or("", OrganizationId::as_str),
            resource: None,
            sharepoint_host: None,
            call: None,
            job_id: None,
            outcome: Outcome::Done,
            reason: None,
            again: None,
            token: None,
        }
    }

    /// What the request is remembered by; its id has been taken out of it.
    pub(super) fn mark(&self, request_id: String, request: &impl prost::Message) -> RequestMark {
        let content = Zeroizing::new(request.encode_to_vec());
        self.vault.mark(&request_id, &content)
    }

    /// What is out there of an organization that gets no more.
    fn outstanding(&self, id: &OrganizationId) -> OutstandingTokens {
        outstanding(self.hand_outs.of(id), self.clock)
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

    async fn credential(
        &self,
        fields: &mut Fields,
        message: Option<Credential>,
    ) -> Result<Option<credential::Credential>, Status> {
        let parsing = fields.credential(message, self.registrar.now());
        within(self.call_timeout, Reason::LimitReached, parsing).await
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
        RotateCredentialRequest, RevokeOrganizationRequest, ResumeOrganizationRequest;
    answer: RegisterOrganizationResponse, GetOrganizationResponse, UpdateOrganizationResponse,
        RotateCredentialResponse, RevokeOrganizationResponse, SuspendOrganizationResponse,
        ResumeOrganizationResponse
}

impl Names for SuspendOrganizationRequest {
    fn organization_id(&self) -> &str {
        &self.organization_id
    }

    fn reason(&self) -> Option<&str> {
        Some(&self.reason)
    }
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

/// Whether an RPC changes nothing: then its result is enough of a record.
fn reads(rpc: &str) -> bool {
    ["GetOrganization", "ListOrganizations"].contains(&rpc)
}

pub(super) fn by(caller: &SpiffeId, mark: RequestMark, mode: Mode) -> registration::Request {
    registration::Request {
        caller: caller.clone(),
        mark,
        mode,
    }
}

fn mode(validate_only: bool) -> Mode {
    if validate_only {
        Mode::ValidateOnly
    } else {
        Mode::Store
    }
}
