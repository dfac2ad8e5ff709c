//! `AuditService`: what the audit log tells of tokens.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::{Request, Response, Status, async_trait};

use super::{
    deny,
    fields::Fields,
    organization_service::Names,
    peer_of,
    records::{Asked, Records},
    status, within,
};
use crate::{
    audit::{
        self, Outcome,
        trace::{HandOut, Question, hand_outs},
    },
    authz::{Action, Caller, LivePolicy},
    clock::Clock,
    hex::Hex,
    metrics::Metrics,
    organization::{OrganizationId, label_index::LabelIndex},
    pb::{
        admin::v1::{
            self as admin, GetExposureRequest, GetExposureResponse, TraceTokenRequest,
            TraceTokenResponse, audit_service_server,
        },
        v1::ErrorReason as Reason,
    },
};

/// The RPCs in records and figures.
pub(super) const TRACE_TOKEN: &str = "TraceToken";
pub(super) const GET_EXPOSURE: &str = "GetExposure";
/// No token lives longer.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(28 * 3600);

/// Answers questions from the audit log.
#[derive(Debug)]
pub struct AuditService {
    /// What callers may do.
    pub policy: Arc<LivePolicy>,
    /// Which labels organizations have.
    pub labels: Arc<LabelIndex>,
    /// The file of the log, if there is one.
    pub file: Option<PathBuf>,
    /// Where calls are recorded.
    pub records: Arc<Records>,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// Tells what has ended.
    pub clock: Clock,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// A place for each question at a time: each may read all there is.
    pub places: Arc<Semaphore>,
}

#[async_trait]
impl audit_service_server::AuditService for AuditService {
    async fn trace_token(
        &self,
        request: Request<TraceTokenRequest>,
    ) -> Result<Response<TraceTokenResponse>, Status> {
        let hand_outs = self
            .recorded(TRACE_TOKEN, request, async |service, caller, request, _| {
                service.allow_any(caller)?;
                let mut fields = Fields::default();
                let fingerprint = fields.fingerprint(&request.fingerprint);
                let fingerprint = fingerprint.ok_or_else(|| fields.into_status())?;
                let question = Question::Token(Hex(&fingerprint).to_string());
                service.ask(question, SystemTime::UNIX_EPOCH).await
            })
            .await?;
        Ok(Response::new(TraceTokenResponse { hand_outs }))
    }

    async fn get_exposure(
        &self,
        request: Request<GetExposureRequest>,
    ) -> Result<Response<GetExposureResponse>, Status> {
        let hand_outs = self
            .recorded(
                GET_EXPOSURE,
                request,
                async |service, caller, request, asked| {
                    service.allow_any(caller)?;
                    let mut fields = Fields::default();
                    let id = fields.organization_id(&request.organization_id);
                    let id = id.ok_or_else(|| fields.into_status())?;
                    asked.organization = Some(id.clone());
                    service.allow(caller, &id)?;
                    let at = service.clock.now();
                    let organization = id.as_str().to_owned();
                    let question = Question::Exposure { organization, at };
                    service.ask(question, at - TOKEN_LIFE_MAX).await
                },
            )
            .await?;
        Ok(Response::new(GetExposureResponse { hand_outs }))
    }
}

impl AuditService {
    /// Has a question of somebody identified answered, recorded and counted.
    async fn recorded<Q>(
        &self,
        rpc: &'static str,
        request: Request<Q>,
        work: impl AsyncFnOnce(&Self, &Caller, Q, &mut Asked) -> Result<Vec<HandOut>, Status>,
    ) -> Result<Vec<admin::HandOut>, Status> {
        let peer = peer_of(&request)?;
        let mut asked = Asked::default();
        let answer = match peer.caller() {
            Ok(caller) => {
                let answer = work(self, caller, request.into_inner(), &mut asked).await;
                let outcome = answer.as_ref().map(|_| None);
                let recorded = self.records.record(&peer, caller, rpc, &asked, outcome);
                let answer = recorded.map_err(Status::from).and(answer);
                answer.map(|hand_outs| self.visible(caller, hand_outs))
            }
            Err(unidentified) => Err(unidentified.into()),
        };
        let outcome = answer.as_ref();
        let word = outcome.map_or_else(status::reason, |_| Outcome::Done.as_str());
        self.metrics.called(rpc, word);
        answer
    }

    /// What the caller may see of it.
    fn visible(&self, caller: &Caller, hand_outs: Vec<HandOut>) -> Vec<admin::HandOut> {
        let may = |hand_out: &HandOut| {
            let id = OrganizationId::parse(&hand_out.organization_id).ok();
            id.is_some_and(|id| {
                self.policy
                    .check(caller.id(), Action::ReadAudit, &id, &*self.labels)
                    .is_ok()
            })
        };
        hand_outs.into_iter().filter(may).map(Into::into).collect()
    }

    /// Reads the files that were written to since a time.
    async fn ask(&self, question: Question, since: SystemTime) -> Result<Vec<HandOut>, Status> {
        let Some(file) = self.file.clone() else {
            return Ok(Vec::new());
        };
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| status::audit_is_being_read())?;
        let reading = spawn_blocking(move || {
            let _place = place;
            hand_outs(&files(&file, since)?, &question)
        });
        let read = within(self.call_timeout, Reason::AuditUnavailable, reading).await?;
        match read.map_err(io::Error::other).flatten() {
            Ok(hand_outs) => Ok(hand_outs),
            Err(error) => {
                tracing::error!(%error, "the audit log cannot be read");
                Err(audit::Unavailable.into())
            }
        }
    }

    fn allow(&self, caller: &Caller, id: &OrganizationId) -> Result<(), Status> {
        let action = Action::ReadAudit;
        let allowed = self.policy.check(caller.id(), action, id, &*self.labels);
        allowed.map_err(|denied| deny(caller.id(), action, Some(id), denied))
    }

    fn allow_any(&self, caller: &Caller) -> Result<(), Status> {
        let action = Action::ReadAudit;
        let allowed = self.policy.check_any(caller.id(), action);
        allowed.map_err(|denied| deny(caller.id(), action, None, denied))
    }
}

/// The files of a log that were written to since a time, the oldest first.
fn files(file: &Path, since: SystemTime) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(file)?.is_file() {
        return Ok(Vec::new());
    }
    let mut files = audit::numbered(file)?;
    files.push(file.to_owned());
    let mut recent = Vec::new();
    for file in files {
        if fs::metadata(&file)?.modified()? >= since {
            recent.push(file);
        }
    }
    Ok(recent)
}

impl Names for GetExposureRequest {
    fn organization_id(&self) -> &str {
        &self.organization_id
    }
}

impl From<HandOut> for admin::HandOut {
    fn from(hand_out: HandOut) -> Self {
        Self {
            caller: hand_out.caller,
            organization_id: hand_out.organization_id,
            resource: hand_out.resource,
            sharepoint_host: hand_out.sharepoint_host.unwrap_or_default(),
            fingerprint: hand_out.fingerprint,
            credential_version: hand_out.credential_version,
            first_time: Some(hand_out.first_time.into()),
            last_time: Some(hand_out.last_time.into()),
            times: hand_out.times,
            expire_time: Some(hand_out.expire_time.into()),
        }
    }
}
