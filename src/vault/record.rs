//! What is inside a sealed record: an organization with its credential, as protobuf.
//!
//! The field numbers are an on-disk format: never reuse one.

use std::time::{Duration, SystemTime};

use prost::Message as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::Error;
use crate::{
    credential::{Certificate, Credential},
    organization::{
        ClientId, Cloud, Organization, OrganizationId, SharePointHost, State, Suspension, TenantId,
        label::Labels,
    },
    secret::{ClientSecret, PrivateKey},
};

/// Requests that a record remembers, so that a repeated one is answered and not done again.
pub(super) const MARKS_MAX: usize = 8;

/// An organization as it is stored.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) organization: Organization,
    /// `None` once revoked.
    pub(super) credential: Option<Credential>,
    /// The latest requests, oldest first.
    pub(super) marks: Vec<RequestMark>,
}

/// A request that was carried out.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RequestMark {
    /// The caller's id for it.
    #[prost(string, tag = "1")]
    pub request_id: String,
    /// Keyed digest of its content.
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
}

#[derive(prost::Message)]
#[prost(skip_debug)]
struct Body {
    #[prost(string, tag = "1")]
    organization_id: String,
    #[prost(string, tag = "2")]
    display_name: String,
    #[prost(string, tag = "3")]
    tenant_id: String,
    #[prost(uint32, tag = "4")]
    cloud: u32,
    #[prost(string, tag = "5")]
    client_id: String,
    #[prost(string, optional, tag = "6")]
    sharepoint_root_host: Option<String>,
    #[prost(string, repeated, tag = "7")]
    sharepoint_hosts: Vec<String>,
    /// Times are milliseconds since the Unix epoch.
    #[prost(uint64, tag = "8")]
    create_time: u64,
    #[prost(uint64, tag = "9")]
    update_time: u64,
    #[prost(uint64, optional, tag = "10")]
    revoke_time: Option<u64>,
    #[prost(uint64, tag = "11")]
    credential_version: u64,
    #[prost(message, optional, tag = "12")]
    client_secret: Option<StoredSecret>,
    #[prost(message, optional, tag = "13")]
    certificate: Option<StoredCertificate>,
    #[prost(message, repeated, tag = "14")]
    marks: Vec<RequestMark>,
    #[prost(message, optional, tag = "20")]
    suspension: Option<StoredSuspension>,
}

#[derive(PartialEq, prost::Message)]
struct StoredSuspension {
    #[prost(uint64, tag = "1")]
    time: u64,
    #[prost(string, tag = "2")]
    reason: String,
}

#[derive(prost::Message)]
#[prost(skip_debug)]
struct StoredSecret {
    #[prost(string, tag = "1")]
    value: String,
    #[prost(uint64, optional, tag = "2")]
    expires: Option<u64>,
}

#[derive(prost::Message)]
#[prost(skip_debug)]
struct StoredCertificate {
    #[prost(string, tag = "1")]
    key_pem: String,
    #[prost(bytes = "vec", tag = "2")]
    der: Vec<u8>,
    #[prost(uint64, tag = "3")]
    expires: u64,
    #[prost(uint32, tag = "4")]
    key_bits: u32,
}

impl Drop for StoredSecret {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl Drop for StoredCertificate {
    fn drop(&mut self) {
        self.key_pem.zeroize();
    }
}

impl Record {
    /// The record as bytes. The organization's revision is not in them: it is the record's version,
    /// which its envelope carries.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let organization = &self.organization;
        let (client_secret, certificate) = match &self.credential {
            Some(credential) => stored(credential),
            None => (None, None),
        };
        let host = |host: &SharePointHost| host.as_str().to_owned();
        let body = Body {
            organization_id: organization.id.as_str().to_owned(),
            display_name: organization.display_name.clone(),
            tenant_id: organization.tenant_id.to_string(),
            cloud: cloud_number(organization.cloud),
            client_id: organization.client_id.to_string(),
            sharepoint_root_host: organization.sharepoint_root_host.as_ref().map(host),
            sharepoint_hosts: organization.sharepoint_hosts.iter().map(host).collect(),
            create_time: milliseconds(organization.create_time),
            update_time: milliseconds(organization.update_time),
            revoke_time: match &organization.state {
                State::Active | State::Suspended(_) => None,
                State::Revoked(at) => Some(milliseconds(*at)),
            },
            suspension: match &organization.state {
                State::Suspended(suspension) => Some(StoredSuspension {
                    time: milliseconds(suspension.at),
                    reason: suspension.reason.clone(),
                }),
                State::Active | State::Revoked(_) => None,
            },
            credential_version: organization
                .credential
                .as_ref()
                .map_or(0, |info| info.version),
            client_secret,
            certificate,
            marks: self.marks.clone(),
        };
        // Sized beforehand: growing would leave pieces of it behind in freed memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(body.encoded_len()));
        body.encode(&mut *bytes).expect("a vector grows");
        bytes
    }

    /// The record of these bytes, with its version as revision.
    pub(super) fn decode(bytes: &[u8], revision: u64) -> Result<Self, Error> {
        let corrupt = || Error::Corrupt("a record whose content is not what was written");
        let mut body = Body::decode(bytes).map_err(|_| corrupt())?;
        let cloud = cloud(body.cloud).ok_or_else(corrupt)?;
        let host = |text: &String| SharePointHost::parse(text, cloud);
        let credential = credential(&mut body);
        let version = body.credential_version;
        let organization = Organization {
            id: OrganizationId::parse(&body.organization_id).map_err(|_| corrupt())?,
            display_name: std::mem::take(&mut body.display_name),
            tenant_id: TenantId::parse(&body.tenant_id).map_err(|_| corrupt())?,
            cloud,
            client_id: ClientId::parse(&body.client_id).map_err(|_| corrupt())?,
            credential: credential
                .as_ref()
                .map(|credential| credential.info(version)),
            sharepoint_root_host: body
                .sharepoint_root_host
                .as_ref()
                .map(host)
                .transpose()
                .map_err(|_| corrupt())?,
            sharepoint_hosts: body
                .sharepoint_hosts
                .iter()
                .map(host)
                .collect::<Result<_, _>>()
                .map_err(|_| corrupt())?,
            // They lie in front of the record.
            labels: Labels::NONE,
            state: match (body.revoke_time, body.suspension.take()) {
                (Some(at), _) => State::Revoked(time(at)),
                (None, Some(suspension)) => State::Suspended(Suspension {
                    at: time(suspension.time),
                    reason: suspension.reason,
                }),
                (None, None) => State::Active,
            },
            revision,
            create_time: time(body.create_time),
            update_time: time(body.update_time),
        };
        Ok(Self {
            organization,
            credential,
            marks: std::mem::take(&mut body.marks),
        })
    }
}

fn stored(credential: &Credential) -> (Option<StoredSecret>, Option<StoredCertificate>) {
    // Exposed: what is stored, sealed, is the secret itself.
    match credential {
        Credential::ClientSecret { value, expires } => {
            let value = value.expose().to_owned();
            let expires = expires.map(milliseconds);
            (Some(StoredSecret { value, expires }), None)
        }
        Credential::Certificate(certificate) => {
            let stored = StoredCertificate {
                key_pem: certificate.key.expose().to_owned(),
                der: certificate.der.clone(),
                expires: milliseconds(certificate.expires),
                key_bits: u32::try_from(certificate.key_bits).unwrap_or(u32::MAX),
            };
            (None, Some(stored))
        }
    }
}

fn credential(body: &mut Body) -> Option<Credential> {
    use std::mem::take;
    if let Some(mut secret) = body.client_secret.take() {
        return Some(Credential::ClientSecret {
            value: ClientSecret::new(take(&mut secret.value)),
            expires: secret.expires.map(time),
        });
    }
    let mut stored = body.certificate.take()?;
    Some(Credential::Certificate(Certificate {
        key: PrivateKey::new(take(&mut stored.key_pem)),
        der: take(&mut stored.der),
        expires: time(stored.expires),
        key_bits: stored.key_bits as usize,
    }))
}

pub(super) fn milliseconds(time: SystemTime) -> u64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn time(milliseconds: u64) -> SystemTime {
    // A time beyond what the clock can show is as good as the epoch: both are corrupt, neither panics.
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(milliseconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn cloud_number(cloud: Cloud) -> u32 {
    match cloud {
        Cloud::Global => 1,
        Cloud::UsGov => 2,
        Cloud::UsGovDod => 3,
        Cloud::China => 4,
    }
}

fn cloud(number: u32) -> Option<Cloud> {
    Cloud::ALL
        .into_iter()
        .find(|cloud| cloud_number(*cloud) == number)
}

#[cfg(test)]
mod tests;
