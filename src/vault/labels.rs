//! The labels of an organization as they lie in front of its record: policies ask for them when no record
//! is opened, and of a hundred thousand organizations no KEK is asked when the broker starts.
//!
//! They are sealed under a key of the root, by [`crate::sealed`]. The associated data name the store, the
//! index of the organization, and the version of the record and the generation of its key; the record, in
//! turn, opens only behind the labels that it was written with. So they are as hard to exchange as the
//! record. Unlike it they do not need the organization's own key: a copy of the store from before a
//! revocation tells the labels to whoever has the KEK of that time, as it tells that there was such an
//! organization.
//!
//! The field numbers are an on-disk format: never reuse one.

use std::{collections::BTreeMap, fmt};

use prost::Message as _;

use super::{
    Error,
    envelope::{FORMAT_LABELLED, Header, Index, StoreId},
};
use crate::{
    organization::{
        OrganizationId,
        label::{Label, Labels},
    },
    sealed::{self, CryptoFailed},
    secret::SymmetricKey,
};

const MAGIC: &[u8] = b"OBL1";
const UNREADABLE: Error = Error::Corrupt("labels that do not open in front of their record");

/// Seals and opens labels.
pub(super) struct LabelSealing {
    store: StoreId,
    key: SymmetricKey,
}

#[derive(prost::Message)]
struct Body {
    #[prost(string, tag = "1")]
    organization_id: String,
    #[prost(btree_map = "string, string", tag = "2")]
    labels: BTreeMap<String, String>,
}

impl LabelSealing {
    /// That of the store with this root key.
    pub(super) fn new(store: StoreId, root_key: &SymmetricKey) -> Result<Self, CryptoFailed> {
        let key = sealed::derive_key(root_key, b"labels").ok_or(CryptoFailed)?;
        Ok(Self { store, key })
    }

    /// The labels as they lie in the store; nothing, where there are none.
    pub(super) fn seal(
        &self,
        index: &Index,
        header: &Header,
        id: &OrganizationId,
        labels: &Labels,
    ) -> Result<Vec<u8>, CryptoFailed> {
        if labels.is_empty() {
            return Ok(Vec::new());
        }
        let pair = |label: &Label| (label.key().to_owned(), label.value().to_owned());
        let body = Body {
            organization_id: id.as_str().to_owned(),
            labels: labels.iter().map(pair).collect(),
        };
        sealed::seal(&self.key, &self.aad(index, header), &body.encode_to_vec())
    }

    /// What is in front of a record.
    pub(super) fn open(
        &self,
        index: &Index,
        header: &Header,
        sealed: &[u8],
    ) -> Result<(OrganizationId, Labels), Error> {
        let text = sealed::open(&self.key, &self.aad(index, header), sealed);
        let text = text.map_err(|_| UNREADABLE)?;
        decode(&text).ok_or(UNREADABLE)
    }

    fn aad(&self, index: &Index, header: &Header) -> Vec<u8> {
        [
            MAGIC,
            &self.store,
            index,
            &header.version.to_be_bytes(),
            &header.generation.to_be_bytes(),
            &FORMAT_LABELLED.to_be_bytes(),
        ]
        .concat()
    }
}

fn decode(text: &[u8]) -> Option<(OrganizationId, Labels)> {
    let body = Body::decode(text).ok()?;
    let id = OrganizationId::parse(&body.organization_id).ok()?;
    let labels = Labels::parse(&body.labels).ok()?;
    (!labels.is_empty()).then_some((id, labels))
}

impl fmt::Debug for LabelSealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LabelSealing")
    }
}

/// Decodes bytes as labels.
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    let _ = decode(bytes);
}

#[cfg(test)]
mod tests;
