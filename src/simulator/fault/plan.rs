//! What each endpoint of each tenant does next.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Action, Answer, Endpoint, Fault, Hold, delivery::Delivery};
use crate::simulator::{error_response::Rejection, lock, server::Peer};

/// What becomes of a request once its faults have had their turn.
pub(in crate::simulator) enum Course {
    /// It is answered properly, and these members, mostly none, then replace the answer's.
    Proceed(Alteration),
    /// It is rejected in Entra's shape.
    Reject(Rejection),
    /// It gets this answer.
    Answer(Response),
}

/// Members of a JSON answer that replace the proper ones; null removes a member.
#[derive(Debug, Clone, Default)]
pub(in crate::simulator) struct Alteration(pub(super) Map<String, Value>);

/// The plans of all endpoints.
#[derive(Debug, Default)]
pub(in crate::simulator) struct Faults {
    plans: Mutex<BTreeMap<(Uuid, Endpoint), Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    script: VecDeque<Fault>,
    /// What every request meets once the script is used up.
    standing: Option<Fault>,
    /// Added to every request.
    latency: Duration,
    gate: Option<Arc<Gate>>,
}

#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Cancelled when the gate opens, for good.
    pub(super) opened: CancellationToken,
    /// How many requests have come to the gate.
    pub(super) arrived: watch::Sender<usize>,
}

// === impl Alteration ===

impl Alteration {
    /// Changes an answer.
    pub(in crate::simulator) fn apply(self, mut answer: Value) -> Value {
        if let Some(object) = answer.as_object_mut() {
            object.extend(self.0);
            object.retain(|_, value| !value.is_null());
        }
        answer
    }
}

// === impl Faults ===

impl Faults {
    pub(in crate::simulator) fn script(&self, tenant: Uuid, endpoint: Endpoint, fault: Fault) {
        self.plan(tenant, endpoint, |plan| match fault.times {
            None => plan.standing = Some(fault),
            Some(0) => {}
            Some(_) => plan.script.push_back(fault),
        });
    }

    pub(in crate::simulator) fn unscript(&self, tenant: Uuid, endpoint: Endpoint) -> usize {
        self.plan(tenant, endpoint, |plan| {
            plan.script.drain(..).count() + usize::from(plan.standing.take().is_some())
        })
    }

    pub(in crate::simulator) fn set_latency(
        &self,
        tenant: Uuid,
        endpoint: Endpoint,
        latency: Duration,
    ) {
        self.plan(tenant, endpoint, |plan| plan.latency = latency);
    }

    pub(in crate::simulator) fn hold(&self, tenant: Uuid, endpoint: Endpoint) -> Hold {
        let gate = Arc::new(Gate::default());
        self.plan(tenant, endpoint, |plan| plan.gate = Some(gate.clone()));
        Hold { gate }
    }

    /// Resets the connection if that is what is next, before anything of the request's body is read.
    pub(in crate::simulator) async fn meet_unread(
        &self,
        tenant: Option<Uuid>,
        endpoint: Endpoint,
        peer: &Peer,
    ) {
        let Some(tenant) = tenant else { return };
        let is_next = |plan: &mut Plan| {
            let next = plan.script.front().or(plan.standing.as_ref());
            let reset = next.is_some_and(|fault| matches!(fault.action, Action::ResetUnread));
            reset.then(|| plan.next()).is_some()
        };
        if self.plan(tenant, endpoint, is_next) {
            peer.reset();
            pending().await
        }
    }

    /// Lets a request pass the gate and meet its fault. The script is read after the gate, so that
    /// a test can decide what a request meets while that request is held. What is no tenant at all
    /// has no script.
    pub(in crate::simulator) async fn meet(
        &self,
        tenant: Option<Uuid>,
        endpoint: Endpoint,
        peer: &Peer,
    ) -> (Course, Delivery) {
        let proper = (Course::Proceed(Alteration::default()), Delivery::Whole);
        let Some(tenant) = tenant else {
            return proper;
        };
        let (gate, latency) = self.plan(tenant, endpoint, |plan| (plan.gate.clone(), plan.latency));
        if let Some(gate) = gate {
            gate.arrived.send_modify(|arrived| *arrived += 1);
            gate.opened.cancelled().await;
        }
        let fault = self.plan(tenant, endpoint, Plan::next);
        let delay = latency + fault.as_ref().map_or(Duration::ZERO, |fault| fault.delay);
        // Even a sleep of no time waits for the timer, which a paused clock may never move.
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let Some(fault) = fault else {
            return proper;
        };
        let course = match fault.action {
            Action::Proceed(alteration) => Course::Proceed(alteration),
            Action::Reject(rejection) => Course::Reject(rejection),
            Action::Answer(answer) => Course::Answer(answer.into_response()),
            Action::Hang => pending().await,
            Action::Reset | Action::ResetUnread => {
                // The connection drops this request as soon as it notices.
                peer.reset();
                pending().await
            }
        };
        (course, fault.delivery)
    }

    fn plan<T>(&self, tenant: Uuid, endpoint: Endpoint, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(lock(&self.plans).entry((tenant, endpoint)).or_default())
    }
}

// === impl Plan ===

impl Plan {
    /// Uses up one time of the first fault, or gives the one that stands.
    fn next(&mut self) -> Option<Fault> {
        let Some(first) = self.script.front_mut() else {
            return self.standing.clone();
        };
        first.times = first.times.map(|times| times - 1);
        if first.times == Some(0) {
            self.script.pop_front()
        } else {
            Some(first.clone())
        }
    }
}

// === impl Answer ===

impl Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        let no_store = HeaderValue::from_static("no-store");
        response
            .headers_mut()
            .entry(header::CACHE_CONTROL)
            .or_insert(no_store);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_used_as_often_as_it_says() {
        let mut plan = Plan::default();
        plan.script.push_back(Fault::hang().times(2));
        plan.script.push_back(Fault::reset());
        plan.standing = Some(Fault::reset_unread());
        let actions: Vec<_> = std::iter::from_fn(|| plan.next())
            .map(|fault| fault.action)
            .take(5)
            .collect();
        assert!(matches!(
            actions[..],
            [
                Action::Hang,
                Action::Hang,
                Action::Reset,
                Action::ResetUnread,
                Action::ResetUnread
            ]
        ));
    }

    #[test]
    fn a_fault_for_no_request_is_not_scripted() {
        let faults = Faults::default();
        let tenant = Uuid::new_v4();
        faults.script(tenant, Endpoint::Token, Fault::hang().times(0));
        assert_eq!(faults.unscript(tenant, Endpoint::Token), 0);
        faults.script(tenant, Endpoint::Token, Fault::hang().times(3));
        faults.script(tenant, Endpoint::Token, Fault::reset().always());
        assert_eq!(faults.unscript(tenant, Endpoint::Token), 2);
        assert_eq!(faults.unscript(tenant, Endpoint::Token), 0);
    }
}
