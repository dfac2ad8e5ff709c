use std::time::SystemTime;

use super::{super::line::Chain, *};

/// What is random here, from a seed.
struct Random(fastrand::Rng);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0.usize(..end)
    }
}

/// A log of several files, as they lie there.
#[derive(Clone)]
struct Log {
    files: Vec<Vec<u8>>,
    anchor: Anchor,
}

/// A log with restarts, operators and full files.
fn log(keys: &Keys, random: &mut Random, id: &str) -> Log {
    let mut chain = Chain::new(keys.present().clone(), id.to_owned(), Head::default());
    let mut files = vec![Vec::new()];
    let introduction = chain.introduction();
    let mark = |chain: &mut Chain, to: &mut Vec<u8>, kind: &str| {
        let says = match kind {
            "open" | "begin" => &introduction,
            _ => &super::super::line::Mark::default(),
        };
        chain.mark(to, kind, SystemTime::UNIX_EPOCH, says);
    };
    mark(&mut chain, &mut files[0], "open");
    for number in 0..24 {
        let may_end = number > 4 && files.len() < 4;
        let to = files.last_mut().expect("there is one");
        match random.below(12) {
            0 if may_end => {
                mark(&mut chain, to, "end");
                files.push(Vec::new());
                mark(&mut chain, files.last_mut().expect("there is one"), "begin");
            }
            1 => mark(&mut chain, to, "checkpoint"),
            2 => {
                mark(&mut chain, to, "close");
                mark(&mut chain, to, "open");
            }
            3 => {
                let begins = format!(
                    "{{\"kind\":\"intent\",\"call\":{number},\"rpc\":\"RevokeOrganization\"}}"
                );
                chain.add(to, begins.as_bytes());
                chain.add(to, begins.replace("intent", "result").as_bytes());
            }
            other => {
                let call = format!(
                    "{{\"kind\":\"call\",\"rpc\":\"GetToken\",\"organization\":\"o{other}-{number}\"}}"
                );
                chain.add(to, call.as_bytes());
            }
        }
    }
    Log {
        files,
        anchor: Anchor {
            log: id.to_owned(),
            head: chain.head,
        },
    }
}

fn verified(files: &[Vec<u8>], trust: &Trust, anchor: Option<&Anchor>) -> Result<Report, Found> {
    let name = Path::new("audit.jsonl");
    let parts = files.iter().map(|file| (name, Ok(file.as_slice())));
    all(parts, trust, anchor).expect("memory can be read")
}

/// What somebody does to a log, and what that is called.
fn manipulate(log: &Log, other: &Log, random: &mut Random) -> (&'static str, Vec<Vec<u8>>) {
    let mut files = log.files.clone();
    let number = random.below(files.len());
    let mut lines: Vec<Vec<u8>> = files[number]
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let at = random.below(lines.len());
    let what = match random.below(9) {
        0 => {
            let byte = random.below(lines[at].len());
            lines[at][byte] ^= 1 << random.below(8);
            "a bit is flipped"
        }
        1 => {
            lines.remove(at);
            "a line is deleted"
        }
        2 => {
            let with = random.below(lines.len());
            lines.swap(at, with);
            "two lines are swapped"
        }
        3 => {
            let from = &other.files[random.below(other.files.len())];
            let line = from.split_inclusive(|byte| *byte == b'\n').next();
            lines.insert(at, line.expect("a line").to_vec());
            "a line of another log is inserted"
        }
        4 => {
            lines.insert(at, lines[at].clone());
            "a line is doubled"
        }
        5 => {
            let length = random.below(files[number].len());
            files[number].truncate(length);
            return ("a file is cut off", files);
        }
        6 => {
            let with = random.below(files.len());
            files.swap(number, with);
            return ("two files are swapped", files);
        }
        7 => {
            let replayed = files[random.below(files.len())].clone();
            files.insert(number + 1, replayed);
            return ("an older file is there again", files);
        }
        _ => {
            let from = &other.files[random.below(other.files.len())];
            files[number].clone_from(from);
            return ("a file of another log is there", files);
        }
    };
    files[number] = lines.concat();
    (what, files)
}

#[test]
fn ten_thousand_manipulations_are_found() {
    let keys = Keys::for_once().expect("random bytes");
    let (full, public) = (
        Trust::Keys(keys.clone()),
        Trust::Public(keys.public().collect()),
    );
    let mut random = Random(fastrand::Rng::with_seed(7));
    let (mut done, mut missed) = (0, Vec::new());
    let mut kinds = BTreeMap::new();
    while done < 10_000 {
        let (one, other) = (
            log(&keys, &mut random, "one"),
            log(&keys, &mut random, "other"),
        );
        for trust in [&full, &public] {
            let report =
                verified(&one.files, trust, Some(&one.anchor)).expect("nobody has touched it");
            assert_eq!(report.last, one.anchor.head);
        }
        for _ in 0..100 {
            let (what, files) = manipulate(&one, &other, &mut random);
            if files == one.files {
                continue;
            }
            done += 1;
            *kinds.entry(what).or_insert(0) += 1;
            for (who, trust) in [("with the key", &full), ("with the public key", &public)] {
                if verified(&files, trust, Some(&one.anchor)).is_ok() {
                    missed.push((what, who));
                }
            }
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
    assert!(
        kinds.len() == 9 && kinds.values().all(|count| *count > 300),
        "{kinds:?}"
    );
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let keys = Keys::for_once().expect("random bytes");
    let full = Trust::Keys(keys.clone());
    let whole = log(&keys, &mut Random(fastrand::Rng::with_seed(3)), "one");
    let fault = |files: &[Vec<u8>], trust: &Trust| {
        let found = verified(files, trust, Some(&whole.anchor)).expect_err("it is found");
        (found.line, found.seq, found.fault)
    };
    let lines: Vec<_> = whole.files[0]
        .split_inclusive(|byte| *byte == b'\n')
        .collect();
    let without = |gone: usize| {
        let mut files = whole.files.clone();
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != gone);
        files[0] = kept.map(|(_, line)| *line).collect::<Vec<_>>().concat();
        files
    };
    assert_eq!(
        fault(&without(2), &full),
        (3, 3, Fault::Order { last: 2, found: 4 })
    );
    let mut files = whole.files.clone();
    let at = lines[0].len() + lines[1].len() + 100;
    files[0][at] ^= 1;
    let (line, seq, changed) = fault(&files, &full);
    assert!((line, seq) == (3, 3) && matches!(changed, Fault::Changed(_)));
    let mut files = whole.files.clone();
    let last = files.last_mut().expect("there is one");
    last.truncate(last.len() - 1);
    let seq = whole.anchor.head.seq;
    let cut = Fault::Cut {
        anchored: seq,
        last: seq - 1,
    };
    assert_eq!(fault(&files, &full).2, cut);
    let unanchored = verified(&files, &full, None).expect("a crash looks like that");
    assert!(unanchored.unfinished && unanchored.last.seq == seq - 1);
    let strange = Trust::Keys(Keys::for_once().expect("random bytes"));
    let key = keys.present().public;
    assert_eq!(fault(&whole.files, &strange).2, Fault::UnknownKey(key));
}

#[test]
fn an_intent_without_a_result_is_told() {
    let keys = Keys::for_once().expect("random bytes");
    let mut chain = Chain::new(keys.present().clone(), "one".into(), Head::default());
    let (mut file, introduction) = (Vec::new(), chain.introduction());
    chain.mark(&mut file, "open", SystemTime::UNIX_EPOCH, &introduction);
    for (kind, call, rpc) in [("intent", 1, "A"), ("intent", 2, "B"), ("result", 1, "A")] {
        let body = format!("{{\"kind\":\"{kind}\",\"call\":{call},\"rpc\":\"{rpc}\"}}");
        chain.add(&mut file, body.as_bytes());
    }
    // Another start counts its calls anew.
    chain.mark(&mut file, "open", SystemTime::UNIX_EPOCH, &introduction);
    for kind in ["intent", "result"] {
        let body = format!("{{\"kind\":\"{kind}\",\"call\":2,\"rpc\":\"C\"}}");
        chain.add(&mut file, body.as_bytes());
    }
    let report = verified(&[file], &Trust::Keys(keys), None).expect("it is whole");
    assert_eq!(report.open_intents, BTreeMap::from([(3, "B".to_owned())]));
}

/// A log whose broker is killed again and again, while it writes.
#[test]
fn a_thousand_logs_of_killed_brokers_give_no_false_alarm() {
    use super::super::recover::recover;
    let keys = Keys::for_once().expect("random bytes");
    let (full, public) = (
        Trust::Keys(keys.clone()),
        Trust::Public(keys.public().collect()),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let mut random = Random(fastrand::Rng::with_seed(11));
    let mut torn = 0;
    for _ in 0..1000 {
        std::fs::write(&path, b"").expect("writes");
        let (mut file, mut anchor): (Vec<u8>, Option<Anchor>) = (Vec::new(), None);
        for _ in 0..4 {
            let recovered = recover(&path, &full, anchor.as_ref()).expect("reads");
            assert_eq!(recovered.damage, None);
            let mut chain = Chain::new(
                keys.present().clone(),
                recovered.log.clone(),
                recovered.head,
            );
            if recovered.needs_line_end {
                file.extend_from_slice(super::super::line::LINE_END);
            }
            let mut opening = chain.introduction();
            recovered.tell(&mut opening);
            chain.mark(&mut file, "open", SystemTime::UNIX_EPOCH, &opening);
            for _ in 0..random.below(5) {
                chain.add(&mut file, b"{\"kind\":\"call\",\"rpc\":\"GetToken\"}");
            }
            // What is acknowledged is there; of what is written then, a part.
            anchor = Some(Anchor {
                log: recovered.log.clone(),
                head: chain.head,
            });
            let kept = file.len();
            for _ in 0..random.below(3) {
                chain.add(&mut file, b"{\"kind\":\"call\",\"rpc\":\"GetToken\"}");
            }
            let written = file.len() - kept;
            file.truncate(kept + random.below(written + 1));
            std::fs::write(&path, &file).expect("writes");
            for trust in [&full, &public] {
                let report = files(std::slice::from_ref(&path), trust, anchor.as_ref());
                let report = report.expect("reads").expect("nobody has touched it");
                torn += u64::from(report.torn_bytes > 0);
            }
        }
    }
    assert!(torn > 500, "only {torn} were torn");
}
