use std::{path::PathBuf, time::SystemTime};

use tempfile::TempDir;

use super::{
    super::{
        key::Keys,
        line::{Chain, Mark},
    },
    *,
};

/// A log in a folder.
struct Log {
    _folder: TempDir,
    path: PathBuf,
    keys: Keys,
    lines: Vec<Vec<u8>>,
    head: Head,
}

impl Log {
    /// Of so many lines.
    fn new(count: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let keys = Keys::for_once().expect("random bytes");
        let mut chain = Chain::new(keys.present().clone(), "a log".into(), Head::default());
        let (mut lines, opening) = (Vec::new(), chain.introduction());
        for number in 0..count {
            let mut line = Vec::new();
            match number {
                0 => chain.mark(&mut line, "open", SystemTime::UNIX_EPOCH, &opening),
                _ => chain.add(&mut line, b"{\"kind\":\"call\",\"rpc\":\"GetToken\"}"),
            }
            lines.push(line);
        }
        let head = chain.head;
        let log = Self {
            _folder: folder,
            path,
            keys,
            lines,
            head,
        };
        log.write(&log.lines.concat());
        log
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(&self.path, bytes).expect("writes");
    }

    fn anchor(&self) -> Anchor {
        Anchor {
            log: "a log".into(),
            head: self.head,
        }
    }

    fn recover(&self, anchor: Option<&Anchor>) -> Recovered {
        let trust = Trust::Keys(self.keys.clone());
        recover(&self.path, &trust, anchor).expect("reads")
    }
}

#[test]
fn a_log_goes_on_where_it_ends() {
    let log = Log::new(5);
    for anchor in [None, Some(log.anchor())] {
        let recovered = log.recover(anchor.as_ref());
        assert_eq!((recovered.head, recovered.first), (log.head, 1));
        assert_eq!((recovered.damage, recovered.aside), (None, None));
        assert!(recovered.torn.is_none() && recovered.log == "a log");
    }
}

#[test]
fn what_is_cut_short_is_told_byte_by_byte() {
    let log = Log::new(3);
    let whole = log.lines.concat();
    let kept = whole.len() - log.lines[2].len();
    for length in kept + 1..whole.len() {
        log.write(&whole[..length]);
        let recovered = log.recover(None);
        assert_eq!((recovered.head.seq, &recovered.damage), (2, &None));
        assert!(recovered.needs_line_end);
        let mut mark = Mark::default();
        recovered.tell(&mut mark);
        assert_eq!(mark.torn_bytes, Some((length - kept) as u64));
        let digest = Hex(&sha256(&whole[kept..length])).to_string();
        assert_eq!(mark.torn_sha256, Some(digest));
    }
}

#[test]
fn what_the_anchor_has_seen_must_be_there_and_its_numbers_are_not_used_again() {
    let log = Log::new(5);
    let anchor = log.anchor();
    let changed = {
        let mut lines = log.lines.clone();
        lines[2][90] ^= 1;
        lines.concat()
    };
    for damaged in [log.lines[..3].concat(), changed, Vec::new()] {
        log.write(&damaged);
        let recovered = log.recover(Some(&anchor));
        assert!(recovered.damage.is_some());
        assert_eq!(
            (recovered.head, recovered.log.as_str()),
            (log.head, "a log")
        );
        let is_empty = damaged.is_empty();
        assert_eq!(recovered.aside, (!is_empty).then_some(Aside::Numbered));
    }
    log.write(&log.lines.concat());
    let other = Anchor {
        log: "another".into(),
        ..anchor
    };
    let recovered = log.recover(Some(&other));
    assert!(
        recovered
            .damage
            .is_some_and(|damage| damage.contains("another"))
    );
    assert_eq!(recovered.head, log.head);
}

#[test]
fn what_is_no_log_is_put_aside_and_an_unknown_key_is_asked_for() {
    let log = Log::new(2);
    log.write(b"{\"time\":\"2025-11-25T11:06:17.123Z\",\"rpc\":\"GetToken\"}\n");
    let recovered = log.recover(None);
    assert_eq!(recovered.aside, Some(Aside::Foreign));
    assert!(recovered.damage.is_some() && recovered.head == Head::default());
    log.write(&log.lines.concat());
    let strange = Trust::Keys(Keys::for_once().expect("random bytes"));
    let refused = recover(&log.path, &strange, None).expect_err("it cannot be verified");
    assert!(
        refused.to_string().contains("not in the key file"),
        "{refused}"
    );
}
