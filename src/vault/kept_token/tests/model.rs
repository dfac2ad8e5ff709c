//! Whatever happens in whatever order: what comes back is what a map would hold.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

const IDS: [&str; 2] = ["contoso", "fabrikam"];
const RESOURCES: [Resource; 2] = [Resource::Graph, Resource::Exchange];

#[derive(Clone, Debug)]
enum Step {
    /// A token of a version that is so far behind the current one, with so many minutes to live.
    Keep(usize, usize, u64, u8),
    Rotate(usize),
    Revoke(usize),
    Forget(usize),
    Sweep,
    /// The wall clock goes by so many minutes, or is set back.
    Clock(i8),
}

/// What there should be.
#[derive(Default)]
struct Model {
    /// Text, issue and end by organization and resource.
    kept: BTreeMap<(usize, usize), (String, SystemTime, SystemTime)>,
    /// Version of the credential, that is revision, and whether it was revoked.
    organizations: [(u64, bool); 2],
}

fn step() -> impl Strategy<Value = Step> {
    let (id, resource) = (0..2_usize, 0..2_usize);
    prop_oneof![
        8 => (id.clone(), resource, 0..2_u64, 0..90_u8)
            .prop_map(|(id, resource, behind, life)| Step::Keep(id, resource, behind, life)),
        2 => id.clone().prop_map(Step::Rotate),
        1 => id.clone().prop_map(Step::Revoke),
        1 => id.prop_map(Step::Forget),
        2 => Just(Step::Sweep),
        4 => (-60..60_i8).prop_map(Step::Clock),
    ]
}

impl Model {
    fn forget(&mut self, organization: usize) {
        self.kept.retain(|(of, _), _| *of != organization);
    }

    /// What may be handed out.
    fn text(&self, key: (usize, usize), now: SystemTime) -> Option<String> {
        let (text, issue, end) = self.kept.get(&key)?;
        (*issue <= now + SKEW && *end > now).then(|| text.clone())
    }
}

async fn take(
    fixture: &Fixture,
    model: &mut Model,
    now: &mut SystemTime,
    number: usize,
    step: Step,
) {
    match step {
        Step::Keep(id, resource, behind, life) => {
            let (version, is_revoked) = model.organizations[id];
            let end = *now + u32::from(life) * MINUTE;
            let token = KeptToken {
                issue_time: *now,
                expire_time: end,
                ..token(&format!("token {number}"), version - behind)
            };
            fixture.keep(IDS[id], &RESOURCES[resource], &token).await;
            if behind == 0 && !is_revoked {
                let kept = (format!("token {number}"), *now, end);
                model.kept.insert((id, resource), kept);
            }
        }
        Step::Rotate(id) => {
            let (version, is_revoked) = &mut model.organizations[id];
            let rotated = fixture.rotate(IDS[id], *version).await;
            assert_eq!(rotated.is_err(), *is_revoked);
            if !*is_revoked {
                *version += 1;
                model.forget(id);
            }
        }
        Step::Revoke(id) => {
            let (version, is_revoked) = &mut model.organizations[id];
            let revoked = fixture.revoke(IDS[id], *version).await;
            assert_eq!(revoked.is_err(), *is_revoked);
            *is_revoked = true;
            model.forget(id);
        }
        Step::Forget(id) => {
            let forgotten = fixture.vault.forget_tokens(&self::id(IDS[id])).await;
            forgotten.expect("forgets");
            model.forget(id);
        }
        Step::Sweep => {
            let swept = fixture.vault.sweep_tokens(*now, None, SCAN_MAX).await;
            let before = model.kept.len();
            model.kept.retain(|_, (_, _, end)| *end > *now);
            let deleted = before - model.kept.len();
            assert_eq!(swept.expect("sweeps").deleted, deleted);
        }
        Step::Clock(minutes) => {
            let by = u32::from(minutes.unsigned_abs()) * MINUTE;
            *now = if minutes < 0 { *now - by } else { *now + by };
        }
    }
}

async fn run(steps: Vec<Step>) {
    let fixture = Fixture::with(&IDS).await;
    let mut model = Model {
        organizations: [(1, false); 2],
        ..Model::default()
    };
    let mut now = now();
    for (number, step) in steps.into_iter().enumerate() {
        take(&fixture, &mut model, &mut now, number, step).await;
        for (organization, id) in IDS.iter().enumerate() {
            for (number, resource) in RESOURCES.iter().enumerate() {
                let kept = fixture.kept_at(id, resource, now).await;
                // Exposed: it is compared.
                let kept = kept.map(|kept| kept.access_token.expose().to_owned());
                assert_eq!(kept, model.text((organization, number), now), "{id}");
            }
        }
        assert_eq!(fixture.stored().await.len(), model.kept.len());
    }
}

proptest! {
    #[test]
    fn no_order_of_events_brings_back_what_must_not_be(steps in vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(run(steps));
    }
}
