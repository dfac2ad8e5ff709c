//! Reads out of a log who was given which token. Whether the log is whole is [`super::verify`]'s matter.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::PathBuf,
    time::SystemTime,
};

use prost_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::{line::LINE_BYTES_MAX, record::timestamp};

/// Most hand-outs that one question is answered with.
pub const HAND_OUTS_MAX: usize = 10_000;
const READ_BYTES: usize = 1024 * 1024;

/// What is asked.
#[derive(Clone, Debug)]
pub enum Question {
    /// Who was given the token with this fingerprint, as 64 lower-case hex digits.
    Token(String),
    /// Which tokens of an organization may still be good at a time.
    Exposure {
        /// The organization.
        organization: String,
        /// The time.
        at: SystemTime,
    },
}

/// A caller was given a token, once or again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HandOut {
    /// SPIFFE ID of the caller.
    pub caller: String,
    /// The organization.
    pub organization_id: String,
    /// The API, by its name in policies.
    pub resource: String,
    /// The SharePoint host, if one was asked for.
    pub sharepoint_host: Option<String>,
    /// SHA-256 of the token.
    pub fingerprint: String,
    /// The credential that it was obtained with.
    pub credential_version: u64,
    /// When it was handed out first.
    #[serde(serialize_with = "timestamp")]
    pub first_time: SystemTime,
    /// When that was told last.
    #[serde(serialize_with = "timestamp")]
    pub last_time: SystemTime,
    /// How often.
    pub times: u64,
    /// When the token ends.
    #[serde(serialize_with = "timestamp")]
    pub expire_time: SystemTime,
}

/// A line, as far as it matters here.
#[derive(Deserialize)]
struct Call {
    kind: String,
    time: String,
    caller: String,
    #[serde(default)]
    organization: String,
    resource: Option<String>,
    sharepoint_host: Option<String>,
    again: Option<u64>,
    fingerprint: Option<String>,
    credential_version: Option<u64>,
    expire_time: Option<String>,
}

/// The hand-outs that a question is about, the latest first.
///
/// # Errors
/// Those of the file system, with the file's name, and [`HAND_OUTS_MAX`] hand-outs or more.
pub fn hand_outs(files: &[PathBuf], question: &Question) -> io::Result<Vec<HandOut>> {
    let mut found = BTreeMap::new();
    for file in files {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
        let mut reader = BufReader::with_capacity(READ_BYTES, File::open(file).map_err(named)?);
        let mut line = Vec::with_capacity(LINE_BYTES_MAX);
        loop {
            line.clear();
            let mut bounded = reader.by_ref().take(LINE_BYTES_MAX as u64 + 1);
            if bounded.read_until(b'\n', &mut line).map_err(named)? == 0 {
                break;
            }
            if let Some(hand_out) = question.answered_by(&line) {
                add(&mut found, hand_out).map_err(named)?;
            }
        }
    }
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by_key(|hand_out| std::cmp::Reverse(hand_out.last_time));
    Ok(found)
}

/// By caller and token.
fn add(found: &mut BTreeMap<(String, String), HandOut>, hand_out: HandOut) -> io::Result<()> {
    let key = (hand_out.caller.clone(), hand_out.fingerprint.clone());
    if let Some(known) = found.get_mut(&key) {
        known.times = known.times.saturating_add(hand_out.times);
        known.first_time = known.first_time.min(hand_out.first_time);
        known.last_time = known.last_time.max(hand_out.last_time);
        return Ok(());
    }
    if found.len() == HAND_OUTS_MAX {
        let text = format!("there are more than {HAND_OUTS_MAX} hand-outs; ask with fewer files");
        return Err(io::Error::other(text));
    }
    found.insert(key, hand_out);
    Ok(())
}

impl Question {
    fn answered_by(&self, line: &[u8]) -> Option<HandOut> {
        let text = std::str::from_utf8(line).ok()?;
        let word = match self {
            Self::Token(fingerprint) => fingerprint,
            Self::Exposure { organization, .. } => organization,
        };
        // Most lines are of others; to read them as JSON takes ten times as long.
        if !text.contains(word.as_str()) {
            return None;
        }
        let hand_out = HandOut::read(text)?;
        let answers = match self {
            Self::Token(fingerprint) => hand_out.fingerprint == *fingerprint,
            Self::Exposure { organization, at } => {
                hand_out.organization_id == *organization && hand_out.expire_time > *at
            }
        };
        answers.then_some(hand_out)
    }
}

impl HandOut {
    /// `None` for a line of anything else.
    fn read(text: &str) -> Option<Self> {
        let call: Call = serde_json::from_str(text).ok()?;
        let time = time_of(&call.time)?;
        let hand_out = Self {
            caller: call.caller,
            organization_id: call.organization,
            resource: call.resource?,
            sharepoint_host: call.sharepoint_host,
            fingerprint: call.fingerprint?,
            credential_version: call.credential_version?,
            first_time: time,
            last_time: time,
            times: call.again.unwrap_or(1),
            expire_time: time_of(&call.expire_time?)?,
        };
        (call.kind == "call").then_some(hand_out)
    }
}

fn time_of(text: &str) -> Option<SystemTime> {
    let time: Timestamp = text.parse().ok()?;
    time.try_into().ok()
}

/// Reads bytes as a line.
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    if let Some(hand_out) = std::str::from_utf8(bytes).ok().and_then(HandOut::read) {
        assert_eq!(hand_out.first_time, hand_out.last_time);
    }
}
