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

#[test]
fn a_socket_is_taken_over_from_a_process_that_is_gone_and_from_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("proxy.sock");
    let address = ListenAddress::Unix(path.clone());
    for threads in [0, 1, 3] {
        let bound = Listeners::bind(&address, threads).expect("nobody listens");
        assert_eq!(bound.listeners.len(), threads.max(1));
        assert_eq!(bound.address, address);
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let taken = Listeners::bind(&address, threads).expect_err("somebody listens");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        assert!(taken.to_string().contains("proxy.sock"), "{taken}");
        // The file stays.
        drop(bound);
    }
    fs::remove_file(&path).expect("it stayed");
    fs::write(&path, "mine").expect("a writable folder");
    Listeners::bind(&address, 1).expect_err("it is no socket");
    assert_eq!(fs::read(&path).expect("it is there"), b"mine");
    let elsewhere = ListenAddress::Unix(folder.path().join("no/proxy.sock"));
    let refused = Listeners::bind(&elsewhere, 1).expect_err("there is no such folder");
    assert!(refused.to_string().contains("no/proxy.sock"), "{refused}");
}
