use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Mutex, MutexGuard, mpsc},
    task::Waker,
    time::SystemTime,
};

use serde_json::{Value, json};

use super::{segment::Medium, *};
use crate::config::Durability;

/// A disk that takes so many bytes, and what it has.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

impl Disk {
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new((bytes, Vec::new()))))
    }

    pub(crate) fn make_room(&self, bytes: usize) {
        lock(&self.0).0 = bytes;
    }

    fn text(&self) -> String {
        String::from_utf8(lock(&self.0).1.clone()).expect("text")
    }

    fn organizations(&self) -> Vec<String> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"))
            .filter(|line| line["kind"] == "call")
            .map(|line| line["organization"].as_str().expect("an id").to_owned())
            .collect()
    }
}

impl Medium for Disk {
    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        let (room, written) = &mut *lock(&self.0);
        if *room < lines.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        *room -= lines.len();
        written.extend_from_slice(lines);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics under it")
}

impl Audit {
    /// Waits for a place without giving the runtime a chance to let paused time pass.
    pub(crate) fn spin(&self, place: Place) -> Result<(), Unavailable> {
        let (watcher, mut cx) = (Watcher::default(), Context::from_waker(Waker::noop()));
        loop {
            match self.poll_durable(place, &watcher, &mut cx) {
                Poll::Ready(outcome) => return outcome,
                Poll::Pending => thread::yield_now(),
            }
        }
    }

    /// Waits until everything that was recorded is durable.
    pub(crate) fn settle(&self) {
        if let Some(log) = &self.0 {
            self.spin(Place(log.group.recorded()))
                .expect("it is written");
        }
    }
}

/// A log that begins on a medium.
fn open_on(medium: impl Medium + 'static, stall_max: Duration) -> Audit {
    let opened = segment::Opened {
        medium: Box::new(medium),
        recovered: recover::Recovered::new(),
    };
    let key = Keys::for_once().expect("random bytes").present().clone();
    let audit = Audit::to(
        Begins::Now(opened),
        key,
        None,
        Clock::system(),
        stall_max,
        None,
    );
    audit.expect("there are threads")
}

/// The same, with its first line on the disk.
pub(crate) fn on(disk: &Disk) -> Audit {
    let audit = open_on(disk.clone(), STALL_MAX);
    let last_line = audit.last_line().expect("it writes");
    while last_line() == 0 {
        thread::yield_now();
    }
    audit
}

fn record(organization: &str) -> Record<'_> {
    Record {
        kind: Kind::Call,
        call: None,
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_068_777_123),
        rpc: "GetToken",
        caller: "spiffe://kodo.test/worker",
        on_word_of: None,
        organization,
        resource: Some("graph"),
        sharepoint_host: None,
        job_id: None,
        outcome: Outcome::Done,
        reason: None,
        again: None,
        token: Some(TokenRecord {
            fingerprint: &[0xab; 32],
            credential_version: 3,
            expire_time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_072_377),
        }),
    }
}

#[test]
fn a_line_says_who_got_what() {
    let disk = Disk::with_room(usize::MAX);
    let audit = on(&disk);
    let mut refused = record("contoso");
    refused.outcome = Outcome::Refused("ORGANIZATION_REVOKED");
    refused.resource = Some("sharepoint");
    refused.sharepoint_host = Some("contoso.sharepoint.com");
    refused.token = None;
    audit.record(&record("contoso")).expect("is recorded");
    let last = audit.record(&refused).expect("is recorded");
    audit.spin(last).expect("is written");
    let mut lines: Vec<Value> = disk
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    lines.remove(0);
    for (line, seq) in lines.iter_mut().zip(2..) {
        let line = line.as_object_mut().expect("an object");
        assert_eq!(line.remove("seq"), Some(seq.into()));
        for name in ["prev", "mac"] {
            let digits = line.remove(name).expect("it is there");
            assert_eq!(digits.as_str().map(str::len), Some(64));
        }
    }
    let expected = [
        json!({
            "time": "2025-11-25T11:06:17.123Z", "kind": "call", "rpc": "GetToken", "caller": "spiffe://kodo.test/worker",
            "organization": "contoso", "resource": "graph", "outcome": "OK",
            "fingerprint": "ab".repeat(32), "credential_version": 3,
            "expire_time": "2025-11-25T12:06:17Z",
        }),
        json!({
            "time": "2025-11-25T11:06:17.123Z", "kind": "call", "rpc": "GetToken", "caller": "spiffe://kodo.test/worker",
            "organization": "contoso", "resource": "sharepoint",
            "sharepoint_host": "contoso.sharepoint.com", "outcome": "ORGANIZATION_REVOKED",
        }),
    ];
    assert_eq!(lines, expected);
}

/// A disk that does nothing before it is told to, call by call.
struct Held(Disk, mpsc::Receiver<()>);

impl Medium for Held {
    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        // Goes on by itself once nobody holds it any more.
        let _ = self.1.recv();
        self.0.put(lines)
    }
}

fn held(disk: &Disk, stall_max: Duration) -> (Audit, mpsc::Sender<()>) {
    let (go, told) = mpsc::channel();
    let audit = open_on(Held(disk.clone(), told), stall_max);
    go.send(()).expect("it waits with its first line");
    (audit, go)
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_comes_while_a_group_is_written_is_the_next_group_and_who_waits_is_woken() {
    let disk = Disk::with_room(usize::MAX);
    let (audit, go) = held(&disk, STALL_MAX);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let (watcher, mut cx) = (Watcher::default(), Context::from_waker(&waker));
    let first = audit.record(&record("first")).expect("is recorded");
    let mut poll = |place| audit.poll_durable(place, &watcher, &mut cx);
    assert!(poll(first).is_pending() && poll(first).is_pending());
    let later = ["a", "b", "c"].map(|id| audit.record(&record(id)).expect("is recorded"));
    assert!(poll(later[2]).is_pending());
    assert!(
        disk.organizations().is_empty(),
        "nothing leaves the writer's hands"
    );
    go.send(()).expect("it waits");
    audit.spin(first).expect("is written");
    go.send(()).expect("it waits for the next group");
    audit.spin(later[2]).expect("is written");
    assert_eq!(disk.organizations(), ["first", "a", "b", "c"]);
    assert!(poll(later[2]).is_ready() && poll(first).is_ready());
    let times = woken.0.load(Ordering::Relaxed);
    assert!((1..=2).contains(&times), "woken {times} times");
    drop(go);
}

#[test]
fn without_room_calls_are_refused_and_with_room_nothing_is_missing() {
    let disk = Disk::with_room(usize::MAX);
    let audit = on(&disk);
    disk.make_room(100);
    let works = audit.works().expect("it writes");
    let first = audit.record(&record("first")).expect("nobody knows yet");
    assert_eq!(audit.spin(first), Err(Unavailable), "the line is longer");
    for _ in 0..3 {
        assert_eq!(audit.record(&record("refused")), Err(Unavailable));
        assert_eq!(audit.spin(first), Err(Unavailable), "no answer leaves");
    }
    assert!(!*works.borrow(), "readiness is told");
    disk.make_room(usize::MAX);
    // Nobody has to call for that.
    while !*works.borrow() {
        thread::yield_now();
    }
    let second = audit
        .record(&record("second"))
        .expect("it is written again");
    audit.spin(second).expect("is written");
    audit.spin(first).expect("is written");
    assert_eq!(disk.organizations(), ["first", "second"]);
}

#[test]
fn an_answer_waits_for_its_own_line_though_an_earlier_write_succeeded() {
    let disk = Disk::with_room(usize::MAX);
    let audit = on(&disk);
    let first = audit.record(&record("first")).expect("is recorded");
    audit.spin(first).expect("is written");
    disk.make_room(0);
    let second = audit.record(&record("second")).expect("nobody knows yet");
    audit.spin(first).expect("it was written before");
    audit.spin(second).expect_err("it cannot be");
}

#[test]
fn a_disk_that_does_not_answer_has_calls_refused_and_nobody_waits_for_it() {
    let disk = Disk::with_room(usize::MAX);
    let (audit, go) = held(&disk, Duration::from_millis(80));
    let first = audit.record(&record("first")).expect("nobody knows yet");
    assert_eq!(audit.spin(first), Err(Unavailable), "it took too long");
    assert_eq!(audit.record(&record("refused")), Err(Unavailable));
    drop(go);
    while audit.check().is_err() {
        thread::yield_now();
    }
    audit.spin(first).expect("late, but it is written");
    assert_eq!(disk.organizations(), ["first"]);
}

#[test]
fn the_backlog_is_bounded() {
    let disk = Disk::with_room(usize::MAX);
    let (audit, go) = held(&disk, STALL_MAX);
    let first = audit.record(&record("first")).expect("is recorded");
    let (watcher, mut cx) = (Watcher::default(), Context::from_waker(Waker::noop()));
    assert!(audit.poll_durable(first, &watcher, &mut cx).is_pending());
    let mut recorded = 0;
    while audit.record(&record("a")).is_ok() {
        recorded += 1;
        assert!(recorded < BACKLOG_BYTES_MAX / 100);
    }
    assert!(audit.check().is_ok(), "there is no room, and that is all");
    drop(go);
    while audit.record(&record("b")).is_err() {
        thread::yield_now();
    }
    audit.settle();
    assert!(disk.text().len() > BACKLOG_BYTES_MAX);
    assert_eq!(disk.organizations().len(), recorded + 2);
}

#[tokio::test]
async fn what_is_recorded_last_is_written_when_the_log_ends() {
    let disk = Disk::with_room(usize::MAX);
    let audit = on(&disk);
    audit.record(&record("last")).expect("is recorded");
    audit.close().await;
    assert_eq!(disk.organizations(), ["last"]);
    assert_eq!(audit.record(&record("later")), Err(Unavailable));
    let disk = Disk::with_room(usize::MAX);
    let audit = on(&disk);
    disk.make_room(0);
    let place = audit.record(&record("last")).expect("is recorded");
    audit.close().await;
    assert_eq!(audit.spin(place), Err(Unavailable), "in vain");
}

/// A disk whose driver is broken.
struct Panics;

impl Medium for Panics {
    fn put(&mut self, _: &[u8]) -> io::Result<()> {
        panic!("as the test wants it");
    }
}

#[test]
fn without_its_writer_nothing_is_recorded() {
    let audit = open_on(Panics, STALL_MAX);
    while audit.check().is_ok() {
        thread::yield_now();
    }
    assert_eq!(audit.record(&record("b")), Err(Unavailable));
}

fn at(file: &Path) -> AuditConfig {
    AuditConfig {
        file: Some(file.to_owned()),
        ..AuditConfig::default()
    }
}

#[tokio::test]
async fn a_file_is_appended_to_and_closed_to_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.jsonl");
    let open = |file: &Path| Audit::open(&at(file), Clock::system());
    for id in ["a", "b"] {
        let audit = open(&file).expect("opens");
        audit.record(&record(id)).expect("is recorded");
        audit.close().await;
    }
    let text = fs::read_to_string(&file).expect("text");
    let kinds = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let kinds: Vec<_> = kinds
        .map(|line| line["kind"].as_str().expect("a word").to_owned())
        .collect();
    assert_eq!(kinds, ["open", "call", "close", "open", "call", "close"]);
    for name in ["audit.jsonl", "audit.key", "audit.anchor"] {
        let metadata = fs::metadata(folder.path().join(name)).expect("is there");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("a file of ours");
    let refused = open(&file).expect_err("others can read it").to_string();
    assert!(
        refused.contains("audit.jsonl") && refused.contains("chmod 0600"),
        "{refused}"
    );
    let nowhere = folder.path().join("none").join("audit.jsonl");
    let refused = open(&nowhere).expect_err("there is no folder").to_string();
    assert!(refused.contains("none"), "{refused}");
}

#[test]
fn a_key_that_is_named_must_be_there_and_one_process_writes_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = AuditConfig {
        key_file: Some(folder.path().join("key")),
        ..at(&folder.path().join("audit.jsonl"))
    };
    let open = || Audit::open(&config, Clock::system());
    let refused = open().expect_err("there is no key").to_string();
    assert!(refused.contains("key"), "{refused}");
    Keys::make(&folder.path().join("key")).expect("makes one");
    Keys::make(&folder.path().join("key")).expect_err("it is there");
    let first = open().expect("opens");
    first.record(&record("first")).expect("is recorded");
    // The one that replaces it waits for its end.
    let second = open().expect("opens");
    while second.check().is_ok() {
        thread::yield_now();
    }
    assert_eq!(second.record(&record("early")), Err(Unavailable));
    drop(first);
    while second.check().is_err() {
        thread::yield_now();
    }
    second.record(&record("second")).expect("is recorded");
    second.settle();
    let text = fs::read_to_string(folder.path().join("audit.jsonl")).expect("text");
    let places = ["\"first\"", "\"close\"", "\"second\""].map(|word| text.find(word));
    assert!(places.is_sorted() && places[0].is_some(), "{text}");
    assert!(!text.contains("early"));
}

#[tokio::test]
async fn a_full_file_is_put_aside_and_the_log_goes_on_over_files_and_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.jsonl");
    let config = AuditConfig {
        durability: Durability::Os,
        segment_mib_max: std::num::NonZeroU32::MIN,
        ..at(&file)
    };
    for _ in 0..2 {
        let audit = Audit::open(&config, Clock::system()).expect("opens");
        for number in 0..3000 {
            let place = audit.record(&record("contoso")).expect("is recorded");
            if number % 500 == 0 {
                audit.durable(place).await.expect("is written");
            }
        }
        audit.close().await;
    }
    let mut files = numbered(&file).expect("a folder");
    assert!(files.len() >= 2, "{files:?}");
    files.push(file.clone());
    let keys = Keys::read(&folder.path().join("audit.key")).expect("reads");
    let trust = Trust::Keys(keys);
    let anchor = Anchor::read(&folder.path().join("audit.anchor"), &trust);
    let anchor = anchor.expect("reads").expect("is there");
    let report = verify::files(&files, &trust, Some(&anchor));
    let report = report.expect("reads").expect("it is whole");
    assert!(report.last.seq > 6000 && report.closed);
    assert_eq!(report.last, anchor.head);
    assert!(report.signatures >= 6, "each 1000 lines: {report:?}");
    // The broker that had put its file aside was killed.
    fs::rename(&file, folder.path().join("away")).expect("renames");
    let last = files.len() - 2;
    let report = verify::files(&files[..=last], &trust, None)
        .expect("reads")
        .expect("whole");
    let anchored = Anchor {
        head: report.last,
        ..anchor
    };
    let key = Keys::read(&folder.path().join("audit.key")).expect("reads");
    let anchor_file = folder.path().join("audit.anchor");
    anchored.write(&anchor_file, key.present()).expect("writes");
    let audit = Audit::open(&config, Clock::system()).expect("opens");
    assert!(!audit.is_damaged());
    audit.close().await;
    let report = verify::files(&files, &trust, None);
    report.expect("reads").expect("it is whole");
}

#[test]
fn switched_off_it_records_nothing_and_holds_nobody_up() {
    let place = Audit::off().record(&record("a")).expect("nothing to do");
    Audit::off().spin(place).expect("nothing to do");
}

#[test]
fn records_of_many_threads_are_whole_lines() {
    let disk = Disk::with_room(usize::MAX);
    let audit = on(&disk);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let place = audit.record(&record("a")).expect("is recorded");
                    audit.spin(place).expect("is written");
                }
            });
        }
    });
    assert_eq!(disk.organizations().len(), 2000);
}
