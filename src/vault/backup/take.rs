//! Takes a backup of a vault that is in use.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt, mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Content, FRAME_BYTES, Frames, Row};
use crate::{
    store::Key,
    vault::{Error, KEYS, RECORDS, Vault, envelope::Index, manifest, root, shred},
};

/// Records that changed while the backup was taken and are read at the end, while no change is let in.
const HELD_UP_MAX: usize = 256;
/// Rows that are read at once.
const PAGE: usize = 128;

/// Which records changed since a backup began.
#[derive(Debug, Default)]
pub(in crate::vault) struct Watched(Mutex<Option<BTreeSet<Index>>>);

/// A backup being taken. Dropped before its end, it was none.
pub struct Backup<'a> {
    vault: &'a Vault,
    frames: Frames,
    state: State,
    /// What was read and is not sealed yet.
    rows: Vec<Row>,
    /// What is sealed and was not given yet.
    ready: VecDeque<Vec<u8>>,
    /// Records that are in it so far.
    done: u64,
    total: u64,
}

/// A piece of a backup, and how far it goes.
#[derive(Debug)]
pub struct Piece {
    /// The next bytes of it.
    pub bytes: Vec<u8>,
    /// Records that are in it so far.
    pub done: u64,
    /// Records that there were when it began.
    pub total: u64,
}

enum State {
    /// Records after this one are still to be read.
    Reading(Option<Key>),
    /// What changed meanwhile is.
    CatchingUp,
    Ended,
}

impl Watched {
    /// A record may have changed. To be told while the change still holds [`Vault::changing`], so that
    /// whoever holds changes up knows of all before.
    pub(in crate::vault) fn changed(&self, index: &Index) {
        if let Some(changed) = self.lock().as_mut() {
            changed.insert(*index);
        }
    }

    /// Begins to watch, unless a backup is being taken already.
    fn begin(&self) -> bool {
        let mut watched = self.lock();
        let free = watched.is_none();
        if free {
            *watched = Some(BTreeSet::new());
        }
        free
    }

    /// What changed since it was last asked.
    fn take(&self) -> BTreeSet<Index> {
        self.lock().as_mut().map(mem::take).unwrap_or_default()
    }

    fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeSet<Index>>> {
        // Nothing that can panic happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Backup<'a> {
    /// Begins a backup of a vault, and gives its first bytes.
    ///
    /// # Errors
    /// [`Error::Busy`] while another one is being taken, and those of the KEK and the store.
    pub async fn begin(vault: &'a Vault) -> Result<(Self, Piece), Error> {
        let total = vault.root.ledger.read(&*vault.store).await?.records;
        let (frames, head) = Frames::begin(vault.root.id, &*vault.keys).await?;
        // Of a change under way only what comes after it would be read again.
        let none = vault.changing.write().await;
        let begun = vault.watched.begin();
        drop(none);
        if !begun {
            return Err(Error::Busy("a backup is being taken already"));
        }
        let backup = Self {
            vault,
            frames,
            state: State::Reading(None),
            rows: Vec::new(),
            ready: VecDeque::new(),
            done: 0,
            total,
        };
        let piece = backup.piece(head);
        Ok((backup, piece))
    }

    /// The next piece, `None` after the last. Not cancel-safe: a backup of which a piece is missing is
    /// refused by a restore.
    ///
    /// # Errors
    /// Those of the store. The backup is none then.
    pub async fn next(&mut self) -> Result<Option<Piece>, Error> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(self.piece(frame)));
            }
            match mem::replace(&mut self.state, State::Ended) {
                State::Reading(after) => self.read(after).await?,
                State::CatchingUp => self.catch_up().await?,
                State::Ended => return Ok(None),
            }
            let read = self.rows.iter().map(|(_, value)| value.len());
            if read.sum::<usize>() >= FRAME_BYTES {
                self.seal_rows()?;
            }
        }
    }

    async fn read(&mut self, after: Option<Key>) -> Result<(), Error> {
        let store = &self.vault.store;
        let found = store.scan(RECORDS, after.as_ref(), PAGE).await?;
        let Some((last, _)) = found.last() else {
            self.state = State::CatchingUp;
            return Ok(());
        };
        self.state = State::Reading(Some(last.clone()));
        self.done += found.len() as u64;
        let keys: Vec<_> = found
            .iter()
            .map(|(at, _)| Key::new(KEYS, &at.as_bytes()[RECORDS.len()..]))
            .collect();
        self.rows
            .extend(found.into_iter().map(|(at, entry)| (at, entry.value)));
        for key in keys {
            self.read_row(key).await?;
        }
        Ok(())
    }

    /// Reads what changed, again and again until it is little; then the rest, and the manifest, while no
    /// change is let in.
    async fn catch_up(&mut self) -> Result<(), Error> {
        let vault = self.vault;
        loop {
            let changed = vault.watched.take();
            let few = changed.len() <= HELD_UP_MAX;
            self.read_records(&changed).await?;
            self.seal_rows()?;
            if few {
                break;
            }
        }
        let held_up = vault.changing.write().await;
        let changed = vault.watched.take();
        self.read_records(&changed).await?;
        for at in [root::at(), manifest::place(), shred::place()] {
            self.read_row(at).await?;
        }
        drop(held_up);
        self.seal_rows()?;
        self.ready.push_back(self.frames.seal(&Content::End)?);
        Ok(())
    }

    async fn read_records(&mut self, changed: &BTreeSet<Index>) -> Result<(), Error> {
        for index in changed {
            for prefix in [RECORDS, KEYS] {
                self.read_row(Key::new(prefix, index)).await?;
            }
        }
        Ok(())
    }

    /// Reads a row, if it is there: a change that failed is no row.
    async fn read_row(&mut self, at: Key) -> Result<(), Error> {
        if let Some(entry) = self.vault.store.get(&at).await? {
            self.rows.push((at, entry.value));
        }
        Ok(())
    }

    /// Makes frames of the rows that were read.
    fn seal_rows(&mut self) -> Result<(), Error> {
        let mut rows = mem::take(&mut self.rows).into_iter().peekable();
        while rows.peek().is_some() {
            let mut bytes = 0;
            let mut part = Vec::new();
            while bytes < FRAME_BYTES
                && let Some((key, value)) = rows.next()
            {
                bytes += 6 + key.as_bytes().len() + value.len();
                part.push((key, value));
            }
            self.ready
                .push_back(self.frames.seal(&Content::Rows(part))?);
        }
        Ok(())
    }

    fn piece(&self, bytes: Vec<u8>) -> Piece {
        Piece {
            bytes,
            done: self.done,
            total: self.total.max(self.done),
        }
    }
}

impl Drop for Backup<'_> {
    fn drop(&mut self) {
        self.vault.watched.end();
    }
}

impl fmt::Debug for Backup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup")
            .field("done", &self.done)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}
