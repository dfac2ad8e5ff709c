//! Tokens as the broker sends them.

use std::{fmt, sync::Arc};

use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Request, Streaming};

use super::{
    Error, Token,
    cache::MARGIN,
    duration,
    flight::Shared,
    life::BrokerTime,
    retry::Pauses,
    token::{Key, TokenOptions},
};
use crate::pb::v1::{
    Access, ErrorReason, WatchTokenRequest, WatchTokenResponse,
    token_service_client::TokenServiceClient,
};

/// Tokens of one organization for one API, one after the other, each before the one before it ends:
/// what [`Client::watch`](super::Client::watch) returns.
///
/// A stream that breaks off is opened again, as often as it takes while the last token is valid, and
/// otherwise for as long as a call may take. Dropping the watch closes it.
pub struct Watch {
    shared: Arc<Shared>,
    key: Key,
    options: TokenOptions,
    /// The last one that was yielded.
    token: Option<Arc<Token>>,
    state: State,
    pauses: Pauses,
    /// Since the last token: until when a broker that cannot be reached is borne with although there
    /// is no valid token.
    patience: Option<Instant>,
}

enum State {
    /// To be opened, then.
    Closed(Instant),
    Open {
        stream: Box<Streaming<WatchTokenResponse>>,
        broker: BrokerTime,
        epoch: u64,
        /// When a token must have come, or else the stream hangs.
        give_up: Instant,
    },
    Ended,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>, key: Key, options: TokenOptions) -> Self {
        Self {
            shared,
            key,
            options,
            token: None,
            state: State::Closed(Instant::now()),
            pauses: Pauses::new(),
            patience: None,
        }
    }

    /// Waits for the next token: the first one comes at once, each further one when it is time to
    /// use it. `None` after the error that the watch ended with. May be dropped and called again
    /// without losing anything.
    ///
    /// # Errors
    ///
    /// The last item is the error that there is no next token for: the reasons of
    /// [`Client::token`](super::Client::token), and [`Origin::Connection`](super::Origin::Connection)
    /// if the broker could not be reached until the last token had ended.
    pub async fn next(&mut self) -> Option<Result<Arc<Token>, Error>> {
        loop {
            let received = match &mut self.state {
                State::Ended => return None,
                State::Closed(until) => {
                    sleep_until(*until).await;
                    self.open().await
                }
                State::Open { .. } => self.receive().await,
            };
            match received {
                Ok(Some(token)) => return Some(Ok(token)),
                Ok(None) => {}
                Err(error) => {
                    if let Some(error) = self.lost(error) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    /// The last token that came, if it has not ended.
    #[must_use]
    pub fn current(&self) -> Option<&Arc<Token>> {
        self.token
            .as_ref()
            .filter(|token| !token.remaining().is_zero())
    }

    async fn open(&mut self) -> Result<Option<Arc<Token>>, Error> {
        let message = WatchTokenRequest {
            organization_id: self.key.organization_id.clone(),
            resource: self.key.resource.into(),
            sharepoint_host: self.key.sharepoint_host.clone(),
            min_remaining: self.options.min_remaining.map(duration),
            purpose: self.options.purpose.into(),
            job_id: self.options.job_id.clone().unwrap_or_default(),
            access: Access::Application.into(),
        };
        let connection = &self.shared.connection;
        let mut service = TokenServiceClient::new(connection.channel.clone());
        let epoch = self.shared.epoch(&self.key);
        let sent = Instant::now();
        // The stream itself may last; only its opening has a limit.
        let opened = timeout_at(
            sent + connection.timeout,
            service.watch_token(Request::new(message)),
        );
        let response = opened.await.map_err(|_| Error::out_of_time())??;
        let broker = BrokerTime::of(self.shared.clock, sent, response.metadata());
        self.state = State::Open {
            stream: Box::new(response.into_inner()),
            broker,
            epoch,
            give_up: Instant::now() + connection.timeout,
        };
        Ok(None)
    }

    /// The next token of the open stream; `None` if it is one that has been yielded already.
    async fn receive(&mut self) -> Result<Option<Arc<Token>>, Error> {
        let State::Open {
            stream,
            broker,
            epoch,
            give_up,
        } = &mut self.state
        else {
            return Ok(None);
        };
        let message = timeout_at(*give_up, stream.message()).await;
        let Some(message) = message.map_err(|_| Error::out_of_time())?? else {
            return Err(Error::ended_stream());
        };
        let message = message.token;
        let message = message.ok_or_else(|| Error::incomplete_answer("token"))?;
        let token = Arc::new(Token::from_response(self.key.clone(), message, broker)?);
        *give_up = token.life.expires_at;
        let asked = self.options.min_remaining.unwrap_or(MARGIN);
        self.shared.keep(&token, asked, *epoch);
        *epoch = self.shared.epoch(&self.key);
        self.patience = None;
        let known = self.token.replace(Arc::clone(&token));
        if known.is_some_and(|known| known.fingerprint == token.fingerprint) {
            // From a stream that was opened again.
            return Ok(None);
        }
        self.pauses = Pauses::new();
        Ok(Some(token))
    }

    /// Goes on after an error, or ends with it.
    fn lost(&mut self, error: Error) -> Option<Error> {
        let now = Instant::now();
        let pause = match error.reason() {
            // There may be another replica: no need to wait until this one is back.
            Some(ErrorReason::ShuttingDown) => Some(self.pauses.after_loss()),
            _ => self.pauses.after(&error),
        };
        let patience = self.shared.patience(&self.options);
        let patience = *self.patience.get_or_insert(now + patience);
        let can_wait = self.current().is_some() || now < patience;
        match pause.filter(|_| can_wait) {
            Some(pause) => {
                self.state = State::Closed(now + pause);
                None
            }
            None => {
                if error.is_withdrawal() {
                    self.shared.withdraw(&self.key, &error);
                    self.token = None;
                }
                self.state = State::Ended;
                Some(error)
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("key", &self.key)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}
