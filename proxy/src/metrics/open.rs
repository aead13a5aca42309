//! Connections that are open, counted as long as they are.

use std::sync::Arc;

use super::labels::Protocol;
use super::{BackendMetrics, Metrics};

/// Counts a connection to an endpoint as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<BackendMetrics>);

impl OpenConnection {
    /// Counts a connection that was made.
    pub fn count(metrics: &Arc<BackendMetrics>) -> Self {
        metrics.upstream_connects.inc();
        metrics.upstream_connections.inc();
        Self(Arc::clone(metrics))
    }

    /// Counts bytes that were read from it.
    pub fn received(&self, length: usize) {
        if length > 0 {
            self.0.upstream_received.add(length as u64);
        }
    }

    /// Counts bytes that were written to it.
    pub fn sent(&self, length: usize) {
        self.0.upstream_sent.add(length as u64);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.upstream_connections.dec();
    }
}

/// Counts a connection of a caller as open until it is dropped.
#[derive(Debug)]
pub struct OpenDownstream(Metrics);

impl OpenDownstream {
    /// Counts a connection that was accepted.
    pub fn count(metrics: &Metrics) -> Self {
        metrics.process().downstream_connections.inc();
        Self(metrics.clone())
    }

    /// Counts what it turned out to speak.
    pub fn speaks(&self, protocol: Protocol) {
        self.0.process().downstream_connections_total.inc(protocol);
    }
}

impl Drop for OpenDownstream {
    fn drop(&mut self) {
        self.0.process().downstream_connections.dec();
    }
}
