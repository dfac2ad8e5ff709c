//! Which grant decided, for whoever wrote the policy.

use std::collections::BTreeSet;

use spiffe::{SpiffeId, TrustDomain};

use super::{Action, Denied, Policy, Question, Wanted, decide, file, grant::Grant};
use crate::organization::{
    Access, OrganizationId, Purpose, Resource,
    label::{Label, Labels},
};

/// A question to a policy, in the words of its file.
#[derive(Clone, Debug)]
pub struct Case {
    /// Who asks.
    pub caller: SpiffeId,
    /// What for.
    pub action: Action,
    /// About which organization.
    pub organization: OrganizationId,
    /// What labels that has.
    pub labels: Labels,
    /// Which token, with [`Action::GetToken`].
    pub resource: Option<Resource>,
    /// What that is for.
    pub purpose: Option<Purpose>,
    /// In whose name the token is to be.
    pub access: Access,
    /// Whether a job runs that it is for.
    pub job_runs: bool,
}

/// What a policy says, and why.
#[derive(Debug)]
pub struct Explanation {
    /// Its decision.
    pub decision: Result<(), Denied>,
    /// The grants of the caller, in the order of the file.
    pub grants: Vec<Considered>,
}

/// A grant, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Line in the file where it begins.
    pub line: usize,
    /// What it says.
    pub says: Result<(), Short>,
}

/// What a grant lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// It is for other ids.
    Organizations,
    /// The organization has none of its labels.
    Labels,
    /// It names the organization, but not the action.
    Actions,
    /// It names all but the resource.
    Resources,
    /// It names all but the purpose.
    Purposes,
    /// It names all but the access.
    Access,
    /// It holds while a job runs.
    Job,
}

impl Policy {
    /// Decides as a broker does, and tells why.
    #[must_use]
    pub fn explain(&self, case: &Case) -> Explanation {
        let job_runs = || case.job_runs;
        let token = case.resource.as_ref().map(|resource| Wanted {
            resource,
            purpose: case.purpose,
            access: case.access,
            job_runs: &job_runs,
        });
        let question = Question {
            action: case.action,
            organization: &case.organization,
            token,
        };
        let mut grants: Vec<_> = self
            .grants(&case.caller)
            .map(|grant| Considered {
                line: grant.line,
                says: says(grant, &question, &case.labels),
            })
            .collect();
        // One that names the caller twice, by its id and by the beginning of it.
        grants.sort_by_key(|grant| grant.line);
        grants.dedup();
        Explanation {
            decision: decide(self.granted(&case.caller), &question, &case.labels),
            grants,
        }
    }
}

fn says(grant: &Grant, question: &Question<'_>, labels: &Labels) -> Result<(), Short> {
    if !grant.names(question.organization) {
        return Err(Short::Organizations);
    }
    if !grant.covers(question.organization, labels) {
        return Err(Short::Labels);
    }
    grant.decides(question).map_err(|denied| match denied {
        Denied::Resource => Short::Resources,
        Denied::Purpose => Short::Purposes,
        Denied::Access => Short::Access,
        Denied::Job => Short::Job,
        Denied::Organization | Denied::Action | Denied::Labels => Short::Actions,
    })
}

/// What is in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Grants that somebody has.
    pub grants: usize,
    /// Callers, and beginnings of callers.
    pub callers: usize,
}

impl Policy {
    /// What is in it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let below = self.below.iter().map(|(_, granted)| granted);
        let all = self.exact.values().chain(below);
        let lines: BTreeSet<_> = all
            .flat_map(|granted| granted.all())
            .map(|grant| grant.line)
            .collect();
        Summary {
            grants: lines.len(),
            callers: self.exact.len() + self.below.len(),
        }
    }
}

impl Short {
    /// The key of the file that falls short.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Organizations => "organizations",
            Self::Labels => "labels",
            Self::Actions => "actions",
            Self::Resources => "resources",
            Self::Purposes => "purposes",
            Self::Access => "access",
            Self::Job => "job_grant",
        }
    }
}

/// Parts of a case as somebody typed them.
#[derive(Clone, Debug, Default)]
pub struct CaseText {
    /// A SPIFFE ID.
    pub caller: String,
    /// As in the file.
    pub action: String,
    /// An id.
    pub organization: String,
    /// `key=value`.
    pub labels: Vec<String>,
    /// As in the file.
    pub resource: Option<String>,
    /// As in the file.
    pub purpose: Option<String>,
    /// As in the file.
    pub access: Option<String>,
    /// Whether a job runs that it is for.
    pub job_runs: bool,
}

impl CaseText {
    /// Parses it.
    ///
    /// # Errors
    /// Which part is wrong, and how.
    pub fn parse(&self) -> Result<Case, String> {
        let caller = SpiffeId::new(&self.caller);
        let caller =
            caller.map_err(|error| format!("`{}` is no SPIFFE ID: {error}", self.caller))?;
        let wrong = |text: &str, error: &dyn std::fmt::Display| format!("`{text}`: {error}");
        let organization = OrganizationId::parse(&self.organization)
            .map_err(|error| wrong(&self.organization, &error))?;
        let labels = self.labels.iter();
        let labels = labels.map(|text| Label::parse(text).map_err(|error| wrong(text, &error)));
        let labels = Labels::new(labels.collect::<Result<Vec<_>, _>>()?)
            .map_err(|error| format!("labels: {error}"))?;
        let action = file::action(&self.action)?;
        let resource = self.resource.as_deref().map(file::resource).transpose()?;
        let purpose = self.purpose.as_deref().map(file::purpose).transpose()?;
        let access = self.access.as_deref().map(file::access).transpose()?;
        let of_token = resource.is_some() || purpose.is_some() || access.is_some();
        if action != Action::GetToken && of_token {
            let reason = "resource, purpose and access belong to the action get_token";
            return Err(reason.to_owned());
        }
        if action == Action::GetToken && resource.is_none() {
            return Err("get_token is asked for with a resource".to_owned());
        }
        Ok(Case {
            caller,
            action,
            organization,
            labels,
            resource,
            // As a broker takes a request that says nothing.
            purpose: purpose.or(Some(Purpose::Backup)),
            access: access.unwrap_or(Access::Application),
            job_runs: self.job_runs,
        })
    }
}

/// The trust domain that a policy file is for: that of the first caller in it.
///
/// # Errors
/// If it is no policy, or names no caller.
pub fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    let first = file::first_caller(text)?;
    let first = first.ok_or("the file names no caller; say which trust domain it is for")?;
    let id = first.strip_suffix("/*").unwrap_or(&first);
    let id = SpiffeId::new(id).map_err(|error| format!("`{first}` is no SPIFFE ID: {error}"))?;
    Ok(id.trust_domain().clone())
}
