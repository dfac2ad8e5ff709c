//! A killed broker has lost nothing that it had acknowledged, and nothing that is repeated is done
//! twice.
//!
//! Each cycle sends several changes at once, kills the broker the moment one of them is acknowledged,
//! starts it again on the same folder and looks at every organization that there has ever been.

use std::{collections::BTreeMap, fmt};

use kodo_broker::{
    client::{Error, Operator, TokenOptions},
    pb::{
        admin::v1::{
            ClientSecretCredential, Cloud, Credential, ListOrganizationsRequest, Organization,
            OrganizationState, RegisterOrganizationRequest, RevokeOrganizationRequest,
            RotateCredentialRequest, credential::Kind,
        },
        v1::{ErrorReason, Resource},
    },
    simulator::directory::Secret,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{is_long_run, numbers::Numbers, seed, site::Site};

const SEED: u64 = 0x6b6f_646f;
const CYCLES: u32 = 100;
const CYCLES_LONG: u32 = 1000;
/// Changes that are sent beside the one that is waited for.
const BESIDE_MAX: u64 = 5;
/// Active organizations; beyond it one more would show nothing new.
const ACTIVE_MAX: usize = 12;

/// How an organization looks from outside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Active { revision: u64, version: u64 },
    Revoked { revision: u64 },
}

impl State {
    fn of(organization: &Organization) -> Self {
        let revision = organization.revision;
        match (organization.state(), &organization.credential) {
            (OrganizationState::Active, Some(credential)) => Self::Active {
                revision,
                version: credential.version,
            },
            (OrganizationState::Revoked, None) => Self::Revoked { revision },
            _ => panic!("no state that an organization can be in: {organization:?}"),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Active { revision, version } => write!(f, "active r{revision} v{version}"),
            Self::Revoked { revision } => write!(f, "revoked r{revision}"),
        }
    }
}

/// An organization as the test knows it.
struct Known {
    tenant: Uuid,
    client_id: Uuid,
    state: State,
}

/// A change, to be sent as often as one likes.
#[derive(Clone, Debug)]
enum Change {
    Register(RegisterOrganizationRequest),
    Rotate(RotateCredentialRequest),
    Revoke(RevokeOrganizationRequest),
}

/// A change with where it leads to.
#[derive(Clone, Debug)]
struct Step {
    organization: String,
    change: Change,
    after: State,
}

impl Step {
    async fn send(&self, operator: &Operator) -> Result<State, Error> {
        let organization = match self.change.clone() {
            Change::Register(request) => operator.register(request).await?.organization,
            Change::Rotate(request) => operator.rotate(request).await?.organization,
            Change::Revoke(request) => operator.revoke(request).await?.organization,
        };
        Ok(State::of(
            &organization.expect("an answer tells the organization"),
        ))
    }
}

/// Everything that the test knows.
struct World {
    site: Site,
    numbers: Numbers,
    organizations: BTreeMap<String, Known>,
    requests: u64,
}

impl World {
    fn request_id(&mut self) -> String {
        self.requests += 1;
        format!("request-{}", self.requests)
    }

    /// A secret that Entra takes from now on besides those that it took before.
    fn credential(&self, organization: &str, version: u64) -> Credential {
        let known = &self.organizations[organization];
        let value = secret(organization, version);
        let directory = self.site.simulator.directory();
        directory.change_application(known.tenant, known.client_id, |application| {
            application.secrets.push(Secret::new(&value));
        });
        Credential {
            kind: Some(Kind::ClientSecret(ClientSecretCredential {
                value,
                expire_time: None,
            })),
        }
    }

    fn register(&mut self) -> Step {
        let organization = format!("org-{}", self.organizations.len());
        let (tenant, client_id) = self
            .site
            .add_tenant(&organization, |application| application);
        let known = Known {
            tenant,
            client_id,
            state: State::Absent,
        };
        self.organizations.insert(organization.clone(), known);
        let request = RegisterOrganizationRequest {
            request_id: self.request_id(),
            organization_id: organization.clone(),
            tenant: tenant.to_string(),
            cloud: Cloud::Global.into(),
            client_id: client_id.to_string(),
            credential: Some(self.credential(&organization, 1)),
            ..Default::default()
        };
        Step {
            organization,
            change: Change::Register(request),
            after: State::Active {
                revision: 1,
                version: 1,
            },
        }
    }

    fn change(&mut self, organization: String, revision: u64, version: u64) -> Step {
        let request_id = self.request_id();
        let organization_id = organization.clone();
        if self.numbers.below(4) == 0 {
            let request = RevokeOrganizationRequest {
                request_id,
                organization_id,
                revision,
                shred: false,
            };
            return Step {
                organization,
                change: Change::Revoke(request),
                after: State::Revoked {
                    revision: revision + 1,
                },
            };
        }
        let credential = self.credential(&organization, version + 1);
        let request = RotateCredentialRequest {
            request_id,
            organization_id,
            revision,
            credential: Some(credential),
            validate_only: false,
            forget_tokens: false,
        };
        Step {
            organization,
            change: Change::Rotate(request),
            after: State::Active {
                revision: revision + 1,
                version: version + 1,
            },
        }
    }

    /// Changes of as many different organizations, some of them new.
    fn draw(&mut self, count: u64) -> Vec<Step> {
        let mut active: Vec<_> = self
            .organizations
            .iter()
            .filter_map(|(organization, known)| match known.state {
                State::Active { revision, version } => {
                    Some((organization.clone(), revision, version))
                }
                _ => None,
            })
            .collect();
        let room = active.len() < ACTIVE_MAX;
        (0..count)
            .map(|_| {
                if active.is_empty() || (room && self.numbers.below(3) == 0) {
                    return self.register();
                }
                let drawn = self.numbers.below(active.len() as u64) as usize;
                let (organization, revision, version) = active.swap_remove(drawn);
                self.change(organization, revision, version)
            })
            .collect()
    }

    /// All organizations as the broker lists them.
    async fn listed(&self, operator: &Operator) -> BTreeMap<String, State> {
        let mut listed = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = ListOrganizationsRequest {
                page_size: 500,
                page_token,
                ..Default::default()
            };
            let page = operator.list_page(request).await.expect("lists");
            for organization in page.organizations {
                let state = State::of(&organization);
                let twice = listed.insert(organization.organization_id, state);
                assert_eq!(twice, None);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return listed;
            }
        }
    }

    /// Compares everything that the broker has with what is known, where `open` says of which
    /// organizations another state is possible too, and takes that over.
    async fn compare(&mut self, operator: &Operator, open: &BTreeMap<String, State>, at: &str) {
        let mut listed = self.listed(operator).await;
        for (organization, known) in &mut self.organizations {
            let found = listed.remove(organization).unwrap_or(State::Absent);
            let possible = [Some(&known.state), open.get(organization)];
            assert!(
                possible.contains(&Some(&found)),
                "{at}: {organization} is {found:?}, possible were {possible:?}"
            );
            known.state = found;
        }
        assert!(listed.is_empty(), "{at}: from nowhere: {listed:?}");
    }

    /// Gets a token of an organization, which has to go as its state says: with the one secret that
    /// the state's credential is, since Entra takes no other.
    async fn check_token(&self, organization: &str, at: &str) {
        let known = &self.organizations[organization];
        let worker = self.site.worker().await;
        if let State::Active { version, .. } = known.state {
            let directory = self.site.simulator.directory();
            directory.change_application(known.tenant, known.client_id, |application| {
                application.secrets = vec![Secret::new(&secret(organization, version))];
            });
        }
        let token = worker
            .token(organization, Resource::Exchange, TokenOptions::default())
            .await;
        match (known.state, token) {
            (State::Active { version, .. }, Ok(token)) => {
                assert_eq!(token.credential_version, version, "{at}: {organization}");
            }
            (State::Revoked { .. }, Err(error)) => {
                let reason = Some(ErrorReason::OrganizationRevoked);
                assert_eq!(error.reason(), reason, "{at}: {organization}: {error}");
            }
            (State::Absent, Err(error)) => {
                let reason = Some(ErrorReason::OrganizationNotFound);
                assert_eq!(error.reason(), reason, "{at}: {organization}: {error}");
            }
            (state, outcome) => panic!("{at}: {organization} is {state:?}: {outcome:?}"),
        }
    }
}

fn secret(organization: &str, version: u64) -> String {
    format!("Secret~{organization}~{version}~0123456789")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_a_kill() {
    let (seed, cycles) = (seed(SEED), if is_long_run() { CYCLES_LONG } else { CYCLES });
    let mut world = World {
        site: Site::new().await,
        numbers: Numbers(seed),
        organizations: BTreeMap::new(),
        requests: 0,
    };
    let (mut acknowledged, mut lost_answers, mut done_all_the_same) = (0, 0, 0);
    let mut serving = world.site.serve().await;
    for cycle in 0..cycles {
        let at = format!("seed {seed:#x}, cycle {cycle}");
        let operator = world.site.operator().await;
        let count = 1 + world.numbers.below(BESIDE_MAX);
        let steps = world.draw(count);
        let mut calls = JoinSet::new();
        for step in steps.iter().cloned() {
            let operator = operator.clone();
            calls.spawn(async move { (step.send(&operator).await, step) });
        }

        // The first one that succeeds is the last thing that this broker does.
        let mut outcomes = vec![calls.join_next().await.expect("one call at least")];
        serving.process.kill();
        outcomes.extend(calls.join_all().await.into_iter().map(Ok));
        let mut open = BTreeMap::new();
        let mut repeated = Vec::new();
        for outcome in outcomes {
            let (answer, step) = outcome.expect("no call panics");
            let known = world.organizations.get_mut(&step.organization);
            match answer {
                Ok(state) => {
                    assert_eq!(state, step.after, "{at}: {step:?}");
                    known.expect("drawn from these").state = state;
                    acknowledged += 1;
                }
                Err(error) => {
                    let killed = error.origin() == kodo_broker::client::Origin::Connection;
                    assert!(killed, "{at}: {step:?}: {error}");
                    open.insert(step.organization.clone(), step.after);
                    lost_answers += 1;
                }
            }
            repeated.push(step);
        }

        serving = world.site.serve().await;
        let operator = world.site.operator().await;
        world.compare(&operator, &open, &at).await;

        // Each request once more, answered or not: done now or before, but only once.
        for step in &repeated {
            let found = world.organizations[&step.organization].state;
            done_all_the_same +=
                u32::from(open.contains_key(&step.organization) && found == step.after);
            let again = step.send(&operator).await;
            let again = again.unwrap_or_else(|error| panic!("{at}: {step:?}: {error}"));
            assert_eq!(again, step.after, "{at}: {step:?}");
            let known = world.organizations.get_mut(&step.organization);
            known.expect("drawn from these").state = again;
        }
        world.compare(&operator, &BTreeMap::new(), &at).await;
        for step in &repeated {
            world.check_token(&step.organization, &at).await;
        }
    }
    report(&format!(
        "seed {seed:#x}: {cycles} kills, {acknowledged} changes acknowledged, {lost_answers} not, \
         of which {done_all_the_same} were done; {} organizations",
        world.organizations.len(),
    ));
    // Otherwise the kills come too early or too late to show anything.
    assert!(
        acknowledged >= cycles && lost_answers > cycles / 4,
        "{acknowledged} {lost_answers}"
    );
    serving.stop();
}

#[expect(clippy::print_stderr, reason = "the output of a test run")]
pub(crate) fn report(line: &str) {
    eprintln!("{line}");
}
