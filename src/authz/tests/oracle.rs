//! Decisions compared with those of another reading of the same policy.

use proptest::prelude::*;

use super::*;
use crate::organization::{Access, Purpose, label_index::LabelIndex};

const ACTION_NAMES: [&str; 9] = [
    "get_token",
    "register",
    "get",
    "list",
    "update",
    "rotate",
    "revoke",
    "suspend",
    "resume",
];
const RESOURCES: [&str; 4] = ["graph", "exchange", "sharepoint", "azure_ad_graph"];
const PURPOSES: [&str; 2] = ["backup", "restore"];
const ACCESS: [&str; 2] = ["application", "delegated"];
/// Paths of a small universe, chosen so that many begin alike.
const PATHS: [&str; 6] = ["a", "a/b", "a/b/c", "a-b", "ab", "b/a"];
const ORGANIZATIONS: [&str; 5] = ["a", "a-b", "a-bc", "ab", "b"];
const PATTERNS: [&str; 8] = ["a", "a-b", "ab", "b", "*", "a*", "a-*", "a-b*"];
const LABELS: [&str; 5] = ["m=1", "m=2", "m=12", "n=1", "mn=1"];
/// Grants that are gone through one by one, and more: see `granted.rs`.
const GRANTS: [usize; 2] = [6, 24];
/// What is asked of one policy before another one is drawn.
const QUESTIONS: usize = 500;
const CASES: usize = 1_000_000;

/// A token that is asked for: its resource, purpose and access.
type Token = (usize, Option<usize>, usize);

/// A grant as numbers into the universe: callers (and whether all below), actions, patterns, labels,
/// resources, purposes, access.
#[derive(Clone, Debug)]
struct Drawn {
    callers: Vec<(usize, bool)>,
    actions: Vec<usize>,
    patterns: Vec<usize>,
    labels: Vec<usize>,
    resources: Vec<usize>,
    /// `None`: not said.
    purposes: Option<Vec<usize>>,
    access: Option<Vec<usize>>,
}

/// Which labels each organization has: one bit a label.
type Worn = [u8; ORGANIZATIONS.len()];

fn subset(random: &mut fastrand::Rng, count: usize, one_of: u32) -> Vec<usize> {
    (0..count).filter(|_| random.u32(0..one_of) == 0).collect()
}

impl Drawn {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let callers =
            (0..random.usize(0..3)).map(|_| (random.usize(0..=PATHS.len()), random.bool()));
        let callers = callers.collect();
        let actions = subset(random, ACTION_NAMES.len(), 3);
        let mut patterns = subset(random, PATTERNS.len(), 3);
        let labels = match random.bool() {
            true => subset(random, LABELS.len(), 3),
            false => vec![],
        };
        if actions.contains(&1) && !labels.is_empty() {
            // Not for any id: refused.
            patterns.retain(|pattern| PATTERNS[*pattern] != "*");
        }
        let tokens = actions.contains(&0);
        let mut resources = subset(random, RESOURCES.len(), 2);
        if resources.is_empty() {
            resources.push(0);
        }
        let some =
            |random: &mut fastrand::Rng| [vec![0], vec![1], vec![0, 1]][random.usize(0..3)].clone();
        Self {
            callers,
            actions,
            patterns,
            labels,
            resources: if tokens { resources } else { vec![] },
            purposes: (tokens && random.bool()).then(|| some(random)),
            access: (tokens && random.bool()).then(|| some(random)),
        }
    }

    fn caller(&(path, below): &(usize, bool)) -> String {
        match (PATHS.get(path), below) {
            (Some(path), false) => format!("spiffe://kodo.test/{path}"),
            (Some(path), true) => format!("spiffe://kodo.test/{path}/*"),
            // The number after the last path is the root, which stands for all or for nobody.
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
        if !self.labels.is_empty() {
            text += &format!("labels = {}\n", named(&LABELS, &self.labels));
        }
        if !self.resources.is_empty() {
            text += &format!("resources = {}\n", named(&RESOURCES, &self.resources));
        }
        if let Some(purposes) = &self.purposes {
            text += &format!("purposes = {}\n", named(&PURPOSES, purposes));
        }
        if let Some(access) = &self.access {
            text += &format!("access = {}\n", named(&ACCESS, access));
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

    fn covers(&self, organization: usize, worn: &Worn) -> bool {
        let name = ORGANIZATIONS[organization];
        let named = self
            .patterns
            .iter()
            .any(|pattern| match PATTERNS[*pattern].split_once('*') {
                Some((start, _)) => name.get(..start.len()) == Some(start),
                None => name == PATTERNS[*pattern],
            });
        let worn = |label: &usize| worn[organization] & 1 << label != 0;
        named && (self.labels.is_empty() || self.labels.iter().any(worn))
    }

    /// How near it comes: 0 is another organization, 5 enough.
    fn reaches(&self, action: usize, token: Option<Token>) -> usize {
        let purposes = self.purposes.as_deref().unwrap_or(&[0, 1]);
        let purpose_fits = |purpose: Option<usize>| purpose.is_none_or(|p| purposes.contains(&p));
        match token {
            _ if !self.actions.contains(&action) => 1,
            Some((resource, ..)) if !self.resources.contains(&resource) => 2,
            Some((_, purpose, _)) if !purpose_fits(purpose) => 3,
            // Nobody acts as a user where nothing says so.
            Some((.., access)) if !self.access.as_deref().unwrap_or(&[0]).contains(&access) => 4,
            _ => 5,
        }
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

/// A policy, who has which labels, and the question that comes next.
struct World {
    drawn: Vec<Drawn>,
    text: String,
    policy: Arc<LivePolicy>,
    callers: Vec<Caller>,
    organizations: Vec<OrganizationId>,
    worn: Worn,
    index: LabelIndex,
    /// The grants of each path about each organization.
    covering: Vec<Vec<usize>>,
}

impl World {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let most = GRANTS[random.usize(0..2)];
        let drawn: Vec<_> = (0..random.usize(0..most))
            .map(|_| Drawn::draw(random))
            .collect();
        let text: String = drawn.iter().map(Drawn::toml).collect();
        let policy = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let policy = LivePolicy::new(policy);
        let current = policy.current();
        let callers = PATHS.map(|path| {
            let id = caller(&format!("spiffe://kodo.test/{path}"));
            Caller::new(id, &current)
        });
        let (mut worn, index) = (Worn::default(), LabelIndex::default());
        for (organization, worn) in ORGANIZATIONS.iter().zip(&mut worn) {
            // One value a key: the first three have the same.
            let of_m = [0, 1, 2, 4][random.usize(0..4)];
            *worn = of_m | (random.u8(0..4) << 3);
            let names = (0..LABELS.len()).filter(|label| *worn & 1 << label != 0);
            let names: Vec<_> = names.map(|label| LABELS[label]).collect();
            index.set(&super::organization(organization), 1, &labels(&names));
        }
        let mut covering = Vec::new();
        for path in PATHS {
            let of_caller: Vec<_> = (0..drawn.len())
                .filter(|at| drawn[*at].names(path))
                .collect();
            for organization in 0..ORGANIZATIONS.len() {
                let covers = |at: &usize| drawn[*at].covers(organization, &worn);
                covering.push(of_caller.iter().copied().filter(covers).collect());
            }
        }
        Self {
            covering,
            drawn,
            text,
            policy,
            callers: callers.into(),
            organizations: ORGANIZATIONS.map(organization).into(),
            worn,
            index,
        }
    }

    /// Asks something, and compares the answers.
    fn ask(&self, random: &mut fastrand::Rng) {
        let path = random.usize(0..PATHS.len());
        let number = random.usize(0..ORGANIZATIONS.len());
        let (caller, organization) = (&self.callers[path], &self.organizations[number]);
        let action = random
            .usize(0..2 * ACTIONS.len())
            .checked_sub(ACTIONS.len());
        let token = (
            random.usize(0..4),
            [None, Some(0), Some(1)][random.usize(0..3)],
            random.usize(0..2),
        );
        let token = action.is_none().then_some(token);
        let action = action.unwrap_or(0);
        let covering = self.covering[path * ORGANIZATIONS.len() + number].iter();
        let nearest = covering
            .map(|at| self.drawn[*at].reaches(action, token))
            .max();
        let expected = match nearest.unwrap_or(0) {
            0 => Err(Denied::Organization),
            1 => Err(Denied::Action),
            2 => Err(Denied::Resource),
            3 => Err(Denied::Purpose),
            4 => Err(Denied::Access),
            _ => Ok(()),
        };
        let decision = match token {
            None => self
                .policy
                .check(caller.id(), ACTIONS[action], organization, &self.index),
            Some((number, purpose, access)) => {
                let resource = resource(number);
                let purposes = [Purpose::Backup, Purpose::Restore];
                let wanted = Wanted {
                    access: [Access::Application, Access::Delegated][access],
                    ..wanted(&resource, purpose.map(|purpose| purposes[purpose]))
                };
                self.policy
                    .check_token_of(caller, organization, wanted, &self.index)
            }
        };
        assert_eq!(
            decision, expected,
            "{} {action} {organization} {token:?} {:?}\n{}",
            PATHS[path], self.worn, self.text
        );
    }
}

/// Draws policies and asks each of them much.
#[test]
fn a_million_decisions_are_those_of_a_naive_reading() {
    // Another million each time; a disagreement tells all that it takes to repeat it.
    let mut random = fastrand::Rng::new();
    for _ in 0..CASES / QUESTIONS {
        let world = World::draw(&mut random);
        for _ in 0..QUESTIONS {
            world.ask(&mut random);
        }
        for (number, path) in PATHS.iter().enumerate() {
            for (action, name) in ACTIONS.iter().enumerate() {
                let of_caller = world.drawn.iter().filter(|grant| grant.names(path));
                let any = of_caller
                    .into_iter()
                    .any(|grant| grant.actions.contains(&action));
                let id = world.callers[number].id();
                assert_eq!(
                    world.policy.check_any(id, *name).is_ok(),
                    any,
                    "{path} {}",
                    world.text
                );
            }
        }
    }
}

/// The same universe, grant by grant: more grants never take anything away.
#[test]
fn no_grant_takes_away_what_another_one_gives() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..100 {
        let world = World::draw(&mut random);
        let more = world.text.clone() + &Drawn::draw(&mut random).toml();
        let more = parse(&more).expect("parses");
        for caller in &world.callers {
            for organization in &world.organizations {
                for action in ACTIONS {
                    let fewer = world
                        .policy
                        .check(caller.id(), action, organization, &world.index);
                    let more = more.check(caller.id(), action, organization, &world.index);
                    assert!(fewer.is_err() || more.is_ok(), "{}", world.text);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}", caller in "\\PC{0,40}") {
        let _ = parse(&text);
        let _ = parse(&format!(
            "[[grant]]\ncallers = [{caller:?}]\nactions = []\norganizations = [{text:?}]\nlabels = [{text:?}]\n"
        ));
    }
}
