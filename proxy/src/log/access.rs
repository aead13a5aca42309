//! One line per call, and per connection that carries none: off by default, and then it costs one atomic load.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::connection::ConnInfo;

/// What is said about a call that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// What was asked for, and by whom.
    pub asked: &'a Asked,
    /// The status that the caller got; of a call of gRPC what its code stands for, and of one that its caller left
    /// or whose reply broke off, what the sidecar would have answered.
    pub status: StatusCode,
    /// The code of gRPC, if there was one.
    pub grpc_status: Option<u8>,
    /// From the request's head to the end of the reply.
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

/// What a call's head says.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Its authority, or else its `Host`.
    pub host: Option<Box<str>>,
    /// Its path, without its query: that may hold secrets.
    pub path: Box<str>,
    /// Whose sidecar called, if that is proven.
    pub caller: Option<Box<str>>,
    /// Its `x-request-id`.
    pub request_id: Option<Box<str>>,
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
        // Texts are quoted and escaped, as some come from the network.
        tracing::info!(
            target: TARGET,
            method = %self.asked.method,
            host = self.asked.host.as_deref(),
            path = &*self.asked.path,
            caller = self.asked.caller.as_deref(),
            request_id = self.asked.request_id.as_deref(),
            status = self.status.as_u16(),
            grpc_status = self.grpc_status,
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

/// What is said about a connection that carried no calls, at its end.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// What it was taken for.
    pub protocol: &'static str,
    /// Whose it was, and where it went.
    pub info: &'a ConnInfo,
    /// The backend's name.
    pub backend: &'a str,
    /// From when it was known that it carries no calls.
    pub duration: Duration,
    /// What went wrong.
    pub reason: Option<&'a str>,
}

impl Connection<'_> {
    /// Logs the line. Ask [`Access::is_on`] before gathering what it needs.
    pub fn log(&self) {
        tracing::info!(
            target: TARGET,
            protocol = self.protocol,
            peer = %self.info.peer,
            destination = %self.info.local,
            caller = self.info.identity.as_ref().map(|identity| &*identity.id),
            duration_ms = self.duration.as_secs_f64() * 1e3,
            backend = self.backend,
            reason = self.reason,
        );
    }
}

/// Why a call or connection ended that the drain had no time for.
pub(crate) const CUT_OFF: &str = "drain_time";

/// The target of access lines, so that they can be switched on by `access=info`.
pub(super) const TARGET: &str = "access";
