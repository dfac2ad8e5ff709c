//! How a kept token lies in the store, and what it is bound to.
//!
//! `"OBT1" | format (2) | algorithm (2) | generation (4) | end (8) |` and then the sealed text of
//! [`crate::sealed`], under the key `t/<index><first 16 bytes of the resource's digest>`. The end is
//! in milliseconds since the Unix epoch, so that tokens that have ended are found without opening
//! any. Numbers are big-endian.
//!
//! The associated data name the store, the kind, the organization's index, the resource, the end and
//! the generation of the key: a token opens only where it was put, and for as long as was said.
//!
//! The field numbers are an on-disk format: never reuse one.

use std::time::SystemTime;

use prost::Message as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    super::{
        Error, TOKENS,
        envelope::{ALGORITHM, FORMAT, Index, Reader, StoreId, prefixed},
        record::{milliseconds, time},
    },
    KeptToken,
};
use crate::{
    organization::ClientId,
    sealed,
    secret::{AccessToken, SymmetricKey},
    store::Key,
};

const MAGIC: [u8; 4] = *b"OBT1";
const KIND: &[u8] = b"token";

/// Where a kept token belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) store: StoreId,
    pub(super) index: Index,
    /// Keyed digest of what the token is for.
    pub(super) resource: [u8; 32],
}

/// What a kept token says of itself in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) generation: u32,
    /// Milliseconds since the Unix epoch.
    expires: u64,
}

#[derive(prost::Message)]
#[prost(skip_debug)]
struct Body {
    #[prost(string, tag = "1")]
    access_token: String,
    #[prost(string, tag = "2")]
    audience_url: String,
    #[prost(string, tag = "3")]
    client_id: String,
    #[prost(uint64, tag = "4")]
    credential_version: u64,
    /// Times are milliseconds since the Unix epoch.
    #[prost(uint64, tag = "5")]
    issue_time: u64,
    #[prost(uint64, tag = "6")]
    refresh_time: u64,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.access_token.zeroize();
    }
}

impl Slot {
    /// Sixteen bytes of the digest: the key stays within the store's limit, and the whole digest is in
    /// the associated data.
    pub(super) fn key(&self) -> Key {
        Key::new(
            TOKENS,
            &[self.index.as_slice(), &self.resource[..16]].concat(),
        )
    }

    /// Canonical: fixed lengths, or a length in front.
    fn aad(&self, header: &Header) -> Vec<u8> {
        [
            MAGIC.as_slice(),
            &self.store,
            &prefixed(KIND),
            &self.index,
            &self.resource,
            &header.expires.to_be_bytes(),
            &header.generation.to_be_bytes(),
            &ALGORITHM.to_be_bytes(),
            &FORMAT.to_be_bytes(),
        ]
        .concat()
    }
}

impl Header {
    pub(super) fn expire_time(&self) -> SystemTime {
        time(self.expires)
    }
}

/// Seals a token for its slot.
pub(super) fn seal(
    slot: &Slot,
    generation: u32,
    key: &SymmetricKey,
    token: &KeptToken,
) -> Result<Vec<u8>, Error> {
    let header = Header {
        generation,
        expires: milliseconds(token.expire_time),
    };
    let sealed = sealed::seal(key, &slot.aad(&header), &encode(token))?;
    Ok([
        MAGIC.as_slice(),
        &FORMAT.to_be_bytes(),
        &ALGORITHM.to_be_bytes(),
        &header.generation.to_be_bytes(),
        &header.expires.to_be_bytes(),
        &sealed,
    ]
    .concat())
}

/// Splits a kept token into its header and its sealed text.
pub(super) fn parse(bytes: &[u8]) -> Result<(Header, &[u8]), Error> {
    let mut rest = Reader(bytes);
    rest.magic(MAGIC)?;
    rest.format()?;
    rest.algorithm()?;
    let header = Header {
        generation: u32::from_be_bytes(rest.array()?),
        expires: u64::from_be_bytes(rest.array()?),
    };
    Ok((header, rest.0))
}

/// Opens the sealed text of a slot.
pub(super) fn open(
    slot: &Slot,
    header: &Header,
    key: &SymmetricKey,
    sealed: &[u8],
) -> Result<KeptToken, Error> {
    let opened = sealed::open(key, &slot.aad(header), sealed).map_err(|_| {
        Error::Corrupt("a kept token that was changed, or moved from another place")
    })?;
    decode(&opened, header)
}

fn encode(token: &KeptToken) -> Zeroizing<Vec<u8>> {
    let body = Body {
        // Exposed: what is stored, sealed, is the token itself.
        access_token: token.access_token.expose().to_owned(),
        audience_url: token.audience_url.clone(),
        client_id: token.client_id.to_string(),
        credential_version: token.credential_version,
        issue_time: milliseconds(token.issue_time),
        refresh_time: milliseconds(token.refresh_time),
    };
    // Sized beforehand: growing would leave pieces of it behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(body.encoded_len()));
    body.encode(&mut *bytes).expect("a vector grows");
    bytes
}

fn decode(bytes: &[u8], header: &Header) -> Result<KeptToken, Error> {
    let corrupt = || Error::Corrupt("a kept token whose content is not what was written");
    let mut body = Body::decode(bytes).map_err(|_| corrupt())?;
    if body.access_token.is_empty() || body.issue_time > header.expires {
        return Err(corrupt());
    }
    Ok(KeptToken {
        client_id: ClientId::parse(&body.client_id).map_err(|_| corrupt())?,
        access_token: AccessToken::new(std::mem::take(&mut body.access_token)),
        audience_url: std::mem::take(&mut body.audience_url),
        credential_version: body.credential_version,
        issue_time: time(body.issue_time),
        refresh_time: time(body.refresh_time),
        expire_time: header.expire_time(),
    })
}

/// What decodes comes back the same.
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    let header = Header {
        generation: 1,
        expires: u64::MAX,
    };
    if let Ok(token) = decode(bytes, &header) {
        let encoded = encode(&token);
        let again = decode(&encoded, &header).expect("what was encoded decodes");
        assert_eq!(encode(&again), encoded);
    }
}

#[cfg(test)]
mod tests;
