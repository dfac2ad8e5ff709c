use std::{fs, path::Path, time::SystemTime};

use serde_json::Value;
use spiffe::SpiffeId;
use tempfile::TempDir;
use tokio::time::advance;

use super::*;
use crate::{
    audit::tests::{Disk, on},
    authz::Policy,
    config::{AuditConfig, Durability},
    rpc::get_token::tests::token,
};

const GET_TOKEN: &str = "GetToken";

/// A log in a folder, and what writes to it.
struct Log {
    folder: TempDir,
    records: Arc<Records>,
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let audit = open(&folder.path().join("audit.jsonl"));
        let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_068_777));
        let (end, tasks) = (CancellationToken::new(), TaskTracker::new());
        let records = Records::start(audit, clock, &tasks, &end);
        tasks.close();
        Self {
            folder,
            records,
            end,
            tasks,
        }
    }

    fn give(&self, peer: &Peer, token: &Arc<Token>) {
        let caller = peer.caller().expect("has an identity");
        let asked = Asked {
            organization: OrganizationId::parse("contoso").ok(),
            resource: Some(Resource::Graph),
            job_id: None,
        };
        let (records, audit) = (&self.records, &self.records.audit);
        let given = records.record_hand_out(peer, caller, GET_TOKEN, &asked, token);
        let place = given.expect("is recorded");
        assert!(peer.recorded() >= place);
        // As before an answer leaves.
        audit.spin(place).expect("is written");
    }

    /// Each line as the last word of its caller, and how often it was done again.
    fn lines(&self) -> Vec<(String, Option<u64>)> {
        let text = fs::read_to_string(self.folder.path().join("audit.jsonl")).expect("text");
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines
            .filter(|line| line["kind"] == "call")
            .map(|line| {
                let caller = line["caller"].as_str().expect("a caller");
                let name = caller.rsplit('/').next().unwrap_or_default();
                (name.to_owned(), line["again"].as_u64())
            })
            .collect()
    }
}

fn open(file: &Path) -> Audit {
    let config = AuditConfig {
        file: Some(file.to_owned()),
        durability: Durability::Os,
        ..AuditConfig::default()
    };
    Audit::open(&config, Clock::system()).expect("opens")
}

fn peer(name: &str) -> Peer {
    let id = SpiffeId::new(format!("spiffe://kodo.test/{name}")).expect("an id");
    Peer::new(Ok(Caller::new(id, &Arc::new(Policy::default()))))
}

fn line(name: &str, again: Option<u64>) -> (String, Option<u64>) {
    (name.to_owned(), again)
}

async fn pass(time: Duration, log: &Log) {
    // Otherwise what is being written would have taken as long as that.
    log.records.audit.settle();
    advance(time).await;
    for _ in 0..10 {
        yield_now().await;
        log.records.audit.settle();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_given_again_is_told_once_with_its_number() {
    let log = Log::new();
    let token = Arc::new(token(None, "a token"));
    // Two connections of one worker.
    let (a, same, b) = (peer("a"), peer("a"), peer("b"));
    pass(Duration::from_secs(1), &log).await;
    for peer in [&a, &same, &a, &b, &same] {
        log.give(peer, &token);
    }
    let first = [line("a", None), line("b", None)];
    assert_eq!(log.lines(), first);
    pass(INTERVAL, &log).await;
    let told = [&first[..], &[line("a", Some(3))]].concat();
    assert_eq!(log.lines(), told);
    pass(INTERVAL, &log).await;
    assert_eq!(log.lines(), told, "nothing is told twice");
    log.give(&b, &token);
    log.end.cancel();
    log.tasks.wait().await;
    let mut log_lines = fs::read_to_string(log.folder.path().join("audit.jsonl")).expect("text");
    log_lines = log_lines
        .lines()
        .rfind(|line| line.contains("\"call\""))
        .expect("a line")
        .to_owned();
    assert!(log_lines.contains("\"again\":1"), "{log_lines}");
}

#[tokio::test(start_paused = true)]
async fn another_token_has_a_line_of_its_own() {
    let log = Log::new();
    let worker = peer("a");
    for text in ["one", "two"] {
        log.give(&worker, &Arc::new(token(None, text)));
    }
    assert_eq!(log.lines(), [line("a", None), line("a", None)]);
}

#[tokio::test(start_paused = true)]
async fn more_than_is_told_at_once_is_told_too() {
    let log = Log::new();
    let worker = peer("a");
    let tokens: Vec<_> = (0..2 * AT_ONCE + 1)
        .map(|number| Arc::new(token(None, &number.to_string())))
        .collect();
    pass(Duration::from_secs(1), &log).await;
    for token in tokens.iter().chain(&tokens).chain(&tokens) {
        log.give(&worker, token);
    }
    pass(INTERVAL, &log).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2 * tokens.len());
    assert!(
        lines[tokens.len()..]
            .iter()
            .all(|(_, again)| *again == Some(2))
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_log_cannot_be_written_nothing_is_given_again() {
    let clock = Clock::system();
    let disk = Disk::with_room(usize::MAX);
    let records = Records::new(on(&disk), clock);
    disk.make_room(0);
    let (worker, token) = (peer("a"), Arc::new(token(None, "a token")));
    let caller = worker.caller().expect("has an identity");
    let give = || records.record_hand_out(&worker, caller, GET_TOKEN, &Asked::default(), &token);
    let place = give().expect("nobody knows yet");
    assert_eq!(give(), Ok(place), "waits for the same line");
    records.audit.spin(place).expect_err("it is full");
    assert_eq!(give(), Err(Unavailable));
    let counted = token.holders.take(caller.digest());
    assert_eq!(counted, 1, "the second one, and none that was refused");
}
