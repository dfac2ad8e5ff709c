//! Another name, other labels: nothing is asked of Entra, and tokens stay good.

use super::{Error, Registrar, Request};
use crate::{
    organization::{Organization, OrganizationId},
    vault::Changes,
};

impl Registrar {
    /// Changes what is not about the credential. Once this returns, policies go by the new labels.
    ///
    /// # Errors
    /// [`Error::Vault`]; nothing is changed then, unless it is one of the store.
    pub async fn update(
        &self,
        id: OrganizationId,
        revision: u64,
        changes: Changes,
        request: Request,
    ) -> Result<Organization, Error> {
        let (this, told) = (self.clone(), request.clone());
        let named = id.clone();
        let change = async move {
            let mark = request.mark;
            if let Some(organization) = this.vault.replay(&id, &mark).await? {
                return Ok(organization);
            }
            let (again, now) = (mark.clone(), this.now());
            let stored = this.vault.update(&id, revision, changes, again, now).await;
            this.unless_repeated(&id, &mark, stored).await
        };
        self.run("update", named, told, change).await
    }
}
