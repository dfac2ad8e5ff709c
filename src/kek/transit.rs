//! A KEK in the Transit engine of OpenBao or Vault, which never leaves that server.
//!
//! A wrapped key is the ciphertext that the engine gives (`vault:vN:…`). It is bound to a digest of
//! the associated data; where the key is a derived one, by the context, too. The KEK's id names one
//! version of one key, see `transit/versions.rs`.
//!
//! What the token must be allowed: `read` on `<mount>/keys/<key>`, `update` on
//! `<mount>/encrypt/<key>` and `<mount>/decrypt/<key>`. `create` on the latter two would let a key
//! that is missing be made by accident.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use aws_lc_rs::{digest, rand};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    sync::Mutex,
    time::{Duration, Instant, sleep_until},
};

use super::{Error, KekId, KeyProvider, key_from_base64};
use crate::{config::TransitConfig, sealed, secret::SymmetricKey};

mod http;
mod login;
mod versions;
mod wire;

use http::{Answer, Body, Http};
use login::Login;
use versions::Versions;

/// How soon after another the key's versions are asked for because of a KEK that is not known.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);
/// How soon after another the outside is looked at, whatever is due.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

/// A key of a Transit engine.
#[derive(Debug)]
pub struct Transit {
    http: Arc<Http>,
    login: Login,
    config: TransitConfig,
    versions: RwLock<Arc<Versions>>,
    /// When they were asked for last.
    refreshed: Mutex<Instant>,
}

impl Transit {
    /// Logs in, learns the key's versions, and proves that it wraps, unwraps and binds.
    ///
    /// # Errors
    /// [`Error::File`] for a file of the configuration, [`Error::Unavailable`], and
    /// [`Error::Unusable`] if what is configured is not there or does not suffice.
    pub async fn open(config: &TransitConfig) -> Result<Self, Error> {
        let http = Arc::new(Http::new(config)?);
        let login = Login::new(http.clone(), config)?;
        let transit = Self {
            http,
            login,
            config: config.clone(),
            versions: RwLock::default(),
            refreshed: Mutex::new(Instant::now()),
        };
        transit.refresh().await?;
        transit.prove().await?;
        Ok(transit)
    }

    /// What may not be so, and would only show when it is too late.
    async fn prove(&self) -> Result<(), Error> {
        let dek = sealed::random_key().ok_or(Error::CryptoFailed)?;
        let mut aad = [0; 16];
        rand::fill(&mut aad).map_err(|_| Error::CryptoFailed)?;
        let kek_id = self.current();
        let wrapped = self.wrap_dek(&kek_id, &dek, &aad).await?;
        let opened = self.unwrap_dek(&kek_id, &wrapped, &aad).await?;
        // Exposed: compared with what it was.
        if opened.expose() != dek.expose() {
            return Err(self
                .http
                .unusable("it does not decrypt what it has encrypted"));
        }
        match self.unwrap_dek(&kek_id, &wrapped, b"elsewhere").await {
            Err(Error::DoesNotOpen) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(self.http.unusable(
                "it does not heed `associated_data`; Vault does since 1.9, OpenBao always has",
            )),
        }
    }

    fn versions(&self) -> Arc<Versions> {
        // Nothing panics while it holds the lock, and what is in it is whole at any time.
        let versions = self.versions.read();
        versions.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for the key's versions.
    async fn refresh(&self) -> Result<(), Error> {
        let answer = self.ask("keys", None).await?;
        if answer.status != 200 {
            return Err(self.refused("tell about", &answer));
        }
        let versions = Versions::of(&self.config, &answer.body);
        let versions = Arc::new(versions.map_err(|reason| self.http.unusable(&reason))?);
        let mut known = self
            .versions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if known.current() != versions.current() {
            let current = versions.current().map(|id| id.to_string());
            tracing::info!(current, kek = %self.http.kek, "this is the KEK by now");
        }
        *known = versions;
        Ok(())
    }

    /// Asks for them unless that was done just now, however many want it.
    async fn refresh_seldom(&self) -> Result<(), Error> {
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.elapsed() < REFRESH_PAUSE {
            return Ok(());
        }
        *refreshed = Instant::now();
        self.refresh().await
    }

    /// The version that an id stands for. One that is not known may be newer than what is.
    async fn version(&self, kek_id: &KekId) -> Result<u32, Error> {
        if let Some(version) = self.versions().version(kek_id) {
            return Ok(version);
        }
        if Versions::may_name(kek_id) {
            self.refresh_seldom().await?;
        }
        let version = self.versions().version(kek_id);
        version.ok_or_else(|| Error::UnknownKek(kek_id.clone()))
    }

    /// Sends a request about the key. Should the token be refused, once more with another, if there
    /// is one.
    async fn ask(&self, what: &str, body: Option<Body>) -> Result<Answer, Error> {
        let path = [&self.config.mount, what, &self.config.key];
        let token = self.login.token().await?;
        let answer = self.http.send(&path, Some(&token), body.clone()).await?;
        if answer.status != 403 {
            return Ok(answer);
        }
        let token = self.login.instead_of(&token).await?;
        let answer = self.http.send(&path, Some(&token), body).await?;
        if answer.status == 403 {
            return Err(self.http.denied(&path));
        }
        Ok(answer)
    }

    /// Why a request was refused that nothing is known to be wrong with.
    fn refused(&self, what: &str, answer: &Answer) -> Error {
        if answer.status == 404 || answer.says("key not found") {
            return self.http.unusable("there is no such key");
        }
        if answer.says("soft-deleted") {
            let reason = "the key is soft-deleted; restore it".to_owned();
            return self.http.unavailable(reason);
        }
        let status = answer.status;
        self.http
            .unusable(&format!("it refuses to {what} it (HTTP {status})"))
    }

    /// Renews access, and learns the key's versions.
    async fn keep_up(&self) -> Result<(), Error> {
        let kept = self.login.keep().await;
        // The token that is at hand may serve still.
        self.refresh().await?;
        kept
    }
}

#[async_trait]
impl KeyProvider for Transit {
    fn current(&self) -> KekId {
        let current = self.versions().current();
        current.expect("they are known once it is open")
    }

    fn opens(&self, kek_id: &KekId) -> bool {
        self.versions().version(kek_id).is_some()
    }

    async fn wrap_dek(
        &self,
        kek_id: &KekId,
        dek: &SymmetricKey,
        aad: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let version = self.version(kek_id).await?;
        let derived = self.versions().derived;
        let body = wire::encryption(version, dek, &bound_to(aad), derived);
        let answer = self.ask("encrypt", Some(body)).await?;
        if answer.status == 400 && answer.says("minimum encryption") {
            // Rotated, and its least version for encryption raised, since we asked.
            self.refresh_seldom().await?;
            let reason = format!("its version {version} may not encrypt any more");
            return Err(self.http.unavailable(reason));
        }
        if answer.status != 200 {
            return Err(self.refused("encrypt with", &answer));
        }
        let ciphertext = wire::ciphertext(&answer.body)
            .filter(|ciphertext| versions::of_ciphertext(ciphertext.as_bytes()) == Some(version));
        ciphertext.map(String::into_bytes).ok_or_else(|| {
            self.http
                .unusable("it answers with no ciphertext of that version")
        })
    }

    async fn unwrap_dek(
        &self,
        kek_id: &KekId,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<SymmetricKey, Error> {
        let version = self.version(kek_id).await?;
        if versions::of_ciphertext(wrapped) != Some(version) {
            return Err(Error::DoesNotOpen);
        }
        let ciphertext = str::from_utf8(wrapped).map_err(|_| Error::DoesNotOpen)?;
        let derived = self.versions().derived;
        let body = wire::decryption(ciphertext, &bound_to(aad), derived);
        let answer = self.ask("decrypt", Some(body)).await?;
        match answer.status {
            200 => {
                let key = wire::plaintext(&answer.body);
                let key = key.and_then(|base64| key_from_base64(base64.as_bytes()));
                key.ok_or_else(|| self.http.unusable("it answers with no key"))
            }
            400 if answer.says("authentication failed") || answer.says("invalid ciphertext") => {
                Err(Error::DoesNotOpen)
            }
            // Its least version for decryption was raised since we asked.
            400 if answer.says("too old") => Err(Error::UnknownKek(kek_id.clone())),
            _ => Err(self.refused("decrypt with", &answer)),
        }
    }

    async fn follow(&self) {
        let interval = self.config.refresh_interval();
        let mut told = None;
        loop {
            let now = Instant::now();
            let due = self.login.due().unwrap_or(now + interval);
            sleep_until(due.clamp(now + FOLLOW_PAUSE, now + interval.max(FOLLOW_PAUSE))).await;
            let trouble = self.keep_up().await.err().map(|error| error.to_string());
            // Each trouble is told once, not with every look; and its end.
            if trouble != told {
                match trouble.as_deref() {
                    Some(error) => tracing::error!(error, "cannot keep up with the KEK"),
                    None => tracing::info!(kek = %self.http.kek, "the KEK can be used again"),
                }
            }
            told = trouble;
        }
    }
}

/// What stands for the associated data at the server: of one length, and telling nothing.
fn bound_to(aad: &[u8]) -> String {
    let mut digest = digest::Context::new(&digest::SHA256);
    digest.update(b"kodo-broker transit\0");
    digest.update(aad);
    BASE64_STANDARD.encode(digest.finish())
}

#[cfg(all(test, feature = "simulator"))]
mod tests;
