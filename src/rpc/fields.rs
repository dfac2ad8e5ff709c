//! Takes the fields of a request apart: every one is checked, all that is wrong is told at once, by
//! name and with the remedy.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use prost_types::{FieldMask, Timestamp};
use tonic::Status;
use tonic_types::FieldViolation;

use super::status::fields_invalid;
use crate::{
    entra::claims::ClaimsChallenge,
    hex,
    malformed::Malformed,
    organization::{
        Access, ClientId, Cloud, OrganizationId, Purpose, Resource, SharePointHost, job::JobId,
        label::Labels,
    },
    pb::{admin::v1 as admin, v1},
    token::report::Refused,
};

/// 9999-12-31T23:59:59Z, the last second of a `google.protobuf.Timestamp`.
const LAST_SECOND: i64 = 253_402_300_799;

/// What was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<FieldViolation>);

/// Whether a text may stand for why something is done.
pub(super) fn is_reason(text: &str) -> bool {
    let empty = text.trim().is_empty();
    !empty && text.chars().count() <= 200 && !text.chars().any(char::is_control)
}

impl Fields {
    /// Notes that a field is not what it should be.
    pub(super) fn refuse(&mut self, field: &str, why: &str) {
        self.0.push(FieldViolation::new(field, why));
    }

    /// The value, or a note of why there is none.
    pub(super) fn take<T>(&mut self, field: &str, parsed: Result<T, Malformed>) -> Option<T> {
        parsed
            .map_err(|Malformed(why)| self.refuse(field, why))
            .ok()
    }

    /// The answer to the caller: everything that was noted. Where nothing was, the values are there.
    pub(super) fn into_status(self) -> Status {
        fields_invalid(self.0)
    }

    pub(super) fn is_clean(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn organization_id(&mut self, text: &str) -> Option<OrganizationId> {
        if text.is_empty() {
            self.refuse("organization_id", "is required");
            return None;
        }
        self.take("organization_id", OrganizationId::parse(text))
    }

    pub(super) fn client_id(&mut self, text: &str) -> Option<ClientId> {
        self.take("client_id", ClientId::parse(text))
    }

    pub(super) fn request_id(&mut self, text: &str) -> Option<()> {
        let fits = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !fits {
            let why = "is required: 1 to 64 letters, digits, `-`, `_` and `.`, new for each new request; a random UUID does well";
            self.refuse("request_id", why);
        }
        fits.then_some(())
    }

    pub(super) fn revision(&mut self, revision: u64) -> Option<u64> {
        if revision == 0 {
            self.refuse(
                "revision",
                "is required: the revision that GetOrganization answers",
            );
        }
        (revision != 0).then_some(revision)
    }

    pub(super) fn display_name(&mut self, text: String) -> Option<String> {
        if text.chars().count() > 200 || text.chars().any(char::is_control) {
            self.refuse(
                "display_name",
                "must be at most 200 characters, none of them a control character",
            );
            return None;
        }
        Some(text)
    }

    /// Why something is done, in the words of whoever does it.
    pub(super) fn reason(&mut self, text: String) -> Option<String> {
        if !is_reason(&text) {
            self.refuse(
                "reason",
                "is required: at most 200 characters, none of them a control character",
            );
            return None;
        }
        Some(text)
    }

    pub(super) fn cloud(&mut self, number: i32) -> Option<Cloud> {
        match admin::Cloud::try_from(number) {
            Ok(admin::Cloud::Global) => Some(Cloud::Global),
            Ok(admin::Cloud::UsGov) => Some(Cloud::UsGov),
            Ok(admin::Cloud::UsGovDod) => Some(Cloud::UsGovDod),
            Ok(admin::Cloud::China) => Some(Cloud::China),
            Ok(admin::Cloud::Unspecified) | Err(_) => {
                self.refuse(
                    "cloud",
                    "is required: one of the values of the enum Cloud but the first",
                );
                None
            }
        }
    }

    /// Whether a host is possible for the organization's cloud is seen where the organization is.
    pub(super) fn resource(&mut self, number: i32, host: &str) -> Option<Resource> {
        let resource = match v1::Resource::try_from(number) {
            Ok(v1::Resource::Graph) => Some(Resource::Graph),
            Ok(v1::Resource::Exchange) => Some(Resource::Exchange),
            Ok(v1::Resource::AzureAdGraph) => Some(Resource::AzureAdGraph),
            Ok(v1::Resource::Sharepoint) if host.is_empty() => Some(Resource::SharePoint(None)),
            Ok(v1::Resource::Sharepoint) => {
                let hosts = Cloud::ALL.map(|cloud| SharePointHost::parse(host, cloud));
                let [global, ..] = &hosts;
                let known = hosts.iter().find_map(|host| host.as_ref().ok()).cloned();
                let parsed = known.ok_or(global.clone().err().unwrap_or(Malformed("")));
                let host = self.take("sharepoint_host", parsed)?;
                return Some(Resource::SharePoint(Some(host.as_str().to_owned())));
            }
            Ok(v1::Resource::Unspecified) | Err(_) => {
                self.refuse(
                    "resource",
                    "is required: one of the values of the enum Resource but the first",
                );
                None
            }
        };
        if resource.is_some() && !host.is_empty() {
            self.refuse(
                "sharepoint_host",
                "belongs to RESOURCE_SHAREPOINT; leave it out for others",
            );
        }
        resource
    }

    pub(super) fn purpose(&mut self, number: i32) -> Option<Purpose> {
        match v1::Purpose::try_from(number) {
            Ok(v1::Purpose::Unspecified | v1::Purpose::Backup) => Some(Purpose::Backup),
            Ok(v1::Purpose::Restore) => Some(Purpose::Restore),
            Err(_) => {
                self.refuse("purpose", "must be one of the values of the enum Purpose");
                None
            }
        }
    }

    pub(super) fn access(&mut self, number: i32) -> Option<Access> {
        match v1::Access::try_from(number) {
            Ok(v1::Access::Unspecified | v1::Access::Application) => Some(Access::Application),
            Ok(v1::Access::Delegated) => Some(Access::Delegated),
            Err(_) => {
                self.refuse("access", "must be one of the values of the enum Access");
                None
            }
        }
    }

    pub(super) fn fingerprint(&mut self, text: &str) -> Option<[u8; 32]> {
        let parsed = hex::parse(text);
        if parsed.is_none() {
            let why = "must be the `fingerprint` of a token: 64 hex digits";
            self.refuse("fingerprint", why);
        }
        parsed
    }

    /// What an API answered to a token.
    pub(super) fn refused(&mut self, http_status: u32, claims_challenge: &str) -> Option<Refused> {
        match (http_status, claims_challenge) {
            (401, "") => Some(Refused::Unauthorized(None)),
            (401, challenge) => match ClaimsChallenge::parse(challenge) {
                Ok(claims) => Some(Refused::Unauthorized(Some(claims))),
                Err(_) => {
                    let why = "must be the `claims` parameter of the WWW-Authenticate header as it came: a JSON object with `access_token`, in base64";
                    self.refuse("claims_challenge", why);
                    None
                }
            },
            (403, "") => Some(Refused::Forbidden),
            (403, _) => {
                self.refuse(
                    "claims_challenge",
                    "belongs to an `http_status` of 401; leave it out for others",
                );
                None
            }
            _ => {
                self.refuse(
                    "http_status",
                    "must be 401 or 403: only these are about the token",
                );
                None
            }
        }
    }

    /// How long a token must live: what the caller says, or `default`.
    pub(super) fn min_remaining(
        &mut self,
        given: Option<prost_types::Duration>,
        default: Duration,
    ) -> Option<Duration> {
        const MAX: Duration = Duration::from_secs(24 * 3600);
        let Some(given) = given else {
            return Some(default);
        };
        // Taken apart by hand: prost-types panics on the longest negative duration.
        let seconds = u64::try_from(given.seconds).ok();
        let nanos = u32::try_from(given.nanos)
            .ok()
            .filter(|nanos| *nanos < 1_000_000_000);
        let duration = seconds
            .zip(nanos)
            .filter(|(seconds, _)| *seconds <= MAX.as_secs())
            .map(|(seconds, nanos)| Duration::new(seconds, nanos))
            .filter(|duration| *duration <= MAX);
        if duration.is_none() {
            self.refuse("min_remaining", "must be a duration of 0 to 24 hours");
        }
        duration
    }

    /// When something ends that has not ended yet, if the caller knows.
    pub(super) fn end(
        &mut self,
        field: &str,
        given: Option<Timestamp>,
        now: SystemTime,
    ) -> Option<SystemTime> {
        let time = given.filter(|given| given.seconds <= LAST_SECOND);
        let time = time.and_then(|time| SystemTime::try_from(time).ok());
        match time {
            Some(end) if end > now => Some(end),
            Some(_) => {
                self.refuse(field, "has passed; create a new client secret");
                None
            }
            None if given.is_some() => {
                self.refuse(
                    field,
                    "must be a time between now and the end of the year 9999",
                );
                None
            }
            None => None,
        }
    }

    pub(super) fn root_host(&mut self, text: &str, cloud: Option<Cloud>) -> Option<SharePointHost> {
        if text.is_empty() {
            return None;
        }
        self.take("sharepoint_root_host", SharePointHost::parse(text, cloud?))
    }

    pub(super) fn hosts(&mut self, texts: &[String], cloud: Option<Cloud>) -> Vec<SharePointHost> {
        const MAX: usize = 50;
        if texts.len() > MAX {
            self.refuse("sharepoint_hosts", "must be at most 50");
            return Vec::new();
        }
        let Some(cloud) = cloud else {
            return Vec::new();
        };
        let hosts = texts.iter().enumerate().filter_map(|(at, text)| {
            self.take(
                &format!("sharepoint_hosts[{at}]"),
                SharePointHost::parse(text, cloud),
            )
        });
        hosts.collect()
    }

    /// A job, if one is named.
    pub(super) fn job_id(&mut self, text: &str) -> Option<JobId> {
        if text.is_empty() {
            return None;
        }
        self.take("job_id", JobId::parse(text))
    }

    /// When something ends that lasts so long at most.
    pub(super) fn end_within(
        &mut self,
        field: &str,
        given: Option<Timestamp>,
        now: SystemTime,
        most: Duration,
    ) -> Option<SystemTime> {
        let time = given.filter(|given| given.seconds <= LAST_SECOND);
        let time = time.and_then(|time| SystemTime::try_from(time).ok());
        let time = time.filter(|end| *end > now && *end <= now + most);
        if time.is_none() {
            self.refuse(field, "is required: a time within the next 24 hours");
        }
        time
    }

    pub(super) fn labels(&mut self, pairs: &BTreeMap<String, String>) -> Option<Labels> {
        self.take("labels", Labels::parse(pairs))
    }

    /// The fields that a mask names; at least one, and only these.
    pub(super) fn mask(&mut self, mask: Option<FieldMask>, known: &[&str]) -> Vec<String> {
        let paths = mask.unwrap_or_default().paths;
        let is_known = |path: &String| known.contains(&path.as_str());
        if paths.is_empty() || !paths.iter().all(is_known) {
            let why = format!(
                "is required: the fields to change, of {}",
                known.join(" and ")
            );
            self.refuse("update_mask", &why);
        }
        paths
    }

    /// The place of a page: an index of the vault in hex, as the page before named it.
    pub(super) fn page_token(&mut self, text: &str) -> Option<[u8; 32]> {
        if text.is_empty() {
            return None;
        }
        let parsed = hex::parse(text);
        if parsed.is_none() {
            self.refuse(
                "page_token",
                "must be the next_page_token of the page before, or empty",
            );
        }
        parsed
    }

    pub(super) fn page_size(&mut self, size: u32) -> usize {
        const DEFAULT: usize = 50;
        match usize::try_from(size) {
            Ok(0) => DEFAULT,
            Ok(size) if size <= crate::vault::PAGE_MAX => size,
            _ => {
                self.refuse("page_size", "must be at most 500");
                DEFAULT
            }
        }
    }
}
