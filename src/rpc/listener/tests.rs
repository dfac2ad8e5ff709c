use tokio::net::TcpStream;

use super::*;
use crate::audit::Place;

#[tokio::test]
async fn an_accepted_connection_does_not_wait_for_delayed_acks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let listener = Listener::Tcp(listener);
    let (accepted, _client) = tokio::join!(accept_one(&listener), TcpStream::connect(address));
    let Some(Socket::Tcp(accepted)) = accepted else {
        panic!("somebody connects")
    };
    assert!(accepted.nodelay().expect("an option of every TCP socket"));
}

#[test]
fn what_was_recorded_last_is_waited_for() {
    let peer = Peer::new(Err(Unidentified::NotOneUri));
    assert_eq!(peer.recorded(), Place::default());
    peer.answers_after(Place::new(7));
    // Calls of one connection may be recorded by several threads.
    peer.answers_after(Place::new(3));
    assert_eq!(peer.clone().recorded(), Place::new(7));
}
