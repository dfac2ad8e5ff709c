//! Whether a caller takes more than its policy has for it: asked at the beginning of every call.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::Status;

use super::{
    listener::Peer,
    records::Records,
    status,
    usage::{Reached, UnderWay},
};
use crate::{
    authz::{Caller, Limits, LivePolicy},
    metrics::Metrics,
    organization::OrganizationId,
};

/// What it takes to let callers in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission<'a> {
    pub(super) policy: &'a Arc<LivePolicy>,
    pub(super) records: &'a Records,
    pub(super) metrics: &'a Metrics,
}

/// A call that was let in.
#[derive(Debug)]
pub(super) struct Admitted<'a> {
    of: Admission<'a>,
    peer: &'a Peer,
    caller: &'a Caller,
    rpc: &'static str,
    limits: Limits,
    now: Instant,
}

impl<'a> Admission<'a> {
    /// Counts a call. A refusal is on record, if that is due.
    ///
    /// # Errors
    /// If there are too many of the caller.
    pub(super) fn admit(
        self,
        peer: &'a Peer,
        caller: &'a Caller,
        rpc: &'static str,
        now: Instant,
    ) -> Result<Admitted<'a>, Status> {
        let admitted = Admitted {
            of: self,
            peer,
            caller,
            rpc,
            limits: self.policy.limits_of(caller),
            now,
        };
        let counted = peer.usage().call(&admitted.limits, now);
        counted.map_err(|reached| admitted.refuse(&reached))?;
        Ok(admitted)
    }
}

impl Admitted<'_> {
    /// Who it is of.
    pub(super) fn caller(&self) -> &Caller {
        self.caller
    }

    /// Takes a place for a call that waits, or for a stream. A refusal is to be recorded as any other.
    ///
    /// # Errors
    /// If the caller has too many of them.
    pub(super) fn begin(&self) -> Result<UnderWay, Status> {
        let begun = self.peer.usage().begin(&self.limits);
        begun.map_err(|reached| status::over_limit(&reached))
    }

    /// Counts an organization that the caller asks about, whether it may or not.
    pub(super) fn asks_about(&self, organization: &OrganizationId) {
        let usage = self.peer.usage();
        if let Some(limit) = usage.asks_about(organization, &self.limits, self.now) {
            self.of.metrics.walks();
            tracing::warn!(
                caller = self.caller.name(),
                organizations_per_hour = limit,
                "a caller asks about more organizations within an hour than it should"
            );
        }
    }

    fn refuse(&self, reached: &Reached) -> Status {
        let (peer, caller) = (self.peer, self.caller);
        let recorded = self
            .of
            .records
            .record_over_limit(peer, caller, self.rpc, reached);
        recorded.map_or_else(Status::from, |()| status::over_limit(reached))
    }
}
