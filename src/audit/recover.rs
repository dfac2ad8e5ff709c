//! Finds out where a log ends that somebody has written before.

use std::{fs, io, path::Path};

use uuid::Uuid;

use super::{
    anchor::Anchor,
    key::sha256,
    line::{Head, Mark},
    segment::{Aside, numbered},
    verify::{Fault, Kind, TORN_BYTES_MAX, Trust, Verifier},
};
use crate::hex::Hex;

/// How a log is gone on with.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// The id of the log.
    pub(super) log: String,
    /// Its last line.
    pub(super) head: Head,
    /// The number of the first line of the file, 0 if it is empty.
    pub(super) first: u64,
    /// Whether the file is to be put aside, and a new one begun.
    pub(super) aside: Option<Aside>,
    /// What is behind the last line was cut short: how many bytes that are, and their SHA-256.
    torn: Option<(u64, String)>,
    /// Whether these bytes have no line end.
    pub(super) needs_line_end: bool,
    /// What is wrong with what was there.
    pub(super) damage: Option<String>,
}

impl Recovered {
    /// A log that begins.
    pub(super) fn new() -> Self {
        Self {
            log: Uuid::new_v4().to_string(),
            ..Self::default()
        }
    }

    /// What the first line says of it.
    pub(super) fn tell(&self, mark: &mut Mark) {
        if let Some((bytes, digest)) = &self.torn {
            mark.torn_bytes = Some(*bytes);
            mark.torn_sha256 = Some(digest.clone());
        }
        mark.damage.clone_from(&self.damage);
    }

    /// Goes on behind the anchor, where that has seen more than there is: no number is used twice.
    fn held_to(mut self, anchor: Option<&Anchor>) -> Self {
        let Some(anchor) = anchor else { return self };
        if self.head.seq == 0 && self.damage.is_none() {
            self.damage = Some("the log is gone".to_owned());
        } else if self.log != anchor.log && self.damage.is_none() {
            self.damage = Some(format!("the anchor is of another log, {}", anchor.log));
            return self;
        }
        if self.head.seq < anchor.head.seq {
            let (has, seen) = (self.head.seq, anchor.head.seq);
            self.damage.get_or_insert_with(|| {
                format!(
                    "lines are missing: there are {has} that are right, the anchor has seen {seen}"
                )
            });
            self.head = anchor.head;
            self.log.clone_from(&anchor.log);
            self.torn = None;
        }
        if self.damage.is_some() && self.aside.is_none() && self.first != 0 {
            self.aside = Some(Aside::Numbered);
        }
        self
    }
}

/// Looks at the file at a path, or at the one before it.
///
/// # Errors
/// Those of the file system, and a file that was written under a key which is not there.
pub(super) fn recover(
    path: &Path,
    trust: &Trust,
    anchor: Option<&Anchor>,
) -> io::Result<Recovered> {
    if fs::metadata(path)?.len() > 0 {
        return Ok(look(path, trust, anchor)?.held_to(anchor));
    }
    // The file before was put aside, and that was all.
    let Some(before) = numbered(path)?.pop() else {
        return Ok(Recovered::new().held_to(anchor));
    };
    let before = look(&before, trust, anchor)?;
    let recovered = Recovered {
        first: 0,
        aside: None,
        needs_line_end: false,
        torn: None,
        ..before
    };
    Ok(recovered.held_to(anchor))
}

fn look(path: &Path, trust: &Trust, anchor: Option<&Anchor>) -> io::Result<Recovered> {
    let mut verifier = Verifier::new(trust, anchor);
    let (_, suspect) = verifier.read(fs::File::open(path)?)?;
    let is_ended = verifier.last_kind() == Kind::End;
    let report = verifier.report;
    let mut recovered = Recovered {
        log: report.log,
        head: report.last,
        first: report.first,
        aside: is_ended.then_some(Aside::Numbered),
        ..Recovered::default()
    };
    let Some(suspect) = suspect else {
        return Ok(recovered);
    };
    if let Fault::UnknownKey(key) = suspect.fault {
        let text = format!("it was written under the key {key}, which is not in the key file");
        return Err(io::Error::other(text));
    }
    if report.first == 0 {
        return Ok(Recovered {
            aside: Some(Aside::Foreign),
            damage: Some(format!("what was there is no log: {}", suspect.fault)),
            ..Recovered::new()
        });
    }
    if is_ended || suspect.bytes.len() > TORN_BYTES_MAX {
        recovered.damage = Some(suspect.fault.to_string());
        recovered.aside = Some(Aside::Numbered);
        return Ok(recovered);
    }
    recovered.needs_line_end = !suspect.bytes.ends_with(b"\n");
    let digest = Hex(&sha256(&suspect.bytes)).to_string();
    recovered.torn = Some((suspect.bytes.len() as u64, digest));
    Ok(recovered)
}

#[cfg(test)]
mod tests;
