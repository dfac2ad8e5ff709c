//! Tells whether a log is as it was written: line by line, over all its files.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::{
    anchor::Anchor,
    key::{Keys, LineKey, PublicKey, sha256},
    line::{Head, LINE_BYTES_MAX, LINE_END, Line, signature_bytes},
    segment::first_of,
};
use crate::hex::{self, Hex};

/// Longest piece that may be torn, in bytes: more than the broker ever writes at once.
pub(super) const TORN_BYTES_MAX: usize = 16 * 1024 * 1024;
const READ_BYTES: usize = 1024 * 1024;

/// What is believed.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Every line shows by itself that it is right.
    Keys(Keys),
    /// Signed lines do, and those before them by the chain.
    Public(Vec<PublicKey>),
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A line is not as it was written.
    #[error("changed: {0}")]
    Changed(&'static str),
    /// Lines at the end are missing.
    #[error("cut off: the anchor has seen line {anchored}, and the log ends with {last}")]
    Cut {
        /// The last line that the anchor has seen.
        anchored: u64,
        /// The last line that there is.
        last: u64,
    },
    /// Lines are missing, or are there twice or in another order.
    #[error("{}: line {found} follows line {last}", if found > last { "missing lines" } else { "repeated lines" })]
    Order {
        /// The line before.
        last: u64,
        /// The one that is there.
        found: u64,
    },
    /// It was written under a key that is not known.
    #[error("the key {0} is not known")]
    UnknownKey(PublicKey),
}

/// A fault and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub file: PathBuf,
    /// The line of the file, counted from 1.
    pub line: u64,
    /// The number that a line there would have.
    pub seq: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What a log that is whole is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The id of the log.
    pub log: String,
    /// Its first line that was there.
    pub first: u64,
    /// Its last one.
    pub last: Head,
    /// The last line that is signed.
    pub signed: u64,
    /// How many are.
    pub signatures: u64,
    /// Bytes that were cut short by a crash; the line behind them attests to them.
    pub torn_bytes: u64,
    /// Whether the last line is unfinished: the broker writes it now, or has crashed.
    pub unfinished: bool,
    /// Whether the broker has stopped in order.
    pub closed: bool,
    /// Calls of operators that began and have no result: the line where they begin, and the RPC.
    pub open_intents: BTreeMap<u64, String>,
}

/// What signs from here on.
#[derive(Clone)]
enum Known {
    Full(Arc<LineKey>),
    Public(PublicKey),
}

/// Takes the lines of a log one after the other.
pub(super) struct Verifier<'a> {
    trust: &'a Trust,
    anchor: Option<&'a Anchor>,
    key: Option<Known>,
    /// The kind of the last line.
    last_kind: Kind,
    /// By the number of the call.
    intents: BTreeMap<u64, (u64, String)>,
    pub(super) report: Report,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Intent,
    Result,
    Open,
    Begin,
    Checkpoint,
    End,
    Close,
}

/// Where a file stops being as it was written, to its end.
pub(super) struct Suspect {
    pub(super) fault: Fault,
    line: u64,
    pub(super) bytes: Vec<u8>,
}

/// The part of an operator's line that matters here.
#[derive(Deserialize)]
struct Intent {
    call: u64,
    rpc: String,
}

/// Verifies the files of a log, in their order.
///
/// # Errors
/// Those of the file system, with the file's name.
pub fn files(
    files: &[PathBuf],
    trust: &Trust,
    anchor: Option<&Anchor>,
) -> io::Result<Result<Report, Found>> {
    let opened = files.iter().map(|file| (file.as_path(), File::open(file)));
    all(opened, trust, anchor)
}

/// The same of whatever can be read.
pub(super) fn all<'p, R: Read>(
    parts: impl ExactSizeIterator<Item = (&'p Path, io::Result<R>)>,
    trust: &Trust,
    anchor: Option<&Anchor>,
) -> io::Result<Result<Report, Found>> {
    let mut verifier = Verifier::new(trust, anchor);
    let mut at = (PathBuf::new(), 0);
    let count = parts.len();
    for (number, (file, part)) in parts.enumerate() {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
        let is_last = number + 1 == count;
        let before = verifier.report.last.seq;
        let read = part.and_then(|part| verifier.read(part)).map_err(named)?;
        let (lines, suspect) = read;
        at = (file.to_owned(), lines);
        let found = |line, seq, fault| {
            let file = file.to_owned();
            Ok(Err(Found {
                file,
                line,
                seq,
                fault,
            }))
        };
        let next = verifier.report.last.seq + 1;
        if let Some(suspect) = suspect {
            if !is_last || !verifier.is_unfinished(&suspect.bytes) {
                return found(suspect.line, next, suspect.fault);
            }
            verifier.report.unfinished = true;
        } else if !is_last && next == before + 1 {
            return found(1, next, Fault::Changed("there is no line in it"));
        }
        let first = match before {
            0 => verifier.report.first,
            before => before + 1,
        };
        if first_of(file).is_some_and(|named| named != first && verifier.report.first != 0) {
            let fault = Fault::Changed("its first line is not the one that it is named after");
            return found(1, first, fault);
        }
    }
    let (file, line) = at;
    Ok(verifier.finish().map_err(|(seq, fault)| Found {
        file,
        line,
        seq,
        fault,
    }))
}

impl<'a> Verifier<'a> {
    pub(super) fn new(trust: &'a Trust, anchor: Option<&'a Anchor>) -> Self {
        Self {
            trust,
            anchor,
            key: None,
            last_kind: Kind::Close,
            intents: BTreeMap::new(),
            report: Report::default(),
        }
    }

    /// Takes the lines of a file, and says how many there are and where it stops being right.
    pub(super) fn read(&mut self, file: impl Read) -> io::Result<(u64, Option<Suspect>)> {
        let mut reader = BufReader::with_capacity(READ_BYTES, file);
        let (mut lines, mut suspect) = (0, None);
        let mut piece = Vec::with_capacity(LINE_BYTES_MAX);
        loop {
            piece.clear();
            let mut bounded = reader.by_ref().take(LINE_BYTES_MAX as u64 + 1);
            let read = bounded.read_until(b'\n', &mut piece)?;
            if read == 0 {
                return Ok((lines, suspect));
            }
            lines += 1;
            self.piece(&piece, lines, &mut suspect);
            if suspect
                .as_ref()
                .is_some_and(|suspect| suspect.bytes.len() > TORN_BYTES_MAX)
            {
                return Ok((lines, suspect));
            }
        }
    }

    fn piece(&mut self, piece: &[u8], line: u64, suspect: &mut Option<Suspect>) {
        let text = piece.strip_suffix(b"\n");
        if let Some(torn) = suspect {
            if text.is_some_and(|text| self.attests(text, &torn.bytes) && self.line(text).is_ok()) {
                self.report.torn_bytes += torn.bytes.len() as u64;
                *suspect = None;
            } else {
                torn.bytes.extend_from_slice(piece);
            }
            return;
        }
        let taken = match text {
            Some(text) => self.line(text),
            None => Err(Fault::Changed("it does not end")),
        };
        if let Err(fault) = taken {
            *suspect = Some(Suspect {
                fault,
                line,
                bytes: piece.to_vec(),
            });
        }
    }

    /// Whether a line says that just these bytes were cut short. Whether it is right is not looked at.
    fn attests(&self, text: &[u8], torn: &[u8]) -> bool {
        let opens = Line::parse(text).is_some_and(|line| line.kind == b"open");
        let said = opens.then(|| Line::says(text)).flatten();
        let (Some(length), Some(digest)) =
            said.map_or((None, None), |mark| (mark.torn_bytes, mark.torn_sha256))
        else {
            return false;
        };
        let Some((torn, end)) = usize::try_from(length)
            .ok()
            .and_then(|length| torn.split_at_checked(length))
        else {
            return false;
        };
        [b"".as_slice(), LINE_END].contains(&end) && digest == Hex(&sha256(torn)).to_string()
    }

    /// Takes the next line. After a fault it has taken nothing.
    pub(super) fn line(&mut self, text: &[u8]) -> Result<(), Fault> {
        let line = Line::parse(text).ok_or(Fault::Changed("it has not the form of a line"))?;
        let kind = Kind::parse(line.kind).ok_or(Fault::Changed("there is no such kind of line"))?;
        let introduction = match kind {
            Kind::Open | Kind::Begin => {
                let mark = Line::says(text).ok_or(Fault::Changed("it cannot be read"))?;
                let key = mark.public_key().ok_or(Fault::Changed("it names no key"))?;
                Some((self.trust.find(key)?, mark.log.unwrap_or_default()))
            }
            _ => None,
        };
        let key = match &introduction {
            Some((key, _)) => key,
            None => self
                .key
                .as_ref()
                .ok_or(Fault::Changed("a log begins with `open` or `begin`"))?,
        };
        key.check(&line, kind)?;
        self.follows(&line, kind, introduction.as_ref().map(|(_, log)| log))?;
        let head = Head {
            seq: line.seq,
            hash: sha256(text),
        };
        let anchored = self.anchor.filter(|anchor| anchor.head.seq == line.seq);
        if anchored.is_some_and(|anchor| anchor.head.hash != head.hash) {
            return Err(Fault::Changed("the anchor has seen another line here"));
        }
        if matches!(kind, Kind::Intent | Kind::Result) {
            self.pair(text, line.seq, kind)?;
        }
        if kind == Kind::Open {
            // Another start counts its calls anew.
            let left = std::mem::take(&mut self.intents);
            self.report.open_intents.extend(left.into_values());
        }
        if let Some((key, log)) = introduction {
            if self.report.first == 0 {
                self.report.first = line.seq;
                self.report.log = log;
            }
            self.key = Some(key);
        }
        if kind.is_mark() {
            self.report.signed = line.seq;
            self.report.signatures += 1;
        }
        self.last_kind = kind;
        self.report.last = head;
        Ok(())
    }

    /// Whether a line that is right may stand here.
    fn follows(&self, line: &Line<'_>, kind: Kind, log: Option<&String>) -> Result<(), Fault> {
        let last = self.report.last;
        if self.report.first == 0 {
            let can_be = line.seq != 1 || line.prev.iter().all(|digit| *digit == b'0');
            return can_be
                .then_some(())
                .ok_or(Fault::Changed("nothing can stand before the first line"));
        }
        if log.is_some_and(|log| *log != self.report.log) {
            return Err(Fault::Changed("it is of another log"));
        }
        if line.seq != last.seq + 1 {
            return Err(Fault::Order {
                last: last.seq,
                found: line.seq,
            });
        }
        if line.prev != hex::digits(&last.hash, &mut [0; 64]).as_bytes() {
            return Err(Fault::Changed(
                "the line before it is not the one that it follows",
            ));
        }
        let in_order = match self.last_kind {
            Kind::End => matches!(kind, Kind::Begin | Kind::Open),
            Kind::Close => kind == Kind::Open,
            _ => kind != Kind::Begin,
        };
        in_order
            .then_some(())
            .ok_or(Fault::Changed("no such line can follow there"))
    }

    /// Remembers what operators began and what came of it.
    fn pair(&mut self, text: &[u8], seq: u64, kind: Kind) -> Result<(), Fault> {
        let intent: Intent =
            serde_json::from_slice(text).map_err(|_| Fault::Changed("it cannot be read"))?;
        if kind == Kind::Intent {
            self.intents.insert(intent.call, (seq, intent.rpc));
        } else {
            self.intents.remove(&intent.call);
        }
        Ok(())
    }

    /// Whether these bytes at the end may be of the line that comes next.
    pub(super) fn is_unfinished(&self, bytes: &[u8]) -> bool {
        let Head { seq, hash } = self.report.last;
        let expected = format!(
            "{{\"seq\":{},\"prev\":\"{}\",\"kind\":\"",
            seq + 1,
            Hex(&hash)
        );
        // A power cut may leave zeros.
        let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let bytes = &bytes[..bytes.len() - zeros];
        let length = bytes.len().min(expected.len());
        !bytes.contains(&b'\n') && bytes[..length] == expected.as_bytes()[..length]
    }

    fn finish(mut self) -> Result<Report, (u64, Fault)> {
        let last = self.report.last.seq;
        if let Some(anchor) = self.anchor {
            if self.report.first != 0 && anchor.log != self.report.log {
                return Err((last, Fault::Changed("the anchor is of another log")));
            }
            if anchor.head.seq > last {
                let fault = Fault::Cut {
                    anchored: anchor.head.seq,
                    last,
                };
                return Err((last + 1, fault));
            }
        }
        if last == 0 {
            return Err((1, Fault::Changed("there is no line at all")));
        }
        self.report.closed = self.last_kind == Kind::Close && !self.report.unfinished;
        self.report.open_intents.extend(self.intents.into_values());
        Ok(self.report)
    }

    pub(super) fn last_kind(&self) -> Kind {
        self.last_kind
    }
}

impl Trust {
    fn find(&self, public: PublicKey) -> Result<Known, Fault> {
        let known = match self {
            Self::Keys(keys) => keys.find(public).map(Known::Full),
            Self::Public(keys) => keys.contains(&public).then_some(Known::Public(public)),
        };
        known.ok_or(Fault::UnknownKey(public))
    }

    pub(super) fn knows(&self, public: PublicKey) -> bool {
        self.find(public).is_ok()
    }
}

impl Known {
    fn check(&self, line: &Line<'_>, kind: Kind) -> Result<(), Fault> {
        let public = match self {
            Self::Full(key) => {
                let mac = key.mac(line.before_mac);
                if line.mac != hex::digits(&mac, &mut [0; 64]).as_bytes() {
                    return Err(Fault::Changed("its MAC is not right"));
                }
                // Who could make the MAC could make the signature.
                return Ok(());
            }
            Self::Public(public) => public,
        };
        if !kind.is_mark() {
            return Ok(());
        }
        let signed = line.signature.is_some_and(|(text, digits)| {
            signature_bytes(digits).is_some_and(|bytes| public.verifies(text, &bytes))
        });
        signed
            .then_some(())
            .ok_or(Fault::Changed("its signature is not right"))
    }
}

impl Kind {
    fn parse(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"call" => Self::Call,
            b"intent" => Self::Intent,
            b"result" => Self::Result,
            b"open" => Self::Open,
            b"begin" => Self::Begin,
            b"checkpoint" => Self::Checkpoint,
            b"end" => Self::End,
            b"close" => Self::Close,
            _ => return None,
        })
    }

    /// Whether such lines are signed.
    fn is_mark(self) -> bool {
        !matches!(self, Self::Call | Self::Intent | Self::Result)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            seq,
            fault,
        } = self;
        write!(
            f,
            "{}, line {line} (number {seq} of the log): {fault}",
            file.display()
        )
    }
}

/// Verifies bytes as a log, and as what stands behind the first line of one: nothing of it is right.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    use super::line::Chain;
    static KEYS: std::sync::LazyLock<Keys> =
        std::sync::LazyLock::new(|| Keys::for_once().expect("random bytes"));
    let trust = Trust::Keys(KEYS.clone());
    let verified = |bytes: &[u8]| {
        let parts = [(Path::new("audit.jsonl"), Ok(bytes))];
        all(parts.into_iter(), &trust, None).expect("memory can be read")
    };
    assert!(verified(bytes).is_err(), "forged");
    let mut chain = Chain::new(KEYS.present().clone(), "log".into(), Head::default());
    let (mut log, opening) = (Vec::new(), chain.introduction());
    chain.mark(
        &mut log,
        "open",
        std::time::SystemTime::UNIX_EPOCH,
        &opening,
    );
    log.extend_from_slice(bytes);
    if let Ok(report) = verified(&log) {
        assert_eq!(report.last, chain.head, "forged");
    }
    if let Some(line) = Line::parse(bytes) {
        assert!(line.before_mac.len() < bytes.len() && line.mac.len() == 64);
    }
    super::trace::fuzz(bytes);
}

#[cfg(test)]
mod tests;
