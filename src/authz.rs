//! Who may do what: a policy of grants, default deny, asked on every call.
//!
//! The file is read and checked at start and when it changes; `deploy/policy.toml` explains it. An organization that a
//! caller has no grant for does not exist for that caller, so that nobody can find out by asking who
//! the customers are.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;
use spiffe::{SpiffeId, TrustDomain};

use crate::organization::{OrganizationId, Resource};

mod live;

pub use live::LivePolicy;

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
    /// Replace credentials.
    Rotate,
    /// Revoke organizations.
    Revoke,
    /// Back the store up and re-wrap its keys.
    ManageStore,
}

/// Why a caller may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No grant names the caller and the organization: it does not exist for this caller.
    #[error("there is no such organization")]
    Organization,
    /// No grant names the action for them.
    #[error("the policy does not grant this action to the caller")]
    Action,
    /// A grant names all but the resource.
    #[error("the policy does not grant this resource to the caller")]
    Resource,
}

/// All grants, by caller.
#[derive(Debug, Default)]
pub struct Policy {
    exact: HashMap<SpiffeId, Vec<Arc<Grant>>>,
    /// Grants to all ids below a path, which ends with `/`.
    below: Vec<(String, Arc<Grant>)>,
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
    grants: Vec<Arc<Grant>>,
}

/// A file of grants.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    #[serde(default)]
    grant: Vec<GrantEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantEntry {
    callers: Vec<toml::Spanned<String>>,
    actions: Vec<Action>,
    organizations: Vec<toml::Spanned<String>>,
    #[serde(default)]
    resources: Vec<ResourceName>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum ResourceName {
    Graph,
    Exchange,
    Sharepoint,
    AzureAdGraph,
}

#[derive(Debug)]
struct Grant {
    actions: Vec<Action>,
    organizations: Vec<OrganizationPattern>,
    resources: Vec<ResourceName>,
}

#[derive(Debug, PartialEq, Eq)]
enum OrganizationPattern {
    Exact(String),
    /// All that begin so; of everything, with an empty prefix.
    Prefix(String),
}

impl Policy {
    /// Parses a policy.
    ///
    /// # Errors
    /// What is wrong and in which line.
    pub fn parse(text: &str, trust_domains: &[TrustDomain]) -> Result<Self, String> {
        let file: PolicyFile = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut policy = Self::default();
        for entry in file.grant {
            policy.add(entry, trust_domains).map_err(|(at, reason)| {
                let line = text[..at].matches('\n').count() + 1;
                format!("line {line}: {reason}")
            })?;
        }
        Ok(policy)
    }

    fn add(
        &mut self,
        entry: GrantEntry,
        trust_domains: &[TrustDomain],
    ) -> Result<(), (usize, String)> {
        let mut organizations = Vec::new();
        for pattern in &entry.organizations {
            let at = pattern.span().start;
            organizations.push(
                OrganizationPattern::parse(pattern.get_ref()).ok_or_else(|| {
                    let reason = format!(
                        "`{}` is neither an organization id nor the beginning of one with `*`",
                        pattern.get_ref()
                    );
                    (at, reason)
                })?,
            );
        }
        let first = entry
            .callers
            .first()
            .map_or(0, |caller| caller.span().start);
        let for_tokens = entry.actions.contains(&Action::GetToken);
        if for_tokens == entry.resources.is_empty() {
            let reason = "`resources` belong to the action get_token, and it needs them".to_owned();
            return Err((first, reason));
        }
        let everything = [OrganizationPattern::Prefix(String::new())];
        if entry.actions.contains(&Action::ManageStore) && organizations != everything {
            let reason = "`manage_store` is for all organizations: `organizations = [\"*\"]`";
            return Err((first, reason.to_owned()));
        }
        let grant = Arc::new(Grant {
            actions: entry.actions,
            organizations,
            resources: entry.resources,
        });
        for caller in entry.callers {
            let at = caller.span().start;
            self.add_caller(caller.get_ref(), trust_domains, &grant)
                .map_err(|reason| (at, reason))?;
        }
        Ok(())
    }

    fn add_caller(
        &mut self,
        caller: &str,
        trust_domains: &[TrustDomain],
        grant: &Arc<Grant>,
    ) -> Result<(), String> {
        let (path, prefix) = match caller.strip_suffix("/*") {
            Some(path) => (path, true),
            None => (caller, false),
        };
        // All callers of the trust domain are `spiffe://domain/*`, which has no path to check.
        let of_all = |domain: &TrustDomain| path == format!("spiffe://{domain}");
        if prefix && trust_domains.iter().any(of_all) {
            self.below.push((format!("{path}/"), grant.clone()));
            return Ok(());
        }
        let id =
            SpiffeId::new(path).map_err(|error| format!("`{caller}` is no SPIFFE ID: {error}"))?;
        if !trust_domains.iter().any(|domain| id.is_member_of(domain)) {
            return Err(format!(
                "`{caller}` is outside the trust domain {}; no caller can have it",
                named(trust_domains)
            ));
        }
        if !prefix && id.path().is_empty() {
            return Err(format!("`{caller}` has no path; no caller can have it"));
        }
        if prefix {
            self.below.push((format!("{id}/"), grant.clone()));
        } else {
            self.exact.entry(id).or_default().push(grant.clone());
        }
        Ok(())
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
    ) -> Result<(), Denied> {
        let mut denied = Denied::Organization;
        for grant in self
            .grants(caller)
            .filter(|grant| grant.covers(organization))
        {
            if grant.actions.contains(&action) {
                return Ok(());
            }
            denied = Denied::Action;
        }
        Err(denied)
    }

    /// Whether a caller may have a token.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn check_token(
        &self,
        caller: &SpiffeId,
        organization: &OrganizationId,
        resource: &Resource,
    ) -> Result<(), Denied> {
        token_granted(self.grants(caller), organization, resource)
    }

    /// Whether a caller may do something with any organization at all: asked where there is none yet.
    ///
    /// # Errors
    /// [`Denied::Action`].
    pub fn check_any(&self, caller: &SpiffeId, action: Action) -> Result<(), Denied> {
        let granted = self
            .grants(caller)
            .any(|grant| grant.actions.contains(&action));
        if granted { Ok(()) } else { Err(Denied::Action) }
    }

    fn grants(&self, caller: &SpiffeId) -> impl Iterator<Item = &Grant> {
        self.shared_grants(caller).map(Arc::as_ref)
    }

    fn shared_grants(&self, caller: &SpiffeId) -> impl Iterator<Item = &Arc<Grant>> {
        let text = caller.to_string();
        let below = self
            .below
            .iter()
            .filter(move |(path, _)| text.starts_with(path.as_str()));
        let exact = self.exact.get(caller).into_iter().flatten();
        exact.chain(below.map(|(_, grant)| grant))
    }
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
            grants: policy.shared_grants(caller).cloned().collect(),
        }
    }
}

fn token_granted<'a>(
    grants: impl Iterator<Item = &'a Grant>,
    organization: &OrganizationId,
    resource: &Resource,
) -> Result<(), Denied> {
    let name = ResourceName::from(resource);
    let mut denied = Denied::Organization;
    for grant in grants.filter(|grant| grant.covers(organization)) {
        if !grant.actions.contains(&Action::GetToken) {
            if denied == Denied::Organization {
                denied = Denied::Action;
            }
        } else if grant.resources.contains(&name) {
            return Ok(());
        } else {
            denied = Denied::Resource;
        }
    }
    Err(denied)
}

impl Grant {
    fn covers(&self, organization: &OrganizationId) -> bool {
        self.organizations.iter().any(|pattern| match pattern {
            OrganizationPattern::Exact(id) => id == organization.as_str(),
            OrganizationPattern::Prefix(prefix) => {
                organization.as_str().starts_with(prefix.as_str())
            }
        })
    }
}

impl OrganizationPattern {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('*') {
            None => Some(Self::Exact(
                OrganizationId::parse(text).ok()?.as_str().to_owned(),
            )),
            // What is before the `*` must be able to begin an id.
            Some(prefix) => {
                OrganizationId::parse(&format!("{prefix}x")).ok()?;
                Some(Self::Prefix(prefix.to_owned()))
            }
        }
    }
}

fn named(domains: &[TrustDomain]) -> String {
    let names: Vec<_> = domains.iter().map(ToString::to_string).collect();
    names.join(" or ")
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

#[cfg(test)]
mod tests;
