//! What the stand-in knows: tenants, their applications and the credentials of these. All of it
//! can be changed while the simulator runs; the next request sees the change.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use super::{certificate::Certificate, lock, resource::Resource};
use crate::secret::ClientSecret;

/// All tenants.
#[derive(Debug, Default)]
pub struct Directory {
    /// A std mutex, because no request holds it over an await.
    tenants: Mutex<BTreeMap<Uuid, Tenant>>,
}

/// One Entra tenant.
#[derive(Debug)]
pub struct Tenant {
    /// The tenant's GUID.
    pub id: Uuid,
    /// Verified domains; each may stand for the GUID in a path.
    pub domains: Vec<String>,
    /// Root hosts of SharePoint, the primary location's first. Empty if not licensed.
    pub sharepoint_hosts: Vec<String>,
    /// The life of an access token is drawn from this range.
    pub token_lifetime: RangeInclusive<Duration>,
    /// After what time a token is to be renewed: `refresh_in` of the answer, as Entra sends it with
    /// long-lived tokens. `None` sends none.
    pub refresh_after: Option<Duration>,
    /// Graph answers tokens issued before this moment with 401 and a claims challenge, as continuous
    /// access evaluation does once the application was disabled or is at risk.
    pub tokens_valid_from: Option<SystemTime>,
    /// Resources without a service principal in the tenant, such as an unlicensed Exchange.
    pub missing_resources: BTreeSet<Resource>,
    applications: BTreeMap<Uuid, Application>,
}

/// One application with its service principal in the tenant.
#[derive(Debug)]
pub struct Application {
    /// The application (client) GUID.
    pub client_id: Uuid,
    /// The object id of the service principal, `oid` of its tokens.
    pub service_principal_id: Uuid,
    /// Its secrets; any of them authenticates.
    pub secrets: Vec<Secret>,
    /// Its certificates; any of them authenticates.
    pub certificates: Vec<Certificate>,
    /// Permissions by resource, where they differ from [`Resource::default_roles`].
    pub roles: BTreeMap<Resource, Vec<String>>,
    /// Whether it gets tokens at all.
    pub standing: Standing,
}

/// Whether an application gets tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// It gets tokens.
    #[default]
    Active,
    /// An administrator disabled it, AADSTS7000112.
    Disabled,
    /// A Conditional Access policy blocks it, AADSTS53003.
    Blocked,
}

/// A client secret as the directory stores it.
#[derive(Debug)]
pub struct Secret {
    value: ClientSecret,
    /// From when on the token endpoint knows it. Until then it is answered like a wrong one, as
    /// happens for seconds after its creation.
    pub usable_from: Option<SystemTime>,
    /// From when on it is expired.
    pub expires_at: Option<SystemTime>,
}

// === impl Directory ===

impl Directory {
    /// Adds a tenant, or puts it in the place of the one with the same GUID.
    pub fn add_tenant(&self, tenant: Tenant) {
        lock(&self.tenants).insert(tenant.id, tenant);
    }

    /// Removes a tenant, and says whether it was there.
    pub fn remove_tenant(&self, tenant: Uuid) -> bool {
        lock(&self.tenants).remove(&tenant).is_some()
    }

    /// Changes a tenant at one go, or gives `None` if there is none. Requests wait meanwhile, and
    /// so would the change if it used the directory itself.
    pub fn change_tenant<T>(
        &self,
        tenant: Uuid,
        change: impl FnOnce(&mut Tenant) -> T,
    ) -> Option<T> {
        lock(&self.tenants).get_mut(&tenant).map(change)
    }

    /// Changes an application at one go, or gives `None` if there is none.
    pub fn change_application<T>(
        &self,
        tenant: Uuid,
        client_id: Uuid,
        change: impl FnOnce(&mut Application) -> T,
    ) -> Option<T> {
        self.change_tenant(tenant, |tenant| {
            tenant.applications.get_mut(&client_id).map(change)
        })?
    }

    /// The tenant that a GUID or a verified domain names.
    pub(super) fn resolve(&self, name: &str) -> Option<Uuid> {
        let tenants = lock(&self.tenants);
        match Uuid::try_parse(name) {
            Ok(id) => tenants.contains_key(&id).then_some(id),
            Err(_) => tenants
                .values()
                .find(|tenant| tenant.has_domain(name))
                .map(|tenant| tenant.id),
        }
    }

    /// Reads a tenant, or gives `None` if there is none.
    pub(super) fn read<T>(&self, tenant: Uuid, read: impl FnOnce(&Tenant) -> T) -> Option<T> {
        lock(&self.tenants).get(&tenant).map(read)
    }
}

// === impl Tenant ===

impl Tenant {
    /// Entra draws the life of a token from 60 to 90 minutes so that renewals spread.
    pub const DEFAULT_TOKEN_LIFETIME: RangeInclusive<Duration> =
        Duration::from_secs(60 * 60)..=Duration::from_secs(90 * 60);

    /// A tenant called `name`, with `{name}.onmicrosoft.com`, `{name}.sharepoint.com` and no
    /// application.
    #[must_use]
    pub fn new(id: Uuid, name: &str) -> Self {
        Self {
            id,
            domains: vec![format!("{name}.onmicrosoft.com")],
            sharepoint_hosts: vec![format!("{name}.sharepoint.com")],
            token_lifetime: Self::DEFAULT_TOKEN_LIFETIME,
            refresh_after: None,
            tokens_valid_from: None,
            missing_resources: BTreeSet::new(),
            applications: BTreeMap::new(),
        }
    }

    /// The same tenant with one application more.
    #[must_use]
    pub fn with(mut self, application: Application) -> Self {
        self.add_application(application);
        self
    }

    /// Adds an application, or puts it in the place of the one with the same client id.
    pub fn add_application(&mut self, application: Application) {
        self.applications.insert(application.client_id, application);
    }

    /// Removes an application, and says whether it was there.
    pub fn remove_application(&mut self, client_id: Uuid) -> bool {
        self.applications.remove(&client_id).is_some()
    }

    pub(super) fn application(&self, client_id: Uuid) -> Option<&Application> {
        self.applications.get(&client_id)
    }

    /// The resource that an identifier URI names, unless it is missing in this tenant.
    pub(super) fn resource(&self, identifier: &str) -> Option<Resource> {
        Resource::of_identifier(identifier, &self.sharepoint_hosts)
            .filter(|resource| !self.missing_resources.contains(resource))
    }

    /// What Entra calls the tenant in its messages.
    pub(super) fn display_name(&self) -> String {
        let domain = self.domains.first();
        domain.map_or_else(|| self.id.to_string(), Clone::clone)
    }

    /// Draws the life of a new token.
    pub(super) fn draw_token_lifetime(&self) -> Duration {
        let (shortest, longest) = (self.token_lifetime.start(), self.token_lifetime.end());
        let spread = u128::from(longest.saturating_sub(*shortest).as_secs()) + 1;
        // A random UUID is enough chance to spread lifetimes.
        let drawn = u64::try_from(Uuid::new_v4().as_u128() % spread).unwrap_or_default();
        *shortest + Duration::from_secs(drawn)
    }

    fn has_domain(&self, name: &str) -> bool {
        self.domains
            .iter()
            .any(|domain| domain.eq_ignore_ascii_case(name))
    }
}

// === impl Application ===

impl Application {
    /// An active application without credentials and with the setup guide's permissions.
    #[must_use]
    pub fn new(client_id: Uuid) -> Self {
        Self {
            client_id,
            service_principal_id: Uuid::new_v4(),
            secrets: Vec::new(),
            certificates: Vec::new(),
            roles: BTreeMap::new(),
            standing: Standing::Active,
        }
    }

    /// The same application with one secret more, usable at once and without end.
    #[must_use]
    pub fn with_secret(mut self, value: &str) -> Self {
        self.secrets.push(Secret::new(value));
        self
    }

    /// The same application with one certificate more.
    #[must_use]
    pub fn with_certificate(mut self, certificate: Certificate) -> Self {
        self.certificates.push(certificate);
        self
    }

    pub(super) fn roles(&self, resource: Resource) -> Vec<String> {
        self.roles.get(&resource).cloned().unwrap_or_else(|| {
            let roles = resource.default_roles().iter();
            roles.map(ToString::to_string).collect()
        })
    }
}

// === impl Secret ===

impl Secret {
    /// A secret that is usable at once and does not end.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self {
            value: ClientSecret::new(value.into()),
            usable_from: None,
            expires_at: None,
        }
    }

    /// The same secret, known to the token endpoint only from `time` on.
    #[must_use]
    pub fn usable_from(mut self, time: SystemTime) -> Self {
        self.usable_from = Some(time);
        self
    }

    /// The same secret with an end.
    #[must_use]
    pub fn expiring_at(mut self, time: SystemTime) -> Self {
        self.expires_at = Some(time);
        self
    }

    /// Whether `value` is this secret and has reached the token endpoint.
    pub(super) fn matches(&self, value: &ClientSecret, now: SystemTime) -> bool {
        // Exposed to compare it with what a client sent, the purpose of a stored secret.
        self.usable_from.is_none_or(|from| from <= now) && self.value.expose() == value.expose()
    }

    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_found_by_guid_and_by_domain() {
        let directory = Directory::default();
        let id = Uuid::new_v4();
        directory.add_tenant(Tenant::new(id, "contoso"));
        assert_eq!(directory.resolve(&id.to_string()), Some(id));
        assert_eq!(directory.resolve(&id.to_string().to_uppercase()), Some(id));
        assert_eq!(directory.resolve("Contoso.onmicrosoft.com"), Some(id));
        assert_eq!(directory.resolve("fabrikam.onmicrosoft.com"), None);
        assert_eq!(directory.resolve(&Uuid::new_v4().to_string()), None);
    }

    #[test]
    fn a_secret_matches_only_once_it_has_spread() {
        let now = crate::clock::Clock::system().now();
        let sent = ClientSecret::new("value".into());
        let later = now + Duration::from_secs(10);
        let secret = Secret::new("value").usable_from(later);
        assert!(!secret.matches(&sent, now));
        assert!(secret.matches(&sent, later));
        assert!(!Secret::new("other").matches(&sent, now));
    }

    #[test]
    fn a_lifetime_stays_within_its_range() {
        let mut tenant = Tenant::new(Uuid::new_v4(), "contoso");
        for _ in 0..100 {
            let drawn = tenant.draw_token_lifetime();
            assert!(Tenant::DEFAULT_TOKEN_LIFETIME.contains(&drawn));
        }
        let exact = Duration::from_secs(600);
        tenant.token_lifetime = exact..=exact;
        assert_eq!(tenant.draw_token_lifetime(), exact);
    }

    #[test]
    fn roles_are_the_setup_guides_unless_set() {
        let mut application = Application::new(Uuid::new_v4());
        assert_eq!(
            application.roles(Resource::Exchange),
            ["full_access_as_app"]
        );
        application.roles.insert(Resource::Exchange, Vec::new());
        assert!(application.roles(Resource::Exchange).is_empty());
    }
}
