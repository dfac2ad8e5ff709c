use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::*;

/// A disk that takes so many bytes, and what it has.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

impl Disk {
    fn with_room(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new((bytes, Vec::new()))))
    }

    fn make_room(&self, bytes: usize) {
        lock(&self.0).0 = bytes;
    }

    fn text(&self) -> String {
        String::from_utf8(lock(&self.0).1.clone()).expect("text")
    }

    fn organizations(&self) -> Vec<String> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"))
            .map(|line| line["organization"].as_str().expect("an id").to_owned())
            .collect()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (room, written) = &mut *lock(&self.0);
        let count = bytes.len().min(*room);
        if count == 0 {
            return Err(ErrorKind::StorageFull.into());
        }
        *room -= count;
        written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn on(disk: &Disk) -> Audit {
    Audit::to(Box::new(disk.clone()))
}

fn record(organization: &str) -> Record<'_> {
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_068_777_123),
        rpc: "GetToken",
        caller: "spiffe://kodo.test/worker",
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
    audit.written_up_to(last).expect("is written");
    let lines: Vec<Value> = disk
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let expected = [
        json!({
            "time": "2025-11-25T11:06:17.123Z", "rpc": "GetToken", "caller": "spiffe://kodo.test/worker",
            "organization": "contoso", "resource": "graph", "outcome": "OK",
            "fingerprint": "ab".repeat(32), "credential_version": 3,
            "expire_time": "2025-11-25T12:06:17Z",
        }),
        json!({
            "time": "2025-11-25T11:06:17.123Z", "rpc": "GetToken", "caller": "spiffe://kodo.test/worker",
            "organization": "contoso", "resource": "sharepoint",
            "sharepoint_host": "contoso.sharepoint.com", "outcome": "ORGANIZATION_REVOKED",
        }),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn lines_of_many_calls_are_one_write_and_only_when_needed() {
    let disk = Disk::with_room(usize::MAX);
    let audit = on(&disk);
    let places = ["a", "b", "c"].map(|id| audit.record(&record(id)).expect("is recorded"));
    assert_eq!(disk.text(), "");
    audit.written_up_to(places[0]).expect("is written");
    assert_eq!(disk.organizations(), ["a", "b", "c"]);
    // No room is left, so that any write would fail.
    disk.make_room(0);
    for place in places {
        audit.written_up_to(place).expect("it was written before");
    }
}

#[test]
fn without_room_calls_are_refused_and_with_room_nothing_is_missing() {
    let disk = Disk::with_room(100);
    let audit = on(&disk);
    let first = audit.record(&record("first")).expect("nobody knows yet");
    audit.written_up_to(first).expect_err("the line is longer");
    assert!(
        disk.text().len() == 100,
        "cut short in the middle of the line"
    );
    for _ in 0..3 {
        assert_eq!(audit.record(&record("refused")), Err(Unavailable));
        audit.written_up_to(first).expect_err("no answer leaves");
    }
    disk.make_room(usize::MAX);
    let second = audit
        .record(&record("second"))
        .expect("it is written again");
    audit.written_up_to(second).expect("is written");
    audit.written_up_to(first).expect("is written");
    assert_eq!(disk.organizations(), ["first", "second"]);
}

#[test]
fn an_answer_waits_for_its_own_line_though_an_earlier_write_succeeded() {
    let disk = Disk::with_room(usize::MAX);
    let audit = on(&disk);
    let first = audit.record(&record("first")).expect("is recorded");
    audit.written_up_to(first).expect("is written");
    disk.make_room(0);
    let second = audit.record(&record("second")).expect("nobody knows yet");
    audit.written_up_to(first).expect("it was written before");
    audit.written_up_to(second).expect_err("it cannot be");
}

#[test]
fn the_backlog_is_bounded() {
    let disk = Disk::with_room(0);
    let audit = on(&disk);
    let length = {
        let disk = Disk::with_room(usize::MAX);
        let audit = on(&disk);
        audit.record(&record("a")).expect("is recorded").get()
    };
    let mut recorded = 0;
    // Nobody has asked for a write yet, so no write has failed.
    while audit.record(&record("a")).is_ok() {
        recorded += length;
        assert!(recorded <= BACKLOG_BYTES_MAX as u64);
    }
    assert!(recorded > BACKLOG_BYTES_MAX as u64 - 2 * length);
    disk.make_room(usize::MAX);
    let last = audit.record(&record("b")).expect("there is room");
    audit.written_up_to(last).expect("is written");
    assert_eq!(disk.text().len() as u64, recorded + length);
}

#[test]
fn a_file_is_appended_to_and_closed_to_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.jsonl");
    for id in ["a", "b"] {
        let audit = Audit::open(&file).expect("opens");
        let place = audit.record(&record(id)).expect("is recorded");
        audit.written_up_to(place).expect("is written");
    }
    assert_eq!(fs::read_to_string(&file).expect("text").lines().count(), 2);
    let mode = fs::metadata(&file).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("a file of ours");
    let refused = Audit::open(&file)
        .expect_err("others can read it")
        .to_string();
    assert!(
        refused.contains("audit.jsonl") && refused.contains("chmod 0600"),
        "{refused}"
    );
    let nowhere = folder.path().join("none").join("audit.jsonl");
    let refused = Audit::open(&nowhere)
        .expect_err("there is no folder")
        .to_string();
    assert!(refused.contains("none"), "{refused}");
}

#[test]
fn switched_off_it_records_nothing_and_holds_nobody_up() {
    let place = Audit::off().record(&record("a")).expect("nothing to do");
    Audit::off().written_up_to(place).expect("nothing to do");
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
                    audit.written_up_to(place).expect("is written");
                }
            });
        }
    });
    assert_eq!(disk.organizations().len(), 2000);
}
