//! The token that a server is asked with: from a file, which another program may renew, or from a
//! login with a Kubernetes service account; renewed while it lives.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    Error,
    http::Http,
    wire::{self, Life},
};
use crate::{config::TransitConfig, private_file, secret::AccessToken};

/// Longest file with a token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How soon after another a token is asked for because the last one is refused.
const PAUSE: Duration = Duration::from_secs(5);

/// Gets tokens, and keeps the last one.
pub(super) struct Login {
    http: Arc<Http>,
    source: Source,
    held: std::sync::Mutex<Option<Held>>,
    /// Held by who gets a token: others wait for that one. When one was got last because of a refusal.
    getting: tokio::sync::Mutex<Option<Instant>>,
}

enum Source {
    File(PathBuf),
    Kubernetes {
        role: String,
        mount: String,
        jwt_file: PathBuf,
    },
}

#[derive(Clone)]
struct Held {
    token: Arc<AccessToken>,
    /// How long it lived when it was got; `None` if it does not end, or nobody tells.
    first: Option<Duration>,
    /// When half of its life is over.
    due: Option<Instant>,
    renewable: bool,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    /// Nothing is read or sent yet.
    pub(super) fn new(http: Arc<Http>, config: &TransitConfig) -> Result<Self, Error> {
        let source = match (&config.token_file, &config.kubernetes) {
            (Some(file), None) => Source::File(file.clone()),
            (None, Some(login)) => Source::Kubernetes {
                role: login.role.clone(),
                mount: login.mount.clone(),
                jwt_file: login.jwt_file.clone(),
            },
            _ => {
                return Err(http.unusable(
                    "one of kek.transit.token_file and [kek.transit.kubernetes] is needed, and not both",
                ));
            }
        };
        Ok(Self {
            http,
            source,
            held: std::sync::Mutex::default(),
            getting: tokio::sync::Mutex::default(),
        })
    }

    /// The token to ask with.
    pub(super) async fn token(&self) -> Result<Arc<AccessToken>, Error> {
        if let Some(held) = self.held() {
            return Ok(held.token);
        }
        let _getting = self.getting.lock().await;
        match self.held() {
            Some(held) => Ok(held.token),
            None => self.get().await,
        }
    }

    /// Another token than one that was refused; an error if there is none.
    pub(super) async fn instead_of(
        &self,
        refused: &Arc<AccessToken>,
    ) -> Result<Arc<AccessToken>, Error> {
        let mut last = self.getting.lock().await;
        let held = self.held().map(|held| held.token);
        if let Some(other) = held.filter(|held| !Arc::ptr_eq(held, refused)) {
            return Ok(other);
        }
        // However many are refused at once, and in a row.
        if last.is_some_and(|last| last.elapsed() < PAUSE) {
            return Err(self.refused());
        }
        *last = Some(Instant::now());
        let token = self.get().await?;
        if same(&token, refused) {
            return Err(self.refused());
        }
        Ok(token)
    }

    /// When [`Self::keep`] has something to renew.
    pub(super) fn due(&self) -> Option<Instant> {
        self.held()?.due
    }

    /// Takes a token that was put into the file, and renews what has lived for half of its life.
    pub(super) async fn keep(&self) -> Result<(), Error> {
        let _getting = self.getting.lock().await;
        let Some(held) = self.held() else {
            return self.get().await.map(|_| ());
        };
        if let Source::File(file) = &self.source
            && !same(&read_token(file).await?, &held.token)
        {
            self.get().await?;
            tracing::info!(file = %file.display(), "another token is in the file by now");
            return Ok(());
        }
        if held.due.is_none_or(|due| Instant::now() < due) {
            return Ok(());
        }
        let renewed = if held.renewable {
            self.renew(&held).await?
        } else {
            None
        };
        // Close to the end that no renewal moves, each renewal gives less.
        let enough = renewed.is_some_and(|life| {
            held.first
                .is_none_or(|first| Duration::from_secs(life.seconds) >= first / 2)
        });
        if let Some(life) = renewed {
            self.hold(Held::new(held.token, life, held.first));
        }
        match &self.source {
            _ if enough => Ok(()),
            Source::Kubernetes { .. } => self.get().await.map(|_| ()),
            Source::File(file) => Err(Error::File {
                file: file.clone(),
                reason: "the token ends soon and cannot be renewed; put another one there".into(),
            }),
        }
    }

    /// How long the token lives from now on, `None` if it is not renewed.
    async fn renew(&self, held: &Held) -> Result<Option<Life>, Error> {
        let path = ["auth/token", "renew-self"];
        let body = Some(wire::nothing());
        let answer = self.http.send(&path, Some(&held.token), body).await?;
        Ok(wire::renewed(&answer.body).filter(|_| answer.status == 200))
    }

    /// Gets a token from where they come from, and keeps it.
    async fn get(&self) -> Result<Arc<AccessToken>, Error> {
        let held = match &self.source {
            Source::File(file) => {
                let token = Arc::new(read_token(file).await?);
                let life = self.look_up(&token).await?;
                Held::new(token, life, None)
            }
            Source::Kubernetes {
                role,
                mount,
                jwt_file,
            } => {
                let jwt = read(jwt_file, private_file::read_shared).await?;
                let body = wire::kubernetes_login(role, text(jwt_file, &jwt)?);
                let path = ["auth", mount, "login"];
                let answer = self.http.send(&path, None, Some(body)).await?;
                let (token, life) = wire::token(&answer.body)
                    .filter(|_| answer.status == 200)
                    .ok_or_else(|| self.no_login(answer.status))?;
                Held::new(Arc::new(token), life, None)
            }
        };
        let token = held.token.clone();
        self.hold(held);
        Ok(token)
    }

    /// How long a token lives. One that may not ask, or is none, is found out by what it may do.
    async fn look_up(&self, token: &AccessToken) -> Result<Life, Error> {
        let path = ["auth/token", "lookup-self"];
        let answer = self.http.send(&path, Some(token), None).await?;
        Ok(wire::looked_up(&answer.body).unwrap_or(Life {
            seconds: 0,
            renewable: false,
        }))
    }

    fn held(&self) -> Option<Held> {
        // Nothing panics while it holds the lock, and what is in it is whole at any time.
        let held = self.held.lock();
        held.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, held: Held) {
        let slot = self.held.lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    fn refused(&self) -> Error {
        self.http.unavailable(match &self.source {
            Source::File(file) => format!(
                "permission denied: the token in {} has ended, or its policy does not allow to use the key",
                file.display()
            ),
            Source::Kubernetes { role, .. } => {
                format!("permission denied: the policies of the role {role} do not allow to use the key")
            }
        })
    }

    fn no_login(&self, status: u16) -> Error {
        let Source::Kubernetes { role, mount, .. } = &self.source else {
            return self.refused();
        };
        self.http.unavailable(format!(
            "the login at auth/{mount} as {role} is refused (HTTP {status}); check the role, and the service account it is bound to"
        ))
    }
}

impl Held {
    /// From now on.
    fn new(token: Arc<AccessToken>, life: Life, first: Option<Duration>) -> Self {
        let lives = Duration::from_secs(life.seconds);
        let ends = !lives.is_zero();
        Self {
            token,
            first: first.or(ends.then_some(lives)),
            due: ends.then(|| Instant::now() + lives / 2),
            renewable: life.renewable,
        }
    }
}

/// Not in constant time: who compares them has both.
fn same(one: &AccessToken, other: &AccessToken) -> bool {
    // Exposed: compared, to tell whether the file holds another one.
    one.expose() == other.expose()
}

async fn read_token(file: &Path) -> Result<AccessToken, Error> {
    let content = read(file, private_file::read).await?;
    Ok(AccessToken::new(text(file, &content)?.to_owned()))
}

type Read = fn(&Path, usize) -> std::io::Result<Zeroizing<Vec<u8>>>;

async fn read(file: &Path, how: Read) -> Result<Zeroizing<Vec<u8>>, Error> {
    let path = file.to_owned();
    // A mount that hangs must not hang what else goes on.
    let content = tokio::task::spawn_blocking(move || how(&path, TOKEN_BYTES_MAX)).await;
    let content = content.map_err(|_| Error::CryptoFailed)?;
    content.map_err(|error| Error::File {
        file: file.to_owned(),
        reason: error.to_string(),
    })
}

/// The one word that the file holds.
fn text<'a>(file: &Path, content: &'a [u8]) -> Result<&'a str, Error> {
    let word = content.trim_ascii();
    let fits = !word.is_empty() && word.iter().all(u8::is_ascii_graphic);
    let word = str::from_utf8(word).ok().filter(|_| fits);
    word.ok_or_else(|| Error::File {
        file: file.to_owned(),
        reason: "must hold a token, and nothing else".into(),
    })
}
