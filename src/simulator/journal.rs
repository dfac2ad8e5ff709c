//! What the token endpoint saw: enough to count and to compare, nothing to authenticate with.

use std::{collections::VecDeque, sync::Mutex, time::SystemTime};

use tokio::sync::watch;
use uuid::Uuid;

use super::lock;

/// Older requests are forgotten, so that a simulator that runs for days does not grow.
const REQUESTS_MAX: usize = 4096;

/// One request to the token endpoint. It never holds a secret or an assertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When it came in.
    pub time: SystemTime,
    /// The tenant as the path had it.
    pub tenant: String,
    /// The client id as sent.
    pub client_id: Option<String>,
    /// The scope as sent.
    pub scope: Option<String>,
    /// The claims request as sent: what an API's challenge demanded.
    pub claims: Option<String>,
    /// How the client authenticated, or tried to.
    pub authentication: Authentication,
    /// The client's own id of the request.
    pub client_request_id: Option<Uuid>,
    /// Whether a cookie came along; a client of Entra keeps none.
    pub has_cookie: bool,
}

/// How a client authenticated, or tried to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Not at all, or with an assertion that cannot be read.
    None,
    /// With a secret.
    Secret,
    /// With a signed assertion.
    Assertion {
        /// The `alg` of its header.
        algorithm: Option<String>,
        /// The `jti` of its claims.
        id: Option<String>,
    },
}

/// The latest requests.
#[derive(Debug, Default)]
pub(super) struct Journal {
    requests: Mutex<VecDeque<Request>>,
    /// How many requests there have ever been, to wait for.
    count: watch::Sender<u64>,
}

impl Journal {
    pub(super) fn record(&self, request: Request) {
        let mut requests = lock(&self.requests);
        if requests.len() == REQUESTS_MAX {
            requests.pop_front();
        }
        requests.push_back(request);
        // Counted under the lock: who has seen the count finds the request.
        self.count.send_modify(|count| *count += 1);
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).iter().cloned().collect()
    }

    pub(super) fn count(&self) -> u64 {
        *self.count.borrow()
    }

    pub(super) async fn reached(&self, count: u64) {
        let mut counts = self.count.subscribe();
        // The journal keeps the sender, so that waiting can only end with the count.
        let _ = counts.wait_for(|reached| *reached >= count).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_latest_requests_are_kept_but_all_are_counted() {
        let journal = Journal::default();
        for number in 0..=REQUESTS_MAX {
            journal.record(Request {
                time: SystemTime::UNIX_EPOCH,
                tenant: number.to_string(),
                client_id: None,
                scope: None,
                claims: None,
                authentication: Authentication::None,
                client_request_id: None,
                has_cookie: false,
            });
        }
        let requests = journal.requests();
        assert_eq!(requests.len(), REQUESTS_MAX);
        assert_eq!(requests[0].tenant, "1");
        assert_eq!(journal.count(), 4097);
        journal.reached(4097).await;
    }
}
