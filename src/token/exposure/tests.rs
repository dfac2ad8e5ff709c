use std::time::Duration;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::{
    entra::cloud::Audience,
    organization::{ClientId, Cloud},
    secret::AccessToken,
    token::{fingerprint, holders::Holders},
};

const SECOND: Duration = Duration::from_secs(1);

fn key(id: &str, resource: Resource) -> TokenKey {
    TokenKey {
        organization: OrganizationId::parse(id).expect("an id"),
        resource,
    }
}

fn graph(id: &str) -> TokenKey {
    key(id, Resource::Graph)
}

/// A token of this text that lives so long from now on.
fn token(text: &str, life: Duration) -> Token {
    let access_token = AccessToken::new(text.to_owned());
    let now = Instant::now();
    Token {
        fingerprint: fingerprint(&access_token),
        access_token,
        audience: Audience::graph(Cloud::Global),
        client_id: ClientId::parse("0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9").expect("a GUID"),
        credential_version: 1,
        issued_at: now,
        refresh_at: now + life / 2,
        expires_at: now + life,
        holders: Holders::default(),
    }
}

/// Each holder as resource, caller, count and seconds until the last one ends.
fn holders(exposure: &Exposure) -> Vec<(&'static str, &str, u64, u64)> {
    let rows = exposure.holders.iter();
    rows.map(|row| {
        let left = row.ends_at - Instant::now();
        (row.resource.name(), &*row.caller, row.count, left.as_secs())
    })
    .collect()
}

#[tokio::test(start_paused = true)]
async fn each_token_is_counted_once_for_each_caller_until_it_ends() {
    let hand_outs = HandOuts::default();
    let (first, second) = (token("first", SECOND * 60), token("second", SECOND * 90));
    for _ in 0..3 {
        hand_outs.add(&graph("contoso"), "spiffe://a/x", &first);
        hand_outs.add(&graph("contoso"), "spiffe://a/y", &first);
        hand_outs.add(&graph("contoso"), "spiffe://a/x", &second);
        hand_outs.add(
            &key("contoso", Resource::Exchange),
            "spiffe://a/x",
            &token("third", SECOND * 30),
        );
        hand_outs.add(&graph("fabrikam"), "spiffe://a/z", &first);
    }
    let contoso = &graph("contoso").organization;
    let exposure = hand_outs.of(contoso);
    assert_eq!(
        holders(&exposure),
        [
            ("graph", "spiffe://a/x", 2, 90),
            ("graph", "spiffe://a/y", 1, 60),
            ("exchange", "spiffe://a/x", 1, 30),
        ]
    );
    assert_eq!((exposure.count, exposure.unnamed), (4, 0));
    assert_eq!(exposure.ends_at, Some(Instant::now() + SECOND * 90));
    advance(SECOND * 60).await;
    let exposure = hand_outs.of(contoso);
    assert_eq!(holders(&exposure), [("graph", "spiffe://a/x", 1, 30)]);
    advance(SECOND * 30).await;
    let exposure = hand_outs.of(contoso);
    assert_eq!((exposure.count, exposure.ends_at), (0, None));
    hand_outs.sweep();
    assert!(hand_outs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_to_end_before_it_does() {
    let hand_outs = HandOuts::default();
    advance(Duration::from_millis(1700)).await;
    let life = Duration::from_millis(2600);
    let ends_at = Instant::now() + life;
    hand_outs.add(&graph("contoso"), "spiffe://a/x", &token("first", life));
    let told = hand_outs.of(&graph("contoso").organization).ends_at;
    let told = told.expect("it is out there");
    assert!(told >= ends_at && told - ends_at < SECOND);
    advance(life - Duration::from_millis(1)).await;
    assert_eq!(hand_outs.of(&graph("contoso").organization).count, 1);
}

#[tokio::test(start_paused = true)]
async fn beyond_its_limits_it_counts_without_names() {
    let limits = Limits {
        organization_max: 3,
        all_max: 5,
        names_max: 4,
    };
    let hand_outs = HandOuts::new(limits);
    for number in 0..10_u32 {
        let caller = format!("spiffe://a/{}", number % 2);
        let life = SECOND * (60 + number);
        let token = token(&number.to_string(), life);
        hand_outs.add(&graph("contoso"), &caller, &token);
        hand_outs.add(&graph("fabrikam"), &caller, &token);
    }
    let contoso = hand_outs.of(&graph("contoso").organization);
    assert_eq!((contoso.count, contoso.unnamed), (10, 7));
    assert_eq!(contoso.ends_at, Some(Instant::now() + SECOND * 69));
    let fabrikam = hand_outs.of(&graph("fabrikam").organization);
    assert_eq!((fabrikam.count, fabrikam.unnamed), (10, 8));
    assert_eq!(hand_outs.len(), 5);
    drop((contoso, fabrikam));
    advance(SECOND * 70).await;
    hand_outs.sweep();
    assert!(hand_outs.is_empty());
    // There is room for names again, since nobody holds those of before.
    for number in 0..6 {
        let caller = format!("spiffe://b/{number}");
        let id = format!("org-{number}");
        hand_outs.add(&graph(&id), &caller, &token("next", SECOND));
    }
    let unnamed = |number| {
        let id = format!("org-{number}");
        hand_outs.of(&graph(&id).organization).unnamed
    };
    assert_eq!((0..6).map(unnamed).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1]);
}

/// What a hundred thousand organizations cost that have three tokens each.
#[tokio::test(start_paused = true)]
async fn its_memory_is_small_beside_that_of_the_tokens() {
    assert!(size_of::<HandOut>() <= 48, "{}", size_of::<HandOut>());
    assert!(size_of::<Known>() <= 40, "{}", size_of::<Known>());
    // An id, what is known, and room for four hand-outs; tokens of 1.5 KiB each.
    let organization = size_of::<OrganizationId>() + size_of::<Known>() + 4 * size_of::<HandOut>();
    assert!(organization * 10 < 3 * 1536, "{organization}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a plain list of all that was handed out.
    #[test]
    fn it_tells_what_a_list_would(
        events in prop::collection::vec((0..3_usize, 0..3_usize, 0..6_usize, 0..40_u64), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let hand_outs = HandOuts::default();
            let tokens: Vec<_> = (0..6_u32)
                .map(|number| token(&number.to_string(), SECOND * 20 * (number + 1)))
                .collect();
            let mut list = HashSet::new();
            for (organization, caller, number, pause) in events {
                let id = format!("org-{organization}");
                let token = &tokens[number];
                if !token.has_expired(Instant::now()) {
                    hand_outs.add(&graph(&id), &format!("spiffe://a/{caller}"), token);
                    list.insert((organization, caller, number));
                }
                advance(SECOND * u32::try_from(pause).expect("few")).await;
                let out = |(of, _, number): &&(usize, usize, usize)| {
                    *of == organization && !tokens[*number].has_expired(Instant::now())
                };
                let exposure = hand_outs.of(&graph(&id).organization);
                assert_eq!(exposure.count, list.iter().filter(out).count() as u64);
                let ends = list.iter().filter(out).map(|(_, _, number)| tokens[*number].expires_at);
                assert_eq!(exposure.ends_at, ends.max());
            }
        });
    }
}
