//! Connections of operators do not stay open when they are idle.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use crate::pb::admin::v1::organization_service_server;

/// How long the connection of an operator stays open after a call. The buffers of TLS and HTTP/2 keep
/// the last request, with the secret in it, as long as they live.
const OPERATOR_IDLE_MAX: Duration = Duration::from_millis(500);

/// The paths of RPCs that stream.
const STREAMS: [&str; 3] = [
    "/kodo.broker.v1.TokenService/WatchToken",
    "/kodo.broker.admin.v1.StoreService/RewrapKeys",
    "/kodo.broker.admin.v1.StoreService/BackUpStore",
];

/// Whether it is a call that may carry a credential.
pub(super) fn is_of_operator(path: &str) -> bool {
    let path = path.strip_prefix('/');
    let method = path.and_then(|path| path.strip_prefix(organization_service_server::SERVICE_NAME));
    method.is_some_and(|method| method.starts_with('/'))
}

/// Whether it is a call that is answered for as long as the client likes.
pub(super) fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path) || path.starts_with("/grpc.reflection.")
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
    use prost::Message as _;
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::{pb, rpc::get_token};

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

    #[test]
    fn calls_that_last_are_those_that_the_contract_streams() {
        let files = prost_types::FileDescriptorSet::decode(pb::DESCRIPTORS).expect("descriptors");
        let mut streams = Vec::new();
        for file in &files.file {
            for service in &file.service {
                let of_service = format!("/{}.{}/", file.package(), service.name());
                let methods = service.method.iter().filter(|rpc| rpc.server_streaming());
                streams.extend(methods.map(|rpc| format!("{of_service}{}", rpc.name())));
            }
        }
        streams.sort();
        let mut expected = STREAMS;
        expected.sort_unstable();
        assert_eq!(streams, expected);
        assert!(streams.iter().all(|path| is_stream(path)));
        assert!(!is_stream(get_token::PATH));
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
