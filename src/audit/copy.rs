//! A copy of the log for a collector beside the broker: syslog (RFC 5424) over TCP (RFC 6587, octet counting).
//!
//! The log is the file; the copy follows it, and nobody waits for it. A line is copied as it stands in the
//! file, once it is durable, so that `audit verify` can look through what was collected elsewhere. What
//! cannot be copied is counted, and its numbers are missing there.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// Lines that wait to be copied, in bytes; further ones are not copied.
const BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long the collector may take for a line, and how often it is sought when it is away.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether all is copied.
const LOOKS: Duration = Duration::from_millis(5);
/// Facility 13, log audit; severity 6, informational.
const PRIORITY: u8 = 13 * 8 + 6;

/// Takes lines, and hands them to a thread that copies them.
#[derive(Debug)]
pub(super) struct Copier {
    queue: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    backlog_bytes: AtomicUsize,
    lost: AtomicU64,
}

/// How many lines were not copied.
#[derive(Clone, Debug)]
pub(super) struct Lost(Arc<Shared>);

/// The collector, as far as it can be reached.
struct Collector {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// Not before that is it sought again.
    next_try: Instant,
}

impl Copier {
    pub(super) fn start(address: SocketAddr) -> io::Result<Self> {
        let (queue, groups) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let copying = shared.clone();
        thread::Builder::new()
            .name("audit-copy".into())
            .spawn(move || copying.copy(Collector::at(address), &groups))?;
        Ok(Self { queue, shared })
    }

    pub(super) fn lost(&self) -> Lost {
        Lost(self.shared.clone())
    }

    /// Copies lines, if there is room for them.
    pub(super) fn add(&self, lines: &[u8]) {
        let backlog = &self.shared.backlog_bytes;
        if backlog.fetch_add(lines.len(), Ordering::Relaxed) + lines.len() > BACKLOG_BYTES_MAX
            || self.queue.send(lines.to_vec()).is_err()
        {
            backlog.fetch_sub(lines.len(), Ordering::Relaxed);
            self.shared.lose(each(lines).count());
        }
    }
}

impl Lost {
    pub(super) fn count(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until all lines were copied or counted, but not for long.
    pub(super) async fn until_copied(&self) {
        let began = Instant::now();
        while self.0.backlog_bytes.load(Ordering::Relaxed) > 0 && began.elapsed() < PATIENCE {
            sleep(LOOKS).await;
        }
    }
}

impl Shared {
    fn copy(&self, mut collector: Collector, groups: &mpsc::Receiver<Vec<u8>>) {
        for lines in groups {
            for line in each(&lines) {
                if let Err(error) = collector.take(line) {
                    self.lose(1);
                    tracing::debug!(%error, "a line of the audit log is not copied");
                }
            }
            self.backlog_bytes.fetch_sub(lines.len(), Ordering::Relaxed);
        }
    }

    fn lose(&self, lines: usize) {
        if self.lost.fetch_add(lines as u64, Ordering::Relaxed) == 0 {
            tracing::warn!(
                "lines of the audit log cannot be copied to the collector: they are counted"
            );
        }
    }
}

impl Collector {
    fn at(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
            next_try: Instant::now(),
        }
    }

    fn take(&mut self, line: &[u8]) -> io::Result<()> {
        let message = message(line);
        // A connection that was closed meanwhile is noticed only as it is written to.
        let kept = self.stream.is_some();
        match self.send(&message) {
            Err(_) if kept => self.send(&message),
            sent => sent,
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.write_all(message)?;
        self.stream = Some(stream);
        Ok(())
    }

    fn connect(&mut self) -> io::Result<TcpStream> {
        if Instant::now() < self.next_try {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.next_try = Instant::now() + PATIENCE;
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

fn each(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = lines.split(|byte| *byte == b'\n');
    lines.filter(|line| !line.is_empty())
}

/// The line has its time; host and structured data are the collector's.
fn message(line: &[u8]) -> Vec<u8> {
    let header = format!("<{PRIORITY}>1 - - kodo-broker {} audit - ", process::id());
    let length = (header.len() + line.len()).to_string();
    [length.as_bytes(), b" ", header.as_bytes(), line].concat()
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::TcpListener};

    use super::*;

    #[test]
    fn lines_arrive_whole_and_in_order_and_what_is_lost_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("is bound");
        let copier = Copier::start(address).expect("starts");
        copier.add(b"{\"a\":1}\n{\"b\":2}\n");
        let (mut stream, _) = listener.accept().expect("is sought");
        let expected = [message(b"{\"a\":1}"), message(b"{\"b\":2}")].concat();
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).expect("receives");
        assert_eq!(received, expected);
        let text = String::from_utf8(expected).expect("text");
        let (length, rest) = text
            .split_once(" <110>1 - - kodo-broker ")
            .expect("a header");
        assert_eq!(
            length.parse::<usize>().expect("a number") * 2,
            text.len() - 2 * (length.len() + 1)
        );
        assert!(rest.contains(" audit - {\"a\":1}"), "{rest}");
        assert_eq!(copier.lost().count(), 0);
    }

    #[test]
    fn without_a_collector_lines_are_counted_and_nothing_waits() {
        let nobody = TcpListener::bind("127.0.0.1:0")
            .expect("binds")
            .local_addr();
        let copier = Copier::start(nobody.expect("is bound")).expect("starts");
        let lost = copier.lost();
        copier.add(b"1\n2\n3\n");
        copier.add(&vec![b'\n'; BACKLOG_BYTES_MAX + 1]);
        copier.add(b"4\n");
        // Once the sender is gone, the thread ends when it has gone through them.
        let shared = Arc::downgrade(&copier.shared);
        drop(copier);
        while shared.strong_count() > 1 {
            thread::yield_now();
        }
        assert_eq!(lost.count(), 4);
    }
}
