//! A closed loop of calls over HTTP/2, on one thread: so many connections, so many calls in flight,
//! and the next one as soon as one is answered. Every answer is checked.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    ops::RangeInclusive,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use h2::{RecvStream, client::SendRequest};
use hdrhistogram::Histogram;
use http::{HeaderMap, Request, StatusCode};
use prost::bytes::Bytes;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{Failure, cpu};

/// Windows as tonic's client has them; answers never fill them.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 5 * 1024 * 1024;
/// Whatever takes longer has gone wrong.
const PATIENCE: Duration = Duration::from_secs(30);
/// Shortest and longest latency that is told apart, in nanoseconds.
const LATENCY: RangeInclusive<u64> = 1_000..=60_000_000_000;

/// A server that is asked, and what it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) process: u32,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) calls: Arc<Calls>,
}

/// The calls, of which each is chosen at random, and what an answer must be.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) head: Request<()>,
    pub(crate) bodies: Vec<Bytes>,
    pub(crate) answer: Answer,
}

/// What an answer must be. The length is that of the body.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// One message, and `grpc-status: 0`.
    Grpc(RangeInclusive<usize>),
    /// Status 200.
    Http(RangeInclusive<usize>),
}

/// How many connections, and how many calls in flight over all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
}

/// How long a round is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// CPU time of the server for each call, in microseconds.
    pub(crate) cpu: f64,
    /// Calls in a second.
    pub(crate) rate: f64,
    /// Latencies in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Cores that neither the server nor this process kept busy.
    pub(crate) foreign: f64,
}

/// What the callers of a load share. They are on one thread.
struct Tally {
    latencies: RefCell<Histogram<u64>>,
    stopped: Cell<bool>,
}

/// Asks the server for a round.
pub(crate) fn run(target: &Target, load: Load, timing: Timing) -> Result<Sample, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let round = async { LocalSet::new().run_until(round(target, load, timing)).await };
    let outcome: Result<Sample, Failure> = runtime.block_on(round);
    outcome.map_err(|error| format!("{} under {load}: {error}", target.name).into())
}

async fn round(target: &Target, load: Load, timing: Timing) -> Result<Sample, Failure> {
    let tally = Rc::new(Tally {
        latencies: RefCell::new(Histogram::new_with_bounds(
            *LATENCY.start(),
            *LATENCY.end(),
            3,
        )?),
        stopped: Cell::new(false),
    });
    // Connections end when these are dropped.
    let mut connections = JoinSet::new();
    let mut callers = JoinSet::new();
    for number in 0..load.connections {
        let sender = connect(target, &mut connections).await?;
        let first = number * load.in_flight / load.connections;
        let behind = (number + 1) * load.in_flight / load.connections;
        for caller in first..behind {
            let (sender, calls, tally) = (sender.clone(), target.calls.clone(), tally.clone());
            callers.spawn_local(call_until_stopped(sender, calls, tally, caller));
        }
    }
    let (server, own) = (
        cpu::Clock::of(target.process)?,
        cpu::Clock::of(std::process::id())?,
    );
    undisturbed(timing.warm_up, &mut callers).await?;
    tally.latencies.borrow_mut().reset();
    let (began, busy, by_server, by_us) = (
        Instant::now(),
        cpu::machine_busy()?,
        server.now()?,
        own.now()?,
    );
    undisturbed(timing.measured, &mut callers).await?;
    let by_server = server.now()?.saturating_sub(by_server);
    let by_us = own.now()?.saturating_sub(by_us);
    let (took, busy) = (began.elapsed(), cpu::machine_busy()?.saturating_sub(busy));
    let latencies = tally.latencies.borrow().clone();
    tally.stopped.set(true);
    let finished = async {
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        Ok::<_, Failure>(())
    };
    timeout(PATIENCE, finished).await??;
    sample(
        &latencies,
        took,
        by_server,
        busy.saturating_sub(by_server + by_us),
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a second are far below 2^52"
)]
fn sample(
    latencies: &Histogram<u64>,
    took: Duration,
    by_server: Duration,
    by_others: Duration,
) -> Result<Sample, Failure> {
    let calls = latencies.len() as f64;
    if latencies.is_empty() {
        return Err("not one call was answered".into());
    }
    let quantile = |q| latencies.value_at_quantile(q) as f64 / 1e3;
    Ok(Sample {
        cpu: by_server.as_secs_f64() * 1e6 / calls,
        rate: calls / took.as_secs_f64(),
        p50: quantile(0.5),
        p99: quantile(0.99),
        foreign: by_others.as_secs_f64() / took.as_secs_f64(),
    })
}

/// Waits; a caller that ends before it is told to has failed.
async fn undisturbed(
    time: Duration,
    callers: &mut JoinSet<Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        Some(caller) = callers.join_next() => {
            caller??;
            Err("a caller has ended".into())
        }
    }
}

/// Opens a connection. Its task is in `connections`.
pub(crate) async fn connect(
    target: &Target,
    connections: &mut JoinSet<()>,
) -> Result<SendRequest<Bytes>, Failure> {
    let opening = async {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(target.address.ip());
        let tls = TlsConnector::from(target.tls.clone());
        let stream = tls.connect(name, stream).await?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(stream)
            .await?;
        Ok::<_, Failure>((sender, connection))
    };
    let (sender, connection) = timeout(PATIENCE, opening).await??;
    connections.spawn(async move {
        // If it breaks, the calls over it fail, and they tell.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn call_until_stopped(
    mut sender: SendRequest<Bytes>,
    calls: Arc<Calls>,
    tally: Rc<Tally>,
    number: usize,
) -> Result<(), Failure> {
    let mut chance = Chance::new(number);
    while !tally.stopped.get() {
        let body = calls.bodies[chance.below(calls.bodies.len())].clone();
        let began = Instant::now();
        call(&mut sender, &calls, body).await?;
        let nanoseconds = u64::try_from(began.elapsed().as_nanos())?;
        tally.latencies.borrow_mut().record(nanoseconds)?;
    }
    Ok(())
}

/// One call, checked. Returns the body of the answer's last frame.
pub(crate) async fn call(
    sender: &mut SendRequest<Bytes>,
    calls: &Calls,
    body: Bytes,
) -> Result<Bytes, Failure> {
    std::future::poll_fn(|context| sender.poll_ready(context)).await?;
    let (answer, mut request) = sender.send_request(calls.head.clone(), body.is_empty())?;
    if !body.is_empty() {
        request.send_data(body, true)?;
    }
    let (head, body) = answer.await?.into_parts();
    let (body, trailers) = read(body).await?;
    if head.status != StatusCode::OK {
        return Err(format!("status {}: {}", head.status, body.escape_ascii()).into());
    }
    match &calls.answer {
        Answer::Http(length) => check_length(&body, length)?,
        Answer::Grpc(length) => {
            check_status(&head.headers, &trailers)?;
            check_length(&body, length)?;
            check_frame(&body)?;
        }
    }
    Ok(body)
}

async fn read(mut stream: RecvStream) -> Result<(Bytes, HeaderMap), Failure> {
    let mut body = Bytes::new();
    while let Some(part) = stream.data().await {
        let part = part?;
        stream.flow_control().release_capacity(part.len())?;
        // Nearly always there is one part, which need not be copied.
        body = if body.is_empty() {
            part
        } else {
            [body, part].concat().into()
        };
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok((body, trailers))
}

fn check_status(headers: &HeaderMap, trailers: &HeaderMap) -> Result<(), Failure> {
    // An answer without a message has its status in the headers.
    let field = |name| trailers.get(name).or_else(|| headers.get(name));
    match field("grpc-status") {
        Some(status) if status == "0" => Ok(()),
        status => Err(format!("grpc-status {status:?}, {:?}", field("grpc-message")).into()),
    }
}

fn check_length(body: &Bytes, length: &RangeInclusive<usize>) -> Result<(), Failure> {
    if length.contains(&body.len()) {
        return Ok(());
    }
    Err(format!("the answer has {} bytes, not {length:?}", body.len()).into())
}

/// A gRPC body of one message that is not compressed.
fn check_frame(body: &Bytes) -> Result<(), Failure> {
    let length = body.get(1..5).and_then(|bytes| bytes.try_into().ok());
    let length = length.map(u32::from_be_bytes).map(usize::try_from);
    match (body.first(), length) {
        (Some(0), Some(Ok(length))) if length == body.len() - 5 && length > 0 => Ok(()),
        _ => Err("the answer is not one message".into()),
    }
}

/// Cheap numbers without a pattern (xorshift64).
struct Chance(u64);

impl Chance {
    fn new(seed: usize) -> Self {
        Self((seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the modulus is a length")]
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {}", self.connections, self.in_flight)
    }
}
