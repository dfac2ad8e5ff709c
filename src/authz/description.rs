//! What a policy grants a caller, in words.

use std::fmt;

use spiffe::SpiffeId;

use super::{
    Action, Grant, Policy,
    grant::{AccessName, PurposeName, ResourceName},
};

impl Policy {
    /// The grants that name a caller, each with the line of the policy that it begins in, in that order.
    #[must_use]
    pub fn described(&self, caller: &SpiffeId) -> Vec<(usize, String)> {
        let grants = self.grants(caller);
        let mut described: Vec<_> = grants
            .map(|grant| (grant.line, grant.to_string()))
            .collect();
        described.sort();
        // One that names the caller twice is one.
        described.dedup();
        described
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Taken apart, so that what is added to a grant is not left out here.
        let Self {
            line: _,
            actions,
            exact,
            prefixes,
            labels,
            resources,
            purposes,
            access,
            needs_job,
        } = self;
        let actions = joined(Action::ALL.iter().filter(|action| actions.has(**action)));
        let prefixes = prefixes.iter().map(|prefix| format!("{prefix}*"));
        let organizations = joined(exact.iter().map(ToString::to_string).chain(prefixes));
        write!(f, "{actions} of {organizations}")?;
        if !labels.is_empty() {
            let labels = labels
                .iter()
                .map(|label| format!("{}={}", label.key(), label.value()));
            write!(f, " with {}", joined(labels))?;
        }
        if !resources.is_empty() {
            let all = ResourceName::ALL.iter();
            write!(
                f,
                " for {}",
                joined(all.filter(|name| resources.has(**name)))
            )?;
            let granted = PurposeName::ALL.iter().filter(|name| purposes.has(**name));
            if granted.clone().count() < PurposeName::ALL.len() {
                write!(f, " to {}", joined(granted))?;
            }
            let granted = AccessName::ALL.iter().filter(|name| access.has(**name));
            let granted: Vec<_> = granted.collect();
            if granted != [&AccessName::Application] {
                write!(f, " by {} access", joined(granted.into_iter()))?;
            }
            if *needs_job {
                f.write_str(" while a job runs")?;
            }
        }
        Ok(())
    }
}

fn joined<T: fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<_> = items.map(|item| item.to_string()).collect();
    items.join(", ")
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GetToken => "get_token",
            Self::Register => "register",
            Self::Get => "get",
            Self::List => "list",
            Self::Update => "update",
            Self::Rotate => "rotate",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Revoke => "revoke",
            Self::ManageJobs => "manage_jobs",
            Self::ManageStore => "manage_store",
            Self::ReadAudit => "read_audit",
        })
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Graph => "graph",
            Self::Exchange => "exchange",
            Self::Sharepoint => "sharepoint",
            Self::AzureAdGraph => "azure_ad_graph",
        })
    }
}

impl fmt::Display for PurposeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
        })
    }
}

impl fmt::Display for AccessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Application => "application",
            Self::Delegated => "delegated",
        })
    }
}

#[cfg(test)]
mod tests {
    use spiffe::TrustDomain;

    use super::*;

    const POLICY: &str = r#"# A comment.

[[grant]]
callers = ["spiffe://kodo.test/*", "spiffe://kodo.test/worker"]
actions = ["get_token", "get"]
organizations = ["contoso", "eu-*"]
resources = ["graph", "azure_ad_graph"]
access = ["application", "delegated"]

[[grant]]
callers = [
    "spiffe://kodo.test/another",
    "spiffe://kodo.test/worker",
]
actions = ["list"]
organizations = ["*"]
"#;

    fn described(path: &str) -> Vec<(usize, String)> {
        let domain = TrustDomain::new("kodo.test").expect("a trust domain");
        let policy = Policy::parse(POLICY, &[domain]).expect("a policy");
        let id = SpiffeId::new(format!("spiffe://kodo.test/{path}")).expect("an id");
        policy.described(&id)
    }

    #[test]
    fn each_grant_of_a_caller_is_told_once_with_its_line() {
        let tokens = "get_token, get of contoso, eu-* for graph, azure_ad_graph by application, delegated access";
        let all = [(3, tokens.to_owned()), (10, "list of *".to_owned())];
        assert_eq!(described("worker"), all);
        assert_eq!(described("anybody/else"), all[..1]);
    }

    #[test]
    fn names_are_those_of_the_policy_file() {
        for action in Action::ALL {
            let text = format!("of = \"{action}\"");
            let table: std::collections::HashMap<String, Action> =
                toml::from_str(&text).expect("an action");
            assert_eq!(table["of"], action);
        }
    }
}
