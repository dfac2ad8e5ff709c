//! Decisions compared with those of another reading of the same policy.

use proptest::prelude::*;

use super::*;

const ACTION_NAMES: [&str; 8] = [
    "get_token",
    "register",
    "get",
    "list",
    "rotate",
    "revoke",
    "suspend",
    "resume",
];
const RESOURCES: [&str; 4] = ["graph", "exchange", "sharepoint", "azure_ad_graph"];
/// Paths of a small universe, chosen so that many begin alike.
const PATHS: [&str; 6] = ["a", "a/b", "a/b/c", "a-b", "ab", "b/a"];
const ORGANIZATIONS: [&str; 5] = ["a", "a-b", "a-bc", "ab", "b"];
const PATTERNS: [&str; 8] = ["a", "a-b", "ab", "b", "*", "a*", "a-*", "a-b*"];

/// A grant as numbers into the universe: callers (and whether all below), actions, patterns,
/// resources.
#[derive(Clone, Debug)]
struct Drawn {
    callers: Vec<(usize, bool)>,
    actions: Vec<usize>,
    patterns: Vec<usize>,
    resources: Vec<usize>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    use prop::{collection::vec, sample::subsequence};
    let all = |count: usize| (0..count).collect::<Vec<_>>();
    (
        vec((0..=PATHS.len(), any::<bool>()), 0..3),
        subsequence(all(ACTIONS.len()), 0..4),
        subsequence(all(PATTERNS.len()), 0..3),
        subsequence(all(RESOURCES.len()), 1..4),
    )
        .prop_map(|(callers, actions, patterns, resources)| Drawn {
            callers,
            // The number after the last path is the root, which stands for all or for nobody.
            patterns,
            resources: if actions.contains(&0) {
                resources
            } else {
                vec![]
            },
            actions,
        })
}

impl Drawn {
    fn caller(&(path, below): &(usize, bool)) -> String {
        match (PATHS.get(path), below) {
            (Some(path), false) => format!("spiffe://kodo.test/{path}"),
            (Some(path), true) => format!("spiffe://kodo.test/{path}/*"),
            (None, _) => "spiffe://kodo.test/*".to_owned(),
        }
    }

    fn toml(&self) -> String {
        let list = |texts: Vec<String>| format!("{texts:?}");
        let named = |names: &[&str], numbers: &[usize]| {
            list(numbers.iter().map(|n| names[*n].to_owned()).collect())
        };
        let mut text = format!(
            "[[grant]]\ncallers = {}\nactions = {}\norganizations = {}\n",
            list(self.callers.iter().map(Self::caller).collect()),
            named(&ACTION_NAMES, &self.actions),
            named(&PATTERNS, &self.patterns),
        );
        if !self.resources.is_empty() {
            text += &format!("resources = {}\n", named(&RESOURCES, &self.resources));
        }
        text
    }

    /// Whether the caller at this path is meant, segment by segment.
    fn names(&self, path: &str) -> bool {
        let path: Vec<_> = path.split('/').collect();
        self.callers
            .iter()
            .any(|(drawn, below)| match PATHS.get(*drawn) {
                None => true,
                Some(pattern) => {
                    let pattern: Vec<_> = pattern.split('/').collect();
                    let begins = pattern.iter().zip(&path).all(|(a, b)| a == b);
                    begins
                        && (if *below {
                            path.len() > pattern.len()
                        } else {
                            path.len() == pattern.len()
                        })
                }
            })
    }

    fn covers(&self, organization: &str) -> bool {
        self.patterns
            .iter()
            .any(|pattern| match PATTERNS[*pattern].split_once('*') {
                Some((start, _)) => organization.get(..start.len()) == Some(start),
                None => organization == PATTERNS[*pattern],
            })
    }
}

fn resource(number: usize) -> Resource {
    match number {
        0 => Resource::Graph,
        1 => Resource::Exchange,
        2 => Resource::SharePoint(None),
        _ => Resource::AzureAdGraph,
    }
}

proptest! {
    // 64 policies, each asked 6 × 5 × (6 + 4) questions and 36 more: 21,504 in all.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decisions_are_those_of_a_naive_reading(grants in prop::collection::vec(drawn(), 0..5)) {
        let text: String = grants.iter().map(Drawn::toml).collect();
        let policy = parse(&text).expect("parses");
        for path in PATHS {
            let id = caller(&format!("spiffe://kodo.test/{path}"));
            let of_caller: Vec<_> = grants.iter().filter(|grant| grant.names(path)).collect();
            for (number, action) in ACTIONS.into_iter().enumerate() {
                let any = of_caller.iter().any(|grant| grant.actions.contains(&number));
                prop_assert_eq!(policy.check_any(&id, action).is_ok(), any, "{} {}", path, text);
            }
            for name in ORGANIZATIONS {
                let covering: Vec<_> =
                    of_caller.iter().filter(|grant| grant.covers(name)).collect();
                let decided = |number: usize| {
                    if covering.is_empty() {
                        Err(Denied::Organization)
                    } else if covering.iter().any(|grant| grant.actions.contains(&number)) {
                        Ok(())
                    } else {
                        Err(Denied::Action)
                    }
                };
                for (number, action) in ACTIONS.into_iter().enumerate() {
                    let decision = policy.check(&id, action, &organization(name));
                    prop_assert_eq!(decision, decided(number), "{} {} {}", path, name, text);
                }
                for number in 0..RESOURCES.len() {
                    let granted = covering.iter().any(|grant| grant.resources.contains(&number));
                    let expected = match decided(0) {
                        Ok(()) if !granted => Err(Denied::Resource),
                        other => other,
                    };
                    let decision = policy.check_token(&id, &organization(name), &resource(number));
                    prop_assert_eq!(decision, expected, "{} {} {}", path, name, text);
                }
            }
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}", caller in "\\PC{0,40}") {
        let _ = parse(&text);
        let _ = parse(&format!(
            "[[grant]]\ncallers = [{caller:?}]\nactions = []\norganizations = [{text:?}]\n"
        ));
    }
}
