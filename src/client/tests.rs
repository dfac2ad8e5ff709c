//! The library against a broker that does as it is told, with time that stands still until everybody
//! waits for it. `tests/broker/client.rs` has the real broker.

use super::*;

#[cfg(feature = "server")]
mod broker;
#[cfg(feature = "server")]
mod cache;
#[cfg(feature = "server")]
mod flight;
#[cfg(feature = "server")]
mod report;
#[cfg(feature = "server")]
mod retry;
#[cfg(feature = "server")]
mod schedule;
#[cfg(feature = "server")]
mod watch;

#[test]
fn a_duration_keeps_its_parts_on_the_wire() {
    let wire = duration(Duration::from_millis(1500));
    assert_eq!((wire.seconds, wire.nanos), (1, 500_000_000));
    assert_eq!(duration(Duration::MAX).seconds, i64::MAX);
}
