//! After a failed write: nothing more is written until the database was opened anew, from the disk, and
//! holds all that was acknowledged.
//!
//! A full disk is the usual case, and passes. sled's errors stick, to some reads, too, so only opening anew
//! helps; and what was read from a file before a failed sync proves nothing about the disk, so that is
//! dropped from memory first. Where there is no room for it, the reserve is, and the database can be read
//! until there is more.

use std::{io, time::Duration};

use tokio::time::Instant;

use super::{
    super::{Error, Revision},
    beginning::Mark,
    database::Database,
    failed,
    reserve::Reserve,
    slot::Slot,
};

/// Between two tries.
const INTERVAL: Duration = Duration::from_secs(1);
const HELD: &str = "sled does not let go of its files; restart the broker";
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
    /// The database is the one that failed.
    Failed,
    /// It is closed.
    Closed,
    /// It is open and whole; there is just no room.
    NoRoom,
    /// What was found on disk is not what was there. Nothing helps but a person.
    Lost,
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

    /// Tries whether it can be made good: then the disk holds this commit and all before it.
    pub(super) fn has_passed(
        &mut self,
        slot: &Slot,
        reserve: &Reserve,
        mark: Option<&Mark>,
        acknowledged: Revision,
    ) -> bool {
        let Err(reason) = self.attempt(slot, reserve, mark, acknowledged) else {
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
        acknowledged: Revision,
    ) -> Result<(), String> {
        if let State::Failed = self.state {
            if !slot.close() {
                return Err(HELD.to_owned());
            }
            self.state = State::Closed;
        }
        if let State::Closed = self.state {
            let database = reserve.open(mark).map_err(|error| error.to_string())?;
            let whole = holds(&database, acknowledged);
            if !whole.map_err(|error| error.to_string())? {
                self.state = State::Lost;
                return Err(LOST.to_owned());
            }
            slot.open(database);
            self.state = State::NoRoom;
        }
        match self.state {
            State::NoRoom => reserve.check_room().map_err(|error| error.to_string()),
            _ => Err(LOST.to_owned()),
        }
    }
}

/// A database reads its log in the order in which it was written: what holds a commit holds those before
/// it, and the sum of what it holds says that nothing of them is missing.
fn holds(database: &Database, acknowledged: Revision) -> Result<bool, Error> {
    Ok(database.revision()? >= acknowledged && database.is_whole()?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::{Key, Store as _, Transaction, Write, conformance, sled::SledStore};

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
        assert!(failure.has_passed(&slot, &reserve, None, Revision(2)));
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
        assert!(slot.close());
        failure.state = State::Closed;
        fs::write(directory.path().join("db"), log).expect("writes");
        assert!(!failure.has_passed(&slot, &reserve, None, Revision(2)));
        assert!(matches!(failure.state, State::Lost | State::Closed));
        assert!(slot.database().is_none());
    }

    #[tokio::test]
    async fn a_database_without_one_of_its_entries_is_not_served_again() {
        let directory = tempfile::tempdir().expect("a folder");
        let reserve = store(directory.path()).await;
        let database = written(&reserve);
        assert!(database.is_whole().expect("reads"));
        let records = &database.trees().records;
        records.remove(b"a/0").expect("removes");
        assert!(!database.is_whole().expect("reads"));
        let (slot, _readers) = Slot::new(database);
        let mut failure = Failure::new(failed("for the test"));
        assert!(!failure.has_passed(&slot, &reserve, None, Revision(2)));
        assert!(matches!(failure.state, State::Lost));
        assert!(!failure.has_passed(&slot, &reserve, None, Revision(2)));
        assert!(slot.database().is_none());
    }

    #[tokio::test]
    async fn without_room_it_can_be_read() {
        let directory = tempfile::tempdir().expect("a folder");
        let reserve = store(directory.path()).await;
        let (slot, _readers) = Slot::new(written(&reserve));
        // There is no room for a file where a folder is.
        let in_the_way = directory.path().join("kodo-broker.probe");
        fs::create_dir(&in_the_way).expect("creates");
        let mut failure = Failure::new(failed("for the test"));
        assert!(!failure.has_passed(&slot, &reserve, None, Revision(2)));
        assert!(failure.until_next_try() > Duration::ZERO);
        let database = slot.database().expect("is open");
        let entry = database.get(&Key::new(b"a/", b"1")).expect("reads");
        assert_eq!(entry.expect("is there").value, b"value");
        fs::remove_dir(in_the_way).expect("removes");
        assert!(failure.has_passed(&slot, &reserve, None, Revision(2)));
    }
}
