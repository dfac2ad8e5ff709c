//! Where the open database is found; it can be closed and opened anew while others read.

use std::{fmt, sync::Arc, thread, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{super::Error, database::Database, failed, writer::PATIENCE};

/// How long reads that are under way may hold up a closing, and sled its end.
const CLOSING_MAX: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOKS: Duration = Duration::from_millis(2);

/// The writer's end: it alone closes and opens.
pub(super) struct Slot(watch::Sender<Option<Arc<Database>>>);

/// The readers' end.
pub(super) struct Readers(watch::Receiver<Option<Arc<Database>>>);

impl Slot {
    pub(super) fn new(database: Database) -> (Self, Readers) {
        let (sender, receiver) = watch::channel(Some(Arc::new(database)));
        (Self(sender), Readers(receiver))
    }

    pub(super) fn readers(&self) -> Readers {
        Readers(self.0.subscribe())
    }

    /// The database, unless it is closed.
    pub(super) fn database(&self) -> Option<Arc<Database>> {
        self.0.borrow().clone()
    }

    pub(super) fn open(&self, database: Database) {
        self.0.send_replace(Some(Arc::new(database)));
    }

    /// Closes the database; reads wait from now on. Tells whether it is closed: reads under way and
    /// threads of sled that hang may keep it open.
    pub(super) fn close(&self) -> bool {
        let Some(mut database) = self.0.send_replace(None) else {
            return true;
        };
        let deadline = Instant::now() + CLOSING_MAX;
        loop {
            match Arc::try_unwrap(database) {
                Ok(database) => return drop_by(database, deadline),
                Err(shared) if Instant::now() < deadline => database = shared,
                Err(shared) => {
                    self.0.send_replace(Some(shared));
                    return false;
                }
            }
            thread::sleep(LOOKS);
        }
    }
}

/// sled waits for its threads as it is dropped, which may be for ever.
fn drop_by(database: Database, deadline: Instant) -> bool {
    let closing = thread::Builder::new()
        .name("store-closer".into())
        .spawn(move || drop(database));
    let Ok(closing) = closing else {
        return true;
    };
    while !closing.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOKS);
    }
    true
}

impl Readers {
    /// The database, unless it is closed.
    pub(super) fn database_now(&self) -> Option<Arc<Database>> {
        self.0.borrow().clone()
    }

    /// The database, as soon as it is open.
    ///
    /// # Errors
    /// If it does not come to be within 30 s.
    pub(super) async fn database(&self) -> Result<Arc<Database>, Error> {
        let mut slot = self.0.clone();
        let opened = timeout(PATIENCE, slot.wait_for(Option::is_some)).await;
        let database = opened.ok().and_then(|slot| slot.ok()?.clone());
        database.ok_or_else(|| failed("it failed and cannot be opened again; see the log"))
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readers")
    }
}
