//! An organization as it is shown: a table for people, JSON for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    cli::{name, table::Table, value},
    pb::admin::v1::{CredentialInfo, Organization, Warning},
};

/// When the end of a credential is not known: not the same as none.
const UNKNOWN: &str = "unknown";

/// An organization in JSON: the fields of the contract, enums as words, times in RFC 3339, and
/// `null` for what is absent.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct OrganizationView {
    pub(super) organization_id: String,
    display_name: Option<String>,
    tenant_id: String,
    cloud: String,
    client_id: String,
    credential: Option<CredentialView>,
    sharepoint_root_host: Option<String>,
    sharepoint_hosts: Vec<String>,
    labels: BTreeMap<String, String>,
    state: String,
    revision: u64,
    create_time: Option<String>,
    update_time: Option<String>,
    revoke_time: Option<String>,
    suspend_time: Option<String>,
    suspend_reason: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct CredentialView {
    kind: String,
    version: u64,
    expire_time: Option<String>,
    certificate_sha256: Option<String>,
    certificate_sha1: Option<String>,
    /// Of `expire_time`, for the list.
    #[serde(skip)]
    expire_day: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct WarningView {
    reason: String,
    pub(super) message: String,
}

impl OrganizationView {
    /// A line for each field.
    pub(super) fn table(&self) -> Table {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut table = Table::default();
        table.push(["organization", &self.organization_id]);
        table.push(["name", &text(&self.display_name)]);
        table.push(["state", &self.state]);
        table.push(["revision", &self.revision.to_string()]);
        table.push(["tenant", &self.tenant_id]);
        table.push(["cloud", &self.cloud]);
        table.push(["client id", &self.client_id]);
        if let Some(credential) = &self.credential {
            let expires = credential.expire_time.as_deref().unwrap_or(UNKNOWN);
            table.push(["credential", &credential.kind]);
            table.push(["credential version", &credential.version.to_string()]);
            table.push(["credential expires", expires]);
            for (label, hash) in [
                ("certificate SHA-256", &credential.certificate_sha256),
                ("certificate SHA-1", &credential.certificate_sha1),
            ] {
                if let Some(hash) = hash {
                    table.push([label, hash]);
                }
            }
        } else {
            table.push(["credential", ""]);
        }
        table.push(["SharePoint root host", &text(&self.sharepoint_root_host)]);
        table.push(["SharePoint hosts", &self.sharepoint_hosts.join(", ")]);
        let labels = self
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        table.push(["labels", &labels.collect::<Vec<_>>().join(", ")]);
        table.push(["registered", &text(&self.create_time)]);
        table.push(["changed", &text(&self.update_time)]);
        if let Some(time) = &self.revoke_time {
            table.push(["revoked", time]);
        }
        if let Some(time) = &self.suspend_time {
            table.push(["suspended", time]);
            table.push(["suspended because", &text(&self.suspend_reason)]);
        }
        table
    }
}

/// A row for each organization.
pub(super) fn list_table(organizations: &[OrganizationView]) -> Table {
    let mut table = Table::with_header(&[
        "organization",
        "tenant",
        "cloud",
        "state",
        "credential",
        "version",
        "expires",
        "sharepoint",
        "name",
    ]);
    for organization in organizations {
        let credential = organization.credential.as_ref();
        let version = credential.map(|credential| credential.version.to_string());
        let expires = credential.map(|credential| match &credential.expire_day {
            Some(day) => day.as_str(),
            None => UNKNOWN,
        });
        table.push([
            &organization.organization_id,
            &organization.tenant_id,
            &organization.cloud,
            &organization.state,
            credential.map_or("", |credential| &credential.kind),
            &version.unwrap_or_default(),
            expires.unwrap_or_default(),
            organization
                .sharepoint_root_host
                .as_deref()
                .unwrap_or_default(),
            organization.display_name.as_deref().unwrap_or_default(),
        ]);
    }
    table
}

impl From<Organization> for OrganizationView {
    fn from(organization: Organization) -> Self {
        Self {
            organization_id: organization.organization_id,
            display_name: present(organization.display_name),
            tenant_id: organization.tenant_id,
            cloud: name::cloud(organization.cloud),
            client_id: organization.client_id,
            credential: organization.credential.map(CredentialView::from),
            sharepoint_root_host: present(organization.sharepoint_root_host),
            sharepoint_hosts: organization.sharepoint_hosts,
            labels: organization.labels,
            state: name::state(organization.state),
            revision: organization.revision,
            create_time: organization.create_time.as_ref().map(value::show_time),
            update_time: organization.update_time.as_ref().map(value::show_time),
            revoke_time: organization.revoke_time.as_ref().map(value::show_time),
            suspend_time: organization.suspend_time.as_ref().map(value::show_time),
            suspend_reason: present(organization.suspend_reason),
        }
    }
}

impl From<CredentialInfo> for CredentialView {
    fn from(credential: CredentialInfo) -> Self {
        Self {
            kind: name::credential_kind(credential.kind),
            version: credential.version,
            expire_time: credential.expire_time.as_ref().map(value::show_time),
            certificate_sha256: present(credential.certificate_sha256),
            certificate_sha1: present(credential.certificate_sha1),
            expire_day: credential.expire_time.as_ref().map(value::show_day),
        }
    }
}

impl From<Warning> for WarningView {
    fn from(warning: Warning) -> Self {
        Self {
            reason: name::warning_reason(warning.reason),
            message: warning.message,
        }
    }
}

/// The contract has an empty text for none.
fn present(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::admin::v1::{Cloud, CredentialKind, OrganizationState};

    fn organization() -> Organization {
        Organization {
            organization_id: "contoso".into(),
            tenant_id: "11111111-2222-3333-4444-555555555555".into(),
            cloud: Cloud::UsGov.into(),
            state: OrganizationState::Active.into(),
            credential: Some(CredentialInfo {
                kind: CredentialKind::ClientSecret.into(),
                version: 2,
                expire_time: Some("2027-05-01T12:30:00Z".parse().expect("a time")),
                ..Default::default()
            }),
            revision: 3,
            ..Default::default()
        }
    }

    fn written(table: &Table) -> String {
        let mut out = Vec::new();
        table.write(&mut out).expect("a buffer takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn list_has_a_row_for_each_organization() {
        let revoked = Organization {
            credential: None,
            state: OrganizationState::Revoked.into(),
            ..organization()
        };
        let mut endless = organization();
        if let Some(credential) = &mut endless.credential {
            credential.expire_time = None;
        }
        let list = [organization(), revoked, endless].map(OrganizationView::from);
        let written = written(&list_table(&list));
        let words = |line: &str| {
            line.split_whitespace()
                .skip(2)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let lines: Vec<String> = written.lines().map(words).collect();
        assert_eq!(
            lines,
            [
                "CLOUD STATE CREDENTIAL VERSION EXPIRES SHAREPOINT NAME",
                "us-gov active client-secret 2 2027-05-01 - -",
                "us-gov revoked - - - - -",
                "us-gov active client-secret 2 unknown - -",
            ]
        );
    }

    #[test]
    fn details_of_a_revoked_organization_have_no_credential() {
        let mut revoked = organization();
        revoked.credential = None;
        revoked.revoke_time = Some("2027-05-02T00:00:00Z".parse().expect("a time"));
        let written = written(&OrganizationView::from(revoked).table());
        assert!(written.contains("\ncredential            -\n"), "{written}");
        assert!(
            written.contains("\nrevoked               2027-05-02T00:00:00Z\n"),
            "{written}"
        );
    }

    #[test]
    fn json_has_the_fields_of_the_contract() {
        let json = serde_json::to_value(OrganizationView::from(organization())).expect("JSON");
        assert_eq!(json["cloud"], "us-gov");
        assert_eq!(json["credential"]["expire_time"], "2027-05-01T12:30:00Z");
        assert_eq!(json["display_name"], serde_json::Value::Null);
        assert_eq!(json["revision"], 3);
    }
}
