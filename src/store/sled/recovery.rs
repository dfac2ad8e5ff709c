//! After a failed write: nothing more is written until the database was opened anew, from the disk, and
//! holds what it held.
//!
//! A full disk is the usual case, and passes. sled's errors stick, so only opening anew helps; and what
//! was read from a file before a failed sync proves nothing about the disk, so that is dropped from
//! memory first. Until there is room the old database stays, and answers reads.

use std::{collections::BTreeSet, io, time::Duration};

use tokio::time::Instant;

use super::{
    super::{Error, Key},
    beginning::Mark,
    failed,
    reserve::Reserve,
    slot::Slot,
};

/// Between two tries.
const INTERVAL: Duration = Duration::from_secs(1);
const LOST: &str =
    "the disk does not hold what was acknowledged; stop the broker and put a backup in its place";

/// A failed write, until it is made good.
pub(super) struct Failure {
    /// What whoever writes is told.
    pub(super) error: Error,
    next_try: Instant,
    state: State,
}

enum State {
    /// Nothing has failed, there is just no room: nothing needs to be opened anew.
    NoRoom,
    /// The database is the one that failed.
    Failed,
    /// It is closed.
    Closed(Held),
    /// What was found on disk is not what was there. Nothing helps but a person.
    Lost,
}

/// What a database held when it was closed.
struct Held {
    digest: u64,
    /// But for these: they may be on disk, or not.
    doubtful: BTreeSet<Key>,
}

impl Failure {
    pub(super) fn new(error: Error) -> Self {
        Self {
            error,
            next_try: Instant::now() + INTERVAL,
            state: State::Failed,
        }
    }

    /// There is no room to begin with.
    pub(super) fn no_room(error: &io::Error) -> Self {
        Self {
            state: State::NoRoom,
            ..Self::new(failed(format!("there is no room left for it: {error}")))
        }
    }

    pub(super) fn until_next_try(&self) -> Duration {
        self.next_try.saturating_duration_since(Instant::now())
    }

    /// Tries whether it can be made good.
    pub(super) fn has_passed(
        &mut self,
        slot: &Slot,
        reserve: &Reserve,
        mark: Option<&Mark>,
    ) -> bool {
        let Err(reason) = self.attempt(slot, reserve, mark) else {
            return true;
        };
        tracing::warn!(%reason, "the store still cannot write");
        self.next_try = Instant::now() + INTERVAL;
        false
    }

    fn attempt(
        &mut self,
        slot: &Slot,
        reserve: &Reserve,
        mark: Option<&Mark>,
    ) -> Result<(), String> {
        reserve.check_room().map_err(|error| error.to_string())?;
        if let State::Failed = self.state {
            self.state = State::Closed(close(slot)?);
        }
        let held = match &self.state {
            State::Closed(held) => held,
            State::NoRoom => return Ok(()),
            State::Failed | State::Lost => return Err(LOST.to_owned()),
        };
        let database = reserve.open(mark).map_err(|error| error.to_string())?;
        let digest = database.digest(&held.doubtful);
        if digest.map_err(|error| error.to_string())? != held.digest {
            self.state = State::Lost;
            return Err(LOST.to_owned());
        }
        slot.open(database);
        Ok(())
    }
}

/// Closes the database that failed.
fn close(slot: &Slot) -> Result<Held, String> {
    let database = slot.database().ok_or("it is not open")?;
    let doubtful = database.doubtful().clone();
    let digest = database.digest(&doubtful);
    let digest = digest.map_err(|error| error.to_string())?;
    drop(database);
    if !slot.close() {
        return Err("sled does not let go of its files; restart the broker".to_owned());
    }
    Ok(Held { digest, doubtful })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::{
        Store as _, Transaction, Write, conformance,
        sled::{SledStore, database::Database},
    };

    fn put(name: &[u8], value: &[u8]) -> Transaction {
        Transaction {
            compares: vec![],
            writes: vec![Write::Put(Key::new(b"a/", name), value.to_vec())],
        }
    }

    /// A database that holds `1`, and on the disk, too.
    fn written(reserve: &Reserve) -> Database {
        let database = reserve.open(None).expect("opens");
        let applied = database.apply(&put(b"1", b"value")).expect("applies");
        applied.expect("is accepted");
        database.make_durable().expect("syncs");
        database
    }

    async fn store(directory: &std::path::Path) -> Reserve {
        let store = SledStore::open(directory).await.expect("opens");
        store.commit(put(b"0", b"first")).await.expect("commits");
        drop(store);
        Reserve::of(directory)
    }

    #[tokio::test]
    async fn a_database_that_is_as_it_was_is_taken_again() {
        let directory = tempfile::tempdir().expect("a folder");
        let reserve = store(directory.path()).await;
        let (slot, readers) = Slot::new(written(&reserve));
        let lost = put(b"2", b"nobody knows");
        let database = slot.database().expect("is open");
        database
            .apply(&lost)
            .expect("applies")
            .expect("is accepted");
        database.doubt([&lost].into_iter());
        let (one, two) = (Key::new(b"a/", b"1"), Key::new(b"a/", b"2"));
        assert!(database.get(&one).is_ok());
        assert!(database.get(&two).is_err());
        assert!(database.scan(b"a/", None, 9).is_err());
        assert!(database.scan(b"b/", None, 9).is_ok());
        drop(database);
        let mut failure = Failure::new(failed("for the test"));
        assert!(failure.has_passed(&slot, &reserve, None));
        let database = readers.database().await.expect("is open");
        let value = database.trees().records.get(b"a/1").expect("reads");
        assert!(value.expect("is there").ends_with(b"value"));
        database.make_durable().expect("syncs");
        drop(database);
        assert!(slot.close());
        drop(conformance::reopen(directory.path()).await);
    }

    #[tokio::test]
    async fn a_database_that_lost_something_is_not_served_again() {
        let directory = tempfile::tempdir().expect("a folder");
        let reserve = store(directory.path()).await;
        drop(conformance::reopen(directory.path()).await);
        let log = fs::read(directory.path().join("db")).expect("reads");
        let (slot, _readers) = Slot::new(written(&reserve));
        let mut failure = Failure::new(failed("for the test"));
        // Closed, and an older copy put in its place.
        failure.state = State::Closed(close(&slot).expect("closes"));
        fs::write(directory.path().join("db"), log).expect("writes");
        assert!(!failure.has_passed(&slot, &reserve, None));
        assert!(matches!(failure.state, State::Lost | State::Closed(_)));
        assert!(slot.database().is_none());
    }

    #[tokio::test]
    async fn without_room_the_old_database_stays_for_those_who_read() {
        let directory = tempfile::tempdir().expect("a folder");
        let reserve = store(directory.path()).await;
        let (slot, _readers) = Slot::new(written(&reserve));
        // There is never room for a file below a file.
        let nowhere = Reserve::of(&directory.path().join("conf"));
        let mut failure = Failure::new(failed("for the test"));
        assert!(!failure.has_passed(&slot, &nowhere, None));
        assert!(slot.database().is_some());
        assert!(failure.until_next_try() > Duration::ZERO);
    }
}
