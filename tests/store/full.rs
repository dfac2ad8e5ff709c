//! The disk is full, and then there is room again: the store refuses to write, is read all the while,
//! opens even so, and writes again by itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use kodo_broker::store::{Key, Store, Transaction, Write};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    faults, load, report,
    role::{self, Line, Role, lines},
    shim,
};

/// How often the disk fills up, and how often the process is killed then.
const CYCLES: u64 = 12;
const KILLED_EVERY: u64 = 3;
/// Longest until the store writes again.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// Longest wait for anything else.
const PATIENCE: Duration = Duration::from_secs(60);
const WRITERS: u64 = 4;
const LARGEST: u64 = 16 * 1024;
/// Between two tries of a writer that was refused.
const PAUSE: Duration = Duration::from_millis(20);

/// Commits for ever, and goes on after each refusal; a refusal is told once the store was read.
pub(crate) async fn endure(directory: &Path, writers: u64, largest: u64) {
    let store: Arc<dyn Store> = Arc::new(role::open(directory).await.expect("opens when full"));
    let counts = load::counts(&*store, writers, largest).await;
    let counts = counts.expect("can be read when the disk is full");
    let calm = Key::new(b"calm", b"");
    if counts.is_empty() {
        let writes = vec![Write::Put(calm.clone(), b"is read".to_vec())];
        let transaction = Transaction {
            writes,
            ..Transaction::default()
        };
        store
            .commit(transaction)
            .await
            .expect("there is room at first");
    }
    for (writer, count) in &counts {
        role::say(&format!("has {writer} {count}"));
    }
    role::say("ready");
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let (store, calm) = (Arc::clone(&store), calm.clone());
        let mut count = counts.get(&writer).copied().unwrap_or(0) + 1;
        tasks.spawn(async move {
            loop {
                role::say(&format!("sent {writer} {count}"));
                let mut transaction = load::transaction(writer, count, largest);
                // So that there is always more of it.
                let more = [writer.to_be_bytes(), count.to_be_bytes()].concat();
                let more = Write::Put(Key::new(b"more/", &more), vec![0; 1024]);
                transaction.writes.push(more);
                match store.commit(transaction).await {
                    Ok(_) => {
                        role::say(&format!("ack {writer} {count}"));
                        count += 1;
                    }
                    Err(error) => {
                        let read = store.get(&calm).await;
                        let read = read.expect("can be read when the disk is full");
                        assert_eq!(read.expect("is there").value, b"is read");
                        role::say(&format!("refused {error}"));
                        sleep(PAUSE).await;
                    }
                }
            }
        });
    }
    tasks.join_all().await;
}

/// A process that endures a disk with a limit.
struct Enduring {
    folder: TempDir,
    child: Child,
    told: mpsc::Receiver<Line>,
    acknowledged: load::Counts,
    sent: load::Counts,
}

impl Enduring {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (child, told) = begin(folder.path());
        Self {
            folder,
            child,
            told,
            acknowledged: load::Counts::new(),
            sent: load::Counts::new(),
        }
    }

    fn room(&self) -> PathBuf {
        self.folder.path().join("room")
    }

    /// From now on the files may be as large as they are, and a little more.
    fn fill(&self, more: u64) {
        let files = fs::read_dir(self.folder.path().join("store")).expect("reads");
        let sizes = files
            .flatten()
            .map(|file| file.metadata().map_or(0, |about| about.len()));
        let most = sizes.sum::<u64>() + more;
        let written = self.folder.path().join("room.new");
        fs::write(&written, most.to_string()).expect("writes");
        fs::rename(written, self.room()).expect("renames");
    }

    /// Reads until there were as many lines of a kind.
    fn wait_for(&mut self, count: usize, at: &str, kind: impl Fn(&Line) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = 0;
        while seen < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.told.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("{at}: {error}: {}", self.last_words()));
            match line {
                Line::Sent(writer, count) => drop(self.sent.insert(writer, count)),
                Line::Acknowledged(writer, count) => drop(self.acknowledged.insert(writer, count)),
                _ => {}
            }
            seen += usize::from(kind(&line));
        }
    }

    /// What the process said at its end.
    fn last_words(&mut self) -> String {
        let _ = self.child.kill();
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
        }
        said
    }

    fn kill(&mut self) {
        self.child.kill().expect("is killed");
        self.child.wait().expect("has ended");
        // What it said before its end.
        while let Ok(line) = self.told.recv() {
            match line {
                Line::Sent(writer, count) => drop(self.sent.insert(writer, count)),
                Line::Acknowledged(writer, count) => drop(self.acknowledged.insert(writer, count)),
                _ => {}
            }
        }
    }
}

fn begin(folder: &Path) -> (Child, mpsc::Receiver<Line>) {
    let directory = folder.join("store");
    let mut command = role::command(&format!("endure {WRITERS} {LARGEST}"), &directory);
    shim::put_under(&mut command, &directory);
    command.env("KODO_DISK_ROOM", folder.join("room"));
    let mut child = command.spawn().expect("starts");
    let lines = lines(&mut child);
    let (sender, told) = mpsc::channel();
    thread::spawn(move || lines.map_while(|line| sender.send(line).ok()).count());
    (child, told)
}

#[test]
fn a_full_disk_is_endured_and_the_store_writes_again_by_itself() {
    let is_refusal = |line: &Line| matches!(line, Line::Refused(_));
    let is_acknowledged = |line: &Line| matches!(line, Line::Acknowledged(..));
    let mut enduring = Enduring::start();
    let (mut longest, mut without_reserve) = (Duration::ZERO, 0);
    for cycle in 0..CYCLES {
        enduring.wait_for(100, "writes", is_acknowledged);
        enduring.fill(cycle * 1000);
        enduring.wait_for(20, "is full", is_refusal);
        if cycle % KILLED_EVERY == KILLED_EVERY - 1 {
            enduring.kill();
            (enduring.child, enduring.told) = begin(enduring.folder.path());
            enduring.wait_for(1, "opens full", |line| *line == Line::Ready);
            enduring.wait_for(20, "is full again", is_refusal);
        }
        let reserve = enduring.folder.path().join("store/kodo-broker.reserve");
        without_reserve += u64::from(!reserve.exists());
        fs::remove_file(enduring.room()).expect("makes room");
        let began = Instant::now();
        enduring.wait_for(1, "has room", is_acknowledged);
        longest = longest.max(began.elapsed());
        assert!(began.elapsed() <= RECOVERY_MAX, "{:?}", began.elapsed());
    }
    enduring.kill();
    let role = Role {
        writers: WRITERS,
        commits: 0,
        largest: LARGEST,
        opens: 1,
    };
    let found = faults::read(&enduring.folder.path().join("store"), role).expect("opens");
    load::compare(&found, &enduring.acknowledged, &enduring.sent, "at the end");
    report(&format!(
        "full {CYCLES} times, opened in the reserve {without_reserve} times; {} acknowledged, writing again after {longest:.0?} at most",
        enduring.acknowledged.values().sum::<u64>()
    ));
}
