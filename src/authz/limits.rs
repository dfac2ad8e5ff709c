//! How much a caller may take, whatever it is granted.

use std::{collections::HashMap, num::NonZeroU32};

use serde::Deserialize;
use spiffe::SpiffeId;

use super::granted::CallerPattern;

/// What one caller may take of a broker, over all of its connections. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Calls a second, as an average; as many may come at once.
    pub calls_per_second: Option<NonZeroU32>,
    /// Calls that wait for something, and streams of tokens, at a time.
    pub calls_under_way: Option<NonZeroU32>,
    /// Organizations that it may ask about within an hour. More are answered all the same: operators are
    /// told.
    pub organizations_per_hour: Option<NonZeroU32>,
}

/// The limits of a policy.
#[derive(Debug, Default)]
pub(super) struct Limiting {
    /// Of whoever has none of their own.
    all: Limits,
    exact: HashMap<SpiffeId, Limits>,
    /// By the beginning of an id, the longest first.
    below: Vec<(String, Limits)>,
}

impl Limits {
    /// These, and where they do not say anything, others.
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            calls_per_second: self.calls_per_second.or(others.calls_per_second),
            calls_under_way: self.calls_under_way.or(others.calls_under_way),
            organizations_per_hour: self
                .organizations_per_hour
                .or(others.organizations_per_hour),
        }
    }
}

impl Limiting {
    /// The same limits for all.
    pub(super) fn new(all: Limits) -> Self {
        Self {
            all,
            ..Self::default()
        }
    }

    /// Gives somebody limits of their own. `false` if they have some already.
    pub(super) fn add(&mut self, caller: CallerPattern, limits: Limits) -> bool {
        match caller {
            CallerPattern::Exact(id) => self.exact.insert(id, limits).is_none(),
            CallerPattern::Below(path) => {
                let place = self
                    .below
                    .binary_search_by(|(other, _)| (path.len(), other).cmp(&(other.len(), &path)));
                let at = match place {
                    Ok(_) => return false,
                    Err(at) => at,
                };
                self.below.insert(at, (path, limits));
                true
            }
        }
    }

    /// Those of a caller, by its id; else by the longest path that it is below; else those of all.
    pub(super) fn of(&self, caller: &SpiffeId) -> Limits {
        let below = || {
            let text = caller.to_string();
            let mut below = self.below.iter();
            let found = below.find(|(path, _)| text.starts_with(path.as_str()));
            found.map(|(_, limits)| limits)
        };
        let own = self.exact.get(caller).or_else(below);
        own.copied().unwrap_or_default().or(self.all)
    }
}
