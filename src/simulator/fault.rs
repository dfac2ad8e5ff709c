//! What goes wrong on purpose: scripted answers, delays, and gates that hold requests back.

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value};
use url::Url;

use self::plan::{Alteration, Gate};
use super::error_response::Rejection;

mod delivery;
mod plan;

pub(super) use self::{
    delivery::Delivery,
    plan::{Course, Faults},
};

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

/// One thing that goes wrong: once, several times, or from now on. What happens is chosen by a
/// constructor; how often, when and how it is delivered by the methods that follow it.
#[derive(Debug, Clone)]
pub struct Fault {
    delay: Duration,
    /// `None` for every request from now on.
    times: Option<u32>,
    action: Action,
    delivery: Delivery,
}

/// Holds back the requests to an endpoint until it is released or dropped.
#[derive(Debug)]
pub struct Hold {
    gate: Arc<Gate>,
}

#[derive(Debug, Clone)]
enum Action {
    Proceed(Alteration),
    Reject(Rejection),
    Answer(Answer),
    Hang,
    Reset,
    ResetUnread,
}

#[derive(Debug, Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
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

    /// Entra's 429 with a date in `Retry-After`, to the second.
    #[must_use]
    pub fn throttled_until(time: SystemTime) -> Self {
        Self::throttled(None).header("retry-after", &httpdate::fmt_http_date(time))
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

    /// A 200 whose body is gzip, although nobody asked for that, and expands from about a thousandth to
    /// this length of JSON without an end.
    #[must_use]
    pub fn gzip_bomb(length: usize) -> Self {
        let written = "a gzip stream is written to memory";
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(br#"{"access_token":""#).expect(written);
        let block = [b'a'; 64 * 1024];
        for _ in 0..length / block.len() {
            bomb.write_all(&block).expect(written);
        }
        Self::answer(200, bomb.finish().expect(written))
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
    }

    /// A 200 whose body is not UTF-8.
    #[must_use]
    pub fn invalid_utf8() -> Self {
        let body = b"{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"\xff\xfe\"}";
        Self::answer(200, body.to_vec()).header("content-type", "application/json")
    }

    /// A 200 of arrays in arrays, so many deep.
    #[must_use]
    pub fn deep_json(depth: usize) -> Self {
        let body = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        Self::answer(200, body).header("content-type", "application/json")
    }

    /// A 200 that has a member twice, so that readers may differ in which they take.
    #[must_use]
    pub fn duplicate_keys() -> Self {
        let body =
            r#"{"token_type":"Bearer","expires_in":3599,"access_token":"a","access_token":"b"}"#;
        Self::answer(200, body).header("content-type", "application/json")
    }

    /// The proper answer with some members of its JSON replaced, or removed where the new value is
    /// null: `{"expires_in": "3599"}`. A rejection is not altered.
    #[must_use]
    pub fn altered(members: Map<String, Value>) -> Self {
        Self::of(Action::Proceed(Alteration(members)))
    }

    /// The proper answer. With [`Fault::dripping`] for instance, only its delivery is at fault.
    #[must_use]
    pub fn proper() -> Self {
        Self::altered(Map::new())
    }

    /// The proper answer with one member replaced, or removed by null.
    #[must_use]
    pub fn member(name: &str, value: Value) -> Self {
        Self::altered(Map::from_iter([(name.to_owned(), value)]))
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

    /// The connection is reset when only the head of the request has been read. The journal does not
    /// have such a request. Only the token endpoint reads bodies; elsewhere it is [`Fault::reset`].
    #[must_use]
    pub fn reset_unread() -> Self {
        Self::of(Action::ResetUnread)
    }

    /// The same fault, for that many requests.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// The same fault for every request from now on, once what is scripted for a number of requests is
    /// used up. It takes the place of the one that stood so before, and ends with
    /// [`Simulator::unscript`](super::Simulator::unscript).
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// The same answer, of which only so many bytes of the body ever come.
    #[must_use]
    pub fn stalled_after(mut self, bytes: usize) -> Self {
        self.delivery = Delivery::Stalled(bytes);
        self
    }

    /// The same answer, one byte of the body at a time.
    #[must_use]
    pub fn dripping(mut self, pause: Duration) -> Self {
        self.delivery = Delivery::Dripping(pause);
        self
    }

    /// The same answer, whose connection is reset after so many bytes of the body.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.delivery = Delivery::Cut(bytes);
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
            Action::Proceed(_) | Action::Hang | Action::Reset | Action::ResetUnread => {}
        }
        self
    }

    fn of(action: Action) -> Self {
        Self {
            delay: Duration::ZERO,
            times: Some(1),
            action,
            delivery: Delivery::Whole,
        }
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

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("scripts use statuses of three digits")
}
