//! Suspending an organization, and having it go on.

use super::{Error, Mode, Registrar, Request};
use crate::{
    organization::{Organization, OrganizationId, State},
    token::Token,
    vault::{self, RequestMark},
};

/// Whether a credential that lay idle must get a token before its organization goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It must.
    Required,
    /// The first caller will see.
    Waived,
}

impl Registrar {
    /// Suspends an organization. Once this returns, no token of it leaves the broker: the cache has none, no
    /// flight under way will bring one, and no call has one in its hands.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn suspend(
        &self,
        id: OrganizationId,
        revision: u64,
        reason: String,
        request: Request,
    ) -> Result<Organization, Error> {
        let (this, told, named) = (self.clone(), request.clone(), id.clone());
        let change = async move {
            this.suspend_and_forget(&id, revision, reason, request.mark)
                .await
        };
        self.run("suspend", named, told, change).await
    }

    /// Ends the suspension of an organization. Who asks for a token once this has returned gets one, as
    /// far as Entra gives any.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub async fn resume(
        &self,
        id: OrganizationId,
        revision: u64,
        proof: Proof,
        request: Request,
    ) -> Result<Organization, Error> {
        let (this, told, named) = (self.clone(), request.clone(), id.clone());
        let change = async move {
            this.prove_and_resume(&id, revision, proof, request.mark)
                .await
        };
        self.run("resume", named, told, change).await
    }

    async fn suspend_and_forget(
        &self,
        id: &OrganizationId,
        revision: u64,
        reason: String,
        mark: RequestMark,
    ) -> Result<Organization, Error> {
        let stored = match self.vault.replay(id, &mark).await? {
            Some(organization) => Ok(organization),
            None => {
                let (again, now) = (mark.clone(), self.now());
                self.vault.suspend(id, revision, reason, again, now).await
            }
        };
        // Whatever came of it: the store may have failed after the change, and where the same request was
        // quicker, this one may answer first. Tokens that are still good can be had again.
        self.take_back(id).await?;
        self.unless_repeated(id, &mark, stored).await
    }

    async fn prove_and_resume(
        &self,
        id: &OrganizationId,
        revision: u64,
        proof: Proof,
        mark: RequestMark,
    ) -> Result<Organization, Error> {
        if let Some(organization) = self.vault.replay(id, &mark).await? {
            // The first attempt may be about to.
            self.tokens.resume(id);
            return Ok(organization);
        }
        let token = match proof {
            Proof::Required => Some(self.prove_stored(id, revision).await?),
            Proof::Waived => None,
        };
        let landing = self.tokens.landing(id);
        let stored = self.vault.resume(id, revision, mark.clone(), self.now());
        let organization = self.unless_repeated(id, &mark, stored.await).await?;
        if let Some(token) = token {
            self.keep(&landing, &organization, token);
        }
        // Flights under way may have found it suspended.
        self.tokens.resume(id);
        Ok(organization)
    }

    /// Gets a token with the credential that is stored, if a resumption of this revision would be allowed.
    async fn prove_stored(&self, id: &OrganizationId, revision: u64) -> Result<Token, Error> {
        let organization = self.current(id, revision).await?;
        if !matches!(organization.state, State::Suspended(_)) {
            return Err(vault::Error::NotSuspended.into());
        }
        let application = self.vault.application(id).await?;
        let application = application.ok_or(vault::Error::NotFound)?;
        // Rotated since, or revoked: then the revision is another one, too.
        let changed = vault::Error::RevisionConflict {
            current: application.organization.revision,
        };
        let credential = application.credential.ok_or(changed)?;
        self.prove(&application.organization, &credential, Mode::Store)
            .await
    }
}
