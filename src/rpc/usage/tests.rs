use tokio::time::advance;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits(calls_per_second: u32, calls_under_way: u32, organizations_per_hour: u32) -> Limits {
    Limits {
        calls_per_second: NonZeroU32::new(calls_per_second),
        calls_under_way: NonZeroU32::new(calls_under_way),
        organizations_per_hour: NonZeroU32::new(organizations_per_hour),
    }
}

/// Calls until one is refused.
fn burst(usage: &Usage, limits: &Limits) -> (u32, Reached) {
    let mut calls = 0;
    loop {
        match usage.call(limits, Instant::now()) {
            Ok(()) => calls += 1,
            Err(reached) => return (calls, reached),
        }
    }
}

fn organization(number: usize) -> OrganizationId {
    OrganizationId::parse(&format!("organization-{number}")).expect("an id")
}

#[tokio::test(start_paused = true)]
async fn a_second_of_calls_may_come_at_once_and_then_one_when_the_next_is_due() {
    for rate in [1, 3, 100, 1000] {
        let (usage, limits) = (Usage::new(), limits(rate, 0, 0));
        let (calls, reached) = burst(&usage, &limits);
        assert_eq!((calls, reached.limit), (rate, Limit::CallsPerSecond));
        // What is told about when there is room is right, to the nanosecond.
        advance(reached.retry_after - Duration::from_millis(1)).await;
        usage.call(&limits, Instant::now()).expect_err("is early");
        advance(Duration::from_millis(1)).await;
        usage.call(&limits, Instant::now()).expect("is due");
        usage
            .call(&limits, Instant::now())
            .expect_err("is early again");
        advance(10 * SECOND).await;
        assert_eq!(burst(&usage, &limits).0, rate, "rest is not saved up");
    }
}

#[tokio::test(start_paused = true)]
async fn over_time_calls_are_as_many_as_the_rate_says() {
    let (usage, limits) = (Usage::new(), limits(50, 0, 0));
    let mut calls = 0;
    for _ in 0..10_000 {
        calls += u32::from(usage.call(&limits, Instant::now()).is_ok());
        advance(Duration::from_millis(1)).await;
    }
    assert!((calls - 50).abs_diff(500) <= 1, "{calls} in ten seconds");
}

#[test]
fn without_limits_there_are_none() {
    let usage = Arc::new(Usage::new());
    let none = Limits::default();
    let places: Vec<_> = (0..1000)
        .map(|at| {
            usage.call(&none, Instant::now()).expect("no limit");
            let asked = usage.asks_about(&organization(at), &none, Instant::now());
            assert_eq!(asked, None);
            usage.begin(&none).expect("no limit")
        })
        .collect();
    assert_eq!(places.len(), 1000);
}

#[test]
fn a_place_is_free_again_when_its_call_ends() {
    let (usage, limits) = (Arc::new(Usage::new()), limits(0, 2, 0));
    let first = usage.begin(&limits).expect("a place");
    let _second = usage.begin(&limits).expect("a place");
    let reached = usage.begin(&limits).expect_err("no place");
    assert_eq!(reached.limit, Limit::CallsUnderWay);
    drop(first);
    usage.begin(&limits).expect("a place");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_once_a_second_and_all_of_them() {
    let (usage, limits) = (Usage::new(), limits(1, 0, 0));
    usage.call(&limits, Instant::now()).expect("the first");
    let (mut told, mut lines) = (0, 0);
    for _ in 0..3000 {
        if let Err(Reached {
            untold: Some(untold),
            ..
        }) = usage.call(&limits, Instant::now())
        {
            told += untold.get();
            lines += 1;
        }
        advance(Duration::from_millis(1)).await;
    }
    assert!((3..=4).contains(&lines), "{lines} lines");
    assert!(told > 1900, "{told} refusals");
}

#[test]
fn connections_of_one_caller_count_together_and_callers_are_bounded() {
    let usages = Usages::default();
    let id = |number: usize| SpiffeId::new(format!("spiffe://kodo.test/{number}")).expect("an id");
    let one = usages.of(&id(0));
    assert!(Arc::ptr_eq(&one, &usages.of(&id(0))));
    let held: Vec<_> = (1..CALLERS_MAX)
        .map(|number| usages.of(&id(number)))
        .collect();
    // Nobody makes room: the connection counts for itself.
    let alone = usages.of(&id(CALLERS_MAX));
    assert!(!Arc::ptr_eq(&alone, &usages.of(&id(CALLERS_MAX))));
    drop(held);
    let kept = usages.of(&id(CALLERS_MAX));
    assert!(Arc::ptr_eq(&kept, &usages.of(&id(CALLERS_MAX))));
    assert!(
        Arc::ptr_eq(&one, &usages.of(&id(0))),
        "who is there is not forgotten"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_walks_many_organizations_is_told_of_once_an_hour() {
    for limit in [1_usize, 20, 1000, 20_000] {
        let (usage, limits) = (
            Usage::new(),
            limits(0, 0, u32::try_from(limit).expect("few")),
        );
        let asks = |number| usage.asks_about(&organization(number), &limits, Instant::now());
        for _ in 0..3 {
            let mut alarms = Vec::new();
            for number in 0..2 * limit + 2 {
                // Again and again the same ones are no walk.
                let again = asks(number / 2);
                assert!(number / 2 > 0 || again.is_none());
                alarms.extend(asks(number).map(|_| number + 1));
            }
            let [at] = alarms[..] else {
                panic!("{alarms:?} of {limit}")
            };
            let off = at.abs_diff(limit + 1);
            assert!(off <= 1 + limit / 20, "told at {at} instead of {limit}");
            advance(WINDOW).await;
        }
        let memory = usage
            .organizations
            .get()
            .map_or(0, |distinct| 8 * distinct.bits.len());
        assert!(memory <= 1 << 17, "{memory} bytes");
    }
}
