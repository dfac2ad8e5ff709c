//! How records and wrapped keys lie in the store, and what each is bound to.
//!
//! A record: `"OBR1" | format (2) | algorithm (2) | KEK id hash (8) | generation (4) | version (8) |`
//! and then the sealed text of [`crate::sealed`]: 120 bytes around the plaintext. It opens only at
//! its own place: the associated data name the store, the kind of record, the index of its
//! organization, its version and the generation of its key, and each of these comes from the
//! look-up or the header, never from the plaintext. (Its tree follows from its kind.) The KEK id hash is a hint for re-wrapping; it
//! is outside the associated data, so that re-wrapping needs no re-encryption.
//!
//! A record of an organization with labels has format 2: `length (2) | sealed labels` come between its
//! header and its sealed text, and are part of the associated data. See `vault/labels.rs`.
//!
//! A wrapped key: `"OBK1" | format (2) | generation (4) | length (2) | KEK id | wrapped key`.
//!
//! Numbers are big-endian. Unknown formats and algorithms are refused, never skipped.

use aws_lc_rs::digest::{SHA256, digest};

use super::Error;
use crate::{kek::KekId, sealed, secret::SymmetricKey};

/// Format of everything in the store. A higher one is of a newer broker.
pub(super) const FORMAT: u16 = 1;
/// Format of a record with labels in front.
pub(super) const FORMAT_LABELLED: u16 = 2;
/// HKDF-SHA-256, AES-256-GCM, key commitment.
pub(super) const ALGORITHM: u16 = 1;
const RECORD_MAGIC: [u8; 4] = *b"OBR1";
const KEY_MAGIC: [u8; 4] = *b"OBK1";

/// Names a store: random, made with it.
pub(super) type StoreId = [u8; 16];
/// Stands for an organization's id wherever the store can see: an HMAC of it.
pub(super) type Index = [u8; 32];

/// Where a record belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) store: StoreId,
    pub(super) kind: &'static [u8],
    pub(super) index: Index,
}

/// What a record says of itself in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kek_hash: [u8; 8],
    pub(super) generation: u32,
    pub(super) version: u64,
}

/// A key of an organization, wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrappedKey {
    pub(super) kek_id: KekId,
    pub(super) generation: u32,
    pub(super) wrapped: Vec<u8>,
}

/// A record, split into its parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a> {
    pub(super) header: Header,
    /// Empty where there are none.
    pub(super) labels: &'a [u8],
    pub(super) sealed: &'a [u8],
}

/// Seals a record for its place, behind its sealed labels, if it has any.
pub(super) fn seal(
    place: &Place,
    header: &Header,
    labels: &[u8],
    key: &SymmetricKey,
    plaintext: &[u8],
) -> Result<Vec<u8>, Error> {
    let sealed = sealed::seal(key, &place.aad(header, labels), plaintext)?;
    let labels = if labels.is_empty() {
        Vec::new()
    } else {
        prefixed(labels)
    };
    Ok([
        RECORD_MAGIC.as_slice(),
        &format_with(&labels).to_be_bytes(),
        &ALGORITHM.to_be_bytes(),
        &header.kek_hash,
        &header.generation.to_be_bytes(),
        &header.version.to_be_bytes(),
        &labels,
        &sealed,
    ]
    .concat())
}

/// Splits a record into its header, its sealed labels and its sealed text.
pub(super) fn parse(record: &[u8]) -> Result<Parts<'_>, Error> {
    let mut rest = Reader(record);
    rest.magic(RECORD_MAGIC)?;
    let format = u16::from_be_bytes(rest.array()?);
    if format != FORMAT_LABELLED {
        check_format(format)?;
    }
    rest.algorithm()?;
    let header = Header {
        kek_hash: rest.array()?,
        generation: u32::from_be_bytes(rest.array()?),
        version: u64::from_be_bytes(rest.array()?),
    };
    let (labels, sealed) = match format {
        FORMAT_LABELLED => {
            let length = u16::from_be_bytes(rest.array()?);
            rest.0.split_at_checked(length.into()).ok_or(TRUNCATED)?
        }
        _ => (&[][..], rest.0),
    };
    if format != format_with(labels) {
        return Err(Error::Corrupt("a record that lacks its labels"));
    }
    Ok(Parts {
        header,
        labels,
        sealed,
    })
}

fn format_with(labels: &[u8]) -> u16 {
    if labels.is_empty() {
        FORMAT
    } else {
        FORMAT_LABELLED
    }
}

impl Place {
    /// Canonical: fixed lengths, or a length in front.
    pub(super) fn aad(&self, header: &Header, labels: &[u8]) -> Vec<u8> {
        [
            RECORD_MAGIC.as_slice(),
            &self.store,
            &prefixed(self.kind),
            &self.index,
            &header.version.to_be_bytes(),
            &header.generation.to_be_bytes(),
            &ALGORITHM.to_be_bytes(),
            &format_with(labels).to_be_bytes(),
            labels,
        ]
        .concat()
    }

    /// What a wrapped key of this place is bound to.
    pub(super) fn key_aad(&self, generation: u32, kek_id: &KekId) -> Vec<u8> {
        [
            KEY_MAGIC.as_slice(),
            &self.store,
            &prefixed(self.kind),
            &self.index,
            &generation.to_be_bytes(),
            &prefixed(kek_id.as_str().as_bytes()),
        ]
        .concat()
    }
}

impl WrappedKey {
    pub(super) fn encode(&self) -> Vec<u8> {
        [
            KEY_MAGIC.as_slice(),
            &FORMAT.to_be_bytes(),
            &self.generation.to_be_bytes(),
            &prefixed(self.kek_id.as_str().as_bytes()),
            &self.wrapped,
        ]
        .concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut rest = Reader(bytes);
        rest.magic(KEY_MAGIC)?;
        rest.format()?;
        let generation = u32::from_be_bytes(rest.array()?);
        let length = u16::from_be_bytes(rest.array()?);
        let (id, wrapped) = rest.0.split_at_checked(length.into()).ok_or(TRUNCATED)?;
        let kek_id = std::str::from_utf8(id).ok().and_then(KekId::parse);
        Ok(Self {
            kek_id: kek_id.ok_or(Error::Corrupt("a KEK id that is none"))?,
            generation,
            wrapped: wrapped.to_vec(),
        })
    }
}

/// Whether this broker understands a format.
pub(super) fn check_format(format: u16) -> Result<(), Error> {
    match format {
        FORMAT => Ok(()),
        0 => Err(Error::Corrupt(
            "something of format 0, which there never was",
        )),
        newer => Err(Error::Newer(newer)),
    }
}

/// The hint in a record's header.
pub(super) fn kek_hash(kek_id: &KekId) -> [u8; 8] {
    let digest = digest(&SHA256, kek_id.as_str().as_bytes());
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

const TRUNCATED: Error = Error::Corrupt("a record that is cut off");

/// Takes fields of fixed length off the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (array, rest) = self.0.split_first_chunk().ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn magic(&mut self, magic: [u8; 4]) -> Result<(), Error> {
        if self.array::<4>()? == magic {
            return Ok(());
        }
        Err(Error::Corrupt("something that is no record of the broker"))
    }

    pub(super) fn format(&mut self) -> Result<(), Error> {
        check_format(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn algorithm(&mut self) -> Result<(), Error> {
        if u16::from_be_bytes(self.array()?) == ALGORITHM {
            return Ok(());
        }
        Err(Error::Corrupt(
            "a record under an algorithm that is unknown",
        ))
    }
}

/// Bytes with their length in front.
pub(super) fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("names are short");
    [&length.to_be_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place {
        store: [1; 16],
        kind: b"organization",
        index: [2; 32],
    };
    const HEADER: Header = Header {
        kek_hash: [3; 8],
        generation: 4,
        version: 5,
    };

    fn key() -> SymmetricKey {
        SymmetricKey::new(vec![9; 32]).expect("32 bytes")
    }

    fn open(place: &Place, record: &[u8]) -> bool {
        parse(record).is_ok_and(|parts| {
            let aad = place.aad(&parts.header, parts.labels);
            sealed::open(&key(), &aad, parts.sealed).is_ok()
        })
    }

    #[test]
    fn a_record_adds_120_bytes_and_opens_at_its_place_only() {
        let record = seal(&PLACE, &HEADER, b"", &key(), b"text").expect("seals");
        assert_eq!(record.len(), 4 + 120);
        assert!(open(&PLACE, &record));
        assert!(!open(
            &Place {
                store: [7; 16],
                ..PLACE
            },
            &record
        ));
        assert!(!open(
            &Place {
                kind: b"other",
                ..PLACE
            },
            &record
        ));
        assert!(!open(
            &Place {
                index: [7; 32],
                ..PLACE
            },
            &record
        ));
    }

    #[test]
    fn every_flipped_bit_but_the_hint_is_noticed() {
        for labels in ["", "some sealed labels"] {
            let record = seal(&PLACE, &HEADER, labels.as_bytes(), &key(), b"some text");
            let record = record.expect("seals");
            assert!(open(&PLACE, &record));
            let hint = 8..16;
            for position in (0..record.len()).filter(|byte| !hint.contains(byte)) {
                for bit in 0..8 {
                    let mut changed = record.clone();
                    changed[position] ^= 1 << bit;
                    assert!(!open(&PLACE, &changed), "byte {position}");
                }
            }
        }
    }

    #[test]
    fn a_newer_format_is_told_apart_from_damage() {
        let mut record = seal(&PLACE, &HEADER, b"", &key(), b"").expect("seals");
        record[5] = 3;
        assert!(matches!(parse(&record), Err(Error::Newer(3))));
    }

    #[test]
    fn labels_cannot_be_taken_away_or_put_in_front() {
        let with = seal(&PLACE, &HEADER, b"labels", &key(), b"text").expect("seals");
        let without = seal(&PLACE, &HEADER, b"", &key(), b"text").expect("seals");
        let head = 28;
        let mut bared = [&with[..head], &with[head + 8..]].concat();
        bared[5] = 1;
        assert!(!open(&PLACE, &bared));
        let mut dressed = [&without[..head], &with[head..head + 8], &without[head..]].concat();
        dressed[5] = 2;
        assert!(!open(&PLACE, &dressed));
        // Of none, format 1 is the only form.
        let mut empty = [&without[..head], &[0, 0], &without[head..]].concat();
        empty[5] = 2;
        assert!(matches!(parse(&empty), Err(Error::Corrupt(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in any::<Vec<u8>>(), magic in any::<bool>()) {
            let start: &[u8] = if magic { b"OBK1\0\x01" } else { b"OBR1\0\x01" };
            for bytes in [bytes.clone(), [start, &bytes].concat(), [b"OBR1\0\x02", &bytes[..]].concat()] {
                let _ = parse(&bytes);
                let _ = WrappedKey::decode(&bytes);
            }
        }

        #[test]
        fn a_wrapped_key_comes_back(generation: u32, wrapped: Vec<u8>, id in "[!-~]{1,64}") {
            let key = WrappedKey { kek_id: KekId::parse(&id).expect("an id"), generation, wrapped };
            prop_assert_eq!(WrappedKey::decode(&key.encode()).expect("decodes"), key);
        }
    }
}
