use std::{future::ready, pin::pin};

use tokio::time::advance;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn budget(concurrent_max: usize, queued_max: usize) -> Arc<Budget> {
    Arc::new(Budget::new(Limits {
        concurrent_max,
        queued_max,
    }))
}

fn payer(name: &str) -> Payer {
    Payer {
        cloud: Cloud::Global,
        tenant: TenantName::Domain(name.into()),
    }
}

async fn place(budget: &Arc<Budget>, name: &str, lane: Lane) -> Result<Place, Full> {
    budget.place(payer(name), &Urgency::new(lane)).await
}

/// What a future gives without waiting.
async fn at_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = ready(()) => None,
    }
}

async fn held(budget: &Arc<Budget>, name: &str) -> Place {
    let mut place = pin!(place(budget, name, Lane::Caller));
    at_once(&mut place).await.expect("is free").expect("fits")
}

fn load(queued: usize, under_way: usize, slow: usize) -> Load {
    Load {
        queued,
        under_way,
        slow,
    }
}

/// Nothing is left: nobody waits, nobody holds, nobody is remembered.
fn assert_empty(budget: &Budget) {
    let state = budget.state();
    assert_eq!(state.load, Load::default());
    assert!(
        state.accounts.is_empty() && state.next.is_empty(),
        "{state:?}"
    );
    assert_eq!((state.mistrusted, state.on_trial), (0, 0));
    assert!(state.next_on_trial.is_empty(), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn no_more_are_under_way_than_may_be() {
    let budget = budget(2, 10);
    let first = held(&budget, "a").await;
    let second = held(&budget, "b").await;
    let mut third = pin!(place(&budget, "c", Lane::Restore));
    assert!(at_once(&mut third).await.is_none());
    assert_eq!(budget.load(), load(1, 2, 0));
    drop(first);
    let third = at_once(&mut third).await.expect("is called up");
    assert_eq!(budget.load(), load(0, 2, 0));
    drop((second, third));
    assert_empty(&budget);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_its_share_and_the_queue_passes_over_it() {
    let budget = budget(16, 100);
    let mut first = vec![held(&budget, "a").await, held(&budget, "a").await];
    let mut waits = pin!(place(&budget, "a", Lane::Restore));
    assert!(at_once(&mut waits).await.is_none(), "an eighth is two");
    let _others = [held(&budget, "b").await, held(&budget, "c").await];
    assert!(at_once(&mut waits).await.is_none());
    drop(first.pop());
    at_once(&mut waits).await.expect("its turn").expect("fits");
}

#[tokio::test(start_paused = true)]
async fn lanes_go_first_and_then_who_came_first() {
    let budget = budget(1, 1_000);
    let mut holder = Some(held(&budget, "holder").await);
    let came = [
        ("probe", Lane::Probe),
        ("refresh", Lane::Refresh),
        ("caller 1", Lane::Caller),
        ("restore", Lane::Restore),
        ("caller 2", Lane::Caller),
    ];
    let mut waiting = Vec::new();
    for (name, lane) in came {
        let mut waits = Box::pin(place(&budget, name, lane));
        assert!(at_once(&mut waits).await.is_none());
        waiting.push((name, waits));
    }
    let mut went = Vec::new();
    while !waiting.is_empty() {
        holder.take();
        for number in (0..waiting.len()).rev() {
            if let Some(place) = at_once(&mut waiting[number].1).await {
                holder = Some(place.expect("fits"));
                went.push(waiting.remove(number).0);
            }
        }
    }
    let expected = ["restore", "caller 1", "caller 2", "refresh", "probe"];
    assert_eq!(went, expected);
}

#[tokio::test(start_paused = true)]
async fn the_last_lane_does_not_starve() {
    let budget = budget(1, 1_000);
    let mut holder = held(&budget, "holder").await;
    let mut probe = Box::pin(place(&budget, "probe", Lane::Probe));
    assert!(at_once(&mut probe).await.is_none());
    for seconds in 0.. {
        // A new restore every second, and a place every second.
        let name = format!("restore {seconds}");
        let mut restore = Box::pin(place(&budget, &name, Lane::Restore));
        assert!(at_once(&mut restore).await.is_none());
        drop(holder);
        if at_once(&mut probe).await.is_some() {
            assert_eq!(seconds, 120, "when it is due, before who comes then");
            break;
        }
        holder = at_once(&mut restore)
            .await
            .expect("its turn")
            .expect("fits");
        advance(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_moved_to_a_faster_lane_goes_sooner() {
    let budget = budget(1, 100);
    let holder = held(&budget, "holder").await;
    let urgency = Urgency::new(Lane::Refresh);
    let mut refresh = pin!(budget.place(payer("refresh"), &urgency));
    assert!(at_once(&mut refresh).await.is_none());
    let mut caller = pin!(place(&budget, "caller", Lane::Caller));
    assert!(at_once(&mut caller).await.is_none());
    urgency.raise(Lane::Restore);
    urgency.raise(Lane::Probe);
    assert_eq!(urgency.lane(), Lane::Restore);
    assert!(at_once(&mut refresh).await.is_none());
    drop(holder);
    assert!(at_once(&mut caller).await.is_none());
    let place = at_once(&mut refresh).await.expect("its turn");
    // Once it has its place, there is nothing to be moved.
    urgency.raise(Lane::Restore);
    drop(place);
    at_once(&mut caller).await.expect("its turn").expect("fits");
    assert_empty(&budget);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_the_queue_at_once() {
    let budget = budget(1, 2);
    let holder = held(&budget, "a").await;
    {
        let mut leaves = pin!(place(&budget, "b", Lane::Caller));
        assert!(at_once(&mut leaves).await.is_none());
        assert_eq!(budget.load(), load(1, 1, 0));
    }
    assert_eq!(budget.load(), load(0, 1, 0));
    {
        // Called up, and gone before it knew.
        let mut called = pin!(place(&budget, "b", Lane::Caller));
        assert!(at_once(&mut called).await.is_none());
        drop(holder);
        assert_eq!(budget.load(), load(0, 1, 0));
    }
    assert_empty(&budget);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_so_is_the_part_of_a_tenant() {
    let budget = budget(1, 32);
    let _holder = held(&budget, "a").await;
    let mut waiting = Vec::new();
    for tenant in 0..16 {
        let name = tenant.to_string();
        for _ in 0..2 {
            let mut waits = Box::pin(budget.clone().place_of(name.clone()));
            assert!(at_once(&mut waits).await.is_none());
            waiting.push(waits);
        }
        let mut third = pin!(place(&budget, &name, Lane::Restore));
        assert!(at_once(&mut third).await.expect("at once").is_err());
    }
    assert_eq!(budget.load().queued, 32);
    let mut other = pin!(place(&budget, "b", Lane::Restore));
    assert!(at_once(&mut other).await.expect("at once").is_err());
    waiting.pop();
    let mut other = pin!(place(&budget, "b", Lane::Restore));
    assert!(at_once(&mut other).await.is_none(), "there is room to wait");
}

#[tokio::test(start_paused = true)]
async fn slow_ones_make_room_and_their_tenant_gets_no_second() {
    let budget = budget(8, 100);
    let mut slow = held(&budget, "slow").await;
    assert!(slow.give_back());
    assert_eq!(budget.load(), load(0, 0, 1));
    let mut second = Box::pin(place(&budget, "slow", Lane::Restore));
    assert!(at_once(&mut second).await.is_none());
    let _others: Vec<_> = [held(&budget, "a").await, held(&budget, "b").await].into();
    drop(slow);
    let second = at_once(&mut second).await.expect("its turn").expect("fits");
    drop(second);
    assert!(budget.state().accounts.contains_key(&payer("slow")));
    held(&budget, "slow").await.prompt();
    assert!(!budget.state().accounts.contains_key(&payer("slow")));
}

#[tokio::test(start_paused = true)]
async fn there_are_only_so_many_slow_ones() {
    let budget = budget(1, 100);
    let mut slow = Vec::new();
    for number in 0..4 {
        let mut place = held(&budget, &number.to_string()).await;
        assert!(place.give_back());
        slow.push(place);
    }
    let mut last = held(&budget, "last").await;
    assert!(!last.give_back(), "it keeps its place");
    assert_eq!(budget.load(), load(0, 1, 4));
    drop(slow.pop());
    assert!(last.give_back(), "now there is room");
    assert_eq!(budget.load(), load(0, 0, 4));
    drop((slow, last));
    assert_eq!(budget.load(), Load::default());
    assert_eq!(budget.state().mistrusted, 5);
}

#[tokio::test(start_paused = true)]
async fn mistrust_is_of_one_share_and_is_forgotten() {
    let budget = budget(16, 100);
    held(&budget, "a").await.give_back();
    let one = held(&budget, "a").await;
    let mut second = Box::pin(place(&budget, "a", Lane::Caller));
    assert!(at_once(&mut second).await.is_none(), "one at a time");
    drop((one, second));
    for number in 1..MISTRUSTED_MAX {
        held(&budget, &number.to_string()).await.give_back();
    }
    assert_eq!(budget.state().mistrusted, MISTRUSTED_MAX);
    advance(MISTRUST).await;
    held(&budget, "last").await.give_back();
    let state = budget.state();
    assert_eq!((state.mistrusted, state.accounts.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn those_that_are_not_trusted_share_a_quarter_and_what_they_earn() {
    let budget = budget(8, 1_000);
    for number in 0..8 {
        held(&budget, &number.to_string()).await.give_back();
    }
    let mut waiting = Vec::new();
    for number in 0..8 {
        let mut waits = Box::pin(budget.clone().place_of(number.to_string()));
        waiting.push((at_once(&mut waits).await, waits));
    }
    let called = waiting.iter().filter(|(place, _)| place.is_some()).count();
    assert_eq!((called, budget.load()), (2, load(6, 2, 0)));
    let trusted = held(&budget, "trusted").await;
    // One that turns out to hang gives its place back, and the next one is tried.
    let mut tried = waiting.remove(0).0.expect("is called up").expect("fits");
    assert!(tried.give_back());
    assert_eq!(budget.load(), load(5, 3, 1));
    // One that answers promptly is trusted, and one more than before may be tried.
    let number = waiting.iter().position(|(place, _)| place.is_some());
    let number = number.expect("another was called up");
    let prompt = waiting.remove(number).0.expect("is called up");
    prompt.expect("fits").prompt();
    assert_eq!(budget.load(), load(3, 4, 1));
    assert_eq!(budget.state().on_trial, 3);
    drop((tried, trusted, waiting));
    assert_eq!(budget.load(), Load::default());
    assert_eq!(budget.state().mistrusted, 7);
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_books_balance() {
    let budget = budget(16, 400);
    let mut chance = 7_u64;
    let mut draw = |sides: u64| {
        // Knuth's linear congruential generator: the same run every time.
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % sides
    };
    let lanes = [Lane::Probe, Lane::Refresh, Lane::Caller, Lane::Restore];
    let mut waiting = Vec::new();
    let mut places: Vec<Place> = Vec::new();
    for _ in 0..20_000 {
        match draw(6) {
            0 | 1 => {
                let lane = lanes[usize::try_from(draw(4)).unwrap()];
                let urgency = Urgency::new(lane);
                let (budget, tenant) = (budget.clone(), draw(30).to_string());
                let raised = urgency.clone();
                let waits = async move { budget.place(payer(&tenant), &urgency).await };
                waiting.push((raised, Box::pin(waits)));
            }
            2 if !waiting.is_empty() => {
                let number = usize::try_from(draw(waiting.len() as u64)).unwrap();
                waiting[number].0.raise(Lane::Restore);
            }
            3 if !waiting.is_empty() => {
                let number = usize::try_from(draw(waiting.len() as u64)).unwrap();
                drop(waiting.swap_remove(number));
            }
            4 if !places.is_empty() => {
                let number = usize::try_from(draw(places.len() as u64)).unwrap();
                let place = places.swap_remove(number);
                if draw(2) == 0 {
                    place.prompt();
                }
            }
            5 if !places.is_empty() => {
                let number = usize::try_from(draw(places.len() as u64)).unwrap();
                if matches!(places[number].stage, Stage::Held) {
                    places[number].give_back();
                }
            }
            _ => advance(SECOND / 10).await,
        }
        let mut still = Vec::new();
        for (urgency, mut waits) in waiting {
            match at_once(&mut waits).await {
                Some(Ok(place)) => places.push(place),
                Some(Err(Full)) => {}
                None => still.push((urgency, waits)),
            }
        }
        waiting = still;
        let slow = places
            .iter()
            .filter(|place| matches!(place.stage, Stage::Slow));
        let slow = slow.count();
        let load = budget.load();
        assert_eq!(load, self::load(waiting.len(), places.len() - slow, slow));
        assert!(load.under_way <= 16 && load.slow <= 64);
    }
    drop((waiting, places));
    assert_eq!(budget.load(), Load::default());
    let kept = budget.state().mistrusted;
    for tenant in 0..30 {
        held(&budget, &tenant.to_string()).await.prompt();
    }
    assert!(kept > 0);
    assert_empty(&budget);
}

impl Budget {
    async fn place_of(self: Arc<Self>, name: String) -> Result<Place, Full> {
        self.place(payer(&name), &Urgency::new(Lane::Caller)).await
    }
}
