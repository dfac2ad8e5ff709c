//! Following a key: the current token, then each next one in time.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{Token, TokenKey, cache::TokenCache, slot::Outcome};
use crate::entra::Lane;

/// How long before the token in hand would have too little life left its successor is asked for.
const LEAD: Duration = Duration::from_secs(30);

/// A follower of one key.
#[derive(Debug)]
pub struct Watch {
    cache: TokenCache,
    key: TokenKey,
    /// How much life a token must have left when it is given, so that the next one comes in time.
    needed: Duration,
    lane: Lane,
    /// The token that was given last.
    last: Option<Arc<Token>>,
}

impl TokenCache {
    /// Follows a key: whoever uses what it gives always has a token that lives at least `needed` longer,
    /// if Entra gives such. Costs nothing until the first token is asked for.
    #[must_use]
    pub fn watch(&self, key: TokenKey, needed: Duration, lane: Lane) -> Watch {
        Watch {
            cache: self.clone(),
            key,
            needed: needed + LEAD,
            lane,
            last: None,
        }
    }
}

impl Watch {
    /// The next token: at first the current one, then the one after it, as soon as it is there.
    /// Cancel-safe.
    ///
    /// # Errors
    /// Why there will be none: as [`TokenCache::token`]. While Entra cannot be reached, this waits as
    /// long as the last token lives.
    pub async fn next(&mut self) -> Outcome {
        loop {
            let organization = self.cache.0.organization(&self.key.organization);
            // Listened for from here on: what changes while the token is asked for is not missed.
            let changed = organization.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            // Forgotten in between: nothing more will be told of it.
            if organization.lock().detached {
                continue;
            }
            let token = self.cache.token(&self.key, self.needed, self.lane).await?;
            let given = self.last.as_ref();
            if given.is_none_or(|last| last.fingerprint != token.fingerprint) {
                self.last = Some(token.clone());
                return Ok(token);
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(self.stale_at(&token)) => {}
            }
        }
    }

    /// Has the last token not count as given: it may have been taken back on its way.
    pub fn repeat(&mut self) {
        self.last = None;
    }

    /// When the token in hand has to be replaced: it then has less left than is needed. Where it has
    /// less already, since Entra cannot be reached, look again now and then, at last when it has ended.
    fn stale_at(&self, token: &Token) -> Instant {
        /// How often Entra is tried when time runs out; the cache decides whether it really is.
        const PAUSE: Duration = Duration::from_secs(5);
        let now = Instant::now();
        // Up to this very moment it serves.
        let stale = token.expires_at.checked_sub(self.needed);
        let stale = stale.map(|last| last + Duration::from_millis(1));
        match stale.filter(|stale| *stale > now) {
            Some(stale) => stale,
            None => (now + PAUSE).min(token.expires_at),
        }
    }
}
