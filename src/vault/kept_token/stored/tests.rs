use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SLOT: Slot = Slot {
    store: [1; 16],
    index: [2; 32],
    resource: [3; 32],
};

fn key() -> SymmetricKey {
    SymmetricKey::new(vec![9; 32]).expect("32 bytes")
}

fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}

fn token(text: &str) -> KeptToken {
    KeptToken {
        access_token: AccessToken::new(text.to_owned()),
        audience_url: "https://graph.microsoft.com".into(),
        client_id: ClientId::parse("0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9").expect("a GUID"),
        credential_version: 3,
        issue_time: at(1_000),
        refresh_time: at(2_000),
        expire_time: at(3_000),
    }
}

fn reopened(slot: &Slot, bytes: &[u8]) -> Result<KeptToken, Error> {
    let (header, sealed) = parse(bytes)?;
    open(slot, &header, &key(), sealed)
}

#[test]
fn a_token_opens_in_its_slot_only() {
    let sealed = seal(&SLOT, 4, &key(), &token("text")).expect("seals");
    assert!(reopened(&SLOT, &sealed).is_ok());
    let elsewhere = [
        Slot {
            store: [7; 16],
            ..SLOT
        },
        Slot {
            index: [7; 32],
            ..SLOT
        },
        Slot {
            resource: [7; 32],
            ..SLOT
        },
    ];
    for slot in elsewhere {
        assert!(matches!(reopened(&slot, &sealed), Err(Error::Corrupt(_))));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let sealed = seal(&SLOT, 4, &key(), &token("text")).expect("seals");
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(reopened(&SLOT, &changed).is_err(), "bit {bit}");
    }
    for length in 0..sealed.len() {
        assert!(
            reopened(&SLOT, &sealed[..length]).is_err(),
            "length {length}"
        );
    }
}

#[test]
fn what_cannot_have_been_written_is_corrupt() {
    let header = Header {
        generation: 1,
        expires: 3_000,
    };
    let right = encode(&token("text"));
    assert!(decode(&right, &header).is_ok());
    let changes: [fn(&mut Body); 3] = [
        |body| body.access_token.clear(),
        |body| body.client_id = "none".into(),
        |body| body.issue_time = 3_001,
    ];
    for change in changes {
        let mut body = Body::decode(right.as_slice()).expect("decodes");
        change(&mut body);
        let decoded = decode(&body.encode_to_vec(), &header);
        assert!(matches!(decoded, Err(Error::Corrupt(_))), "{decoded:?}");
    }
    assert!(decode(b"\xff", &header).is_err());
}

#[test]
fn a_field_of_a_later_broker_is_passed_over() {
    let header = Header {
        generation: 1,
        expires: 3_000,
    };
    let mut bytes = encode(&token("text")).to_vec();
    // Field 100, a varint.
    bytes.extend([0xa0, 0x06, 0x01]);
    assert!(decode(&bytes, &header).is_ok());
}

proptest! {
    #[test]
    fn any_token_comes_back(
        text in "[!-~]{1,300}",
        version: u64,
        generation: u32,
        life in 0..u64::from(u32::MAX),
    ) {
        let token = KeptToken {
            credential_version: version,
            expire_time: at(1_000 + life),
            ..token(&text)
        };
        let sealed = seal(&SLOT, generation, &key(), &token).expect("seals");
        let back = reopened(&SLOT, &sealed).expect("opens");
        // Exposed: it is compared.
        prop_assert_eq!(back.access_token.expose(), text);
        prop_assert_eq!(back.credential_version, version);
        prop_assert_eq!((back.issue_time, back.expire_time), (at(1_000), at(1_000 + life)));
        prop_assert_eq!(back.client_id, token.client_id);
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in any::<Vec<u8>>()) {
        let header = Header { generation: 1, expires: u64::MAX };
        let _ = decode(&bytes, &header);
        for bytes in [bytes.clone(), [b"OBT1\0\x01\0\x01".as_slice(), &bytes].concat()] {
            prop_assert!(reopened(&SLOT, &bytes).is_err());
        }
    }
}
