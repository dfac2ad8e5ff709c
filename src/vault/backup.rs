//! Backups: everything that a store holds but kept tokens and job grants, as one encrypted stream that can be checked.
//!
//! A backup is taken while the broker works, and is of one moment all the same: every record is read
//! once, what changes meanwhile is read again, and the little that is left then is read while no change
//! is let in. A restore takes the last of each record that it meets; the manifest, which comes last, says
//! whether that is all.
//!
//! Layout: `"OBX1" | format (2) | store id (16) | length (2) | wrapped key`, and then frames, each
//! `length (4) | sealed text`. The key is made for the backup and wrapped under the KEK of that moment:
//! whoever restores needs that KEK. A frame opens only at its place (its number is in what it is bound
//! to), and the last one says so, so that nothing can be cut off, moved or left out unnoticed. The text
//! of a frame is a kind (1) and, for rows, `length (2) | key | length (4) | value` again and again.
//! Numbers are big-endian.

use super::{
    Error,
    envelope::{Place, Reader, StoreId, WrappedKey, prefixed},
};
use crate::{
    kek::KeyProvider,
    sealed::{self, CryptoFailed, OVERHEAD},
    secret::SymmetricKey,
    store::{KEY_BYTES_MAX, Key, VALUE_BYTES_MAX},
};

mod restore;
mod take;

pub use restore::restore;
pub(super) use take::Watched;
pub use take::{Backup, Piece};

const MAGIC: [u8; 4] = *b"OBX1";
const FORMAT: u16 = 1;
const KIND: &[u8] = b"backup";
/// Rows in a frame, as long as they have no more bytes than this together.
const FRAME_BYTES: usize = 256 * 1024;
/// Longest text of a frame: one more row of the longest kind may come on top.
const TEXT_BYTES_MAX: usize = FRAME_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX + 16;
/// Longest wrapped key, in bytes.
const WRAPPED_BYTES_MAX: usize = 2048;
const ROWS: u8 = 1;
const END: u8 = 2;

/// An entry on its way.
type Row = (Key, Vec<u8>);

/// What the frames of one backup are sealed with.
struct Frames {
    store: StoreId,
    key: SymmetricKey,
    /// Number of the next frame.
    next: u64,
}

/// What a frame holds.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Rows(Vec<Row>),
    End,
}

impl Frames {
    /// Those of a new backup, and its head.
    async fn begin(store: StoreId, keys: &dyn KeyProvider) -> Result<(Self, Vec<u8>), Error> {
        let key = sealed::random_key().ok_or(CryptoFailed)?;
        let (kek_id, generation) = (keys.current(), 1);
        let aad = place(store).key_aad(generation, &kek_id);
        let wrapped = WrappedKey {
            wrapped: keys.wrap_dek(&kek_id, &key, &aad).await?,
            kek_id,
            generation,
        };
        let head = [
            MAGIC.as_slice(),
            &FORMAT.to_be_bytes(),
            &store,
            &prefixed(&wrapped.encode()),
        ]
        .concat();
        let next = 0;
        Ok((Self { store, key, next }, head))
    }

    /// Those of a backup with this store id and wrapped key.
    async fn open(store: StoreId, wrapped: &[u8], keys: &dyn KeyProvider) -> Result<Self, Error> {
        let wrapped = WrappedKey::decode(wrapped)?;
        let aad = place(store).key_aad(wrapped.generation, &wrapped.kek_id);
        let key = keys.unwrap_dek(&wrapped.kek_id, &wrapped.wrapped, &aad);
        let key = key.await?;
        let next = 0;
        Ok(Self { store, key, next })
    }

    /// The next frame.
    fn seal(&mut self, content: &Content) -> Result<Vec<u8>, Error> {
        let sealed = sealed::seal(&self.key, &self.aad(), &content.encode())?;
        self.next += 1;
        let length = u32::try_from(sealed.len()).expect("a frame is bounded");
        Ok([length.to_be_bytes().as_slice(), &sealed].concat())
    }

    /// What the next frame holds.
    fn unseal(&mut self, sealed: &[u8]) -> Result<Content, Error> {
        let text = sealed::open(&self.key, &self.aad(), sealed).map_err(|_| DAMAGED)?;
        self.next += 1;
        Content::decode(&text)
    }

    fn aad(&self) -> Vec<u8> {
        [
            MAGIC.as_slice(),
            &FORMAT.to_be_bytes(),
            &self.store,
            &self.next.to_be_bytes(),
        ]
        .concat()
    }
}

impl Content {
    fn encode(&self) -> Vec<u8> {
        let Self::Rows(rows) = self else {
            return vec![END];
        };
        let mut text = vec![ROWS];
        for (key, value) in rows {
            text.extend(prefixed(key.as_bytes()));
            let length = u32::try_from(value.len()).expect("values are bounded");
            text.extend(length.to_be_bytes());
            text.extend(value);
        }
        text
    }

    fn decode(text: &[u8]) -> Result<Self, Error> {
        let mut rest = Reader(text);
        match rest.array::<1>()? {
            [END] if rest.0.is_empty() => return Ok(Self::End),
            [ROWS] => {}
            _ => return Err(DAMAGED),
        }
        let mut rows = Vec::new();
        while !rest.0.is_empty() {
            let length = u16::from_be_bytes(rest.array()?);
            let (key, after) = rest.0.split_at_checked(length.into()).ok_or(DAMAGED)?;
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(DAMAGED);
            }
            rest = Reader(after);
            let length = u32::from_be_bytes(rest.array()?) as usize;
            let (value, after) = rest.0.split_at_checked(length).ok_or(DAMAGED)?;
            rows.push((Key::new(b"", key), value.to_vec()));
            rest = Reader(after);
        }
        Ok(Self::Rows(rows))
    }
}

const DAMAGED: Error = Error::Corrupt("a backup that was changed since it was made");

fn place(store: StoreId) -> Place {
    Place {
        store,
        kind: KIND,
        index: Default::default(),
    }
}

/// Longest sealed text of a frame.
const SEALED_BYTES_MAX: usize = TEXT_BYTES_MAX + OVERHEAD;

/// Decodes bytes as the text of a frame. What decodes comes back the same.
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(content) = Content::decode(bytes) {
        assert_eq!(content.encode(), bytes);
    }
}

#[cfg(test)]
mod tests;
