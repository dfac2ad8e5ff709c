//! Once a suspension is answered, no token is on its way to anybody any more: seen from the wire.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use kodo_broker::pb::v1::{ErrorReason, Resource};
use rustix::io::ioctl_fionread;
use tokio::{
    io::{AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    task::{JoinSet, yield_now},
};

use crate::support::{Fixture, Tokens, endpoint, pki, reason, request, token};

const CONNECTIONS: usize = 64;
const SUSPENSIONS: u64 = 100;

/// What a connection of the broker has sent, and what its one caller waits for.
#[derive(Debug, Default)]
struct Line {
    /// Bytes that were taken from the connection.
    taken: AtomicUsize,
    socket: Mutex<Option<Arc<TcpStream>>>,
    /// A call is under way that began when so much was taken.
    calling: Mutex<Option<usize>>,
    /// Nothing was on its way to it when the suspension was answered: it gets no token any more.
    gets_none: AtomicBool,
    calls: AtomicUsize,
    tokens: AtomicUsize,
    too_late: AtomicUsize,
}

impl Line {
    /// Whether nothing of an answer has left the broker yet. What has is in our socket: on one machine, a
    /// write is done when the other side can read it.
    fn is_quiet(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        let socket = self.socket.lock().expect("no panic");
        let waiting = socket
            .as_ref()
            .map(|socket| ioctl_fionread(socket).expect("a socket"));
        *self.calling.lock().expect("no panic") == Some(taken) && waiting == Some(0)
    }

    fn is_marked(&self) -> bool {
        self.gets_none.load(Ordering::Relaxed)
    }
}

/// Passes one connection on to the broker.
async fn relay(listener: TcpListener, to: SocketAddr, line: Arc<Line>) {
    let (client, _) = listener.accept().await.expect("somebody connects");
    let broker = Arc::new(TcpStream::connect(to).await.expect("the broker serves"));
    *line.socket.lock().expect("no panic") = Some(broker.clone());
    let (mut from_client, mut to_client) = client.into_split();
    let answers = async {
        let mut buffer = [0; 16 * 1024];
        loop {
            broker.readable().await.expect("a socket");
            match broker.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    line.taken.fetch_add(count, Ordering::Relaxed);
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    let requests = async {
        // The relay ends with the client.
        let _ = copy(&mut from_client, &mut Half(&broker)).await;
    };
    tokio::select! {
        () = answers => {}
        () = requests => {}
    }
}

/// The way to the broker.
struct Half<'a>(&'a TcpStream);

impl tokio::io::AsyncWrite for Half<'_> {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        loop {
            std::task::ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                written => return std::task::Poll::Ready(written),
            }
        }
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

async fn call_for_ever(worker: Tokens, line: Arc<Line>) {
    loop {
        let taken = line.taken.load(Ordering::Relaxed);
        *line.calling.lock().expect("no panic") = Some(taken);
        let answer = token(&worker, "contoso", Resource::Graph).await;
        *line.calling.lock().expect("no panic") = None;
        line.calls.fetch_add(1, Ordering::Relaxed);
        let marked = line.gets_none.swap(false, Ordering::Relaxed);
        match answer {
            Ok(_) => {
                line.tokens.fetch_add(1, Ordering::Relaxed);
                line.too_late
                    .fetch_add(usize::from(marked), Ordering::Relaxed);
            }
            Err(status) => {
                let expected = Some(ErrorReason::OrganizationSuspended);
                assert_eq!(reason(&status), expected, "{status:?}");
            }
        }
    }
}

#[tokio::test]
async fn of_thousands_of_calls_none_brings_a_token_after_the_suspension_was_answered() {
    let fixture = Fixture::with_contoso().await;
    let mut tasks = JoinSet::new();
    let lines: Vec<_> = (0..CONNECTIONS).map(|_| Arc::<Line>::default()).collect();
    for line in &lines {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tasks.spawn(relay(listener, fixture.address(), line.clone()));
        let endpoint = endpoint(address, Some(&pki::caller("worker")));
        let worker = Tokens::new(endpoint.connect_lazy());
        tasks.spawn(call_for_ever(worker, line.clone()));
    }
    let sum = |of: fn(&Line) -> &AtomicUsize| -> usize {
        let each = lines.iter().map(|line| of(line).load(Ordering::Relaxed));
        each.sum()
    };
    let mut admin = fixture.admin();
    let (mut revision, mut judged) = (1, 0);
    for round in 0..SUSPENSIONS {
        let given = sum(|line| &line.tokens);
        while sum(|line| &line.tokens) < given + CONNECTIONS {
            yield_now().await;
        }
        let suspension = request::suspend("contoso", revision);
        let suspended = admin.suspend_organization(suspension).await;
        // From here on nothing else runs in this process but the broker's threads.
        for line in &lines {
            let quiet = line.is_quiet();
            line.gets_none.store(quiet, Ordering::Relaxed);
            judged += usize::from(quiet);
        }
        suspended.expect("suspends");
        while lines.iter().any(|line| line.is_marked()) {
            yield_now().await;
        }
        let resumption = request::resume("contoso", revision + 1);
        let resumed = admin.resume_organization(resumption).await;
        resumed.expect("resumes");
        revision += 2;
        assert_eq!(sum(|line| &line.too_late), 0, "in round {round}");
        while let Some(ended) = tasks.try_join_next() {
            ended.expect("no panic");
        }
    }
    let calls = sum(|line| &line.calls);
    assert!(
        calls > 5000 && judged > 500,
        "{calls} calls, {judged} at the moment"
    );
}
