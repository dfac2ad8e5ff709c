use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    task::{Wake, Waker},
};

use proptest::prelude::*;

use super::*;

/// What a stream does next.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Takes at most so many bytes.
    Takes(usize),
    /// Has the writer wait; it is told at once that it may try again.
    Waits,
    Fails,
}

/// A stream that does as it is told, and takes everything after that.
#[derive(Default)]
struct Scripted {
    script: VecDeque<Does>,
    written: Vec<u8>,
    writes: usize,
    flushes: usize,
    is_shut_down: bool,
}

impl AsyncWrite for Scripted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        assert!(!self.is_shut_down, "nothing is written after the end");
        self.writes += 1;
        let count = match self.script.pop_front() {
            Some(Does::Takes(count)) => count.min(bytes.len()),
            Some(Does::Waits) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Does::Fails) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            None => bytes.len(),
        };
        self.written.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// Lets pass what waits for marks below `open`, unless it is shut.
struct Door {
    shut: AtomicBool,
    asked: AtomicUsize,
    flushed: AtomicUsize,
    mark: AtomicU64,
    open: AtomicU64,
    waiting: Mutex<Option<Waker>>,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            shut: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            flushed: AtomicUsize::new(0),
            mark: AtomicU64::new(0),
            open: AtomicU64::new(u64::MAX),
            waiting: Mutex::default(),
        }
    }
}

impl Door {
    /// Lets pass what waits for marks below this one.
    fn open_below(&self, mark: u64) {
        self.open.store(mark, Ordering::Relaxed);
        if let Some(waker) = lock(&self.waiting).take() {
            waker.wake();
        }
    }
}

impl Gate for Arc<Door> {
    fn mark(&self) -> u64 {
        self.mark.load(Ordering::Relaxed)
    }

    fn poll_open(&self, mark: u64, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.shut.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::Error::other("shut")));
        }
        if mark < self.open.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        *lock(&self.waiting) = Some(cx.waker().clone());
        Poll::Pending
    }

    fn flushed(&self) {
        self.flushed.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Connection {
    gathering: Gathering<Scripted, Arc<Door>>,
    release: Release<Scripted, Arc<Door>>,
    door: Arc<Door>,
    woken: Arc<Woken>,
}

impl Connection {
    fn new(script: impl IntoIterator<Item = Does>) -> Self {
        let stream = Scripted {
            script: script.into_iter().collect(),
            ..Scripted::default()
        };
        let door = Arc::new(Door::default());
        let (gathering, release) = gather(stream, door.clone());
        Self {
            gathering,
            release,
            door,
            woken: Arc::default(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let waker = Waker::from(self.woken.clone());
        Pin::new(&mut self.gathering).poll_write(&mut Context::from_waker(&waker), bytes)
    }

    fn flush(&mut self) -> Poll<io::Result<()>> {
        let waker = Waker::from(self.woken.clone());
        Pin::new(&mut self.gathering).poll_flush(&mut Context::from_waker(&waker))
    }

    fn shutdown(&mut self) -> Poll<io::Result<()>> {
        let waker = Waker::from(self.woken.clone());
        Pin::new(&mut self.gathering).poll_shutdown(&mut Context::from_waker(&waker))
    }

    fn release(&self) -> Poll<io::Result<()>> {
        let waker = Waker::from(self.woken.clone());
        self.release.poll(&mut Context::from_waker(&waker))
    }

    fn seen<T>(&self, look: impl FnOnce(&Held<Scripted, Arc<Door>>) -> T) -> T {
        look(&lock(&self.release.0))
    }

    fn wakes(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

#[test]
fn what_is_flushed_again_and_again_leaves_as_one_write() {
    let mut connection = Connection::new([]);
    for part in [b"headers", b"payload", b"trailer"] {
        assert!(matches!(connection.write(part), Poll::Ready(Ok(7))));
        assert!(matches!(connection.flush(), Poll::Ready(Ok(()))));
    }
    connection.seen(|held| assert_eq!(held.stream.writes, 0));
    assert!(matches!(connection.release(), Poll::Ready(Ok(()))));
    assert!(matches!(connection.release(), Poll::Ready(Ok(()))));
    connection.seen(|held| {
        assert_eq!(held.stream.written, b"headerspayloadtrailer");
        assert_eq!((held.stream.writes, held.stream.flushes), (1, 1));
    });
    assert_eq!(connection.door.asked.load(Ordering::Relaxed), 1);
    assert_eq!(connection.wakes(), 0, "no task is woken for it");
}

#[test]
fn the_gate_is_told_once_everything_has_left() {
    let mut connection = Connection::new([Does::Takes(3), Does::Waits, Does::Takes(2)]);
    let told = |connection: &Connection| connection.door.flushed.load(Ordering::Relaxed);
    assert!(connection.write(b"a token").is_ready());
    assert!(matches!(connection.flush(), Poll::Ready(Ok(()))));
    assert_eq!(told(&connection), 0, "nothing was written yet");
    assert!(connection.release().is_pending());
    assert_eq!(told(&connection), 0, "a part of it was");
    assert!(matches!(connection.release(), Poll::Ready(Ok(()))));
    assert_eq!(told(&connection), 1);
    connection.seen(|held| assert_eq!(held.stream.flushes, 1));
}

#[test]
fn a_turn_ends_with_the_release_of_what_it_wrote() {
    let mut connection = Connection::new([Does::Takes(1), Does::Waits, Does::Fails]);
    let turn = |connection: &mut Connection, bytes: &[u8]| {
        let waker = Waker::from(connection.woken.clone());
        assert!(connection.write(bytes).is_ready());
        let idle = std::pin::pin!(std::future::pending::<io::Result<()>>());
        turn(idle, &connection.release, &mut Context::from_waker(&waker))
    };
    assert!(turn(&mut connection, b"answer").is_pending());
    connection.seen(|held| assert_eq!(held.stream.written, b"a"));
    assert!(
        matches!(turn(&mut connection, b"s"), Poll::Ready(Err(_))),
        "the stream broke"
    );
}

#[test]
fn slices_are_taken_in_one_go() {
    let mut connection = Connection::new([]);
    let waker = Waker::noop();
    let slices = [
        io::IoSlice::new(b"head"),
        io::IoSlice::new(b""),
        io::IoSlice::new(b"body"),
    ];
    let taken = Pin::new(&mut connection.gathering)
        .poll_write_vectored(&mut Context::from_waker(waker), &slices);
    assert!(matches!(taken, Poll::Ready(Ok(8))));
    assert!(connection.gathering.is_write_vectored());
    connection.seen(|held| assert_eq!(held.bytes, b"headbody"));
}

#[test]
fn a_slow_reader_holds_the_writer_up_at_the_bound() {
    let mut connection = Connection::new([Does::Waits, Does::Waits, Does::Takes(1)]);
    let most = vec![7; HELD_BYTES_MAX - 1];
    assert!(matches!(connection.write(&most), Poll::Ready(Ok(n)) if n == most.len()));
    assert!(
        matches!(connection.write(b"abc"), Poll::Ready(Ok(1))),
        "as much as there is room for"
    );
    assert!(connection.write(b"bc").is_pending());
    connection.seen(|held| assert_eq!(held.bytes.len(), HELD_BYTES_MAX));
    assert!(connection.release().is_pending());
    let wakes = connection.wakes();
    assert!(matches!(connection.release(), Poll::Ready(Ok(()))));
    assert_eq!(
        connection.wakes(),
        wakes + 1,
        "who waits for room is told that there is some"
    );
    assert!(matches!(connection.release(), Poll::Ready(Ok(()))));
    assert_eq!(connection.wakes(), wakes + 1, "and told once");
    assert!(matches!(connection.write(b"bc"), Poll::Ready(Ok(2))));
}

#[test]
fn an_idle_connection_keeps_little() {
    let mut connection = Connection::new([]);
    for length in [100, KEPT_BYTES_MAX, KEPT_BYTES_MAX + 1, HELD_BYTES_MAX] {
        assert!(connection.write(&vec![1; length]).is_ready());
        assert!(connection.release().is_ready());
        connection.seen(|held| assert!(held.bytes.capacity() <= KEPT_BYTES_MAX));
    }
}

#[test]
fn the_end_waits_until_everything_has_left() {
    let mut connection = Connection::new([Does::Takes(2), Does::Waits]);
    assert!(connection.write(b"goodbye").is_ready());
    assert!(connection.shutdown().is_pending());
    connection.seen(|held| assert!(!held.stream.is_shut_down));
    assert!(matches!(connection.shutdown(), Poll::Ready(Ok(()))));
    connection.seen(|held| {
        assert!(held.stream.is_shut_down);
        assert_eq!(held.stream.written, b"goodbye");
        assert_eq!(held.stream.flushes, 1);
    });
}

#[test]
fn an_end_that_had_to_wait_is_tried_again_when_the_way_is_free() {
    let mut connection = Connection::new([Does::Waits]);
    assert!(connection.write(b"goodbye").is_ready());
    assert!(connection.shutdown().is_pending());
    let wakes = connection.wakes();
    assert!(matches!(connection.release(), Poll::Ready(Ok(()))));
    assert_eq!(connection.wakes(), wakes + 1);
    assert!(matches!(connection.shutdown(), Poll::Ready(Ok(()))));
}

#[test]
fn a_broken_stream_breaks_the_connection() {
    let mut connection = Connection::new([Does::Takes(3), Does::Fails]);
    assert!(connection.write(b"answer").is_ready());
    assert!(matches!(connection.release(), Poll::Ready(Err(_))));
    let mut connection = Connection::new([Does::Takes(0)]);
    assert!(connection.write(b"answer").is_ready());
    assert!(matches!(connection.release(), Poll::Ready(Err(_))));
}

#[test]
fn nothing_leaves_while_the_gate_is_shut() {
    let mut connection = Connection::new([]);
    connection.door.shut.store(true, Ordering::Relaxed);
    assert!(connection.write(b"a token").is_ready());
    assert!(matches!(connection.release(), Poll::Ready(Err(_))));
    assert!(matches!(connection.shutdown(), Poll::Ready(Err(_))));
    assert!(connection.write(&vec![0; HELD_BYTES_MAX]).is_ready());
    assert!(matches!(connection.write(b"more"), Poll::Ready(Err(_))));
    connection.seen(|held| assert_eq!(held.stream.writes, 0));
}

#[test]
fn what_waits_at_the_gate_leaves_when_it_opens_and_later_marks_do_not_hold_it_up() {
    let mut connection = Connection::new([Does::Takes(2)]);
    let door = connection.door.clone();
    door.open_below(1);
    assert!(connection.write(b"early").is_ready());
    assert!(connection.release().is_ready());
    door.mark.store(1, Ordering::Relaxed);
    assert!(connection.write(b"first").is_ready());
    assert!(connection.release().is_pending());
    // Each turn brings another answer with a record of its own, and none of them the first one's.
    door.mark.store(2, Ordering::Relaxed);
    assert!(connection.write(b"second").is_ready());
    assert!(connection.release().is_pending());
    connection.seen(|held| assert_eq!(held.stream.written, b"early"));
    door.mark.store(3, Ordering::Relaxed);
    assert!(connection.write(b"third").is_ready());
    let wakes = connection.wakes();
    door.open_below(2);
    assert_eq!(connection.wakes(), wakes + 1, "it is told");
    assert!(connection.release().is_pending(), "the rest waits on");
    connection.seen(|held| assert_eq!(held.stream.written, b"earlyfirst"));
    assert!(connection.shutdown().is_pending());
    door.open_below(4);
    assert!(matches!(connection.shutdown(), Poll::Ready(Ok(()))));
    connection.seen(|held| assert_eq!(held.stream.written, b"earlyfirstsecondthird"));
}

proptest! {
    #[test]
    fn every_byte_leaves_once_and_in_order(
        script in prop::collection::vec(
            prop_oneof![(1..40_000_usize).prop_map(Does::Takes), Just(Does::Waits)],
            0..40,
        ),
        parts in prop::collection::vec((0..20_000_usize, 0..3_u8), 1..12),
    ) {
        let mut connection = Connection::new(script);
        let mut expected = Vec::new();
        for (number, (length, then)) in parts.into_iter().enumerate() {
            let part: Vec<u8> = (0..length).map(|at| (at * 31 + number) as u8).collect();
            expected.extend_from_slice(&part);
            let mut left = part.as_slice();
            while !left.is_empty() {
                match connection.write(left) {
                    Poll::Ready(Ok(count)) => left = &left[count..],
                    Poll::Ready(Err(error)) => panic!("{error}"),
                    Poll::Pending => { let _ = connection.release(); }
                }
                connection.seen(|held| assert!(held.bytes.len() <= HELD_BYTES_MAX));
            }
            if then == 0 {
                let _ = connection.flush();
            } else if then == 1 {
                let _ = connection.release();
            }
        }
        while connection.shutdown().is_pending() {}
        connection.seen(|held| assert!(held.stream.written == expected));
    }
}
