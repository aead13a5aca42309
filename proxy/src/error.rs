//! What went wrong with a call: what, on whose side, whether another try may help, and why.
//! `reply` alone turns an error into a status.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use jitney_core::policy::Injected;

type Source = Box<dyn StdError + Send + Sync>;

/// An error of one call.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: Option<Source>,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is not acceptable HTTP; the text says which rule it breaks.
    BadRequest(&'static str),
    /// The request passed this sidecar too often (RFC 5842 section 7.2).
    Loop,
    /// No rule allows the call to its caller.
    Denied,
    /// The request body exceeds the hard cap.
    BodyTooLarge,
    /// The caller went away while its request was being read.
    CallerGone,
    /// A bound of this sidecar is reached; the text says which.
    Shed(Bound, Duration),
    /// The call's rate limit is used up.
    RateLimited(Duration),
    /// The call's deadline passed, or cannot be met.
    DeadlineExceeded,
    /// The backend has no endpoint that may be used.
    NoEndpoint,
    /// No connection to the endpoint could be made.
    Connect,
    /// The connection to the endpoint took too long to make.
    ConnectTimeout,
    /// One attempt took longer than `timeouts.perTry`.
    TryTimeout,
    /// The connection broke after the request was, or may have been, sent.
    UpstreamReset,
    /// The upstream's reply is not acceptable HTTP.
    UpstreamProtocol(&'static str),
    /// The reply to a batch is larger than this sidecar holds.
    ReplyTooLarge,
    /// The reply to a batch does not fit its members.
    Mismatch,
    /// The policy has the call fail on purpose.
    FaultInjected(Injected),
}

/// The bounds at which calls are shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// `maxQueueSize` or `maxQueueBytes`.
    Queue,
    /// `queueTimeout`.
    QueueTimeout,
    /// `circuitBreaker.maxRequests`.
    Requests,
    /// What `adaptiveConcurrency` has learned.
    Concurrency,
    /// The memory of the process's control group.
    Memory,
}

/// On whose side the fault lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The caller's.
    Downstream,
    /// This sidecar's: a bound of its own.
    Sidecar,
    /// The callee's.
    Upstream,
}

impl Error {
    /// An error of this kind without a deeper cause.
    pub const fn new(kind: ErrorKind) -> Self {
        Self { kind, source: None }
    }

    /// An error of this kind with its cause.
    pub fn caused(kind: ErrorKind, source: impl Into<Source>) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
    }

    /// What went wrong.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl ErrorKind {
    /// On whose side the fault lies.
    pub const fn side(self) -> Side {
        match self {
            Self::BadRequest(_) | Self::Denied | Self::Loop | Self::BodyTooLarge | Self::CallerGone => {
                Side::Downstream
            }
            Self::Shed(..) | Self::RateLimited(_) | Self::DeadlineExceeded | Self::FaultInjected(_) => {
                Side::Sidecar
            }
            Self::NoEndpoint
            | Self::Connect
            | Self::ConnectTimeout
            | Self::TryTimeout
            | Self::UpstreamReset
            | Self::UpstreamProtocol(_)
            | Self::ReplyTooLarge
            | Self::Mismatch => Side::Upstream,
        }
    }

    /// True when it is certain that the upstream never began on the request.
    pub const fn never_sent(self) -> bool {
        matches!(
            self,
            Self::NoEndpoint | Self::Connect | Self::ConnectTimeout | Self::Shed(..) | Self::FaultInjected(_)
        )
    }

    /// The reason as `x-jitney-error` and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::Loop => "loop",
            Self::Denied => "denied",
            Self::BodyTooLarge => "body_too_large",
            Self::CallerGone => "caller_gone",
            Self::Shed(Bound::Queue, _) => "queue_full",
            Self::Shed(Bound::QueueTimeout, _) => "queue_timeout",
            Self::Shed(Bound::Requests, _) => "too_many_requests_in_flight",
            Self::Shed(Bound::Concurrency, _) => "concurrency_limit",
            Self::Shed(Bound::Memory, _) => "memory",
            Self::RateLimited(_) => "rate_limited",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NoEndpoint => "no_endpoint",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::TryTimeout => "try_timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamProtocol(_) => "upstream_protocol",
            Self::ReplyTooLarge => "reply_too_large",
            Self::Mismatch => "reply_mismatch",
            Self::FaultInjected(_) => "fault_injected",
        }
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let ErrorKind::BadRequest(rule) = self.kind {
            return write!(f, "bad request: {rule}");
        }
        if let ErrorKind::UpstreamProtocol(rule) = self.kind {
            return write!(f, "bad reply from upstream: {rule}");
        }
        f.write_str(self.kind.as_str())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}
