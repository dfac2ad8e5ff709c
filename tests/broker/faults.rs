//! Whatever Entra may do: nothing odd becomes a token, nothing is kept of it, the caller is told what to
//! do within bounded time, no more is asked than may be, and once it is over all is well without a
//! restart.

mod table;

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use kodo_broker::{
    pb::v1::{ErrorReason, GetTokenResponse, Resource},
    simulator::{
        Simulator,
        fault::{Endpoint, Fault},
    },
};
use table::{Row, Told};
use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use url::Url;

use crate::support::{
    Application, Fixture, SECRET, Setup, assert_refused, claims, pki, reason, request, token,
};

/// How long one request may take in these tests.
const REQUEST_TIMEOUT: &str = "request_timeout_seconds = 2";
/// Two requests that get no answer, the pause between them, and a slow machine.
const CALL_MAX: Duration = Duration::from_secs(15);
/// How long it may take until all is well again.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether it is. The broker keeps its pauses in real time here.
const RECOVERY_TICK: Duration = Duration::from_millis(100);
/// Up to here the end of a pause is waited for.
const PAUSE_MAX: u64 = 1;

fn script(fixture: &Fixture, application: Application, fault: Fault) {
    fixture
        .simulator
        .script(application.tenant, Endpoint::Token, fault.always());
}

fn unscript(fixture: &Fixture, application: Application) {
    let left = fixture
        .simulator
        .unscript(application.tenant, Endpoint::Token);
    assert_eq!(left, 1, "the fault lasted until it was taken back");
}

/// Requests for this tenant that the token endpoint has had.
fn asked(fixture: &Fixture, application: Application) -> u64 {
    let tenant = application.tenant.to_string();
    let requests = fixture.simulator.requests();
    requests
        .iter()
        .filter(|request| request.tenant == tenant)
        .count() as u64
}

impl Row {
    /// Fails unless the caller was told what the fault is about.
    fn assert_told(&self, status: &Status) {
        let (code, expected, seconds) = match self.told {
            Told::Throttled(seconds) => {
                let reason = ErrorReason::IdpThrottled;
                (Code::ResourceExhausted, reason, Some(seconds))
            }
            Told::ComeBack(seconds) => {
                let reason = ErrorReason::IdpUnreachable;
                (Code::Unavailable, reason, Some(seconds))
            }
            Told::Unreachable => (Code::Unavailable, ErrorReason::IdpUnreachable, None),
            Told::AnswerInvalid => (Code::Unavailable, ErrorReason::IdpAnswerInvalid, None),
            Told::Token(_) => panic!("{self:?} is a token"),
        };
        let told = (status.code(), reason(status));
        assert_eq!(told, (code, Some(expected)), "{}: {status:?}", self.name);
        assert!(!status.message().contains(SECRET));
        let info = status.get_details_retry_info();
        let delay = info.and_then(|info| info.retry_delay);
        let delay = delay.unwrap_or_else(|| panic!("{}: waiting helps", self.name));
        if let Some(seconds) = seconds {
            // What is left of it, once some has passed.
            let most = Duration::from_secs(seconds);
            let least = most.saturating_sub(CALL_MAX);
            assert!((least..=most).contains(&delay), "{}: {delay:?}", self.name);
        }
    }

    /// Whether the end of the pause, if there is one, can be waited for.
    fn recovers_soon(&self) -> bool {
        match self.told {
            Told::Throttled(seconds) | Told::ComeBack(seconds) => seconds <= PAUSE_MAX,
            _ => true,
        }
    }

    /// An operator registers while Entra does wrong.
    async fn registration(&self, fixture: &Fixture) {
        let id = format!("r-{}", self.name);
        let application = fixture.add_tenant(&id);
        let mut admin = fixture.admin();
        let register = request::register(&id, application, request::secret(SECRET));
        script(fixture, application, self.fault.clone());
        let began = Instant::now();
        let refused = admin.register_organization(register.clone()).await;
        assert!(began.elapsed() < CALL_MAX, "{}", self.name);
        self.assert_told(&refused.expect_err(&self.name));
        assert!(asked(fixture, application) <= self.asks, "{}", self.name);
        let absent = admin.get_organization(request::get(&id)).await;
        assert_refused(absent, Code::NotFound, ErrorReason::OrganizationNotFound);
        unscript(fixture, application);
        if !self.recovers_soon() {
            return;
        }
        let began = Instant::now();
        let mut ticks = interval(RECOVERY_TICK);
        while let Err(status) = admin.register_organization(register.clone()).await {
            self.assert_told(&status);
            assert!(began.elapsed() < RECOVERY_MAX, "{}: {status:?}", self.name);
            ticks.tick().await;
        }
    }

    /// A worker asks for a token while Entra does wrong.
    async fn token(&self, fixture: &Fixture) {
        let id = format!("t-{}", self.name);
        let application = fixture.add_tenant(&id);
        fixture
            .register(&id, application, request::secret(SECRET))
            .await;
        let worker = fixture.worker();
        let held = token(&worker, &id, Resource::Graph).await.expect("a token");
        let before = asked(fixture, application);
        script(fixture, application, self.fault.clone());
        let began = Instant::now();
        let refused = token(&worker, &id, Resource::Exchange).await;
        assert!(began.elapsed() < CALL_MAX, "{}", self.name);
        self.assert_told(&refused.expect_err(&self.name));
        let asks = asked(fixture, application) - before;
        assert!(asks <= self.asks, "{}: {asks}", self.name);
        let still = token(&worker, &id, Resource::Graph).await.expect("a token");
        assert_eq!(still.fingerprint, held.fingerprint, "a good token is kept");
        if let Told::Throttled(_) | Told::ComeBack(_) = self.told
            && !self.recovers_soon()
        {
            for _ in 0..20 {
                let refused = token(&worker, &id, Resource::AzureAdGraph).await;
                self.assert_told(&refused.expect_err(&self.name));
            }
            let asks = asked(fixture, application) - before;
            assert_eq!(asks, 1, "{}: nobody asks meanwhile", self.name);
        }
        unscript(fixture, application);
        if self.recovers_soon() {
            self.recovery(fixture, &id, application).await;
        }
    }

    /// Entra does right again.
    async fn recovery(&self, fixture: &Fixture, id: &str, application: Application) {
        let worker = fixture.worker();
        let began = Instant::now();
        let mut ticks = interval(RECOVERY_TICK);
        let good = loop {
            match token(&worker, id, Resource::Exchange).await {
                Ok(good) => break good,
                Err(status) => self.assert_told(&status),
            }
            assert!(began.elapsed() < RECOVERY_MAX, "{}", self.name);
            ticks.tick().await;
        };
        let expected = application.client.to_string();
        assert_eq!(claims(&good)["appid"], expected, "{}", self.name);
    }

    /// An odd answer that is a token.
    async fn odd_token(&self, fixture: &Fixture, most: i64) {
        let id = format!("o-{}", self.name);
        let application = fixture.add_tenant(&id);
        fixture
            .register(&id, application, request::secret(SECRET))
            .await;
        script(fixture, application, self.fault.clone());
        let asked_at = kodo_broker::clock::Clock::system().unix_seconds();
        let asked_at = i64::try_from(asked_at).expect("a time of ours");
        let good = token(&fixture.worker(), &id, Resource::Exchange).await;
        let good: GetTokenResponse = good.expect(&self.name);
        let seconds = |time: Option<prost_types::Timestamp>| time.expect("is told").seconds;
        let (refresh, expire) = (seconds(good.refresh_time), seconds(good.expire_time));
        let slack = i64::try_from(CALL_MAX.as_secs()).expect("a few");
        assert!(expire <= asked_at + most + slack, "{}", self.name);
        assert!(refresh < expire && refresh > asked_at, "{}", self.name);
    }
}

/// Lets all rows happen side by side.
async fn endure(fixture: Fixture, rows: Vec<Row>) {
    let fixture = Arc::new(fixture);
    let mut under_way = JoinSet::new();
    let number = rows.len();
    for row in rows {
        let fixture = fixture.clone();
        under_way.spawn(async move {
            match row.told {
                Told::Token(most) => row.odd_token(&fixture, most).await,
                _ => {
                    tokio::join!(row.registration(&fixture), row.token(&fixture));
                }
            }
        });
    }
    assert_eq!(under_way.join_all().await.len(), number);
}

async fn impatient() -> Fixture {
    Setup::new().config(REQUEST_TIMEOUT).start().await
}

#[tokio::test]
async fn throttling_is_passed_on_with_its_time_and_remembered() {
    endure(Fixture::start().await, table::throttling()).await;
}

#[tokio::test]
async fn trouble_on_the_way_is_unavailable_within_the_configured_time() {
    endure(impatient().await, table::trouble()).await;
}

#[tokio::test]
async fn an_answer_that_is_no_token_is_refused_and_not_kept() {
    endure(Fixture::start().await, table::unusable()).await;
}

#[tokio::test]
async fn odd_but_proper_answers_are_tokens() {
    endure(Fixture::start().await, table::odd_tokens()).await;
}

#[tokio::test]
async fn a_connection_that_breaks_is_unavailable() {
    // One after the other, since all go over one connection.
    let fixture = Fixture::start().await;
    for row in table::breaks() {
        row.registration(&fixture).await;
        row.token(&fixture).await;
    }
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let fixture = Fixture::start().await;
    // Its queue takes connections although nobody accepts them.
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a free port");
    elsewhere.set_nonblocking(true).expect("is possible");
    let address = elsewhere.local_addr().expect("is bound");
    let to = Url::parse(&format!("https://{address}/")).expect("a URL");
    let any_port = ([127, 0, 0, 1], 0).into();
    let second = Simulator::start(any_port, pki::server())
        .await
        .expect("starts");
    let mut rows = Vec::new();
    for status in [301, 302, 303, 307, 308] {
        for (name, to) in [("nobody", &to), ("simulator", &second.authority_url())] {
            rows.push(Row {
                name: format!("{status}-{name}"),
                fault: Fault::redirect(status, to),
                told: Told::AnswerInvalid,
                asks: 1,
            });
        }
    }
    endure(fixture, rows).await;
    let accepted = elsewhere.accept().map(|(_, from)| from);
    let error = accepted.expect_err("nobody connected");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(second.request_count(), 0);
}

#[tokio::test]
async fn a_full_queue_is_told_and_passes() {
    let limits = "concurrent_requests_max = 1\nqueued_requests_max = 1";
    let fixture = Setup::new().config(limits).start().await;
    let mut applications = Vec::new();
    for id in ["a", "b", "c"] {
        let application = fixture.add_tenant(id);
        fixture
            .register(id, application, request::secret(SECRET))
            .await;
        applications.push(application);
    }
    let worker = fixture.worker();
    let held = fixture.hold(applications[0]);
    let (first, others) = tokio::join!(token(&worker, "a", Resource::Exchange), async {
        held.arrived(1).await;
        // One of them queues, and the other is refused.
        let second = token(&worker, "b", Resource::Exchange);
        let third = token(&worker, "c", Resource::Exchange);
        tokio::pin!(second, third);
        let (refused, id) = tokio::select! {
            refused = &mut second => (refused, "b"),
            refused = &mut third => (refused, "c"),
        };
        let (code, reason) = (Code::ResourceExhausted, ErrorReason::LimitReached);
        let status = assert_refused(refused, code, reason);
        assert!(status.get_details_retry_info().is_some(), "waiting helps");
        held.release();
        let queued = match id {
            "b" => third.await,
            _ => second.await,
        };
        (queued, id)
    });
    first.expect("a token");
    let (queued, refused) = others;
    queued.expect("a token, once it was its turn");
    let began = Instant::now();
    let mut ticks = interval(RECOVERY_TICK);
    while let Err(status) = token(&worker, refused, Resource::Exchange).await {
        assert!(began.elapsed() < RECOVERY_MAX, "{status:?}");
        ticks.tick().await;
    }
}
