//! Registering, rotating, suspending and revoking: every credential is proven by a real token before anything is
//! stored, and every change is forgotten by the token cache before it is answered.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe::SpiffeId;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    clock::Clock,
    credential::{Credential, intake},
    entra::{self, Lane, TokenEndpoint, TokenRequest, Urgency, cloud::Audience},
    organization::{
        ClientId, Cloud, Organization, OrganizationId, Resource, SharePointHost, State, TenantName,
        label::Labels,
    },
    token::{
        Token, TokenKey,
        cache::{Landing, TokenCache},
        delivery::{Deliveries, Stuck},
    },
    vault::{self, NewOrganization, RequestMark, Vault, shred::OldCopies},
};

mod suspension;
mod update;

pub use suspension::Proof;

/// A credential that ends within this time is warned about.
const EXPIRES_SOON: Duration = Duration::from_secs(30 * 24 * 3600);
/// Keys shorter than this are accepted with a warning.
const KEY_BITS_ADVISED: usize = 3072;

/// Changes what the vault holds.
///
/// Each change runs in a task of its own: a caller who goes away, or whose time is up, must not leave
/// a revocation on disk whose tokens are still served.
#[derive(Clone, Debug)]
pub struct Registrar {
    vault: Arc<Vault>,
    entra: Arc<dyn TokenEndpoint>,
    tokens: TokenCache,
    deliveries: Deliveries,
    clock: Clock,
    /// Changes under way, waited for when the broker stops.
    changes: TaskTracker,
    /// Where they run: not on the threads that serve callers.
    runtime: Handle,
}

/// What an operator knows of a new organization.
#[derive(Debug)]
pub struct Registration {
    /// Its id.
    pub id: OrganizationId,
    /// Name for people.
    pub display_name: String,
    /// Its tenant, by id or domain.
    pub tenant: TenantName,
    /// The cloud it is in.
    pub cloud: Cloud,
    /// The application there.
    pub client_id: ClientId,
    /// Its credential.
    pub credential: Credential,
    /// Its SharePoint root host, if the operator knows it.
    pub sharepoint_root_host: Option<SharePointHost>,
    /// Further SharePoint hosts.
    pub sharepoint_hosts: Vec<SharePointHost>,
    /// What its operators group it by.
    pub labels: Labels,
}

/// Who asks for a change, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks.
    pub caller: SpiffeId,
    /// What the request is remembered by.
    pub mark: RequestMark,
    /// Whether to store what was proven.
    pub mode: Mode,
}

/// Whether to store what was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Prove and store.
    Store,
    /// Prove only.
    ValidateOnly,
}

/// What becomes of the tokens that were obtained with a credential that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldTokens {
    /// They are handed out until they end: they are as good as before.
    Serve,
    /// They are handed out no more: the credential has leaked.
    Forget,
}

/// An organization as it is now, and what to know before relying on it.
#[derive(Debug)]
pub struct Changed {
    /// The organization.
    pub organization: Organization,
    /// In no particular order.
    pub warnings: Vec<Warning>,
}

/// Something that was accepted, but will not work as one may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Only a client secret: no SharePoint tokens.
    SharePointNeedsCertificate,
    /// The SharePoint root host could not be found.
    SharePointHostUnknown,
    /// The credential ends soon.
    CredentialExpiresSoon,
    /// Nobody knows when the credential ends.
    CredentialExpiryUnknown,
    /// The key is short.
    KeyShort,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Entra does not accept the credential, or cannot be asked.
    #[error(transparent)]
    Entra(#[from] entra::Error),
    /// The vault refuses, or its store failed: then it is open whether the change was made.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The change was made, and yet a token of before may get out.
    #[error(
        "the change was made, but {0}, so that a token may get out that was found before; ask again"
    )]
    Stuck(#[from] Stuck),
    /// The change ended without an outcome: the broker stops.
    #[error("the change was interrupted; read the organization to see whether it was made")]
    Interrupted,
}

impl Registrar {
    /// A registrar over its parts. Changes run on the runtime that it is made on.
    #[must_use]
    pub fn new(
        vault: Arc<Vault>,
        entra: Arc<dyn TokenEndpoint>,
        tokens: TokenCache,
        deliveries: Deliveries,
        clock: Clock,
        changes: TaskTracker,
    ) -> Self {
        Self {
            vault,
            entra,
            tokens,
            deliveries,
            clock,
            changes,
            runtime: Handle::current(),
        }
    }

    /// The time that credentials are checked against.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Registers an organization.
    ///
    /// # Errors
    /// [`Error`]; nothing is stored then, unless it is one of the store: see [`Error::Vault`].
    pub async fn register(
        &self,
        registration: Registration,
        request: Request,
    ) -> Result<Changed, Error> {
        let (this, id) = (self.clone(), registration.id.clone());
        let told = request.clone();
        let change = async move { this.prove_and_register(registration, request).await };
        self.run("register", id, told, change).await
    }

    /// Replaces the credential of an organization. With [`OldTokens::Forget`], once this returns, the
    /// cache has no token of the old one, and no flight under way will bring one.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn rotate(
        &self,
        id: OrganizationId,
        revision: u64,
        credential: Credential,
        old_tokens: OldTokens,
        request: Request,
    ) -> Result<Changed, Error> {
        let (this, told) = (self.clone(), request.clone());
        let named = id.clone();
        let change = async move {
            this.prove_and_rotate(&id, revision, credential, old_tokens, request)
                .await
        };
        self.run("rotate", named, told, change).await
    }

    /// Revokes an organization. Once this returns, the cache has none of its tokens, and no flight
    /// under way will bring one. With [`OldCopies::Shred`], the KEKs that open older copies of the store
    /// are on the list of those to destroy.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn revoke(
        &self,
        id: OrganizationId,
        revision: u64,
        old_copies: OldCopies,
        request: Request,
    ) -> Result<Organization, Error> {
        let (this, told) = (self.clone(), request.clone());
        let named = id.clone();
        let change = async move {
            this.revoke_and_forget(&id, revision, old_copies, request.mark)
                .await
        };
        self.run("revoke", named, told, change).await
    }

    /// Runs a change to its end, whoever still waits for it, and says in the log who asked for it and
    /// what came of it.
    async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        organization: OrganizationId,
        request: Request,
        change: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let logged = async move {
            let outcome = change.await;
            let (caller, validate_only) = (request.caller, request.mode == Mode::ValidateOnly);
            match &outcome {
                Ok(_) => {
                    tracing::info!(%caller, action, %organization, validate_only, "organization changed");
                }
                Err(error) => {
                    tracing::warn!(%caller, action, %organization, validate_only, %error, "organization not changed");
                }
            }
            outcome
        };
        let outcome = self.changes.spawn_on(logged, &self.runtime).await;
        outcome.unwrap_or(Err(Error::Interrupted))
    }

    async fn prove_and_register(
        &self,
        registration: Registration,
        Request { mark, mode, .. }: Request,
    ) -> Result<Changed, Error> {
        let (id, credential) = (&registration.id, &registration.credential);
        if let Some(done) = self.replayed(id, credential, &mark, mode).await? {
            return Ok(done);
        }
        // Asked before Entra is: an id that is taken needs no proof.
        if self.vault.organization(&registration.id).await?.is_some() {
            return Err(vault::Error::AlreadyExists.into());
        }
        let tenant_id = self
            .entra
            .tenant_id(registration.cloud, &registration.tenant)
            .await?;
        let new = NewOrganization {
            id: registration.id,
            display_name: registration.display_name,
            tenant_id,
            cloud: registration.cloud,
            client_id: registration.client_id,
            sharepoint_root_host: registration.sharepoint_root_host,
            sharepoint_hosts: registration.sharepoint_hosts,
            labels: registration.labels,
        };
        let credential = registration.credential;
        let mut organization = new.registered(&credential, self.now());
        let proof = self.prove(&organization, &credential, mode).await?;
        if organization.sharepoint_root_host.is_none() {
            let host = self
                .entra
                .sharepoint_root_host(
                    organization.principal(),
                    &proof.access_token,
                    &Urgency::new(mode.lane()),
                )
                .await;
            organization.sharepoint_root_host = host.ok();
        }
        let warnings = warnings(&organization, &credential, self.now());
        if mode == Mode::Store {
            let landing = self.tokens.landing(&organization.id);
            let id = organization.id.clone();
            let stored = self.vault.register(organization, credential, mark.clone());
            organization = self.unless_repeated(&id, &mark, stored.await).await?;
            self.keep(&landing, &organization, proof);
        }
        Ok(Changed {
            organization,
            warnings,
        })
    }

    async fn prove_and_rotate(
        &self,
        id: &OrganizationId,
        revision: u64,
        credential: Credential,
        old_tokens: OldTokens,
        Request { mark, mode, .. }: Request,
    ) -> Result<Changed, Error> {
        if let Some(done) = self.replayed(id, &credential, &mark, mode).await? {
            // The first attempt may be about to.
            if old_tokens == OldTokens::Forget {
                self.take_back(id).await?;
            }
            return Ok(done);
        }
        let mut organization = self.current(id, revision).await?;
        let version = organization
            .credential
            .as_ref()
            .map_or(0, |info| info.version)
            + 1;
        organization.credential = Some(credential.info(version));
        let proof = self.prove(&organization, &credential, mode).await?;
        let warnings = warnings(&organization, &credential, self.now());
        if mode == Mode::Store {
            let landing = self.tokens.landing(id);
            let stored = self
                .vault
                .rotate(id, revision, credential, mark.clone(), self.now());
            let stored = stored.await;
            if old_tokens == OldTokens::Forget {
                // Whatever came of it: the store may have failed after the change, and where the same
                // request was quicker, this one may answer first.
                self.take_back(id).await?;
            }
            organization = self.unless_repeated(id, &mark, stored).await?;
            if old_tokens == OldTokens::Serve {
                self.keep(&landing, &organization, proof);
                self.tokens.supersede(id);
            }
        }
        Ok(Changed {
            organization,
            warnings,
        })
    }

    async fn revoke_and_forget(
        &self,
        id: &OrganizationId,
        revision: u64,
        old_copies: OldCopies,
        mark: RequestMark,
    ) -> Result<Organization, Error> {
        let replayed = self.vault.replay(id, &mark).await?;
        let organization = match replayed {
            Some(organization) => organization,
            None => {
                let (vault, again, now) = (&self.vault, mark.clone(), self.now());
                let stored = match old_copies {
                    OldCopies::Leave => vault.revoke(id, revision, again, now).await,
                    OldCopies::Shred => vault.revoke_and_shred(id, revision, again, now).await,
                };
                if matches!(stored, Err(vault::Error::Store(_))) {
                    // It may be revoked by now. Tokens that are still good can be had again.
                    self.tokens.forget(id);
                }
                self.unless_repeated(id, &mark, stored).await?
            }
        };
        self.take_back(id).await?;
        Ok(organization)
    }

    /// Has the cache forget an organization's tokens, and waits until those that calls have in their hands
    /// are out, or cannot get out any more. To be called once no new one can be had.
    async fn take_back(&self, id: &OrganizationId) -> Result<(), Stuck> {
        self.tokens.forget(id);
        self.deliveries.take_back().await
    }

    /// The answer to a request that was carried out before.
    async fn replayed(
        &self,
        id: &OrganizationId,
        credential: &Credential,
        mark: &RequestMark,
        mode: Mode,
    ) -> Result<Option<Changed>, Error> {
        if mode == Mode::ValidateOnly {
            return Ok(None);
        }
        let organization = self.vault.replay(id, mark).await?;
        Ok(organization.map(|organization| Changed {
            warnings: warnings(&organization, credential, self.now()),
            organization,
        }))
    }

    /// The outcome of a change; where it lost against the same request, as when a caller asks again
    /// too early, that one's.
    async fn unless_repeated(
        &self,
        id: &OrganizationId,
        mark: &RequestMark,
        outcome: Result<Organization, vault::Error>,
    ) -> Result<Organization, Error> {
        use vault::Error::{AlreadyExists, NotSuspended, RevisionConflict, Revoked, Suspended};
        match outcome {
            Err(
                lost @ (AlreadyExists
                | RevisionConflict { .. }
                | Revoked(_)
                | Suspended(_)
                | NotSuspended),
            ) => Ok(self.vault.replay(id, mark).await?.ok_or(lost)?),
            outcome => Ok(outcome?),
        }
    }

    /// The organization, if a change of this revision of it would be allowed.
    async fn current(&self, id: &OrganizationId, revision: u64) -> Result<Organization, Error> {
        let organization = self
            .vault
            .organization(id)
            .await?
            .ok_or(vault::Error::NotFound)?;
        if let State::Revoked(at) = organization.state {
            return Err(vault::Error::Revoked(at).into());
        }
        if organization.revision != revision {
            let current = organization.revision;
            return Err(vault::Error::RevisionConflict { current }.into());
        }
        Ok(organization)
    }

    /// Gets a Graph token: every tenant has Graph, and every application may ask for it.
    async fn prove(
        &self,
        organization: &Organization,
        credential: &Credential,
        mode: Mode,
    ) -> Result<Token, Error> {
        let audience = Audience::graph(organization.cloud);
        let request = TokenRequest {
            principal: organization.principal(),
            credential,
            audience: &audience,
            claims: None,
            urgency: &Urgency::new(mode.lane()),
        };
        let asked_at = Instant::now();
        let grant = self.entra.request_token(request).await?;
        let jitter = fastrand::f64();
        Ok(Token::new(grant, asked_at, audience, organization, jitter))
    }

    /// Keeps the token, unless the organization is suspended, or was revoked in between: the answer may
    /// be that to an earlier request.
    fn keep(&self, landing: &Landing, organization: &Organization, proof: Token) {
        if organization.state == State::Active {
            let key = TokenKey {
                organization: organization.id.clone(),
                resource: Resource::Graph,
            };
            self.tokens.publish(landing, &key, proof);
        }
    }
}

impl Mode {
    fn lane(self) -> Lane {
        match self {
            Self::Store => Lane::Caller,
            Self::ValidateOnly => Lane::Probe,
        }
    }
}

fn warnings(organization: &Organization, credential: &Credential, now: SystemTime) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let expires = match credential {
        Credential::ClientSecret { expires, .. } => {
            warnings.push(Warning::SharePointNeedsCertificate);
            *expires
        }
        Credential::Certificate(certificate) => {
            if certificate.key_bits < KEY_BITS_ADVISED.max(intake::KEY_BITS_MIN) {
                warnings.push(Warning::KeyShort);
            }
            if organization.sharepoint_root_host.is_none() {
                warnings.push(Warning::SharePointHostUnknown);
            }
            Some(certificate.expires)
        }
    };
    match expires {
        None => warnings.push(Warning::CredentialExpiryUnknown),
        Some(end) if end <= now + EXPIRES_SOON => warnings.push(Warning::CredentialExpiresSoon),
        Some(_) => {}
    }
    warnings
}
