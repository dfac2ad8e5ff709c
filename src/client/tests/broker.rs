//! A broker that answers as a test says, over connections that a test can cut.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::DuplexStream,
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status, async_trait,
    codegen::{Service, http::Uri},
    transport::{Endpoint, Server},
};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    client::{Client, Connection, TokenOptions},
    clock::Clock,
    pb::{
        self,
        v1::{
            ErrorReason, GetTokenRequest, GetTokenResponse, ReportTokenRequest,
            ReportTokenResponse, Resource, WatchTokenRequest, WatchTokenResponse,
            token_service_server::{TokenService, TokenServiceServer},
        },
    },
};

/// One hour, as Entra has it.
pub(super) const LIFE: Duration = Duration::from_secs(3600);

/// What the broker does with a call.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Gives the token of this number.
    Token(u32),
    /// Gives the token of this number with this much life.
    Living(u32, Duration),
    Refusal(Status),
}

/// What is sent on a stream.
pub(super) type Sent = Result<WatchTokenResponse, Status>;
type TokenStream = Pin<Box<dyn Stream<Item = Sent> + Send>>;

/// The broker, and what it was asked.
#[derive(Debug)]
pub(super) struct Broker {
    clock: Clock,
    /// What comes next; the last one is repeated.
    answers: Mutex<VecDeque<Answer>>,
    pub(super) requests: Mutex<Vec<GetTokenRequest>>,
    pub(super) reports: Mutex<Vec<ReportTokenRequest>>,
    pub(super) verdict: Mutex<ReportTokenResponse>,
    /// Permits to answer.
    gate: Semaphore,
    streams: mpsc::UnboundedSender<mpsc::Sender<Sent>>,
    /// The other end of `streams`.
    opened: tokio::sync::Mutex<mpsc::UnboundedReceiver<mpsc::Sender<Sent>>>,
    network: Network,
}

/// Whether there is a way to the broker, and what is on it.
#[derive(Clone)]
struct Network {
    listener: Arc<Mutex<Option<mpsc::Sender<io::Result<DuplexStream>>>>>,
    serving: Arc<Mutex<JoinSet<()>>>,
    attempts: Arc<watch::Sender<u32>>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

impl Broker {
    /// A broker that gives tokens, and its client.
    pub(super) async fn start() -> (Arc<Self>, Client) {
        Self::with_capacity(100).await
    }

    pub(super) async fn with_capacity(capacity: usize) -> (Arc<Self>, Client) {
        // A whole second, as the `Date` header has them.
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (streams, opened) = mpsc::unbounded_channel();
        let broker = Arc::new(Self {
            clock: Clock::starting_at(start),
            answers: Mutex::new(VecDeque::from([Answer::Token(1)])),
            requests: Mutex::default(),
            reports: Mutex::default(),
            verdict: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            streams,
            opened: tokio::sync::Mutex::new(opened),
            network: Network {
                listener: Arc::default(),
                serving: Arc::default(),
                attempts: Arc::new(watch::channel(0).0),
            },
        });
        broker.up();
        let endpoint = Endpoint::from_static("http://broker");
        let channel = endpoint.connect_with_connector(broker.network.clone());
        let connection = Connection {
            channel: channel.await.expect("the broker listens"),
            timeout: Duration::from_secs(60),
            max_attempts: 10,
        };
        let client = Client::over(connection, broker.clock, capacity);
        (broker, client)
    }

    /// Serves, from now on.
    pub(super) fn up(self: &Arc<Self>) {
        let (listener, incoming) = mpsc::channel(16);
        let service = TokenServiceServer::from_arc(Arc::clone(self));
        let mut serving = self.network.serving.lock().expect("no panic");
        serving.spawn(async move {
            let server = Server::builder().add_service(service);
            let served = server.serve_with_incoming(ReceiverStream::new(incoming));
            served.await.expect("serves");
        });
        *self.network.listener.lock().expect("no panic") = Some(listener);
    }

    /// Cuts all connections, and takes no new ones.
    pub(super) async fn down(&self) {
        self.network.listener.lock().expect("no panic").take();
        let mut serving = std::mem::take(&mut *self.network.serving.lock().expect("no panic"));
        serving.shutdown().await;
    }

    /// Answers so from now on: each once, the last again and again.
    pub(super) fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        *self.answers.lock().expect("no panic") = answers.into_iter().collect();
    }

    /// Answers nothing until [`Self::open`].
    pub(super) fn shut(&self) {
        let permits = self.gate.available_permits();
        self.gate.forget_permits(permits);
    }

    pub(super) fn open(&self) {
        self.gate
            .add_permits(Semaphore::MAX_PERMITS - self.gate.available_permits());
    }

    /// What its clock shows.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// How often it was asked for a token.
    pub(super) fn asked(&self) -> usize {
        self.requests.lock().expect("no panic").len()
    }

    /// How often a connection was tried.
    pub(super) fn connections(&self) -> u32 {
        *self.network.attempts.borrow()
    }

    /// The next stream that a client has opened.
    pub(super) async fn stream(&self) -> mpsc::Sender<Sent> {
        let mut opened = self.opened.lock().await;
        opened.recv().await.expect("the broker holds the other end")
    }

    /// The token of this number, for a stream.
    pub(super) fn sent(&self, number: u32) -> Sent {
        Ok(WatchTokenResponse {
            token: Some(self.message(number, LIFE)),
        })
    }

    fn message(&self, number: u32, life: Duration) -> GetTokenResponse {
        let now = self.clock.now();
        GetTokenResponse {
            access_token: format!("canary-{number}"),
            token_type: "Bearer".into(),
            expire_time: Some((now + life).into()),
            refresh_time: Some((now + life / 2).into()),
            resource_url: "https://graph.microsoft.com".into(),
            fingerprint: fingerprint(number),
            ..Default::default()
        }
    }

    fn next_answer(&self) -> Answer {
        let mut answers = self.answers.lock().expect("no panic");
        let next = answers
            .front()
            .cloned()
            .expect("a test says what to answer");
        if answers.len() > 1 {
            answers.pop_front();
        }
        next
    }

    /// What hyper sets to the real time, in the time of the test.
    fn dated<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        let date = httpdate::fmt_http_date(self.clock.now());
        let date = date.parse().expect("ASCII");
        response.metadata_mut().insert("date", date);
        response
    }
}

#[async_trait]
impl TokenService for Broker {
    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        self.requests
            .lock()
            .expect("no panic")
            .push(request.into_inner());
        let answer = self.next_answer();
        let _permit = self.gate.acquire().await.expect("never closed");
        match answer {
            Answer::Token(number) => Ok(self.dated(self.message(number, LIFE))),
            Answer::Living(number, life) => Ok(self.dated(self.message(number, life))),
            Answer::Refusal(status) => Err(status),
        }
    }

    type WatchTokenStream = TokenStream;

    async fn watch_token(
        &self,
        _: Request<WatchTokenRequest>,
    ) -> Result<Response<TokenStream>, Status> {
        if let Answer::Refusal(status) = self.next_answer() {
            return Err(status);
        }
        let (sender, sent) = mpsc::channel(4);
        self.streams
            .send(sender)
            .expect("the broker holds the other end");
        Ok(self.dated(Box::pin(ReceiverStream::new(sent).fuse())))
    }

    async fn report_token(
        &self,
        request: Request<ReportTokenRequest>,
    ) -> Result<Response<ReportTokenResponse>, Status> {
        self.reports
            .lock()
            .expect("no panic")
            .push(request.into_inner());
        let _permit = self.gate.acquire().await.expect("never closed");
        Ok(Response::new(
            self.verdict.lock().expect("no panic").clone(),
        ))
    }
}

impl Service<Uri> for Network {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let network = self.clone();
        network.attempts.send_modify(|attempts| *attempts += 1);
        Box::pin(async move {
            let listener = network.listener.lock().expect("no panic").clone();
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let listener = listener.ok_or_else(refused)?;
            let (ours, mut near) = tokio::io::duplex(64 * 1024);
            let (mut far, theirs) = tokio::io::duplex(64 * 1024);
            listener.send(Ok(theirs)).await.map_err(|_| refused())?;
            let mut serving = network.serving.lock().expect("no panic");
            serving.spawn(async move {
                // However it ends, both sides see that.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
            Ok(TokioIo::new(ours))
        })
    }
}

pub(super) fn fingerprint(number: u32) -> String {
    format!("{number:064x}")
}

/// A refusal as the broker makes it.
pub(super) fn refusal(code: Code, reason: ErrorReason, retry: Option<Duration>) -> Answer {
    let metadata = std::collections::HashMap::new();
    let mut details = ErrorDetails::with_error_info(reason.reason(), pb::ERROR_DOMAIN, metadata);
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Answer::Refusal(Status::with_error_details(code, "refused", details))
}

/// The number of the token of `contoso` for Graph.
pub(super) async fn number(client: &Client) -> u32 {
    let token = client.token("contoso", Resource::Graph, TokenOptions::default());
    number_of(&token.await.expect("a token").fingerprint)
}

pub(super) fn number_of(fingerprint: &str) -> u32 {
    u32::from_str_radix(fingerprint, 16).expect("made from a number")
}

/// Lets everybody do what they can without time passing.
pub(super) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Lets time pass, and everybody do what they can then.
pub(super) async fn pass(time: Duration) {
    let end = Instant::now() + time;
    settle().await;
    tokio::time::sleep_until(end).await;
    settle().await;
}
