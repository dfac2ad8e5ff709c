//! What is kept of a store outside of it, so that an older copy of the store is not taken for the store.
//!
//! Whoever puts back an older copy, by mistake or not, brings back organizations that were revoked and
//! credentials that were replaced; the copy is whole, and its manifest agrees with it. The anchor is a
//! line that names the store and the number of changes that somebody has seen in it, under a key of the
//! store: it can be copied and lost, but not made up. Whoever can put both back is not noticed.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tokio::sync::watch;

use super::{Error, Vault};
use crate::{
    hex::Hex,
    store::{self, Transaction},
};

/// What every anchor begins with. The number is its format.
const WORDS: &str = "kodo-broker anchor 1";
/// Longest anchor, in bytes.
pub const ANCHOR_BYTES_MAX: usize = 256;
/// A new store is at this epoch, and may have no anchor yet.
const FIRST: u64 = 1;

/// A store that was taken for the latest although it may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The change that the store was at.
    pub found: u64,
    /// The change that its anchor had seen, if there was one.
    pub anchored: Option<u64>,
    /// The change that it is at now.
    pub now: u64,
}

impl Vault {
    /// Tells of each change once it is durable, by its number.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// The anchor of the store as it is: one line, nothing secret.
    #[must_use]
    pub fn anchor(&self) -> String {
        let epoch = *self.epoch.borrow();
        format!("{}\n", self.anchor_at(epoch))
    }

    /// Makes sure that the store is not older than its anchor.
    ///
    /// # Errors
    /// [`Error::Older`] if it is, if the anchor is not of this store, and if there is none although the
    /// store was changed since it was made.
    pub fn check_anchor(&self, anchor: Option<&str>) -> Result<(), Error> {
        let epoch = *self.epoch.borrow();
        let older = |how: String| Err(Error::Older(how));
        let Some(anchor) = anchor else {
            if epoch <= FIRST {
                return Ok(());
            }
            return older("its anchor is missing".into());
        };
        match self.anchored(anchor) {
            None => older("its anchor is not one of this store".into()),
            Some(seen) if epoch < seen => older(format!(
                "it is at change {epoch}, and its anchor has seen change {seen}"
            )),
            Some(_) => Ok(()),
        }
    }

    /// Takes the store for the latest there is, whatever its anchor says: from now on it is newer than
    /// that. To be recorded by the caller, with the new anchor.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn accept(&self, anchor: Option<&str>) -> Result<Accepted, Error> {
        let found = *self.epoch.borrow();
        let anchored = anchor.and_then(|anchor| self.anchored(anchor));
        let counted = self.root.ledger.raised_above(anchored.unwrap_or(found));
        let transaction = Transaction {
            writes: vec![counted.write.clone()],
            ..Transaction::default()
        };
        match self.store.commit(transaction).await {
            Err(store::Error::NotUpdated) => return Err(super::UNREADABLE_MANIFEST),
            outcome => outcome?,
        };
        self.reached(counted.epoch());
        Ok(Accepted {
            found,
            anchored,
            now: counted.epoch(),
        })
    }

    /// The change that an anchor has seen, if it is one of this store.
    fn anchored(&self, anchor: &str) -> Option<u64> {
        let anchor = anchor.trim_ascii();
        let epoch = anchor
            .split(' ')
            .find_map(|word| word.strip_prefix("change="))?;
        let epoch = epoch.parse().ok()?;
        let right = self.anchor_at(epoch);
        verify_slices_are_equal(right.as_bytes(), anchor.as_bytes()).ok()?;
        Some(epoch)
    }

    fn anchor_at(&self, epoch: u64) -> String {
        let text = format!("{WORDS} store={} change={epoch}", Hex(&self.root.id));
        let mac = self.root.digest(b"anchor", text.as_bytes());
        format!("{text} mac={}", Hex(&mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::tests::{Fixture, reopen};

    #[tokio::test]
    async fn an_older_store_is_told_from_the_latest() {
        let fixture = Fixture::with(&["contoso"]).await;
        let older = fixture.vault.anchor();
        fixture.rotate("contoso", 1).await.expect("rotates");
        let latest = fixture.vault.anchor();
        let vault = reopen(&fixture.store, 1).await.expect("opens");
        assert_eq!(vault.anchor(), latest);
        // An anchor may be behind.
        for anchor in [&older, &latest] {
            vault.check_anchor(Some(anchor)).expect("is the latest");
        }
        fixture.revoke("contoso", 2).await.expect("revokes");
        let newer = fixture.vault.anchor();
        let error = vault.check_anchor(Some(&newer)).expect_err("is older");
        let text = error.to_string();
        assert!(
            text.contains("at change 3, and its anchor has seen change 4"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_anchor_cannot_be_missing_made_up_or_of_another_store() {
        let fixture = Fixture::new().await;
        fixture.vault.check_anchor(None).expect("it is new");
        fixture.register("contoso").await.expect("registers");
        let vault = &fixture.vault;
        let right = vault.anchor();
        let foreign = Fixture::with(&["contoso"]).await.vault.anchor();
        let wrong = [
            right.replace("change=2", "change=1"),
            right.replace("change=2", "change=02"),
            right.replace("change=2 ", ""),
            format!("{right} change=1"),
            right.replacen('a', "b", 1),
            foreign,
            String::new(),
        ];
        for wrong in wrong {
            let refused = vault.check_anchor(Some(&wrong));
            assert!(
                matches!(refused, Err(Error::Older(_))),
                "{wrong}: {refused:?}"
            );
        }
        let refused = vault.check_anchor(None);
        assert!(matches!(refused, Err(Error::Older(_))), "{refused:?}");
        assert!(right.len() <= ANCHOR_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_store_that_was_accepted_is_newer_than_what_its_anchor_saw() {
        let fixture = Fixture::with(&["contoso"]).await;
        let older: Vec<_> = crate::vault::tests::entries(&fixture.store).await;
        for revision in 1..5 {
            fixture.rotate("contoso", revision).await.expect("rotates");
        }
        let latest = fixture.vault.anchor();
        for (key, value) in older {
            crate::vault::tests::put(&fixture.store, &key, &value).await;
        }
        let vault = reopen(&fixture.store, 1).await.expect("is whole");
        vault.check_anchor(Some(&latest)).expect_err("is older");
        let accepted = vault.accept(Some(&latest)).await.expect("accepts");
        let (found, anchored, now) = (2, Some(6), 7);
        let expected = Accepted {
            found,
            anchored,
            now,
        };
        assert_eq!(accepted, expected);
        let vault = reopen(&fixture.store, 1).await.expect("is whole");
        vault.check_anchor(Some(&latest)).expect("is newer now");
        // What was put away is older from now on.
        let anchor = vault.anchor();
        fixture
            .vault
            .check_anchor(Some(&anchor))
            .expect_err("is older");
        let accepted = vault.accept(None).await.expect("accepts");
        assert_eq!((accepted.anchored, accepted.now), (None, 8));
    }
}
