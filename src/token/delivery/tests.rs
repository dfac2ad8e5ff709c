use std::{
    future::Future,
    pin::pin,
    sync::atomic::AtomicU64,
    task::{Context, Poll, Waker},
    thread,
};

use tokio::time::advance;

use super::*;

fn poll<T>(work: &mut std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn without_anything_under_way_nobody_waits() {
    let (deliveries, route) = (Deliveries::default(), Arc::<Route>::default());
    let _open = deliveries.open(route.clone());
    let mut taking = pin!(deliveries.take_back());
    assert_eq!(poll(&mut taking), Poll::Ready(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_waited_for_until_it_was_flushed() {
    let (deliveries, route) = (Deliveries::default(), Arc::<Route>::default());
    let _open = deliveries.open(route.clone());
    let delivery = deliveries.begin(&route, deliveries.seen()).expect("begins");
    let mut taking = pin!(deliveries.take_back());
    assert!(poll(&mut taking).is_pending());
    route.flushed();
    advance(PAUSE).await;
    assert!(poll(&mut taking).is_pending());
    delivery.written();
    advance(PAUSE).await;
    assert!(poll(&mut taking).is_pending());
    // What begins meanwhile is not waited for.
    let _next = deliveries.begin(&route, deliveries.seen()).expect("begins");
    route.flushed();
    advance(PAUSE).await;
    assert_eq!(poll(&mut taking), Poll::Ready(Ok(())));
    assert!(!route.is_broken());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_given_up_is_not_waited_for() {
    let (deliveries, route) = (Deliveries::default(), Arc::<Route>::default());
    let _open = deliveries.open(route.clone());
    let delivery = deliveries.begin(&route, deliveries.seen()).expect("begins");
    let mut taking = pin!(deliveries.take_back());
    assert!(poll(&mut taking).is_pending());
    drop(delivery);
    advance(PAUSE).await;
    assert_eq!(poll(&mut taking), Poll::Ready(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn whoever_looked_before_looks_again() {
    let (deliveries, route) = (Deliveries::default(), Arc::<Route>::default());
    let _open = deliveries.open(route.clone());
    let seen = deliveries.seen();
    deliveries.take_back().await.expect("nothing is under way");
    assert!(deliveries.begin(&route, seen).is_none());
    // Nothing is left behind of the attempt.
    deliveries.take_back().await.expect("nothing is under way");
    deliveries.take_back().await.expect("nothing is under way");
    assert!(deliveries.begin(&route, deliveries.seen()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_get_it_out_is_broken() {
    let (deliveries, route) = (Deliveries::default(), Arc::<Route>::default());
    let other = Arc::<Route>::default();
    let open = deliveries.open(route.clone());
    let _other = deliveries.open(other.clone());
    let _delivery = deliveries.begin(&route, deliveries.seen()).expect("begins");
    let began = Instant::now();
    let serving = async {
        route.broken().await;
        drop(open);
        began.elapsed()
    };
    let (taken, broken_after) = tokio::join!(deliveries.take_back(), serving);
    assert_eq!((taken, broken_after), (Ok(()), PATIENCE));
    assert!(route.is_broken() && !other.is_broken());
    // Also whoever comes to wait only now is told.
    route.broken().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_even_end_is_told_of() {
    let (deliveries, route) = (Deliveries::default(), Arc::<Route>::default());
    let _open = deliveries.open(route.clone());
    let _delivery = deliveries.begin(&route, deliveries.seen()).expect("begins");
    let began = Instant::now();
    assert_eq!(deliveries.take_back().await, Err(Stuck));
    assert_eq!(began.elapsed(), LIMIT);
    assert_eq!(deliveries.take_back().await, Ok(()), "another side");
}

/// Threads answer with whatever is the current value, and take it back at the same time: none that was
/// taken back is flushed afterwards.
#[test]
fn nothing_leaves_once_it_was_taken_back() {
    const TAKEN_BACK: u64 = 500;
    const ANSWERED: u64 = 2000;
    let deliveries = Deliveries::default();
    let (value, dead) = (AtomicU64::new(1), AtomicU64::new(0));
    let (answered, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let answer = || {
        let route = Arc::<Route>::default();
        let _open = deliveries.open(route.clone());
        while !done.load(Ordering::Relaxed) {
            let seen = deliveries.seen();
            let found = value.load(Ordering::SeqCst);
            let Some(delivery) = deliveries.begin(&route, seen) else {
                continue;
            };
            delivery.written();
            thread::yield_now();
            assert!(
                dead.load(Ordering::SeqCst) < found,
                "{found} was taken back"
            );
            route.flushed();
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(answer);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.expect("a runtime").block_on(async {
            for number in 1.. {
                if number > TAKEN_BACK && answered.load(Ordering::Relaxed) > ANSWERED {
                    break;
                }
                value.store(number + 1, Ordering::SeqCst);
                deliveries.take_back().await.expect("answers get out");
                dead.store(number, Ordering::SeqCst);
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}
