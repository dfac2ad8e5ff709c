//! What a line says.

use std::time::SystemTime;

use prost_types::Timestamp;
use serde::{Serialize, Serializer};

use crate::hex::Hex;

/// One call of somebody whose identity is known.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    /// What it tells.
    pub kind: Kind,
    /// When it was answered.
    #[serde(serialize_with = "timestamp")]
    pub time: SystemTime,
    /// The RPC, without its service.
    pub rpc: &'a str,
    /// SPIFFE ID of the caller.
    pub caller: &'a str,
    /// The proxy on whose word it is that, by `identity.mode`; nothing where its certificate says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_word_of: Option<&'static str>,
    /// The organization that it was about, empty where it was about none, or about none that can be.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub organization: &'a str,
    /// The API, by its name in policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<&'a str>,
    /// The SharePoint host that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharepoint_host: Option<&'a str>,
    /// The number of a call that has an intent and a result, among those since the log was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// The job that it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<&'a str>,
    /// What came of it.
    #[serde(skip_serializing_if = "Outcome::is_open")]
    pub outcome: Outcome,
    /// Why it was done, in the words of whoever did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// How often the same was done again since the last record of it: this one stands for so many calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<u32>,
    /// The token that was handed out.
    #[serde(flatten)]
    pub token: Option<TokenRecord<'a>>,
}

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What came of a call.
    Call,
    /// A call begins that changes something, or lets much out.
    Intent,
    /// What came of it.
    Result,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing yet.
    Open,
    /// It was done.
    Done,
    /// It was refused, or failed, for a reason of the contract.
    Refused(&'static str),
}

/// A token, by what may be told of it.
#[derive(Debug, Serialize)]
pub struct TokenRecord<'a> {
    /// SHA-256 of it.
    #[serde(serialize_with = "hex")]
    pub fingerprint: &'a [u8; 32],
    /// The credential that it was obtained with.
    pub credential_version: u64,
    /// When it ends.
    #[serde(serialize_with = "timestamp")]
    pub expire_time: SystemTime,
}

impl Outcome {
    fn is_open(&self) -> bool {
        *self == Self::Open
    }

    /// The word for it: `OK`, or the reason; none if there is no outcome yet.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "",
            Self::Done => "OK",
            Self::Refused(reason) => reason,
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// As in protobuf's JSON: RFC 3339 in UTC.
pub(super) fn timestamp<S: Serializer>(
    time: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Timestamp::from(*time))
}

fn hex<S: Serializer>(bytes: &&[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Hex(*bytes))
}
