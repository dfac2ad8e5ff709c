use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::Mutex,
};

use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, advance},
};
use uuid::Uuid;

use super::*;
use crate::{
    credential::Credential,
    entra::{Rejection, Trouble, cloud::Audience, rejection::Support},
    secret::ClientSecret,
};

const SECOND: Duration = Duration::from_secs(1);
/// How long a proper answer takes.
const LATENCY: Duration = Duration::from_millis(100);

/// What the inner endpoint does with a request.
#[derive(Clone, Debug)]
enum Act {
    Grant,
    Fail(Error),
    /// Grants, late.
    Late(Duration),
    Hang,
}

/// An endpoint that does what its script says, per tenant, and grants what is not scripted.
#[derive(Debug, Default)]
struct Scripted {
    once: Mutex<BTreeMap<TenantId, VecDeque<Act>>>,
    always: Mutex<BTreeMap<TenantId, Act>>,
    /// When which tenant was asked for.
    asked: Mutex<Vec<(Instant, TenantId)>>,
}

#[derive(Debug)]
struct Fixture {
    entra: Arc<Scripted>,
    paced: Arc<Paced>,
    outage: Outage,
    credential: Credential,
}

fn tenant(number: u128) -> Principal {
    let id = Uuid::from_u128(number + 1).to_string();
    Principal {
        cloud: Cloud::Global,
        tenant_id: TenantId::parse(&id).expect("an id"),
        client_id: ClientId::parse(&id).expect("an id"),
    }
}

fn trouble(trouble: Trouble, retry_after: Option<Duration>) -> Error {
    Error::Unreachable {
        host: "login.example".into(),
        trouble,
        reason: "no answer".into(),
        retry_after,
    }
}

fn rejected() -> Error {
    let rejection = Rejection::new("invalid_client", Some(7_000_215), "", Support::default());
    Error::Rejected(rejection.into())
}

impl Scripted {
    async fn act(&self, tenant: TenantId) -> Result<Grant, Error> {
        self.asked.lock().unwrap().push((Instant::now(), tenant));
        let scripted = self
            .once
            .lock()
            .unwrap()
            .get_mut(&tenant)
            .and_then(VecDeque::pop_front);
        let always = || self.always.lock().unwrap().get(&tenant).cloned();
        match scripted.or_else(always).unwrap_or(Act::Grant) {
            Act::Grant => sleep(LATENCY).await,
            Act::Late(delay) => sleep(delay).await,
            Act::Fail(error) => return Err(error),
            Act::Hang => {
                // As the client does, which bounds every request.
                sleep(SECOND * 15).await;
                return Err(trouble(Trouble::Timeout, None));
            }
        }
        Ok(Grant {
            access_token: AccessToken::new("token".into()),
            expires_in: SECOND * 3600,
            refresh_in: None,
        })
    }
}

#[async_trait]
impl TokenEndpoint for Scripted {
    async fn request_token(&self, request: TokenRequest<'_>) -> Result<Grant, Error> {
        self.act(request.principal.tenant_id).await
    }

    async fn sharepoint_root_host(
        &self,
        principal: Principal,
        _: &AccessToken,
        _: &Urgency,
    ) -> Result<SharePointHost, Error> {
        self.act(principal.tenant_id).await?;
        Ok(SharePointHost::parse("contoso.sharepoint.com", Cloud::Global).expect("a host"))
    }

    async fn tenant_id(&self, _: Cloud, _: &TenantName) -> Result<TenantId, Error> {
        let id = tenant(0).tenant_id;
        self.act(id).await.map(|_| id)
    }
}

impl Fixture {
    fn new() -> Self {
        Self::with(Limits {
            concurrent_max: 64,
            queued_max: 20_000,
        })
    }

    fn with(limits: Limits) -> Self {
        let entra = Arc::new(Scripted::default());
        let outage = Outage::new();
        Self {
            paced: Arc::new(Paced::new(entra.clone(), limits, outage.clone())),
            entra,
            outage,
            credential: Credential::ClientSecret {
                value: ClientSecret::new("secret".into()),
                expires: None,
            },
        }
    }

    fn script(&self, principal: Principal, acts: impl IntoIterator<Item = Act>) {
        let mut once = self.entra.once.lock().unwrap();
        once.entry(principal.tenant_id).or_default().extend(acts);
    }

    fn always(&self, principal: Principal, act: Act) {
        self.entra
            .always
            .lock()
            .unwrap()
            .insert(principal.tenant_id, act);
    }

    async fn token(&self, principal: Principal) -> Result<(), Error> {
        self.token_with(principal, Lane::Caller).await
    }

    async fn token_with(&self, principal: Principal, lane: Lane) -> Result<(), Error> {
        let request = TokenRequest {
            principal,
            credential: &self.credential,
            audience: &Audience::graph(Cloud::Global),
            claims: None,
            urgency: &Urgency::new(lane),
        };
        self.paced.request_token(request).await.map(|_| ())
    }

    /// When this tenant was asked for, since `began`.
    fn asked(&self, principal: Principal, began: Instant) -> Vec<Duration> {
        let asked = self.entra.asked.lock().unwrap();
        let of = asked.iter().filter(|(_, id)| *id == principal.tenant_id);
        of.map(|(at, _)| at.duration_since(began)).collect()
    }

    fn count(&self) -> usize {
        self.entra.asked.lock().unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_server_and_timeouts_are_retried_once() {
    let server = trouble(Trouble::Server, None);
    let timeout = trouble(Trouble::Timeout, None);
    for (number, error) in (0..).zip([server, timeout]) {
        let fixture = Fixture::new();
        let principal = tenant(number);
        let began = Instant::now();
        fixture.script(principal, [Act::Fail(error.clone())]);
        fixture.token(principal).await.expect("at the second try");
        let asked = fixture.asked(principal, began);
        assert_eq!(asked.len(), 2);
        let pause = asked[1] - asked[0];
        assert!((SECOND..=SECOND * 2).contains(&pause), "{pause:?}");

        fixture.script(principal, [Act::Fail(error.clone()), Act::Fail(error)]);
        let failed = fixture.token(principal).await;
        assert!(matches!(failed, Err(Error::Unreachable { .. })));
        assert_eq!(fixture.asked(principal, began).len(), 4, "never twice");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_else_is_retried() {
    let invalid = Error::AnswerInvalid {
        host: "login.example".into(),
        reason: "it has no access_token",
    };
    let throttled = Error::Throttled {
        retry_after: SECOND,
    };
    let errors = [
        trouble(Trouble::Connection, None),
        trouble(Trouble::Transient, None),
        trouble(Trouble::Server, Some(SECOND)),
        trouble(Trouble::Timeout, Some(SECOND)),
        invalid,
        throttled,
        rejected(),
        Error::Assertion,
    ];
    let fixture = Fixture::new();
    for (number, error) in (0..).zip(errors) {
        fixture.script(tenant(number), [Act::Fail(error.clone())]);
        let count = fixture.count();
        let failed = fixture.token(tenant(number)).await.expect_err("fails");
        assert_eq!(failed.to_string(), error.to_string());
        assert_eq!(fixture.count(), count + 1, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_place_is_free_during_the_pause_before_the_retry() {
    let fixture = Fixture::with(Limits {
        concurrent_max: 1,
        queued_max: 10,
    });
    fixture.script(tenant(0), [Act::Fail(trouble(Trouble::Server, None))]);
    let began = Instant::now();
    let (failing, other) = tokio::join!(fixture.token(tenant(0)), async {
        yield_now().await;
        fixture.token(tenant(1)).await.expect("a token");
        began.elapsed()
    });
    failing.expect("a token");
    assert_eq!(other, LATENCY);
}

#[tokio::test(start_paused = true)]
async fn who_is_throttled_is_not_asked_for_until_the_time_is_over() {
    let fixture = Fixture::new();
    let principal = tenant(0);
    let throttled = Error::Throttled {
        retry_after: SECOND * 30,
    };
    fixture.script(principal, [Act::Fail(throttled)]);
    fixture.token(principal).await.expect_err("throttled");
    advance(SECOND * 10).await;
    for _ in 0..100 {
        let told = fixture.token(principal).await;
        assert!(
            matches!(told, Err(Error::Throttled { retry_after }) if retry_after == SECOND * 20)
        );
    }
    assert_eq!(fixture.count(), 1);

    // Another application of the tenant, another tenant, and Graph are asked.
    let client_id = tenant(7).client_id;
    let other = Principal {
        client_id,
        ..principal
    };
    fixture.token(other).await.expect("a token");
    fixture.token(tenant(1)).await.expect("a token");
    let token = AccessToken::new("token".into());
    let urgency = Urgency::new(Lane::Caller);
    let host = fixture
        .paced
        .sharepoint_root_host(principal, &token, &urgency)
        .await;
    host.expect("a host");

    advance(SECOND * 20).await;
    fixture.token(principal).await.expect("a token");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_how_long_is_left_alone_so_long() {
    let fixture = Fixture::new();
    let error = trouble(Trouble::Server, Some(SECOND * 9));
    fixture.script(tenant(0), [Act::Fail(error)]);
    fixture.token(tenant(0)).await.expect_err("unreachable");
    advance(SECOND * 2).await;
    let told = fixture.token(tenant(0)).await;
    let left = Some(SECOND * 7);
    assert!(matches!(told, Err(Error::Unreachable { retry_after, .. }) if retry_after == left));
    assert_eq!(fixture.count(), 1);
    advance(SECOND * 7).await;
    fixture.token(tenant(0)).await.expect("a token");
}

#[tokio::test(start_paused = true)]
async fn who_queues_while_a_pause_begins_is_not_sent() {
    let fixture = Fixture::with(Limits {
        concurrent_max: 8,
        queued_max: 160,
    });
    let throttled = Error::Throttled {
        retry_after: SECOND * 5,
    };
    fixture.script(tenant(0), [Act::Late(LATENCY), Act::Fail(throttled)]);
    let outcomes = tokio::join!(
        fixture.token(tenant(0)),
        fixture.token(tenant(0)),
        fixture.token(tenant(0)),
        fixture.token(tenant(0)),
    );
    assert!(outcomes.0.is_ok());
    for outcome in [outcomes.1, outcomes.2, outcomes.3] {
        assert!(
            matches!(outcome, Err(Error::Throttled { .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(fixture.count(), 2, "the share of a tenant is one here");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_an_error_of_its_own() {
    let fixture = Fixture::with(Limits {
        concurrent_max: 1,
        queued_max: 1,
    });
    fixture.always(tenant(0), Act::Hang);
    tokio::select! {
        biased;
        _ = fixture.token(tenant(0)) => unreachable!("it hangs"),
        _ = fixture.token(tenant(1)) => unreachable!("it queues"),
        refused = fixture.token(tenant(2)) => assert!(matches!(refused, Err(Error::Busy))),
    }
    assert_eq!(fixture.paced.load(), Load::default(), "all have left");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_and_fifty_hanging_tenants_hold_up_nobody_else() {
    let fixture = Arc::new(Fixture::new());
    let mut calls = JoinSet::new();
    let hanging = 150;
    for number in 0..hanging {
        fixture.always(tenant(number), Act::Hang);
    }
    // Four tokens of each hanging tenant, asked for again and again.
    for number in (0..hanging).cycle().take(600) {
        let fixture = fixture.clone();
        calls.spawn(async move {
            loop {
                let _ = fixture.token_with(tenant(number), Lane::Caller).await;
            }
        });
    }
    // After they are known to hang: a token of another tenant every 10 ms.
    sleep(SECOND * 60).await;
    let mut slowest = Duration::ZERO;
    let mut others = JoinSet::new();
    for number in 0..3_000 {
        let fixture = fixture.clone();
        others.spawn(async move {
            let began = Instant::now();
            fixture
                .token(tenant(1_000 + number))
                .await
                .expect("a token");
            began.elapsed()
        });
        sleep(SECOND / 100).await;
    }
    while let Some(took) = others.join_next().await {
        slowest = slowest.max(took.expect("no panic"));
    }
    let load = fixture.paced.load();
    assert!(load.slow > 0, "{load:?}");
    assert_eq!(slowest, LATENCY, "nobody waited: {load:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_for_everybody_with_the_first_answer() {
    let fixture = Arc::new(Fixture::new());
    let keys = 2_000;
    for number in 0..keys {
        fixture.always(tenant(number), Act::Hang);
    }
    let mut recovered = fixture.outage.recovered();
    let mut calls = JoinSet::new();
    for number in 0..keys {
        let fixture = fixture.clone();
        calls.spawn(async move {
            while fixture.token(tenant(number)).await.is_err() {}
            Instant::now()
        });
    }
    sleep(SECOND * 120).await;
    assert!(fixture.outage.is_out(Cloud::Global));
    let load = fixture.paced.load();
    assert!(
        load.under_way <= 16 && load.slow > 50,
        "all of them hang: {load:?}"
    );

    fixture.entra.always.lock().unwrap().clear();
    recovered.changed().await.expect("the outage ends");
    let began = Instant::now();
    let mut landed = Vec::new();
    while let Some(at) = calls.join_next().await {
        landed.push(at.expect("no panic").duration_since(began));
    }
    landed.sort_unstable();
    // Those that hang go on doing so; all the rest have their tokens in the least possible time, 64 each
    // 100 ms.
    let rest = landed[landed.len() - 1 - load.under_way - load.slow];
    assert!(rest < SECOND * 4, "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn there_is_no_retry_during_an_outage() {
    let fixture = Fixture::new();
    let error = trouble(Trouble::Server, None);
    fixture.always(tenant(0), Act::Fail(error));
    for _ in 0..2 {
        fixture.token(tenant(0)).await.expect_err("fails");
    }
    assert_eq!(fixture.count(), 4);
    advance(SECOND * 5).await;
    fixture.token(tenant(0)).await.expect_err("fails");
    assert_eq!(fixture.count(), 5);
    // Being told that one's credential is wrong is an answer.
    fixture.script(tenant(0), [Act::Fail(rejected())]);
    fixture.token(tenant(0)).await.expect_err("is rejected");
    assert_eq!(fixture.outage.recoveries(Cloud::Global), 1);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_named_by_its_id_is_not_asked_for() {
    let fixture = Fixture::new();
    let id = tenant(3).tenant_id;
    let named = fixture
        .paced
        .tenant_id(Cloud::Global, &TenantName::Id(id))
        .await;
    assert_eq!(named.expect("an id"), id);
    assert_eq!(fixture.count(), 0);
    let domain = TenantName::Domain("contoso.com".into());
    let named = fixture.paced.tenant_id(Cloud::Global, &domain).await;
    assert_eq!(named.expect("an id"), tenant(0).tenant_id);
    assert_eq!(fixture.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_is_given_up() {
    let fixture = Fixture::new();
    fixture.always(tenant(0), Act::Hang);
    tokio::select! {
        _ = fixture.token(tenant(0)) => unreachable!("it hangs"),
        () = sleep(SECOND) => {}
    }
    assert_eq!(fixture.paced.load(), Load::default());
    tokio::select! {
        _ = fixture.token(tenant(0)) => unreachable!("it hangs"),
        () = sleep(SECOND * 3) => {}
        () = pending() => {}
    }
    assert_eq!(fixture.paced.load(), Load::default());
}
