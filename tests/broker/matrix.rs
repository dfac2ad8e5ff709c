//! Fifty workers by two hundred organizations, granted by id, by the beginning of ids and by label.

use std::fmt::Write as _;

use kodo_broker::pb::{
    admin::v1 as admin,
    v1::{ErrorReason, GetTokenRequest, Purpose, Resource},
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{CONTOSO, SECRET, Setup, Tokens, assert_refused, request};

const WORKERS: usize = 50;
const ORGANIZATIONS: usize = 200;

fn id(organization: usize) -> String {
    format!("g{}-org-{organization}", organization % 10)
}

fn labels(organization: usize) -> [(&'static str, String); 2] {
    [
        ("msp", format!("m{}", organization % 7)),
        ("tier", format!("t{}", organization % 5)),
    ]
}

/// Every third worker is granted organizations by name, by the beginning of their ids, by labels. Every
/// other one is for backups only.
fn is_granted(worker: usize, organization: usize) -> bool {
    match worker % 3 {
        0 => is_named(worker, organization),
        1 => organization % 10 == worker % 10,
        _ => organization % 7 == worker % 7 || organization % 5 == worker % 5,
    }
}

fn is_named(worker: usize, organization: usize) -> bool {
    (worker * 31 + organization * 17 + worker * organization).is_multiple_of(4)
}

fn is_for_restores(worker: usize) -> bool {
    worker.is_multiple_of(2)
}

fn policy() -> String {
    let mut policy = String::from(
        "[[grant]]\ncallers = [\"spiffe://kodo.test/admin\"]\nactions = [\"register\"]\norganizations = [\"*\"]\n",
    );
    for worker in 0..WORKERS {
        let purposes = ["[\"backup\"]", "[\"backup\", \"restore\"]"];
        let purposes = purposes[usize::from(is_for_restores(worker))];
        let mut grant = |organizations: &[String], labels: &str| {
            write!(
                policy,
                "[[grant]]\ncallers = [\"spiffe://kodo.test/worker/{worker}\"]\nactions = [\"get_token\"]\nresources = [\"graph\"]\norganizations = {organizations:?}\npurposes = {purposes}\n{labels}\n"
            )
            .expect("a string takes everything");
        };
        match worker % 3 {
            // Each in a grant of its own: more than are gone through one by one.
            0 => (0..ORGANIZATIONS)
                .filter(|organization| is_named(worker, *organization))
                .for_each(|organization| grant(&[id(organization)], "")),
            1 => grant(&[format!("g{}-*", worker % 10)], ""),
            _ => {
                let labels = format!(
                    "labels = [\"msp=m{}\", \"tier=t{}\"]",
                    worker % 7,
                    worker % 5
                );
                grant(&["*".to_owned()], &labels);
            }
        }
    }
    policy
}

/// All that a worker is answered: whether it got each token, and that what it did not get was refused as
/// an organization that does not exist.
async fn row(mut tokens: Tokens, worker: usize) -> usize {
    let asked = |id: &str, purpose: Purpose| GetTokenRequest {
        purpose: purpose.into(),
        ..request::token(id, Resource::Graph)
    };
    let unknown = tokens.get_token(asked("unknown", Purpose::Backup)).await;
    let unknown = assert_refused(unknown, Code::NotFound, ErrorReason::OrganizationNotFound);
    let mut served = 0;
    for organization in 0..ORGANIZATIONS {
        let id = id(organization);
        let backup = tokens.get_token(asked(&id, Purpose::Backup)).await;
        if is_granted(worker, organization) {
            backup.expect("it is granted");
            served += 1;
            let restore = tokens.get_token(asked(&id, Purpose::Restore)).await;
            if is_for_restores(worker) {
                restore.expect("it is granted");
            } else {
                assert_refused(
                    restore,
                    Code::PermissionDenied,
                    ErrorReason::CallerNotAuthorized,
                );
            }
        } else {
            let refused = backup.expect_err("it is not granted");
            let seen = (refused.code(), refused.message(), refused.details());
            let expected = (unknown.code(), unknown.message(), unknown.details());
            assert_eq!(seen, expected, "worker {worker}, {id}");
        }
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_granted_cells_of_fifty_workers_by_two_hundred_organizations_succeed() {
    let fixture = Setup::new().policy(policy()).start().await;
    let mut admin = fixture.admin();
    for organization in 0..ORGANIZATIONS {
        let labels = labels(organization).map(|(key, value)| (key.to_owned(), value));
        let request = admin::RegisterOrganizationRequest {
            labels: labels.into(),
            ..request::register(&id(organization), CONTOSO, request::secret(SECRET))
        };
        admin
            .register_organization(request)
            .await
            .expect("registers");
    }
    let registered = fixture.simulator.request_count();
    let mut rows = JoinSet::new();
    for worker in 0..WORKERS {
        rows.spawn(row(fixture.tokens(&format!("worker/{worker}")), worker));
    }
    let served: usize = rows.join_all().await.into_iter().sum();
    let cells = (0..WORKERS).flat_map(|worker| {
        (0..ORGANIZATIONS).filter(move |organization| is_granted(worker, *organization))
    });
    assert_eq!(served, cells.count());
    assert!(served > WORKERS * ORGANIZATIONS / 8, "{served}");
    // The proof of each registration serves all of them.
    assert_eq!(fixture.simulator.request_count(), registered);
}
