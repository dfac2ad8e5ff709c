use proptest::prelude::*;

use super::*;

fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}

fn mark(number: u8, byte: impl FnMut(u8) -> u8) -> RequestMark {
    RequestMark {
        request_id: format!("0b1c2d3e-request-{number}"),
        digest: (0..32).map(byte).collect(),
    }
}

fn record(organization: Organization, credential: Option<Credential>) -> Record {
    Record {
        organization,
        credential,
        marks: vec![mark(1, |n| n), mark(2, |_| 0xab)],
    }
}

fn with_certificate() -> Record {
    let credential = Credential::Certificate(Certificate {
        key: PrivateKey::new(
            "-----BEGIN PRIVATE KEY-----\nZ29sZGVu\n-----END PRIVATE KEY-----\n".into(),
        ),
        der: vec![0x30, 0x82, 0x01, 0x02, 0xff, 0x00],
        expires: at(1_798_761_600_000),
        key_bits: 3072,
    });
    let host = |text| SharePointHost::parse(text, Cloud::UsGov).expect("a host");
    let organization = Organization {
        id: OrganizationId::parse("contoso-cert").expect("an id"),
        display_name: "Contoso (Zürich)".into(),
        tenant_id: TenantId::parse("8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a").expect("a GUID"),
        cloud: Cloud::UsGov,
        client_id: ClientId::parse("0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9").expect("a GUID"),
        credential: Some(credential.info(3)),
        sharepoint_root_host: Some(host("contoso.sharepoint.us")),
        sharepoint_hosts: vec![
            host("contoso-my.sharepoint.us"),
            host("contoso-admin.sharepoint.us"),
        ],
        labels: Labels::default(),
        state: State::Active,
        revision: 7,
        create_time: at(1_767_225_600_123),
        update_time: at(1_767_312_000_456),
    };
    record(organization, Some(credential))
}

fn with_secret() -> Record {
    let credential = Credential::ClientSecret {
        value: ClientSecret::new("golden~secret.value".into()),
        expires: Some(at(1_798_761_600_000)),
    };
    let organization = Organization {
        id: OrganizationId::parse("fabrikam").expect("an id"),
        display_name: "Fabrikam".into(),
        tenant_id: TenantId::parse("11111111-2222-4333-8444-555555555555").expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse("0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9").expect("a GUID"),
        credential: Some(credential.info(1)),
        sharepoint_root_host: None,
        sharepoint_hosts: vec![],
        labels: Labels::default(),
        state: State::Active,
        revision: 7,
        create_time: at(1_767_225_600_000),
        update_time: at(1_767_225_600_000),
    };
    record(organization, Some(credential))
}

fn revoked() -> Record {
    let host = SharePointHost::parse("northwind.sharepoint.cn", Cloud::China);
    let organization = Organization {
        id: OrganizationId::parse("northwind").expect("an id"),
        display_name: "Northwind".into(),
        cloud: Cloud::China,
        credential: None,
        sharepoint_root_host: Some(host.expect("a host")),
        state: State::Revoked(at(1_767_312_000_000)),
        update_time: at(1_767_312_000_000),
        ..with_secret().organization
    };
    record(organization, None)
}

fn suspended() -> Record {
    let mut record = with_secret();
    record.organization.state = State::Suspended(Suspension {
        at: at(1_767_312_000_789),
        reason: "zahlt nicht (März)".into(),
    });
    record
}

/// Everything of a record, its secret included, so that two can be compared.
fn shown(record: &Record) -> String {
    let secret = match &record.credential {
        None => String::new(),
        // Exposed: secrets are compared.
        Some(Credential::ClientSecret { value, expires }) => {
            format!("{} {expires:?}", value.expose())
        }
        Some(Credential::Certificate(certificate)) => {
            format!("{} {certificate:?}", certificate.key.expose())
        }
    };
    format!("{:?} {:?} {secret}", record.organization, record.marks)
}

/// Made by an independent encoder, and kept: these bytes are what lies in the stores of format 1.
#[test]
fn records_of_format_1_are_read_and_written_unchanged() {
    let golden: [(&[u8], Record); 4] = [
        (include_bytes!("golden-1.bin"), with_certificate()),
        (include_bytes!("golden-1-secret.bin"), with_secret()),
        (include_bytes!("golden-1-revoked.bin"), revoked()),
        (include_bytes!("golden-1-suspended.bin"), suspended()),
    ];
    for (bytes, record) in golden {
        let decoded = Record::decode(bytes, 7).expect("decodes");
        assert_eq!(shown(&decoded), shown(&record));
        assert_eq!(*record.encode(), bytes, "{}", record.organization.id);
    }
}

#[test]
fn a_field_of_a_later_broker_is_passed_over() {
    let mut bytes = with_secret().encode().to_vec();
    // Field 100, a varint.
    bytes.extend([0xa0, 0x06, 0x01]);
    let decoded = Record::decode(&bytes, 7).expect("decodes");
    assert_eq!(shown(&decoded), shown(&with_secret()));
}

#[test]
fn the_revision_is_that_of_the_envelope() {
    let decoded = Record::decode(&with_secret().encode(), 41).expect("decodes");
    assert_eq!(decoded.organization.revision, 41);
}

#[test]
fn what_cannot_have_been_written_is_corrupt() {
    let change = |change: fn(&mut Body)| {
        let mut body = Body::decode(with_certificate().encode().as_slice()).expect("decodes");
        change(&mut body);
        Record::decode(&body.encode_to_vec(), 1)
    };
    assert!(change(|_| {}).is_ok());
    let changes: [fn(&mut Body); 8] = [
        |body| body.organization_id = "Contoso".into(),
        |body| body.organization_id.clear(),
        |body| body.tenant_id = "common".into(),
        |body| body.client_id.clear(),
        |body| body.cloud = 0,
        |body| body.cloud = 5,
        |body| body.sharepoint_root_host = Some("evil.example".into()),
        |body| body.sharepoint_hosts.push("contoso.sharepoint.com".into()),
    ];
    for damage in changes {
        assert!(matches!(change(damage), Err(Error::Corrupt(_))));
    }
    assert!(matches!(Record::decode(&[], 1), Err(Error::Corrupt(_))));
}

#[test]
fn neither_a_record_nor_its_stored_form_shows_the_secret() {
    for record in [with_certificate(), with_secret()] {
        let shown = format!("{record:?}");
        assert!(
            !shown.contains("golden~") && !shown.contains("Z29sZGVu"),
            "{shown}"
        );
    }
}

prop_compose! {
    fn credential()(
        kind in 0..3_u8,
        text in "\\PC{0,60}",
        der: Vec<u8>,
        expires in 0..(1_u64 << 50),
        key_bits in 0..=u32::MAX as usize,
    ) -> Credential {
        match kind {
            0 => Credential::Certificate(Certificate {
                key: PrivateKey::new(text), der, expires: at(expires), key_bits,
            }),
            _ => Credential::ClientSecret {
                value: ClientSecret::new(text),
                expires: (kind == 1).then(|| at(expires)),
            },
        }
    }
}

prop_compose! {
    fn any_record()(
        id in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        display_name in "\\PC{0,60}",
        tenant in 1..=u128::MAX,
        client in 1..=u128::MAX,
        cloud in prop::sample::select(Cloud::ALL.to_vec()),
        hosts in prop::collection::vec("[a-z0-9]{1,20}", 0..5),
        times in prop::array::uniform3(0..(1_u64 << 50)),
        version: u64,
        revision: u64,
        reason in prop::option::of("\\PC{0,40}"),
        credential in prop::option::of(credential()),
        marks in prop::collection::vec(("\\PC{0,36}", any::<Vec<u8>>()), 0..=MARKS_MAX),
    ) -> Record {
        let guid = |number| uuid::Uuid::from_u128(number).to_string();
        let host = |label: &String| {
            let host = format!("{label}{}", cloud.sharepoint_suffix());
            SharePointHost::parse(&host, cloud).expect("a host")
        };
        let organization = Organization {
            id: OrganizationId::parse(&id).expect("an id"),
            display_name,
            tenant_id: TenantId::parse(&guid(tenant)).expect("a GUID"),
            cloud,
            client_id: ClientId::parse(&guid(client)).expect("a GUID"),
            credential: credential.as_ref().map(|credential| credential.info(version)),
            sharepoint_root_host: hosts.first().map(host),
            sharepoint_hosts: hosts.iter().skip(1).map(host).collect(),
            labels: Labels::default(),
            state: match (&credential, reason) {
                (Some(_), None) => State::Active,
                (Some(_), Some(reason)) => State::Suspended(Suspension { at: at(times[2]), reason }),
                (None, _) => State::Revoked(at(times[2])),
            },
            revision,
            create_time: at(times[0]),
            update_time: at(times[1]),
        };
        let marks = marks.into_iter();
        let marks = marks.map(|(request_id, digest)| RequestMark { request_id, digest }).collect();
        Record { organization, credential, marks }
    }
}

proptest! {
    #[test]
    fn a_record_comes_back(record in any_record()) {
        let bytes = record.encode();
        prop_assert_eq!(bytes.capacity(), bytes.len(), "no copy was left behind by growing");
        let decoded = Record::decode(&bytes, record.organization.revision).expect("decodes");
        prop_assert_eq!(shown(&decoded), shown(&record));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, revision: u64) {
        let _ = Record::decode(&bytes, revision);
    }

    #[test]
    fn no_changed_byte_makes_it_panic(
        position in any::<prop::sample::Index>(),
        byte: u8,
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = with_certificate().encode().to_vec();
        let position = position.index(bytes.len());
        bytes[position] = byte;
        let _ = Record::decode(&bytes, 1);
        bytes.truncate(length.index(bytes.len()));
        let _ = Record::decode(&bytes, 1);
    }
}
