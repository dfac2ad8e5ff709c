//! What the audit log is told of callers.
//!
//! The first time that a caller is given a token has a record of its own, which is written before the
//! token leaves. When the same caller is given the same token again, as most warm calls are, that adds
//! nothing about who has what: it is counted, and told in one record a while later. So a warm call
//! writes no file. A broker that is killed loses those counts of the last moments, and nothing else.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use super::{fields::Fields, listener::Peer, status, usage::Reached};
use crate::{
    audit::{Audit, Kind, Outcome, Place, Record, TokenRecord, Unavailable},
    authz::Caller,
    clock::Clock,
    organization::{OrganizationId, Resource, job::JobId},
    pb::v1::ErrorReason,
    token::{Token, TokenKey, exposure::HandOuts},
};

/// How long a repeated hand-out may go untold.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Pairs of token and caller with something to tell, at most; beyond, every hand-out has its own record.
const REPEATED_MAX: usize = 262_144;

/// How many are told of in one write.
const AT_ONCE: usize = 512;

/// Tells the audit log.
#[derive(Debug)]
pub struct Records {
    audit: Audit,
    clock: Clock,
    /// What was handed out again since that was last told.
    repeated: Mutex<Vec<Repeated>>,
    /// What is out there.
    hand_outs: Arc<HandOuts>,
}

/// A token that a caller was given again.
#[derive(Debug)]
struct Repeated {
    rpc: &'static str,
    peer: Peer,
    asked: Asked,
    token: Arc<Token>,
}

/// What is known of a request for the record, however far it was understood.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) organization: Option<OrganizationId>,
    pub(super) resource: Option<Resource>,
    /// The job that it is for, if it says.
    pub(super) job_id: Option<JobId>,
}

impl Asked {
    pub(super) fn read(
        fields: &mut Fields,
        organization_id: &str,
        resource: i32,
        sharepoint_host: &str,
    ) -> Self {
        Self {
            organization: fields.organization_id(organization_id),
            resource: fields.resource(resource, sharepoint_host),
            job_id: None,
        }
    }

    /// Who has a token: a caller, and for each job that it names another one, so that each is on record.
    fn holder(&self, caller: &Caller) -> [u8; 16] {
        self.job_id.as_ref().map_or(*caller.digest(), |job_id| {
            caller.digest_for(job_id.as_str())
        })
    }

    pub(super) fn key(&self) -> Option<TokenKey> {
        Some(TokenKey {
            organization: self.organization.clone()?,
            resource: self.resource.clone()?,
        })
    }
}

impl Records {
    /// Records into a log, with the times of a clock.
    #[must_use]
    pub fn new(audit: Audit, clock: Clock) -> Self {
        Self {
            audit,
            clock,
            repeated: Mutex::default(),
            hand_outs: Arc::default(),
        }
    }

    /// What is out there, by what was recorded.
    #[must_use]
    pub fn hand_outs(&self) -> Arc<HandOuts> {
        self.hand_outs.clone()
    }

    /// The same, with a task that tells of repeated hand-outs now and then, and at the end.
    #[must_use]
    pub fn start(
        audit: Audit,
        clock: Clock,
        tasks: &TaskTracker,
        end: &CancellationToken,
    ) -> Arc<Self> {
        let records = Arc::new(Self::new(audit, clock));
        tasks.spawn(records.clone().run(end.clone()));
        records
    }

    /// Records a hand-out, a refusal or, without a token, another thing done, so that it is written
    /// before anything more is sent to the peer.
    ///
    /// # Errors
    /// If it cannot be: then nothing may be handed out.
    pub(super) fn record(
        &self,
        peer: &Peer,
        caller: &Caller,
        rpc: &'static str,
        asked: &Asked,
        outcome: Result<Option<&Token>, &Status>,
    ) -> Result<Place, Unavailable> {
        let refusal = outcome.err().map(status::reason);
        let token = outcome.ok().flatten();
        let record = self.line((peer, caller), rpc, asked, refusal, token);
        let place = self.audit.record(&record)?;
        if let (Some(token), Some(key)) = (token, asked.key()) {
            self.hand_outs.add(&key, caller.name(), token);
        }
        peer.answers_after(place);
        Ok(place)
    }

    /// Has it on record that something begins that changes much or lets much out, before it does. The
    /// number is for [`Self::conclude`].
    ///
    /// # Errors
    /// If it cannot be: then nothing may be done.
    pub(super) async fn intend(
        &self,
        peer: &Peer,
        caller: &Caller,
        rpc: &'static str,
    ) -> Result<u64, Unavailable> {
        let call = self.audit.next_call();
        let asked = Asked::default();
        let mut record = self.line((peer, caller), rpc, &asked, None, None);
        (record.kind, record.call, record.outcome) = (Kind::Intent, Some(call), Outcome::Open);
        let place = self.audit.record(&record)?;
        self.audit.durable(place).await?;
        Ok(call)
    }

    /// Records what came of it. If that cannot be, its intent stands alone.
    pub(super) fn conclude(
        &self,
        peer: &Peer,
        caller: &Caller,
        rpc: &'static str,
        call: u64,
        refusal: Option<&'static str>,
    ) {
        let asked = Asked::default();
        let mut record = self.line((peer, caller), rpc, &asked, refusal, None);
        (record.kind, record.call) = (Kind::Result, Some(call));
        if self.audit.record(&record).is_err() {
            tracing::warn!(rpc, call, "the end of a call is not in the audit log");
        }
    }

    /// Records that a caller was over a limit, if that is due: the record stands for those before it, too.
    ///
    /// # Errors
    /// If it cannot be.
    pub(super) fn record_over_limit(
        &self,
        peer: &Peer,
        caller: &Caller,
        rpc: &'static str,
        reached: &Reached,
    ) -> Result<(), Unavailable> {
        let Some(untold) = reached.untold else {
            return Ok(());
        };
        let (asked, refusal) = (Asked::default(), ErrorReason::LimitReached.reason());
        let mut record = self.line((peer, caller), rpc, &asked, Some(refusal), None);
        record.again = Some(untold.get()).filter(|count| *count > 1);
        peer.answers_after(self.audit.record(&record)?);
        Ok(())
    }

    /// As [`Self::record`], for a token that a caller may be given again and again.
    ///
    /// # Errors
    /// As there.
    pub(super) fn record_hand_out(
        &self,
        peer: &Peer,
        caller: &Caller,
        rpc: &'static str,
        asked: &Asked,
        token: &Arc<Token>,
    ) -> Result<Place, Unavailable> {
        // Before it is counted: what is refused was not handed out.
        self.audit.check()?;
        let holder = asked.holder(caller);
        if let Some(again) = token.holders.again(&holder) {
            let told = !again.is_news || self.note(rpc, peer, asked, token);
            if told {
                let place = Place::new(again.recorded);
                peer.answers_after(place);
                return Ok(place);
            }
            token.holders.take(&holder);
        }
        let place = self.record(peer, caller, rpc, asked, Ok(Some(token)))?;
        token.holders.add(holder, place.get());
        Ok(place)
    }

    async fn run(self: Arc<Self>, end: CancellationToken) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            self.tell().await;
            self.hand_outs.sweep();
        }
        self.tell().await;
    }

    /// Remembers to tell of a token's next hand-outs, if there is room.
    fn note(&self, rpc: &'static str, peer: &Peer, asked: &Asked, token: &Arc<Token>) -> bool {
        let mut repeated = self.lock();
        let room = repeated.len() < REPEATED_MAX;
        if room {
            repeated.push(Repeated {
                rpc,
                peer: peer.clone(),
                asked: asked.clone(),
                token: token.clone(),
            });
        }
        room
    }

    async fn tell(&self) {
        // What is not told now is told next time.
        let mut repeated = mem::take(&mut *self.lock());
        while !repeated.is_empty() && self.audit.check().is_ok() {
            let mut last = Place::default();
            for repeated in repeated.drain(repeated.len().saturating_sub(AT_ONCE)..) {
                match self.tell_of(&repeated) {
                    Ok(place) => last = place,
                    Err(Unavailable) => self.lock().push(repeated),
                }
            }
            if let Err(error) = self.audit.durable(last).await {
                tracing::warn!(%error, "repeated hand-outs are not in the audit log yet");
            }
            yield_now().await;
        }
        self.lock().append(&mut repeated);
    }

    fn tell_of(&self, repeated: &Repeated) -> Result<Place, Unavailable> {
        let Repeated {
            rpc,
            peer,
            asked,
            token,
        } = repeated;
        let Ok(caller) = peer.caller() else {
            return Ok(Place::default());
        };
        let holder = asked.holder(caller);
        let count = token.holders.take(&holder);
        if count == 0 {
            return Ok(Place::default());
        }
        let mut record = self.line((peer, caller), rpc, asked, None, Some(token));
        record.again = Some(count);
        let told = self.audit.record(&record);
        if told.is_err() {
            token.holders.put_back(&holder, count);
        }
        told
    }

    fn line<'a>(
        &self,
        (peer, caller): (&Peer, &'a Caller),
        rpc: &'a str,
        asked: &'a Asked,
        refusal: Option<&'static str>,
        token: Option<&'a Token>,
    ) -> Record<'a> {
        Record {
            kind: Kind::Call,
            time: self.clock.now(),
            rpc,
            caller: caller.name(),
            on_word_of: peer.on_word_of(),
            organization: asked
                .organization
                .as_ref()
                .map_or("", OrganizationId::as_str),
            resource: asked.resource.as_ref().map(Resource::name),
            sharepoint_host: match &asked.resource {
                Some(Resource::SharePoint(host)) => host.as_deref(),
                _ => None,
            },
            call: None,
            outcome: refusal.map_or(Outcome::Done, Outcome::Refused),
            job_id: asked.job_id.as_ref().map(JobId::as_str),
            reason: None,
            again: None,
            token: token.map(|token| TokenRecord {
                fingerprint: &token.fingerprint,
                credential_version: token.credential_version,
                expire_time: self.clock.wall(token.expires_at),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Repeated>> {
        // Nothing that can panic happens under the lock.
        self.repeated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
