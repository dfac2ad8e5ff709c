//! The grants of a policy by caller: compiled once, when the file is read, and shared by all connections.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use spiffe::SpiffeId;

use super::{Policy, grant::Grant, limits::Limiting};
use crate::organization::OrganizationId;

/// Up to so many grants are gone through one by one: that is faster than to look them up.
const FEW: usize = 8;
/// Ids that are looked up, of all callers of a policy together, about 100 bytes each. Callers beyond have
/// their grants gone through.
const ROWS_MAX: usize = 1_000_000;

/// Whom a grant is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum CallerPattern {
    /// One caller.
    Exact(SpiffeId),
    /// All whose ids begin so. Ends with `/`.
    Below(String),
}

/// The grants of one caller pattern.
#[derive(Debug, Default)]
pub(super) struct Granted {
    /// Those for named organizations only, by the organization.
    named: HashMap<OrganizationId, Vec<Arc<Grant>>>,
    /// All others.
    others: Vec<Arc<Grant>>,
    /// All, in the order of the file.
    all: Vec<Arc<Grant>>,
}

/// A policy that is being read.
#[derive(Debug, Default)]
pub(super) struct Granting {
    by_caller: HashMap<CallerPattern, Vec<Arc<Grant>>>,
    label_keys: BTreeSet<Box<str>>,
}

impl Granting {
    pub(super) fn add(&mut self, caller: CallerPattern, grant: &Arc<Grant>) {
        let keys = grant.labels.iter().map(|label| label.key().into());
        self.label_keys.extend(keys);
        let grants = self.by_caller.entry(caller).or_default();
        // A pattern may be named twice in one grant.
        if grants.last().is_none_or(|last| !Arc::ptr_eq(last, grant)) {
            grants.push(grant.clone());
        }
    }

    pub(super) fn compiled(self, limiting: Limiting) -> Policy {
        let mut policy = Policy {
            limiting,
            label_keys: self.label_keys,
            ..Policy::default()
        };
        let mut rows = 0;
        for (caller, grants) in self.by_caller {
            let granted = Arc::new(Granted::compile(grants, &mut rows));
            match caller {
                CallerPattern::Exact(id) => {
                    policy.exact.insert(id, granted);
                }
                CallerPattern::Below(path) => policy.below.push((path, granted)),
            }
        }
        policy
    }
}

impl Granted {
    fn compile(all: Vec<Arc<Grant>>, rows: &mut usize) -> Self {
        let is_named = |grant: &&Arc<Grant>| grant.prefixes.is_empty();
        let ids: usize = all
            .iter()
            .filter(is_named)
            .map(|grant| grant.exact.len())
            .sum();
        let mut granted = Self::default();
        if all.iter().filter(is_named).count() > FEW && *rows + ids <= ROWS_MAX {
            *rows += ids;
            for grant in &all {
                if !is_named(&grant) {
                    granted.others.push(grant.clone());
                }
                for id in grant.exact.iter().filter(|_| is_named(&grant)) {
                    granted
                        .named
                        .entry(id.clone())
                        .or_default()
                        .push(grant.clone());
                }
            }
        } else {
            granted.others.clone_from(&all);
        }
        granted.all = all;
        granted
    }

    /// All grants, in the order of the file.
    pub(super) fn all(&self) -> impl Iterator<Item = &Grant> {
        self.all.iter().map(Arc::as_ref)
    }

    /// Those that may be about an organization.
    pub(super) fn about(&self, organization: &OrganizationId) -> impl Iterator<Item = &Grant> {
        let named = if self.named.is_empty() {
            None
        } else {
            self.named.get(organization)
        };
        let named = named.into_iter().flatten();
        named.chain(&self.others).map(Arc::as_ref)
    }
}
