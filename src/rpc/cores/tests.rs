use std::io::ErrorKind;

use super::*;

fn any_port() -> ListenAddress {
    SocketAddr::from(([127, 0, 0, 1], 0)).into()
}

#[test]
fn all_listeners_share_the_port_of_the_first() {
    for (threads, expected) in [(0, 1), (1, 1), (3, 3)] {
        let bound = Listeners::bind(&any_port(), threads).expect("a free port");
        assert_eq!(bound.listeners.len(), expected);
        for listener in &bound.listeners {
            let Bound::Tcp(listener) = listener else {
                panic!("{listener:?} is of no network")
            };
            let address = listener.local_addr().expect("it is bound");
            assert_eq!(ListenAddress::from(address), bound.address);
        }
    }
}

#[test]
fn a_port_that_somebody_serves_is_not_shared_with_them() {
    let first = Listeners::bind(&any_port(), 2).expect("a free port");
    let refused = Listeners::bind(&first.address, 2).expect_err("it is taken");
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    assert!(
        refused.to_string().contains(&first.address.to_string()),
        "{refused}"
    );
    let address = first.address.clone();
    drop(first);
    Listeners::bind(&address, 2).expect("it is free again");
}
