//! Whether the authorities answer (stand-in until the paced endpoint lands).

use std::sync::Arc;

use tokio::sync::watch;

use crate::organization::Cloud;

/// Tells when an authority is back.
#[derive(Clone, Debug)]
pub struct Outage(Arc<watch::Sender<u64>>);

impl Default for Outage {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Outage {
    /// How often the authority has come back.
    #[must_use]
    pub fn recoveries(&self, _: Cloud) -> u64 {
        *self.0.borrow()
    }

    /// Whether one attempt may be made.
    #[must_use]
    pub fn may_probe(&self, _: Cloud) -> bool {
        false
    }

    /// Changes whenever an authority comes back.
    #[must_use]
    pub fn recovered(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
