//! Connections of operators do not stay open when they are idle.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use crate::pb::admin::v1::organization_service_server;

/// How long the connection of an operator stays open after a call. The buffers of TLS and HTTP/2 keep
/// the last request, with the secret in it, as long as they live.
const OPERATOR_IDLE_MAX: Duration = Duration::from_millis(500);

/// Whether it is a call that may carry a credential.
pub(super) fn is_of_operator(path: &str) -> bool {
    let path = path.strip_prefix('/');
    let method = path.and_then(|path| path.strip_prefix(organization_service_server::SERVICE_NAME));
    method.is_some_and(|method| method.starts_with('/'))
}

/// Waits until there have been calls of an operator, and then none for a while.
pub(super) async fn idle(mut calls: watch::Receiver<usize>) {
    loop {
        // Whoever counts them lives longer than the one who waits.
        let _ = calls.changed().await;
        let _ = calls.wait_for(|under_way| *under_way == 0).await;
        if timeout(OPERATOR_IDLE_MAX, calls.changed()).await.is_err() {
            return;
        }
        calls.mark_changed();
    }
}

/// Counts a call of an operator.
pub(super) struct UnderWay(watch::Sender<usize>);

impl UnderWay {
    pub(super) fn new(calls: watch::Sender<usize>) -> Self {
        calls.send_modify(|under_way| *under_way += 1);
        Self(calls)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|under_way| *under_way -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::rpc::get_token;

    #[test]
    fn calls_of_an_operator_are_known_by_their_path() {
        assert!(is_of_operator(
            "/kodo.broker.admin.v1.OrganizationService/RotateCredential"
        ));
        assert!(!is_of_operator(get_token::PATH));
        assert!(!is_of_operator("/kodo.broker.admin.v1.OrganizationService"));
        assert!(!is_of_operator(
            "/kodo.broker.admin.v1.OrganizationServices/RotateCredential"
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_a_while_after_the_last_call_and_not_during_one() {
        let (calls, under_way) = watch::channel(0);
        let began = Instant::now();
        let ends = async {
            idle(under_way).await;
            began.elapsed()
        };
        let used = async {
            // None yet: a worker's connection may be like this for ever.
            advance(Duration::from_secs(100)).await;
            let (first, second) = (UnderWay::new(calls.clone()), UnderWay::new(calls.clone()));
            advance(Duration::from_secs(10)).await;
            drop(first);
            advance(Duration::from_secs(10)).await;
            drop(second);
            tokio::task::yield_now().await;
            advance(OPERATOR_IDLE_MAX / 2).await;
            drop(UnderWay::new(calls.clone()));
        };
        let (ended, ()) = tokio::join!(ends, used);
        let after = Duration::from_secs(120) + OPERATOR_IDLE_MAX / 2 + OPERATOR_IDLE_MAX;
        assert!(
            (after..after + Duration::from_millis(5)).contains(&ended),
            "{ended:?}"
        );
    }
}
