//! Sidecars that come and go, as the log tells it: each in detail, and in a line a second at most what they
//! were together, for they come by the thousand.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::Recipient;

/// What has happened since the last line.
#[derive(Debug, Default)]
pub struct Arrivals {
    since: Mutex<Since>,
}

#[derive(Debug, Default)]
struct Since {
    came: usize,
    left: usize,
    last: Option<Recipient>,
}

/// A sidecar that has come; it has left when this is dropped.
#[derive(Debug)]
pub(super) struct Arrived {
    arrivals: Arc<Arrivals>,
    recipient: Recipient,
}

impl Arrivals {
    pub(super) fn came(self: &Arc<Self>, recipient: &Recipient) -> Arrived {
        tracing::debug!(workload = %recipient.workload, node = recipient.node, "a sidecar has come");
        let mut since = self.since.lock();
        since.came += 1;
        since.last = Some(recipient.clone());
        Arrived {
            arrivals: Arc::clone(self),
            recipient: recipient.clone(),
        }
    }

    /// Says what has happened since it was asked last, if anything has; so many are connected now.
    pub fn tell(&self, connected: usize) {
        let Since { came, left, last } = std::mem::take(&mut *self.since.lock());
        let Some(Recipient { workload, node }) = last else {
            return;
        };
        match (came, left) {
            (1, 0) => tracing::info!(%workload, node, connected, "a sidecar has come"),
            (0, 1) => tracing::info!(%workload, node, connected, "a sidecar has left"),
            _ => tracing::info!(came, left, connected, last = %workload, node, "sidecars have come and left"),
        }
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        let Recipient { workload, node } = &self.recipient;
        tracing::debug!(%workload, node, "a sidecar has left");
        let mut since = self.arrivals.since.lock();
        since.left += 1;
        since.last = Some(self.recipient.clone());
    }
}
