//! What goes wrong on purpose: scripted answers, delays, and gates that hold requests back.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::{error_response::Rejection, lock, server::Peer};

/// An endpoint of a tenant, each with a script of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// `/{tenant}/oauth2/v2.0/token`.
    Token,
    /// The discovery document and the key set.
    Discovery,
    /// Microsoft Graph, for tokens of the tenant.
    Graph,
}

/// One thing that goes wrong, once or several times.
#[derive(Debug, Clone)]
pub struct Fault {
    delay: Duration,
    times: u32,
    action: Action,
}

/// Holds back the requests to an endpoint until it is released or dropped.
#[derive(Debug)]
pub struct Hold {
    gate: Arc<Gate>,
}

/// What becomes of a request once its faults have had their turn.
pub(super) enum Course {
    /// It is answered properly, and these members, mostly none, then replace the answer's.
    Proceed(Alteration),
    /// It is rejected in Entra's shape.
    Reject(Rejection),
    /// It gets this answer.
    Answer(Response),
}

/// Members of a JSON answer that replace the proper ones; null removes a member.
#[derive(Debug, Clone, Default)]
pub(super) struct Alteration(Map<String, Value>);

/// The plans of all endpoints.
#[derive(Debug, Default)]
pub(super) struct Faults {
    plans: Mutex<BTreeMap<(Uuid, Endpoint), Plan>>,
}

#[derive(Debug, Clone)]
enum Action {
    Proceed(Alteration),
    Reject(Rejection),
    Answer(Answer),
    Hang,
    Reset,
}

#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Debug, Default)]
struct Plan {
    script: VecDeque<Fault>,
    /// Added to every request.
    latency: Duration,
    gate: Option<Arc<Gate>>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Cancelled when the gate opens, for good.
    opened: CancellationToken,
    /// How many requests have come to the gate.
    arrived: watch::Sender<usize>,
}

// === impl Fault ===

impl Fault {
    /// A plain answer, verbatim.
    ///
    /// # Panics
    ///
    /// Panics if the status is not one of three digits.
    #[must_use]
    pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::of(Action::Answer(Answer {
            status: status_code(status),
            headers: HeaderMap::new(),
            body: Bytes::from(body.into()),
        }))
    }

    /// A JSON answer.
    ///
    /// # Panics
    ///
    /// As [`Fault::answer`].
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self::answer(status, body.to_string()).header("content-type", "application/json")
    }

    /// An HTML page, as proxies and gateways send.
    ///
    /// # Panics
    ///
    /// As [`Fault::answer`].
    #[must_use]
    pub fn html(status: u16) -> Self {
        let page = format!("<html><head><title>{status}</title></head><body>proxy</body></html>");
        Self::answer(status, page).header("content-type", "text/html")
    }

    /// An error in Entra's shape, with ids and time of its own.
    ///
    /// # Panics
    ///
    /// As [`Fault::answer`].
    #[must_use]
    pub fn rejection(status: u16, error: &str, aadsts_code: u32, text: &str) -> Self {
        let error = error.to_owned();
        Self::of(Action::Reject(Rejection::new(
            status_code(status),
            error,
            aadsts_code,
            text,
        )))
    }

    /// Entra's 429, with `Retry-After` in seconds or without the header.
    #[must_use]
    pub fn throttled(retry_after_seconds: Option<u64>) -> Self {
        let text = "The server terminated an operation because it encountered a client request \
                    rate limit.";
        let fault = Self::rejection(429, "temporarily_unavailable", 90_055, text);
        match retry_after_seconds {
            Some(seconds) => fault.header("retry-after", &seconds.to_string()),
            None => fault,
        }
    }

    /// A redirect, 302 or 307 for instance.
    ///
    /// # Panics
    ///
    /// As [`Fault::answer`].
    #[must_use]
    pub fn redirect(status: u16, to: &Url) -> Self {
        Self::answer(status, "").header("location", to.as_str())
    }

    /// A 200 whose body is this long and has no end of JSON in it.
    #[must_use]
    pub fn oversized(length: usize) -> Self {
        let mut body = br#"{"access_token":""#.to_vec();
        body.resize(length, b'a');
        Self::answer(200, body).header("content-type", "application/json")
    }

    /// The proper answer with some members of its JSON replaced, or removed where the new value is
    /// null: `{"expires_in": "3599"}`. A rejection is not altered.
    #[must_use]
    pub fn altered(members: Map<String, Value>) -> Self {
        Self::of(Action::Proceed(Alteration(members)))
    }

    /// The proper answer, late.
    #[must_use]
    pub fn delayed(by: Duration) -> Self {
        Self::of(Action::Proceed(Alteration::default())).after(by)
    }

    /// No answer, until the client gives up or the simulator stops.
    #[must_use]
    pub fn hang() -> Self {
        Self::of(Action::Hang)
    }

    /// The connection is reset without an answer, with all that goes on over it.
    #[must_use]
    pub fn reset() -> Self {
        Self::of(Action::Reset)
    }

    /// The same fault, for that many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// The same fault, after a delay.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The same fault with one response header more. The proper answer's are not changed.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("scripts name headers properly");
        let value = HeaderValue::try_from(value).expect("scripts use visible ASCII");
        match &mut self.action {
            Action::Answer(answer) => {
                answer.headers.append(name, value);
            }
            Action::Reject(rejection) => rejection.add_header(name, value),
            Action::Proceed(_) | Action::Hang | Action::Reset => {}
        }
        self
    }

    fn of(action: Action) -> Self {
        Self {
            delay: Duration::ZERO,
            times: 1,
            action,
        }
    }
}

// === impl Alteration ===

impl Alteration {
    /// Changes an answer.
    pub(super) fn apply(self, mut answer: Value) -> Value {
        if let Some(object) = answer.as_object_mut() {
            object.extend(self.0);
            object.retain(|_, value| !value.is_null());
        }
        answer
    }
}

// === impl Hold ===

impl Hold {
    /// Waits until `count` requests in all have come to the gate.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.gate.arrived.subscribe();
        // The gate keeps the sender, so that waiting can only end with the count.
        let _ = arrived.wait_for(|arrived| *arrived >= count).await;
    }

    /// Lets all requests pass, those to come too.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.gate.opened.cancel();
    }
}

// === impl Faults ===

impl Faults {
    pub(super) fn script(&self, tenant: Uuid, endpoint: Endpoint, fault: Fault) {
        if fault.times > 0 {
            self.plan(tenant, endpoint, |plan| plan.script.push_back(fault));
        }
    }

    pub(super) fn unscript(&self, tenant: Uuid, endpoint: Endpoint) -> usize {
        self.plan(tenant, endpoint, |plan| plan.script.drain(..).count())
    }

    pub(super) fn set_latency(&self, tenant: Uuid, endpoint: Endpoint, latency: Duration) {
        self.plan(tenant, endpoint, |plan| plan.latency = latency);
    }

    pub(super) fn hold(&self, tenant: Uuid, endpoint: Endpoint) -> Hold {
        let gate = Arc::new(Gate::default());
        self.plan(tenant, endpoint, |plan| plan.gate = Some(gate.clone()));
        Hold { gate }
    }

    /// Lets a request pass the gate and meet its fault. The script is read after the gate, so that
    /// a test can decide what a request meets while that request is held. What is no tenant at all
    /// has no script.
    pub(super) async fn meet(
        &self,
        tenant: Option<Uuid>,
        endpoint: Endpoint,
        peer: &Peer,
    ) -> Course {
        let Some(tenant) = tenant else {
            return Course::Proceed(Alteration::default());
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
        match fault.map(|fault| fault.action) {
            None => Course::Proceed(Alteration::default()),
            Some(Action::Proceed(alteration)) => Course::Proceed(alteration),
            Some(Action::Reject(rejection)) => Course::Reject(rejection),
            Some(Action::Answer(answer)) => Course::Answer(answer.into_response()),
            Some(Action::Hang) => pending().await,
            Some(Action::Reset) => {
                // The connection drops this request as soon as it notices.
                peer.reset();
                pending().await
            }
        }
    }

    fn plan<T>(&self, tenant: Uuid, endpoint: Endpoint, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(lock(&self.plans).entry((tenant, endpoint)).or_default())
    }
}

// === impl Plan ===

impl Plan {
    /// Uses up one time of the first fault.
    fn next(&mut self) -> Option<Fault> {
        let first = self.script.front_mut()?;
        first.times -= 1;
        if first.times == 0 {
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

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("scripts use statuses of three digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_used_as_often_as_it_says() {
        let mut plan = Plan::default();
        plan.script.push_back(Fault::hang().times(2));
        plan.script.push_back(Fault::reset());
        let actions: Vec<_> = std::iter::from_fn(|| plan.next())
            .map(|fault| fault.action)
            .collect();
        assert!(matches!(
            actions[..],
            [Action::Hang, Action::Hang, Action::Reset]
        ));
    }

    #[test]
    fn a_fault_for_no_request_is_not_scripted() {
        let faults = Faults::default();
        let tenant = Uuid::new_v4();
        faults.script(tenant, Endpoint::Token, Fault::hang().times(0));
        assert_eq!(faults.unscript(tenant, Endpoint::Token), 0);
        faults.script(tenant, Endpoint::Token, Fault::hang().times(3));
        assert_eq!(faults.unscript(tenant, Endpoint::Token), 1);
    }
}
