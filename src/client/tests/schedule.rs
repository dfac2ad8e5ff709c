//! No schedule of calls, answers, losses and time makes the library hand out an ended token.

use std::time::Duration;

use proptest::prelude::*;
use tokio::runtime::Builder;
use tonic::Code;

use super::broker::{Answer, Broker, refusal, settle};
use crate::{
    client::{Refusal, TokenOptions},
    pb::v1::{ErrorReason, Resource},
};

#[derive(Clone, Debug)]
enum Step {
    /// Asks for a token with this much life, and waits so long for it, in seconds.
    Ask {
        min_remaining: u64,
        timeout: u64,
    },
    /// Asks and goes away before there is an answer.
    Leave,
    /// Reports the last token.
    Report,
    /// Lets time pass, in seconds.
    Pass(u64),
    /// The broker gives tokens with this much life, in seconds.
    Give(u64),
    Refuse(bool),
    Shut,
    Open,
    Down,
    Up,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5000_u64, 1..100_u64).prop_map(|(min_remaining, timeout)| Step::Ask {
            min_remaining,
            timeout,
        }),
        1 => Just(Step::Leave),
        1 => Just(Step::Report),
        4 => (0..4000_u64).prop_map(Step::Pass),
        3 => (2..4000_u64).prop_map(Step::Give),
        1 => any::<bool>().prop_map(Step::Refuse),
        1 => Just(Step::Shut),
        2 => Just(Step::Open),
        1 => Just(Step::Down),
        2 => Just(Step::Up),
    ]
}

async fn follow(steps: Vec<Step>) {
    let (broker, client) = Broker::start().await;
    let mut last = None;
    let mut number = 1;
    for step in steps {
        let options = |min_remaining, timeout| TokenOptions {
            min_remaining: Some(Duration::from_secs(min_remaining)),
            timeout: Some(Duration::from_secs(timeout)),
            ..Default::default()
        };
        match step {
            Step::Ask {
                min_remaining,
                timeout,
            } => {
                let start = tokio::time::Instant::now();
                let options = options(min_remaining, timeout);
                let got = client.token("contoso", Resource::Graph, options).await;
                assert!(start.elapsed() <= Duration::from_secs(timeout + 1));
                if let Ok(token) = got {
                    assert!(broker.now() < token.expire_time, "it has ended");
                    last = Some(token);
                }
            }
            Step::Leave => {
                let asking = client.token("contoso", Resource::Graph, options(5000, 60));
                let _ = tokio::time::timeout(Duration::from_millis(1), asking).await;
            }
            Step::Report => {
                if let Some(token) = &last {
                    let refusal = Refusal::Unauthorized {
                        claims_challenge: None,
                    };
                    let _ = client.report(token, refusal).await;
                }
            }
            Step::Pass(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            Step::Give(life) => {
                number += 1;
                broker.answers([Answer::Living(number, Duration::from_secs(life))]);
            }
            Step::Refuse(for_now) => {
                let retry = for_now.then_some(Duration::from_secs(30));
                let reason = ErrorReason::IdpUnreachable;
                broker.answers([refusal(Code::FailedPrecondition, reason, retry)]);
            }
            Step::Shut => broker.shut(),
            Step::Open => broker.open(),
            Step::Down => broker.down().await,
            Step::Up => {
                broker.down().await;
                broker.up();
            }
        }
        settle().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_schedule_gives_an_ended_token_or_makes_a_caller_wait_too_long(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(follow(steps));
    }
}
