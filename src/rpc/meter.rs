//! Meters what a client sends: frames that bring no call on are limited.
//!
//! h2 answers every PING and SETTINGS, and takes PRIORITY, WINDOW_UPDATE, unknown frames and bodies in
//! single bytes for as long as they come. Each costs the broker more than the client. So a connection
//! has a credit, which such frames use up and calls earn again; so does time, and what the broker sends,
//! since clients ask for the round trip and widen windows as they receive. What h2 limits by itself
//! (resets, CONTINUATION, empty DATA) may be counted here, too, which does no harm.

use tokio::time::Instant;

/// A frame that brings no call on, in parts of the credit: as much as sending so many bytes earns.
const FRAME: u32 = 512;
/// What a call earns: clients ask for the round trip, widen two windows, and may take a call back.
const CALL: u32 = 8 * FRAME;
/// What may be saved up: 400 such frames, so that no connection has more than twice as many at once.
const CREDIT_MAX: u32 = 400 * FRAME;
/// What a millisecond earns: 40 such frames a second.
const MILLISECOND: u32 = 40 * FRAME / 1000;
/// DATA that is shorter, and not the last of its stream, counts: messages are not sent in crumbs.
const CRUMB_BYTES: u32 = 256;

/// What HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE_BYTES: u32 = 24;
const HEADER_BYTES: usize = 9;
/// Frame types and the flag (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Follows the frames of one client.
#[derive(Debug)]
pub(super) struct Meter {
    /// What is to be passed over until the next header of a frame: the preface at first.
    skip: u32,
    /// The part of a header that has come.
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    credit: u32,
    /// Up to when time was counted.
    counted: Instant,
    heard: bool,
}

/// The client sends nothing but work. Its connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more frames than calls: a client that floods")]
pub(super) struct Flood;

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            skip: PREFACE_BYTES,
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            credit: CREDIT_MAX,
            counted: Instant::now(),
            heard: false,
        }
    }

    /// Whether there was a frame.
    pub(super) fn heard(&self) -> bool {
        self.heard
    }

    /// Counts what was sent to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.earn(u32::try_from(bytes).unwrap_or(CREDIT_MAX));
    }

    /// Counts what has come from it.
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = bytes
                    .len()
                    .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                bytes = &bytes[skipped..];
                // No more than it was.
                self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
                continue;
            }
            let missing = HEADER_BYTES - self.header_bytes;
            let (part, rest) = bytes.split_at(bytes.len().min(missing));
            self.header[self.header_bytes..][..part.len()].copy_from_slice(part);
            self.header_bytes += part.len();
            bytes = rest;
            if self.header_bytes == HEADER_BYTES {
                self.header_bytes = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    /// Counts the frame whose header has come.
    fn frame(&mut self) -> Result<(), Flood> {
        self.heard = true;
        let [long, middle, short, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, long, middle, short]);
        self.skip = length;
        match kind {
            HEADERS => {
                self.earn(CALL);
                Ok(())
            }
            DATA if length >= CRUMB_BYTES || flags & END_STREAM != 0 => Ok(()),
            _ => self.spend(),
        }
    }

    fn earn(&mut self, credit: u32) {
        self.credit = self.credit.saturating_add(credit).min(CREDIT_MAX);
    }

    fn spend(&mut self) -> Result<(), Flood> {
        if self.credit < FRAME {
            // The clock is looked at only now.
            let now = Instant::now();
            let milliseconds = now.duration_since(self.counted).as_millis();
            let milliseconds = u32::try_from(milliseconds).unwrap_or(u32::MAX);
            self.counted = now;
            self.earn(milliseconds.saturating_mul(MILLISECOND));
        }
        self.credit = self.credit.checked_sub(FRAME).ok_or(Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
