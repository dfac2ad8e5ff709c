use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::*;
use crate::{
    authz::{LivePolicy, Policy},
    clock::Clock,
    config::IdentityMode,
    rpc::records::Records,
};

fn door() -> Door {
    let (audit, metrics) = (Audit::off(), Arc::new(Metrics::new()));
    let records = Records::new(audit.clone(), Clock::system());
    let seal = Seal::new(Arc::new(records), metrics.clone());
    let identity = IdentityService {
        mode: IdentityMode::Mtls,
        policy: LivePolicy::new(Policy::default()),
        metrics,
    };
    let (limits, deliveries) = (LimitsConfig::default(), Deliveries::default());
    Door::new(seal, identity, false, &limits, audit, deliveries)
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_first_attempt_to_open_and_for_no_other() {
    let door = door();
    let mut waiting = Box::pin(door.0.settled());
    assert!(waiting.as_mut().now_or_never().is_none(), "it is not known");
    door.refuse();
    let settled = waiting.now_or_never().expect("it is known");
    assert!(settled.is_none(), "there is nothing");
    let again = door.0.settled().now_or_never();
    assert!(again.expect("nothing is waited for").is_none());
}

#[tokio::test(start_paused = true)]
async fn calls_wait_no_longer_than_a_call_may_take() {
    let door = door();
    let before = Instant::now();
    assert!(door.0.settled().await.is_none());
    let (waited, limit) = (before.elapsed(), LimitsConfig::default().call_timeout());
    assert!((limit..limit * 2).contains(&waited), "{waited:?}");
}
