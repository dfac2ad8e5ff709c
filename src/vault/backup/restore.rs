//! Makes a store of a backup.

use std::{
    io::{ErrorKind, Read},
    mem,
};

use super::{Content, DAMAGED, FORMAT, Frames, MAGIC, Row, SEALED_BYTES_MAX, WRAPPED_BYTES_MAX};
use crate::{
    kek::KeyProvider,
    store::{Store, TRANSACTION_BYTES_MAX, Transaction, Write},
    vault::Error,
};

/// Rows that are written at once.
const AT_ONCE: usize = 128;
const CUT_OFF: Error = Error::Corrupt("a backup that is cut off");

/// Writes what a backup holds into an empty store, and tells now and then how many rows there are so far.
/// Whether that is all, [`crate::vault::Vault::open`] finds out.
///
/// # Errors
/// [`Error::Corrupt`] if the backup was changed or cut off, [`Error::Newer`] if a newer broker made it,
/// [`Error::Kek`] if the KEK is not the one of the moment when it was made, and those of the store and
/// of reading. The store holds a part of the backup then, and is to be thrown away.
pub async fn restore(
    backup: &mut (dyn Read + Send),
    store: &dyn Store,
    keys: &dyn KeyProvider,
    mut progress: impl FnMut(u64),
) -> Result<(), Error> {
    let mut frames = open(backup, keys).await?;
    let mut written = 0;
    loop {
        let length = u32::from_be_bytes(array(backup)?) as usize;
        if length > SEALED_BYTES_MAX {
            return Err(DAMAGED);
        }
        let mut sealed = vec![0; length];
        fill(backup, &mut sealed)?;
        let rows = match frames.unseal(&sealed)? {
            Content::Rows(rows) => rows,
            Content::End => break,
        };
        let count = rows.len() as u64;
        write(store, rows).await?;
        written += count;
        progress(written);
    }
    match backup.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::Corrupt("something after the end of a backup")),
        Err(error) => Err(unreadable(&error)),
    }
}

async fn open(backup: &mut (dyn Read + Send), keys: &dyn KeyProvider) -> Result<Frames, Error> {
    if array(backup)? != MAGIC {
        return Err(Error::Corrupt("something that is no backup of the broker"));
    }
    match u16::from_be_bytes(array(backup)?) {
        FORMAT => {}
        0 => return Err(DAMAGED),
        newer => return Err(Error::Newer(newer)),
    }
    let store = array(backup)?;
    let length = usize::from(u16::from_be_bytes(array(backup)?));
    if length > WRAPPED_BYTES_MAX {
        return Err(DAMAGED);
    }
    let mut wrapped = vec![0; length];
    fill(backup, &mut wrapped)?;
    Frames::open(store, &wrapped, keys).await
}

async fn write(store: &dyn Store, rows: Vec<Row>) -> Result<(), Error> {
    let (mut part, mut bytes) = (Transaction::default(), 0);
    for (key, value) in rows {
        bytes += value.len();
        if part.writes.len() == AT_ONCE || bytes > TRANSACTION_BYTES_MAX {
            bytes = value.len();
            store.commit(mem::take(&mut part)).await?;
        }
        part.writes.push(Write::Put(key, value));
    }
    store.commit(part).await?;
    Ok(())
}

fn array<const N: usize>(backup: &mut (dyn Read + Send)) -> Result<[u8; N], Error> {
    let mut array = [0; N];
    fill(backup, &mut array)?;
    Ok(array)
}

fn fill(backup: &mut (dyn Read + Send), bytes: &mut [u8]) -> Result<(), Error> {
    backup
        .read_exact(bytes)
        .map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => CUT_OFF,
            _ => unreadable(&error),
        })
}

fn unreadable(error: &std::io::Error) -> Error {
    Error::Unreadable(error.to_string())
}
