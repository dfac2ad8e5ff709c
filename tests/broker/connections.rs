//! What leaves a connection, and when.

use std::{fs, net::SocketAddr, time::Duration};

use kodo_broker::pb::{admin::v1 as admin, v1::Resource};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::support::{CONTOSO, Fixture, SECRET, Setup, Tokens, endpoint, pki, request, token};

/// A client that reads when it is told to, with one connection to the broker on which little fits
/// in between.
struct LateReader {
    worker: Tokens,
    reads: watch::Sender<bool>,
    _relay: JoinSet<()>,
}

impl LateReader {
    /// Connects. Once it has its first token it reads no more.
    async fn connect(fixture: &Fixture) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (reads, reading) = watch::channel(true);
        let mut tasks = JoinSet::new();
        tasks.spawn(relay(listener, fixture.address(), reading));
        // Windows that hold nobody up: what is full is the connection.
        let endpoint = endpoint(address, Some(&pki::caller("worker")))
            .initial_connection_window_size(16 << 20)
            .initial_stream_window_size(16 << 20);
        let worker = Tokens::new(endpoint.connect_lazy());
        token(&worker, "contoso", Resource::Graph)
            .await
            .expect("a token");
        reads.send_replace(false);
        Self {
            worker,
            reads,
            _relay: tasks,
        }
    }

    /// Begins calls for tokens that the broker has.
    fn call(&self, count: usize) -> JoinSet<bool> {
        let mut calls = JoinSet::new();
        for _ in 0..count {
            let worker = self.worker.clone();
            calls.spawn(async move { token(&worker, "contoso", Resource::Graph).await.is_ok() });
        }
        calls
    }

    fn read_on(&self) {
        self.reads.send_replace(true);
    }
}

/// Passes one connection on to the broker.
async fn relay(listener: TcpListener, to: SocketAddr, mut reading: watch::Receiver<bool>) {
    let (client, _) = listener.accept().await.expect("somebody connects");
    drop(listener);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .set_recv_buffer_size(4096)
        .expect("an option of every socket");
    let broker = socket.connect(to).await.expect("the broker serves");
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let requests = async {
        // Whoever ends it first, the other side sees it.
        let _ = copy(&mut from_client, &mut to_broker).await;
    };
    let answers = async {
        let mut buffer = [0; 1024];
        while reading.wait_for(|reads| *reads).await.is_ok() {
            match from_broker.read(&mut buffer).await {
                Ok(count @ 1..) if to_client.write_all(&buffer[..count]).await.is_ok() => {}
                _ => break,
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(requests, answers);
}

async fn with_contoso_on_record() -> Fixture {
    let setup = Setup::new()
        .server("metrics_listen = \"127.0.0.1:0\"")
        .config("[audit]\nfile = \"{folder}/audit.jsonl\"");
    let fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    fixture
}

/// Tokens that have been handed out.
async fn handed_out(fixture: &Fixture) -> u64 {
    let figures = fixture.ask_metrics("GET /metrics").await;
    let counted = figures.lines().find_map(|line| {
        line.strip_prefix("kodo_broker_calls_total{rpc=\"GetToken\",outcome=\"OK\"} ")
    });
    counted.map_or(0, |count| count.parse().expect("a number"))
}

/// Tokens that were handed out, by the record of a broker that has stopped.
fn on_record(fixture: &Fixture) -> u64 {
    let text = fs::read_to_string(fixture.path("audit.jsonl")).expect("it is there");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines
        .filter(|line| line["rpc"] == "GetToken")
        .map(|line| line["again"].as_u64().unwrap_or(1))
        .sum()
}

async fn answered(calls: JoinSet<bool>) -> u64 {
    calls.join_all().await.into_iter().map(u64::from).sum()
}

#[tokio::test]
async fn a_slow_reader_gets_every_answer() {
    let mut fixture = with_contoso_on_record().await;
    let reader = LateReader::connect(&fixture).await;
    // More than may be under way at once, and more than fits anywhere.
    let calls = reader.call(600);
    while handed_out(&fixture).await < 50 {}
    reader.read_on();
    assert_eq!(answered(calls).await, 600);
    fixture.stop_broker().await;
    assert_eq!(on_record(&fixture), 601);
}

#[tokio::test]
async fn what_was_handed_out_arrives_though_the_broker_stops_meanwhile() {
    let mut fixture = with_contoso_on_record().await;
    let reader = LateReader::connect(&fixture).await;
    let calls = reader.call(200);
    while handed_out(&fixture).await < 20 {}
    let stopping = fixture.take_broker().stop();
    // Polled in this order: the broker is stopping before anything is read.
    let (stopped, ()) = tokio::join!(stopping, async { reader.read_on() });
    stopped.expect("nothing had ended by itself");
    assert_eq!(answered(calls).await, on_record(&fixture) - 1);
}

#[tokio::test]
async fn an_answer_longer_than_what_is_gathered_arrives_whole() {
    let fixture = Fixture::start().await;
    // 800 bytes each, so 50 KB and more.
    let display_name = "\u{1f4e6}".repeat(200);
    let mut admin = fixture.admin();
    for number in 0..64 {
        let id = format!("organization-{number}");
        let mut registration = request::register(&id, CONTOSO, request::secret(SECRET));
        registration.display_name.clone_from(&display_name);
        admin
            .register_organization(registration)
            .await
            .expect("registers");
    }
    let listing = admin::ListOrganizationsRequest {
        page_size: 500,
        ..request::list()
    };
    let listed = admin
        .list_organizations(listing)
        .await
        .expect("a list")
        .into_inner();
    assert_eq!(listed.organizations.len(), 64);
    assert!(
        listed
            .organizations
            .iter()
            .all(|organization| organization.display_name == display_name)
    );
}

/// Open connections of callers.
async fn open_connections(fixture: &Fixture) -> u64 {
    let figures = fixture.ask_metrics("GET /metrics").await;
    let mut lines = figures.lines();
    let open = lines.find_map(|line| line.strip_prefix("kodo_broker_connections "));
    open.and_then(|count| count.parse().ok()).expect("a number")
}

#[tokio::test]
async fn an_operators_connection_ends_when_it_is_idle() {
    let fixture = with_contoso_on_record().await;
    let worker = fixture.worker();
    token(&worker, "contoso", Resource::Graph)
        .await
        .expect("a token");
    let mut admin = fixture.admin();
    for _ in 0..2 {
        // The second call finds the connection gone, and does not notice.
        let got = admin.get_organization(request::get("contoso")).await;
        got.expect("an organization");
        let only_the_workers = async { while open_connections(&fixture).await > 1 {} };
        let ended = timeout(Duration::from_secs(20), only_the_workers).await;
        ended.expect("it does not stay open");
    }
    assert_eq!(open_connections(&fixture).await, 1, "the worker's stays");
}

/// The client does not take what it was given before the suspension, which is answered without waiting
/// for it any longer than a moment.
#[tokio::test]
async fn what_was_given_and_not_sent_does_not_leave_after_a_suspension() {
    let mut fixture = with_contoso_on_record().await;
    let reader = LateReader::connect(&fixture).await;
    let calls = reader.call(600);
    // As many as may be under way, of which most wait for room in the connection.
    while handed_out(&fixture).await < 90 {}
    let suspension = request::suspend("contoso", 1);
    let suspended = fixture.admin().suspend_organization(suspension).await;
    let told = suspended.expect("suspends").into_inner().outstanding_tokens;
    assert_eq!(told.expect("always set").count, 1);
    reader.read_on();
    let answered = answered(calls).await;
    fixture.stop_broker().await;
    let given = on_record(&fixture) - 1;
    assert!(answered < given, "{answered} of {given} arrived");
}
