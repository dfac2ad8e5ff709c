use std::sync::Arc;

use spiffe::SpiffeId;

use super::*;
use crate::{
    authz::{Caller, Policy},
    rpc::peer::Unidentified,
};

fn somebody(name: &str) -> Peer {
    let id = SpiffeId::new(format!("spiffe://kodo.test/{name}")).expect("an id");
    Peer::new(Ok(Caller::new(id, &Arc::new(Policy::default()))))
}

/// Whether the header was taken apart.
fn is_new(seen: &mut Seen, header: &str) -> bool {
    let mut new = false;
    let peer = seen.or_else(header.as_bytes(), || {
        new = true;
        somebody("worker")
    });
    assert!(peer.caller().is_ok());
    new
}

#[test]
fn a_header_is_taken_apart_once() {
    let mut seen = Seen::default();
    assert!(is_new(&mut seen, "a"));
    assert!(is_new(&mut seen, "b"));
    for _ in 0..3 {
        assert!(!is_new(&mut seen, "a"));
        assert!(!is_new(&mut seen, "b"));
    }
}

#[test]
fn many_headers_take_bounded_room_and_leave_those_in_use() {
    let mut seen = Seen::default();
    assert!(is_new(&mut seen, "in use"));
    for number in 0..10 * HEADERS_MAX {
        assert!(is_new(&mut seen, &number.to_string()));
        assert!(!is_new(&mut seen, "in use"), "{number}");
        assert!(seen.newer.len() + seen.older.len() <= HEADERS_MAX);
    }
    assert!(is_new(&mut seen, "0"), "it was forgotten");
}

#[test]
fn neither_nobody_nor_long_headers_are_remembered() {
    let mut seen = Seen::default();
    for _ in 0..2 {
        let peer = seen.or_else(b"bad", || Peer::new(Err(Unidentified::Malformed)));
        assert_eq!(peer.caller().err(), Some(Unidentified::Malformed));
    }
    assert!(is_new(&mut seen, "bad"));
    let long = "x".repeat(BYTES_MAX + 1);
    assert!(is_new(&mut seen, &long));
    assert!(is_new(&mut seen, &long));
    assert!(is_new(&mut seen, &long[1..]));
    assert!(!is_new(&mut seen, &long[1..]));
}
