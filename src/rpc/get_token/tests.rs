use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::*;
use crate::{
    credential::{CredentialInfo, CredentialKind},
    entra::{Grant, cloud::Audience},
    organization::{ClientId, Cloud, Organization, OrganizationId, State, TenantId},
    secret::AccessToken,
};

pub(in crate::rpc) fn token(credential: Option<CredentialInfo>, text: &str) -> Token {
    let guid = "8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a";
    let organization = Organization {
        id: OrganizationId::parse("contoso").expect("an id"),
        display_name: String::new(),
        tenant_id: TenantId::parse(guid).expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse(guid).expect("a GUID"),
        credential,
        sharepoint_root_host: None,
        sharepoint_hosts: Vec::new(),
        labels: Default::default(),
        state: State::Active,
        revision: 1,
        create_time: SystemTime::UNIX_EPOCH,
        update_time: SystemTime::UNIX_EPOCH,
    };
    let grant = Grant {
        access_token: AccessToken::new(text.to_owned()),
        expires_in: Duration::from_secs(3599),
        refresh_in: None,
    };
    Token::new(
        grant,
        Instant::now(),
        Audience::graph(Cloud::Global),
        &organization,
        0.5,
    )
}

#[tokio::test(start_paused = true)]
async fn the_bytes_are_those_of_the_message() {
    let clock =
        Clock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_068_777_123));
    let info = CredentialInfo {
        kind: CredentialKind::ClientSecret,
        version: 0,
        expires: None,
        thumbprints: None,
    };
    for text in ["", "short", &"long".repeat(5000)] {
        for version in [None, Some(1), Some(300), Some(u64::MAX)] {
            let credential = version.map(|version| CredentialInfo {
                version,
                ..info.clone()
            });
            let token = token(credential, text);
            let expected = message(&token, clock);
            let bytes = encoded(&token, clock);
            let (prefix, bytes) = bytes.split_at(PREFIX_BYTES);
            assert_eq!(prefix[0], 0);
            assert_eq!(
                prefix[1..],
                u32::try_from(bytes.len()).expect("short").to_be_bytes()
            );
            assert_eq!(bytes, expected.encode_to_vec());
        }
    }
}
