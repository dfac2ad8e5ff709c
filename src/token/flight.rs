//! A flight: the request for the next token of a key, in a task of its own.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Error, Token, TokenKey,
    cache::{FLIGHTS_MAX, Inner, Organization, Tokens},
    failure::Failure,
    mint::Failed,
    slot::{Outcome, Slot},
};
use crate::entra::{self, Urgency, claims::ClaimsChallenge};

/// How long a flight waits for them: those who wait for it have a minute in all.
const PROPAGATION_PATIENCE: Duration = Duration::from_secs(25);

/// Where a flight looks for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In the store, where one may have been kept before the broker was restarted; then at Entra.
    Kept,
    /// At Entra.
    Entra,
}

/// What a flight begins from: if any of it has changed when it lands, it has flown in vain.
#[derive(Debug, PartialEq, Eq)]
struct Start {
    epoch: u64,
    voids: u64,
}

impl Source {
    /// For the first token of a slot. One that was refused is not to be had again from the store.
    pub(super) fn first(slot: &Slot) -> Self {
        match (&slot.token, &slot.failure, &slot.refusal) {
            (None, None, None) => Self::Kept,
            _ => Self::Entra,
        }
    }
}

impl Inner {
    /// Gets a token and lands it, unless the organization has changed meanwhile.
    pub(super) async fn fly(
        self: Arc<Self>,
        organization: &Organization,
        key: &TokenKey,
        source: Source,
        urgency: &Urgency,
        landing: watch::Sender<Option<Outcome>>,
    ) {
        let mut outcome = Err(Error::Interrupted);
        for _ in 0..FLIGHTS_MAX {
            let Some((start, claims)) = start(&organization.lock(), key) else {
                break;
            };
            let obtained = self
                .obtain(organization, key, source, claims.as_ref(), urgency)
                .await;
            let mut tokens = organization.lock();
            if self::start(&tokens, key).is_some_and(|(now, _)| now == start) {
                let to_keep = matches!(obtained, Ok((_, Source::Entra)));
                outcome = self.land(&mut tokens, key, obtained.map(|(token, _)| token));
                drop(tokens);
                if let (Ok(token), true) = (&outcome, to_keep) {
                    self.keep(key, token);
                }
                break;
            }
        }
        if let Err(error) = &outcome {
            tracing::warn!(organization = %key.organization, resource = key.resource.name(), %error, "no token");
        }
        // Nobody may be waiting any more; the token is in its slot all the same.
        let _ = landing.send(Some(outcome));
        organization.changed.notify_waiters();
    }

    /// A kept token, or a new one. What may only mean that Entra does not know a new credential yet is
    /// tried again for a while.
    async fn obtain(
        self: &Arc<Self>,
        organization: &Organization,
        key: &TokenKey,
        source: Source,
        claims: Option<&ClaimsChallenge>,
        urgency: &Urgency,
    ) -> Result<(Arc<Token>, Source), Failed> {
        if source == Source::Kept
            && let Some(token) = self.mint.kept(key).await
        {
            return Ok((Arc::new(token), Source::Kept));
        }
        let patience = Instant::now() + PROPAGATION_PATIENCE;
        let mut pauses = ExponentialBuilder::new().with_jitter().build();
        loop {
            match self.mint.token(key, claims, urgency).await {
                Ok(token) => return Ok((Arc::new(token), Source::Entra)),
                Err(failed) => {
                    let pause = pauses.next().filter(|pause| {
                        self.is_propagating(&organization.lock(), &failed.error)
                            && Instant::now() + *pause < patience
                    });
                    match pause {
                        Some(pause) => sleep(pause).await,
                        None => return Err(failed),
                    }
                }
            }
        }
    }

    /// Keeps a token for the time after a restart, while it is already being handed out.
    pub(super) fn keep(self: &Arc<Self>, key: &TokenKey, token: &Arc<Token>) {
        let (inner, key, token) = (self.clone(), key.clone(), token.clone());
        let keeping = async move { inner.mint.keep(&key, &token).await };
        self.flights.spawn_on(keeping, &self.runtime);
    }

    fn is_propagating(&self, tokens: &Tokens, error: &Error) -> bool {
        may_be_propagation(error) && self.is_new(tokens)
    }

    /// Whether the credential was changed so lately that not all of Entra may know of it.
    fn is_new(&self, tokens: &Tokens) -> bool {
        let changed_at = tokens.changed_at;
        changed_at.is_some_and(|at| at.elapsed() < self.limits.propagation)
    }

    /// Has the store forget what was refused.
    pub(super) fn discard(self: &Arc<Self>, key: &TokenKey) {
        let (inner, organization) = (self.clone(), key.organization.clone());
        let discarding = async move { inner.mint.discard(&organization).await };
        self.flights.spawn_on(discarding, &self.runtime);
    }

    fn land(
        &self,
        tokens: &mut Tokens,
        key: &TokenKey,
        obtained: Result<Arc<Token>, Failed>,
    ) -> Outcome {
        let is_new = self.is_new(tokens);
        let Some(slot) = tokens.slot_mut(&key.resource) else {
            return Err(Error::Interrupted);
        };
        slot.flight = None;
        let Failed { error, cloud } = match obtained {
            Ok(token) => {
                if let Some(refusal) = &mut slot.refusal {
                    refusal.claims = None;
                }
                self.settle(slot, key, token.clone());
                return Ok(token);
            }
            Err(failed) => failed,
        };
        let failure = Failure::of(
            &error,
            slot.failure.take().map(|before| *before),
            cloud,
            &self.outage,
        );
        slot.failure = failure.map(|failure| match may_be_propagation(&error) && is_new {
            true => failure.for_propagation().into(),
            false => failure.into(),
        });
        self.look_again(slot, key, Instant::now());
        // A slot that holds nothing is not kept: unknown organizations must not fill the memory.
        if slot.token.is_none() && slot.failure.is_none() {
            self.drop_slot(tokens, key);
        }
        Err(error)
    }
}

/// What a flight begins from, and what the token must satisfy. `None` once nobody could find it: the
/// organization was forgotten.
fn start(tokens: &Tokens, key: &TokenKey) -> Option<(Start, Option<ClaimsChallenge>)> {
    let slot = tokens.slot(&key.resource).filter(|_| !tokens.detached)?;
    let start = Start {
        epoch: tokens.epoch,
        voids: slot.voids,
    };
    let refusal = slot.refusal.as_ref();
    Some((start, refusal.and_then(|refusal| refusal.claims.clone())))
}

fn may_be_propagation(error: &Error) -> bool {
    matches!(error, Error::Entra(entra::Error::Rejected(rejection)) if rejection.may_be_propagation())
}
