//! One line per call: off by default, and then it costs one atomic load.

use std::time::Duration;

use http::{Method, StatusCode};

/// What is said about a call that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The request's path, without its query: that may hold secrets.
    pub path: &'a str,
    /// The status that the caller got.
    pub status: StatusCode,
    /// From the request's head to the reply's head.
    pub duration: Duration,
    /// The backend's name.
    pub backend: &'a str,
    /// The route's name, if one matched.
    pub route: Option<&'a str>,
    /// The batch that the call travelled in.
    pub batch: Option<InBatch>,
    /// Why it travelled alone, or what went wrong.
    pub reason: Option<&'a str>,
}

/// A call's place in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBatch {
    /// The batch's number, unique in this process.
    pub id: u64,
    /// The call's position in it, from 0.
    pub position: usize,
    /// Members of the batch.
    pub size: usize,
    /// How long the call waited for the batch to leave.
    pub wait: Duration,
    /// Why the batch left.
    pub reason: &'static str,
}

impl Access<'_> {
    /// True while access lines are wanted. Ask before gathering what a line needs.
    pub fn is_on() -> bool {
        tracing::enabled!(target: TARGET, tracing::Level::INFO)
    }

    /// Logs the line.
    pub fn log(&self) {
        // Debug quotes and escapes what came from the network.
        tracing::info!(
            target: TARGET,
            method = %self.method,
            path = ?self.path,
            status = self.status.as_u16(),
            duration_ms = self.duration.as_secs_f64() * 1e3,
            backend = self.backend,
            route = self.route,
            batch = self.batch.map(|batch| batch.id),
            position = self.batch.map(|batch| batch.position),
            size = self.batch.map(|batch| batch.size),
            wait_ms = self.batch.map(|batch| batch.wait.as_secs_f64() * 1e3),
            left = self.batch.map(|batch| batch.reason),
            reason = self.reason,
        );
    }
}

/// The target of access lines, so that they can be switched on by `access=info`.
pub(super) const TARGET: &str = "access";
