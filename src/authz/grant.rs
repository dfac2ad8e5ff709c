//! One grant, and what it says to a question.

use serde::Deserialize;

use super::{Action, Denied};
use crate::organization::{
    Access, OrganizationId, Purpose, Resource,
    label::{Label, Labelled},
};

/// A resource by its name in policies.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum ResourceName {
    Graph,
    Exchange,
    Sharepoint,
    AzureAdGraph,
}

/// A purpose by its name in policies.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum PurposeName {
    Backup,
    Restore,
}

/// A kind of access by its name in policies.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum AccessName {
    Application,
    Delegated,
}

/// Few things of a kind, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(u16);

/// What is asked of a policy, apart from who asks.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// What is to be done.
    pub action: Action,
    /// With which organization.
    pub organization: &'a OrganizationId,
    /// Which token it is about, for [`Action::GetToken`]; `None`: any at all.
    pub token: Option<Wanted<'a>>,
}

/// A token that is asked for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// For which API.
    pub resource: &'a Resource,
    /// What for; `None`: for anything.
    pub purpose: Option<Purpose>,
    /// In whose name.
    pub access: Access,
    /// Whether a job runs that it is for. Asked only where a grant wants to know.
    pub job_runs: &'a dyn Fn() -> bool,
}

/// What the callers of a grant may do.
#[derive(Debug)]
pub(super) struct Grant {
    /// Line in the file where it begins.
    pub(super) line: usize,
    pub(super) actions: Set,
    /// Ids in their order, and beginnings of ids.
    pub(super) exact: Vec<OrganizationId>,
    pub(super) prefixes: Vec<String>,
    /// Of which the organization must have one, if there are any.
    pub(super) labels: Vec<Label>,
    pub(super) resources: Set,
    pub(super) purposes: Set,
    pub(super) access: Set,
    /// Whether it holds only while a job runs.
    pub(super) needs_job: bool,
}

impl Action {
    pub(super) const ALL: [Self; 12] = [
        Self::GetToken,
        Self::Register,
        Self::Get,
        Self::List,
        Self::Update,
        Self::Rotate,
        Self::Revoke,
        Self::Suspend,
        Self::Resume,
        Self::ManageJobs,
        Self::ManageStore,
        Self::ReadAudit,
    ];
}

impl ResourceName {
    pub(super) const ALL: [Self; 4] = [
        Self::Graph,
        Self::Exchange,
        Self::Sharepoint,
        Self::AzureAdGraph,
    ];
}

impl PurposeName {
    pub(super) const ALL: [Self; 2] = [Self::Backup, Self::Restore];
}

impl AccessName {
    pub(super) const ALL: [Self; 2] = [Self::Application, Self::Delegated];
}

impl Set {
    pub(super) fn of<T: Into<u16>>(things: impl IntoIterator<Item = T>) -> Self {
        let bits = things.into_iter().map(|thing| 1 << thing.into());
        Self(bits.fold(0, |all, bit: u16| all | bit))
    }

    pub(super) fn has(self, thing: impl Into<u16>) -> bool {
        self.0 & 1 << thing.into() != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Grant {
    /// Whether it is about the organization. Labels are looked at last, and only if there are any.
    pub(super) fn covers(&self, organization: &OrganizationId, labels: &impl Labelled) -> bool {
        self.names(organization)
            && (self.labels.is_empty()
                || self
                    .labels
                    .iter()
                    .any(|label| labels.has(organization, label)))
    }

    /// Whether the id is one that it is for.
    pub(super) fn names(&self, organization: &OrganizationId) -> bool {
        let text = organization.as_str();
        self.prefixes
            .iter()
            .any(|prefix| text.starts_with(prefix.as_str()))
            || self.exact.binary_search(organization).is_ok()
    }

    /// Whether it is for all organizations.
    pub(super) fn is_for_all(&self) -> bool {
        self.labels.is_empty() && self.prefixes.iter().any(String::is_empty)
    }

    /// What it says to a question about an organization that it covers.
    pub(super) fn decides(&self, question: &Question<'_>) -> Result<(), Denied> {
        if !self.actions.has(question.action) {
            return Err(Denied::Action);
        }
        let Some(Wanted {
            resource,
            purpose,
            access,
            job_runs,
        }) = question.token
        else {
            return Ok(());
        };
        if !self.resources.has(ResourceName::from(resource)) {
            return Err(Denied::Resource);
        }
        if purpose.is_some_and(|purpose| !self.purposes.has(PurposeName::from(purpose))) {
            return Err(Denied::Purpose);
        }
        if !self.access.has(AccessName::from(access)) {
            return Err(Denied::Access);
        }
        if self.needs_job && !job_runs() {
            return Err(Denied::Job);
        }
        Ok(())
    }
}

impl From<Action> for u16 {
    fn from(action: Action) -> Self {
        action as Self
    }
}

impl From<ResourceName> for u16 {
    fn from(resource: ResourceName) -> Self {
        resource as Self
    }
}

impl From<PurposeName> for u16 {
    fn from(purpose: PurposeName) -> Self {
        purpose as Self
    }
}

impl From<AccessName> for u16 {
    fn from(access: AccessName) -> Self {
        access as Self
    }
}

impl From<Access> for AccessName {
    fn from(access: Access) -> Self {
        match access {
            Access::Application => Self::Application,
            Access::Delegated => Self::Delegated,
        }
    }
}

impl From<&Resource> for ResourceName {
    fn from(resource: &Resource) -> Self {
        match resource {
            Resource::Graph => Self::Graph,
            Resource::Exchange => Self::Exchange,
            Resource::SharePoint(_) => Self::Sharepoint,
            Resource::AzureAdGraph => Self::AzureAdGraph,
        }
    }
}

impl From<Purpose> for PurposeName {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Backup => Self::Backup,
            Purpose::Restore => Self::Restore,
        }
    }
}
