//! The policy file: TOML, read and checked as a whole. `deploy/policy.toml` explains it.

use std::{num::NonZeroU32, sync::Arc};

use serde::{
    Deserialize,
    de::{
        IntoDeserializer as _,
        value::{Error, StrDeserializer},
    },
};
use spiffe::{SpiffeId, TrustDomain};
use toml::Spanned;

use super::{
    Action, Policy,
    grant::{AccessName, Grant, PurposeName, ResourceName, Set},
    granted::{CallerPattern, Granting},
    limits::{Limiting, Limits},
};
use crate::organization::{Access, OrganizationId, Purpose, Resource, label::Label};

/// A file of grants.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    #[serde(default)]
    grant: Vec<Spanned<GrantEntry>>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    caller_limits: Vec<LimitsEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsEntry {
    callers: Vec<Spanned<String>>,
    calls_per_second: Option<NonZeroU32>,
    calls_under_way: Option<NonZeroU32>,
    organizations_per_hour: Option<NonZeroU32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantEntry {
    callers: Vec<Spanned<String>>,
    actions: Vec<Action>,
    organizations: Vec<Spanned<String>>,
    labels: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    resources: Vec<ResourceName>,
    purposes: Option<Spanned<Vec<PurposeName>>>,
    access: Option<Spanned<Vec<AccessName>>>,
    job_grant: Option<Spanned<JobGrantNeed>>,
}

/// Whether a grant holds only while a job runs.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum JobGrantNeed {
    Required,
    NotNeeded,
}

/// The first caller that a file names.
pub(super) fn first_caller(text: &str) -> Result<Option<String>, String> {
    let file: PolicyFile = toml::from_str(text).map_err(|error| error.to_string())?;
    let callers = file
        .grant
        .into_iter()
        .flat_map(|grant| grant.into_inner().callers);
    Ok(callers.map(Spanned::into_inner).next())
}

/// An action, as the file has it.
pub(super) fn action(word: &str) -> Result<Action, String> {
    parsed(word)
}

/// A resource, as the file has it.
pub(super) fn resource(word: &str) -> Result<Resource, String> {
    Ok(match parsed(word)? {
        ResourceName::Graph => Resource::Graph,
        ResourceName::Exchange => Resource::Exchange,
        ResourceName::Sharepoint => Resource::SharePoint(None),
        ResourceName::AzureAdGraph => Resource::AzureAdGraph,
    })
}

/// A purpose, as the file has it.
pub(super) fn purpose(word: &str) -> Result<Purpose, String> {
    Ok(match parsed(word)? {
        PurposeName::Backup => Purpose::Backup,
        PurposeName::Restore => Purpose::Restore,
    })
}

/// A kind of access, as the file has it.
pub(super) fn access(word: &str) -> Result<Access, String> {
    Ok(match parsed(word)? {
        AccessName::Application => Access::Application,
        AccessName::Delegated => Access::Delegated,
    })
}

fn parsed<'a, T: Deserialize<'a>>(word: &'a str) -> Result<T, String> {
    let word: StrDeserializer<'a, Error> = word.into_deserializer();
    T::deserialize(word).map_err(|error| error.to_string())
}

/// What is wrong, and where it begins in the text.
type Wrong = (usize, String);

/// Parses a policy.
pub(super) fn parse(text: &str, trust_domains: &[TrustDomain]) -> Result<Policy, String> {
    let file: PolicyFile = toml::from_str(text).map_err(|error| error.to_string())?;
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    let mut granting = Granting::default();
    for entry in file.grant {
        let begins = line(entry.span().start);
        let added = add(&mut granting, entry.into_inner(), begins, trust_domains);
        added.map_err(|(at, reason)| format!("line {}: {reason}", line(at)))?;
    }
    let mut limiting = Limiting::new(file.limits);
    for entry in &file.caller_limits {
        let added = limit(&mut limiting, entry, trust_domains);
        added.map_err(|(at, reason)| format!("line {}: {reason}", line(at)))?;
    }
    Ok(granting.compiled(limiting))
}

fn limit(
    limiting: &mut Limiting,
    entry: &LimitsEntry,
    trust_domains: &[TrustDomain],
) -> Result<(), Wrong> {
    let limits = Limits {
        calls_per_second: entry.calls_per_second,
        calls_under_way: entry.calls_under_way,
        organizations_per_hour: entry.organizations_per_hour,
    };
    for caller in &entry.callers {
        let (at, text) = (caller.span().start, caller.get_ref());
        let pattern = caller_pattern(text, trust_domains).map_err(|reason| (at, reason))?;
        if !limiting.add(pattern, limits) {
            return Err((at, format!("`{text}` has limits of its own already")));
        }
    }
    Ok(())
}

fn add(
    granting: &mut Granting,
    entry: GrantEntry,
    line: usize,
    trust_domains: &[TrustDomain],
) -> Result<(), Wrong> {
    let mut callers = Vec::new();
    for caller in &entry.callers {
        let pattern = caller_pattern(caller.get_ref(), trust_domains);
        callers.push(pattern.map_err(|reason| (caller.span().start, reason))?);
    }
    let grant = Arc::new(grant(&entry, line)?);
    for caller in callers {
        granting.add(caller, &grant);
    }
    Ok(())
}

fn grant(entry: &GrantEntry, line: usize) -> Result<Grant, Wrong> {
    let (mut exact, mut prefixes) = (Vec::new(), Vec::new());
    for pattern in &entry.organizations {
        let (at, text) = (pattern.span().start, pattern.get_ref());
        let wrong = || {
            let reason =
                format!("`{text}` is neither an organization id nor the beginning of one with `*`");
            (at, reason)
        };
        match text.strip_suffix('*') {
            None => exact.push(OrganizationId::parse(text).map_err(|_| wrong())?),
            // What is before the `*` must be able to begin an id.
            Some(prefix) => {
                OrganizationId::parse(&format!("{prefix}x")).map_err(|_| wrong())?;
                prefixes.push(prefix.to_owned());
            }
        }
    }
    exact.sort_unstable();
    exact.dedup();
    let grant = Grant {
        line,
        actions: Set::of(entry.actions.iter().copied()),
        exact,
        prefixes,
        labels: labels(entry)?,
        resources: Set::of(entry.resources.iter().copied()),
        purposes: of_token("purposes", entry, &entry.purposes, &PurposeName::ALL)?,
        access: of_token("access", entry, &entry.access, &[AccessName::Application])?,
        needs_job: needs_job(entry)?,
    };
    check(entry, &grant)?;
    Ok(grant)
}

fn labels(entry: &GrantEntry) -> Result<Vec<Label>, Wrong> {
    let Some(labels) = &entry.labels else {
        return Ok(Vec::new());
    };
    if labels.get_ref().is_empty() {
        let reason = "`labels` are empty, which no organization has; name some, or leave them out";
        return Err((labels.span().start, reason.to_owned()));
    }
    let labels = labels.get_ref().iter().map(|label| {
        let wrong = |malformed| {
            let reason = format!("`{}`: {malformed}", label.get_ref());
            (label.span().start, reason)
        };
        Label::parse(label.get_ref()).map_err(wrong)
    });
    labels.collect()
}

/// What is said about tokens only, or, where nothing is said, what that means.
fn of_token<T: Copy + Into<u16>>(
    key: &str,
    entry: &GrantEntry,
    named: &Option<Spanned<Vec<T>>>,
    otherwise: &[T],
) -> Result<Set, Wrong> {
    let Some(named) = named else {
        return Ok(Set::of(otherwise.iter().copied()));
    };
    let wrong = |reason: String| Err((named.span().start, reason));
    if !entry.actions.contains(&Action::GetToken) {
        return wrong(format!("`{key}` belongs to the action get_token"));
    }
    if named.get_ref().is_empty() {
        return wrong(format!(
            "`{key}` is empty, so no token is granted; name some, or leave it out"
        ));
    }
    Ok(Set::of(named.get_ref().iter().copied()))
}

fn needs_job(entry: &GrantEntry) -> Result<bool, Wrong> {
    let Some(need) = &entry.job_grant else {
        return Ok(false);
    };
    if !entry.actions.contains(&Action::GetToken) {
        let reason = "`job_grant` belongs to the action get_token";
        return Err((need.span().start, reason.to_owned()));
    }
    Ok(*need.get_ref() == JobGrantNeed::Required)
}

/// What the parts of a grant must be to each other.
fn check(entry: &GrantEntry, grant: &Grant) -> Result<(), Wrong> {
    let first = entry.callers.first();
    let wrong = |reason: &str| {
        Err((
            first.map_or(0, |caller| caller.span().start),
            reason.to_owned(),
        ))
    };
    if grant.actions.has(Action::GetToken) == grant.resources.is_empty() {
        return wrong("`resources` belong to the action get_token, and it needs them");
    }
    let everything = grant.is_for_all() && grant.exact.is_empty() && grant.prefixes.len() == 1;
    if grant.actions.has(Action::ManageStore) && !everything {
        return wrong("`manage_store` is for all organizations: `organizations = [\"*\"]`");
    }
    let any_id = grant.prefixes.iter().any(String::is_empty);
    if grant.actions.has(Action::Register) && !grant.labels.is_empty() && any_id {
        return wrong(
            "`register` with `labels` needs ids of its own, as in `organizations = [\"northwind-*\"]`: whoever may choose any id learns which ones are taken",
        );
    }
    Ok(())
}

fn caller_pattern(caller: &str, trust_domains: &[TrustDomain]) -> Result<CallerPattern, String> {
    let (path, prefix) = match caller.strip_suffix("/*") {
        Some(path) => (path, true),
        None => (caller, false),
    };
    // All callers of a trust domain are `spiffe://domain/*`, which has no path to check.
    let of_all = |domain: &TrustDomain| path == format!("spiffe://{domain}");
    if prefix && trust_domains.iter().any(of_all) {
        return Ok(CallerPattern::Below(format!("{path}/")));
    }
    let id = SpiffeId::new(path).map_err(|error| format!("`{caller}` is no SPIFFE ID: {error}"))?;
    if !trust_domains.iter().any(|domain| id.is_member_of(domain)) {
        return Err(format!(
            "`{caller}` is outside the trust domain {}; no caller can have it",
            named(trust_domains)
        ));
    }
    if !prefix && id.path().is_empty() {
        return Err(format!("`{caller}` has no path; no caller can have it"));
    }
    Ok(if prefix {
        CallerPattern::Below(format!("{id}/"))
    } else {
        CallerPattern::Exact(id)
    })
}

fn named(domains: &[TrustDomain]) -> String {
    let names: Vec<_> = domains.iter().map(ToString::to_string).collect();
    names.join(" or ")
}
