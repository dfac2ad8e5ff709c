//! Who was named on a connection before, so that a header is taken apart once and not on each call.

use std::{collections::HashMap, mem};

use crate::rpc::listener::Peer;

/// Headers remembered of one connection, and how long one of them may be, in bytes: 512 KiB at most.
/// Longer ones are the client's doing, or certificates that nobody asked for.
const HEADERS_MAX: usize = 512;
const BYTES_MAX: usize = 1024;

/// Callers by the very bytes that named them.
///
/// Of two halves: when the newer one is full, it takes the place of the older one. So who calls again
/// and again stays, and nothing is counted or ordered for it.
#[derive(Debug, Default)]
pub(in crate::rpc) struct Seen {
    newer: HashMap<Box<[u8]>, Peer>,
    older: HashMap<Box<[u8]>, Peer>,
}

impl Seen {
    /// Who was named so, or else whoever `identify` finds. That nobody was is not remembered: a client
    /// could fill the room with it.
    pub(in crate::rpc) fn or_else(
        &mut self,
        header: &[u8],
        identify: impl FnOnce() -> Peer,
    ) -> Peer {
        if let Some(peer) = self.newer.get(header) {
            return peer.clone();
        }
        let (key, peer) = match self.older.remove_entry(header) {
            Some(known) => known,
            None => (header.into(), identify()),
        };
        if peer.caller().is_ok() && header.len() <= BYTES_MAX {
            if self.newer.len() >= HEADERS_MAX / 2 {
                self.older = mem::take(&mut self.newer);
            }
            self.newer.insert(key, peer.clone());
        }
        peer
    }
}

#[cfg(test)]
mod tests;
