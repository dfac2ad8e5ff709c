//! Who may do what: a policy of grants, default deny, asked on every call.
//!
//! The file is read and checked at start and when it changes; `deploy/policy.toml` explains it. An organization that a
//! caller has no grant for does not exist for that caller, so that nobody can find out by asking who
//! the customers are.
//!
//! A policy never changes: another one takes its place as a whole.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;
use smallvec::SmallVec;
use spiffe::{SpiffeId, TrustDomain};

use crate::organization::{
    OrganizationId,
    label::{Labelled, Labels},
};

mod description;
pub mod explain;
mod file;
mod grant;
mod granted;
mod limits;
mod live;

pub use grant::{Question, Wanted};
pub use limits::Limits;
pub use live::LivePolicy;

use grant::Grant;
use granted::Granted;
use limits::Limiting;

/// What a caller wants to do.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Get tokens.
    GetToken,
    /// Register organizations.
    Register,
    /// Read an organization.
    Get,
    /// List organizations.
    List,
    /// Change names and labels.
    Update,
    /// Replace credentials.
    Rotate,
    /// Revoke organizations.
    Revoke,
    /// Suspend organizations.
    Suspend,
    /// Resume organizations: an action of its own, so that whoever may stop one, as an alarm may, need
    /// not be able to have it go on.
    Resume,
    /// Tell which jobs run.
    ManageJobs,
    /// Back the store up and re-wrap its keys.
    ManageStore,
    /// Ask the audit log who has which tokens.
    ReadAudit,
}

/// Why a caller may not. Of several grants that do not suffice, the one that is nearest says why: these
/// are in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Denied {
    /// No grant names the caller and the organization: it does not exist for this caller.
    #[error("there is no such organization")]
    Organization,
    /// No grant names the action for them.
    #[error("the policy does not grant this action to the caller")]
    Action,
    /// A grant names all but the labels.
    #[error(
        "the policy does not grant this action to the caller with these labels; those that a grant goes by are for callers whose own grant names them"
    )]
    Labels,
    /// A grant names all but the resource.
    #[error("the policy does not grant this resource to the caller")]
    Resource,
    /// A grant names all but the purpose.
    #[error("the policy does not grant this purpose to the caller")]
    Purpose,
    /// A grant names all but the access.
    #[error("the policy does not grant this kind of access to the caller")]
    Access,
    /// A grant names all, for as long as a job runs.
    #[error(
        "the policy grants this only for a job that runs, and no job grant covers this caller, organization, resource, purpose and job"
    )]
    Job,
}

/// All grants, by caller.
#[derive(Debug, Default)]
pub struct Policy {
    exact: HashMap<SpiffeId, Arc<Granted>>,
    /// Grants to all ids below a path, which ends with `/`.
    below: Vec<(String, Arc<Granted>)>,
    /// Keys of labels that decide who may do what.
    label_keys: BTreeSet<Box<str>>,
    limiting: Limiting,
}

/// Somebody who calls, with the grants that a policy has for them: found once for a connection and
/// policy, since to go through all grants on every call costs more than the rest of the check.
#[derive(Debug)]
pub struct Caller {
    id: SpiffeId,
    name: String,
    /// Of the name.
    digest: [u8; 16],
    found: ArcSwap<FoundGrants>,
}

/// Grants of a caller.
#[derive(Debug)]
struct FoundGrants {
    /// Whose they are. Weak, so that an idle connection keeps no old policy in memory.
    policy: Weak<Policy>,
    grants: SmallVec<[Arc<Granted>; 2]>,
    limits: Limits,
}

impl Policy {
    /// Parses a policy.
    ///
    /// # Errors
    /// What is wrong and in which line.
    pub fn parse(text: &str, trust_domains: &[TrustDomain]) -> Result<Self, String> {
        file::parse(text, trust_domains)
    }

    /// Whether a caller may do something with an organization. For [`Action::GetToken`] ask
    /// [`Self::check_token`].
    ///
    /// # Errors
    /// [`Denied::Organization`] or [`Denied::Action`].
    pub fn check(
        &self,
        caller: &SpiffeId,
        action: Action,
        organization: &OrganizationId,
        labels: &impl Labelled,
    ) -> Result<(), Denied> {
        let question = Question {
            action,
            organization,
            token: None,
        };
        decide(self.granted(caller), &question, labels)
    }

    /// Whether a caller may have a token.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check_token(
        &self,
        caller: &SpiffeId,
        organization: &OrganizationId,
        wanted: Wanted<'_>,
        labels: &impl Labelled,
    ) -> Result<(), Denied> {
        let question = Question::token(organization, wanted);
        decide(self.granted(caller), &question, labels)
    }

    /// Whether a caller may do something with any organization at all: asked where there is none yet.
    ///
    /// # Errors
    /// [`Denied::Action`].
    pub fn check_any(&self, caller: &SpiffeId, action: Action) -> Result<(), Denied> {
        let granted = self.grants(caller).any(|grant| grant.actions.has(action));
        if granted { Ok(()) } else { Err(Denied::Action) }
    }

    /// Whether a caller who may do something with an organization may also give it these labels in place
    /// of the old ones, where it had any.
    ///
    /// Whoever may by the id, may. Whoever may by labels only, keeps within them: the organization goes
    /// on to have one of those, and of all labels that any grant of the policy goes by, only those change
    /// that the caller's own grants name. So nobody makes an organization somebody else's, or
    /// takes it away.
    ///
    /// # Errors
    /// [`Denied::Labels`], and what [`Self::check`] says where no grant is about such an id.
    pub fn check_labels(
        &self,
        caller: &SpiffeId,
        action: Action,
        organization: &OrganizationId,
        [old, new]: [&Labels; 2],
    ) -> Result<(), Denied> {
        let mine: Vec<_> = self
            .grants(caller)
            .filter(|grant| grant.actions.has(action) && grant.names(organization))
            .collect();
        if mine.is_empty() {
            return self.check(caller, action, organization, new);
        }
        if mine.iter().any(|grant| grant.labels.is_empty()) {
            return Ok(());
        }
        let names = |label| mine.iter().any(|grant| grant.labels.contains(label));
        let changed = old.iter().filter(|label| !new.contains(label));
        let changed = changed.chain(new.iter().filter(|label| !old.contains(label)));
        let mut guarded = changed.filter(|label| self.label_keys.contains(label.key()));
        let stays = new.iter().any(names);
        if stays && guarded.all(names) {
            return Ok(());
        }
        Err(Denied::Labels)
    }

    fn grants(&self, caller: &SpiffeId) -> impl Iterator<Item = &Grant> {
        self.granted(caller).flat_map(Granted::all)
    }

    fn granted(&self, caller: &SpiffeId) -> impl Iterator<Item = &Granted> {
        self.shared(caller).map(Arc::as_ref)
    }

    fn shared(&self, caller: &SpiffeId) -> impl Iterator<Item = &Arc<Granted>> {
        let text = caller.to_string();
        let below = self
            .below
            .iter()
            .filter(move |(path, _)| text.starts_with(path.as_str()));
        let exact = self.exact.get(caller).into_iter();
        exact.chain(below.map(|(_, granted)| granted))
    }
}

impl<'a> Question<'a> {
    fn token(organization: &'a OrganizationId, wanted: Wanted<'a>) -> Self {
        Self {
            action: Action::GetToken,
            organization,
            token: Some(wanted),
        }
    }
}

/// Goes through the grants until one suffices.
fn decide<'a>(
    granted: impl Iterator<Item = &'a Granted>,
    question: &Question<'_>,
    labels: &impl Labelled,
) -> Result<(), Denied> {
    let mut denied = Denied::Organization;
    for granted in granted {
        for grant in granted.about(question.organization) {
            if !grant.covers(question.organization, labels) {
                continue;
            }
            match grant.decides(question) {
                Ok(()) => return Ok(()),
                Err(nearer) => denied = denied.max(nearer),
            }
        }
    }
    Err(denied)
}

impl Caller {
    /// A caller with the grants of a policy.
    #[must_use]
    pub fn new(id: SpiffeId, policy: &Arc<Policy>) -> Self {
        let found = ArcSwap::from_pointee(FoundGrants::new(&id, policy));
        let name = id.to_string();
        let digest = digest(&SHA256, name.as_bytes());
        Self {
            digest: *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"),
            name,
            id,
            found,
        }
    }

    /// The grants that a policy has for the caller, looked up again where those that were found are of
    /// another one.
    fn grants_of(&self, policy: &Arc<Policy>) -> Guard<Arc<FoundGrants>> {
        let found = self.found.load();
        if found.policy.as_ptr() == Arc::as_ptr(policy) {
            return found;
        }
        let found = Arc::new(FoundGrants::new(&self.id, policy));
        self.found.store(found.clone());
        Guard::from_inner(found)
    }

    /// The SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Stands for the SPIFFE ID where its text takes too much room: of two callers it is never the same.
    #[must_use]
    pub fn digest(&self) -> &[u8; 16] {
        &self.digest
    }

    /// As [`Self::digest`], of the caller in one of its roles.
    #[must_use]
    pub fn digest_for(&self, role: &str) -> [u8; 16] {
        // No SPIFFE ID has a blank.
        let text = [self.name.as_str(), " ", role].concat();
        let digest = digest(&SHA256, text.as_bytes());
        *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
    }

    /// The SPIFFE ID as text.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FoundGrants {
    fn new(caller: &SpiffeId, policy: &Arc<Policy>) -> Self {
        Self {
            policy: Arc::downgrade(policy),
            grants: policy.shared(caller).cloned().collect(),
            limits: policy.limiting.of(caller),
        }
    }
}

#[cfg(test)]
mod tests;
