//! The policy in force, which is replaced while calls ask it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use spiffe::SpiffeId;
use tokio::sync::watch;

use super::{Action, Caller, Denied, Limits, Policy, Question, Wanted, decide};
use crate::organization::{
    OrganizationId,
    label::{Labelled, Labels},
};

/// Holds the policy in force.
#[derive(Debug)]
pub struct LivePolicy {
    current: ArcSwap<Policy>,
    changes: watch::Sender<()>,
}

impl LivePolicy {
    /// A policy to begin with.
    #[must_use]
    pub fn new(policy: Policy) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::from_pointee(policy),
            changes: watch::Sender::new(()),
        })
    }

    /// The policy in force.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// Puts another policy in force: calls that ask from now on ask it, on open connections, too.
    pub fn replace(&self, policy: Policy) {
        self.current.store(Arc::new(policy));
        self.changes.send_replace(());
    }

    /// Tells of later changes, for what goes on longer than a call.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// As [`Policy::check`].
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check(
        &self,
        caller: &SpiffeId,
        action: Action,
        organization: &OrganizationId,
        labels: &impl Labelled,
    ) -> Result<(), Denied> {
        let policy = self.current.load();
        policy.check(caller, action, organization, labels)
    }

    /// As [`Policy::check_any`].
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check_any(&self, caller: &SpiffeId, action: Action) -> Result<(), Denied> {
        self.current.load().check_any(caller, action)
    }

    /// As [`Policy::check_labels`].
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check_labels(
        &self,
        caller: &SpiffeId,
        action: Action,
        organization: &OrganizationId,
        change: [&Labels; 2],
    ) -> Result<(), Denied> {
        let policy = self.current.load();
        policy.check_labels(caller, action, organization, change)
    }

    /// As [`Policy::check_token`], by the grants that were found for the caller before, if they are of
    /// the policy in force.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check_token_of(
        &self,
        caller: &Caller,
        organization: &OrganizationId,
        wanted: Wanted<'_>,
        labels: &impl Labelled,
    ) -> Result<(), Denied> {
        let policy = self.current.load();
        let found = caller.grants_of(&policy);
        let granted = found.grants.iter().map(Arc::as_ref);
        decide(granted, &Question::token(organization, wanted), labels)
    }

    /// How much a caller may take.
    #[must_use]
    pub fn limits_of(&self, caller: &Caller) -> Limits {
        caller.grants_of(&self.current.load()).limits
    }
}
