//! What this executable does when a test starts it once more: it works on one store, and says on
//! standard output, a line each, what it found and what was acknowledged.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use kodo_broker::store::{Error, Store, sled::SledStore};
use tokio::{task::JoinSet, time::Instant};

use crate::{full, load, operations};

/// Names what to do, with its figures; without it, `work` is no test.
const ROLE: &str = "KODO_STORE_ROLE";

/// Longest wait for a store to be closed.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// A role, with its figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role {
    /// Writers at once.
    pub(crate) writers: u64,
    /// Commits of each before it ends.
    pub(crate) commits: u64,
    /// Largest value, in bytes.
    pub(crate) largest: u64,
    /// How often the store is opened, with as many commits each time.
    pub(crate) opens: u64,
}

/// A line of standard output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The store is open and holds this of a writer.
    Has(u64, u64),
    /// All of `Has` are told.
    Ready,
    /// A commit is on its way.
    Sent(u64, u64),
    /// It was acknowledged.
    Acknowledged(u64, u64),
    /// The store said no.
    Refused(String),
}

impl FromStr for Line {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let pair = || {
            let (writer, count) = rest.split_once(' ').ok_or(())?;
            let number = |text: &str| text.parse().map_err(|_| ());
            Ok::<(u64, u64), ()>((number(writer)?, number(count)?))
        };
        match kind {
            "has" => pair().map(|(writer, count)| Self::Has(writer, count)),
            "ready" => Ok(Self::Ready),
            "sent" => pair().map(|(writer, count)| Self::Sent(writer, count)),
            "ack" => pair().map(|(writer, count)| Self::Acknowledged(writer, count)),
            "refused" => Ok(Self::Refused(rest.to_owned())),
            _ => Err(()),
        }
    }
}

impl Role {
    /// A command that does this on the store of a folder.
    pub(crate) fn command(self, directory: &Path) -> Command {
        let Self {
            writers,
            commits,
            largest,
            opens,
        } = self;
        command(
            &format!("commit {writers} {commits} {largest} {opens}"),
            directory,
        )
    }
}

/// This executable once more, in a role, on the store of a folder.
pub(crate) fn command(role: &str, directory: &Path) -> Command {
    let program = std::env::current_exe().expect("this executable");
    let mut command = Command::new(program);
    command
        .args(["--exact", "role::work", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env("KODO_STORE_DIRECTORY", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The lines of a process, without what the test harness says.
pub(crate) fn lines(child: &mut Child) -> impl Iterator<Item = Line> + use<> {
    let output: ChildStdout = child.stdout.take().expect("is piped");
    BufReader::new(output)
        .split(b'\n')
        .map_while(Result::ok)
        .filter_map(|line| String::from_utf8_lossy(&line).parse().ok())
}

pub(crate) fn say(line: &str) {
    // The reader may be gone: it has seen enough then.
    let _ = io::stdout()
        .lock()
        .write_all(format!("{line}\n").as_bytes());
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test that started this process says so"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The other side of `Role::command`. Passes at once where nobody asked for a role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work() {
    let Some(role) = environment(ROLE) else {
        return;
    };
    let directory = environment("KODO_STORE_DIRECTORY").expect("comes with a role");
    let directory = Path::new(&directory);
    let (name, figures) = role.split_once(' ').unwrap_or((&role, ""));
    let figures: Vec<u64> = figures
        .split_whitespace()
        .map(|figure| figure.parse().expect("a figure"))
        .collect();
    // The harness leaves its line open.
    say("");
    match (name, &figures[..]) {
        ("commit", &[writers, commits, largest, opens]) => {
            for _ in 0..opens {
                if let Err(error) = session(directory, writers, commits, largest).await {
                    say(&format!("refused {error}"));
                }
            }
        }
        ("operate", []) => operations::operate(directory).await,
        ("endure", &[writers, largest]) => full::endure(directory, writers, largest).await,
        _ => panic!("not a role: {role}"),
    }
}

async fn session(directory: &Path, writers: u64, commits: u64, largest: u64) -> Result<(), Error> {
    let store: Arc<dyn Store> = Arc::new(open(directory).await?);
    let counts = load::counts(&*store, writers, largest).await?;
    for (writer, count) in &counts {
        say(&format!("has {writer} {count}"));
    }
    say("ready");
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let store = Arc::clone(&store);
        let began = counts.get(&writer).copied().unwrap_or(0);
        tasks.spawn(async move {
            for count in began + 1..=began + commits {
                say(&format!("sent {writer} {count}"));
                let transaction = load::transaction(writer, count, largest);
                store.commit(transaction).await?;
                say(&format!("ack {writer} {count}"));
            }
            Ok(())
        });
    }
    tasks.join_all().await.into_iter().collect()
}

/// A store that was closed just now keeps its lock until the last of its threads has ended: it is
/// waited for, but not for ever.
pub(crate) async fn open(directory: &Path) -> Result<SledStore, Error> {
    let began = Instant::now();
    loop {
        match SledStore::open(directory).await {
            Err(Error::InUse(_)) if began.elapsed() < CLOSING_MAX => tokio::task::yield_now().await,
            other => return other,
        }
    }
}
