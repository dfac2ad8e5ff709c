//! The form of a line, and how lines hang together.
//!
//! ```text
//! {"seq":7,"prev":"<digits>","kind":"call",…,"mac":"<digits>"}
//! {"seq":8,"prev":"<digits>","kind":"checkpoint",…,"signature":"<digits>","mac":"<digits>"}
//! ```
//!
//! `seq` counts the lines of a log, over all its files and starts. `prev` is the SHA-256 of the line
//! before, without its line end; of the first one, zeros. `signature` is Ed25519 over what stands
//! before `,"signature"`, and `mac` HMAC-SHA-256 over what stands before `,"mac"`. All digits are
//! lower-case hex, and the bytes are exactly these: who reads a line needs no JSON for all that.
//!
//! Kinds: `call` (what came of a call), `intent` (a call of an operator begins); and the marks, which
//! are signed: `open` (a broker starts to write), `begin` (a further file begins), `checkpoint`, `end`
//! (the file is full), `close` (the broker has stopped in order).

use std::{io::Write as _, sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    key::{LineKey, PublicKey, sha256},
    record::timestamp,
};
use crate::hex::Hex;

/// Longest line, in bytes. The longest that the broker writes has less than a third of it.
pub(super) const LINE_BYTES_MAX: usize = 16 * 1024;
/// What a broker puts behind a line that was cut short by a crash: so it is none even if nothing but its
/// end is missing.
pub(super) const LINE_END: &[u8] = b"#\n";
/// After so many lines one is signed.
pub(super) const CHECKPOINT_LINES: u32 = 1000;

const SEQ: &[u8] = b"{\"seq\":";
const PREV: &[u8] = b",\"prev\":\"";
const KIND: &[u8] = b"\",\"kind\":\"";
const SIGNATURE: &[u8] = b",\"signature\":\"";
const MAC: &[u8] = b",\"mac\":\"";
const END: &[u8] = b"\"}";

/// A line, by what follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 if there is none yet.
    pub seq: u64,
    /// SHA-256 of it.
    pub hash: [u8; 32],
}

/// A line as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) seq: u64,
    /// Hex digits.
    pub(super) prev: &'a [u8],
    pub(super) kind: &'a [u8],
    /// What the MAC is over.
    pub(super) before_mac: &'a [u8],
    pub(super) mac: &'a [u8],
    /// What the signature is over, and its digits.
    pub(super) signature: Option<(&'a [u8], &'a [u8])>,
}

/// What a mark says besides.
#[derive(Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Mark {
    /// The id of the log, with `open` and `begin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<String>,
    /// What signs from here on, with `open` and `begin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) public_key: Option<String>,
    /// The program that writes, with `open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    /// With `open`, if what stands before it was cut short when the broker or the machine failed: how
    /// many bytes that are, and their SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) torn_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) torn_sha256: Option<String>,
    /// With `open`: what was wrong with what was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) damage: Option<String>,
}

/// A mark as it is written: what it says, behind when.
#[derive(Serialize)]
struct Timed<'a> {
    kind: &'a str,
    #[serde(serialize_with = "timestamp")]
    time: SystemTime,
    #[serde(flatten)]
    mark: &'a Mark,
}

/// Appends lines to a chain.
#[derive(Debug)]
pub(super) struct Chain {
    key: Arc<LineKey>,
    pub(super) log: String,
    pub(super) head: Head,
    /// Lines since the last one that was signed.
    pub(super) unsigned: u32,
}

impl Chain {
    pub(super) fn new(key: Arc<LineKey>, log: String, head: Head) -> Self {
        Self {
            key,
            log,
            head,
            unsigned: 0,
        }
    }

    /// Adds a line: `body` is a JSON object that begins with its kind.
    pub(super) fn add(&mut self, to: &mut Vec<u8>, body: &[u8]) {
        self.unsigned += 1;
        self.link(to, body, false);
    }

    /// Adds a signed line.
    pub(super) fn mark(&mut self, to: &mut Vec<u8>, kind: &str, time: SystemTime, mark: &Mark) {
        let timed = Timed { kind, time, mark };
        let body = serde_json::to_vec(&timed).expect("texts and numbers are JSON");
        self.link(to, &body, true);
        self.unsigned = 0;
    }

    /// What `open` and `begin` say of the log.
    pub(super) fn introduction(&self) -> Mark {
        Mark {
            log: Some(self.log.clone()),
            public_key: Some(self.key.public.to_string()),
            ..Mark::default()
        }
    }

    fn link(&mut self, to: &mut Vec<u8>, body: &[u8], signed: bool) {
        let start = to.len();
        let seq = self.head.seq + 1;
        let inner = body
            .strip_prefix(b"{")
            .and_then(|body| body.strip_suffix(b"}"));
        let inner = inner.expect("an object in JSON");
        // Writing to a vector does not fail.
        let _ = write!(to, "{{\"seq\":{seq},\"prev\":\"{}\",", Hex(&self.head.hash));
        to.extend_from_slice(inner);
        if signed {
            let signature = self.key.sign(&to[start..]);
            let _ = write!(to, ",\"signature\":\"{}\"", Hex(&signature));
        }
        let mac = self.key.mac(&to[start..]);
        let _ = write!(to, ",\"mac\":\"{}\"}}", Hex(&mac));
        self.head = Head {
            seq,
            hash: sha256(&to[start..]),
        };
        to.push(b'\n');
    }
}

impl<'a> Line<'a> {
    /// Takes a line apart, `None` if it has not the form of one.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let rest = text.strip_prefix(SEQ)?;
        let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
        let (number, rest) = rest.split_at(digits);
        if number.starts_with(b"0") {
            return None;
        }
        let seq = std::str::from_utf8(number).ok()?.parse().ok()?;
        let (prev, rest) = rest.strip_prefix(PREV)?.split_at_checked(64)?;
        let rest = rest.strip_prefix(KIND)?;
        let kind = &rest[..rest.iter().position(|byte| *byte == b'"')?];
        let (before_mac, mac) = quoted(text, MAC, 64, END)?;
        // A value that looks like the name of a signature has its quotes escaped.
        let signature = quoted(before_mac, SIGNATURE, 128, b"\"");
        Some(Self {
            seq,
            prev,
            kind,
            before_mac,
            mac,
            signature,
        })
    }

    /// What the mark says, `None` if that cannot be read.
    pub(super) fn says(text: &[u8]) -> Option<Mark> {
        serde_json::from_slice(text).ok()
    }
}

/// What stands before a last member with a value of so many characters, and that value.
fn quoted<'a>(
    text: &'a [u8],
    name: &[u8],
    length: usize,
    end: &[u8],
) -> Option<(&'a [u8], &'a [u8])> {
    let text = text.strip_suffix(end)?;
    let (before, value) = text.split_at_checked(text.len().checked_sub(length)?)?;
    Some((before.strip_suffix(name)?, value))
}

/// 64 bytes of 128 lower-case hex digits.
pub(super) fn signature_bytes(digits: &[u8]) -> Option<[u8; 64]> {
    let mut bytes = [0; 64];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(bytes)
}

impl Mark {
    pub(super) fn public_key(&self) -> Option<PublicKey> {
        PublicKey::parse(self.public_key.as_deref()?)
    }
}
