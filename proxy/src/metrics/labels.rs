//! The closed sets of label values. No label value ever comes from the network.

use std::time::Duration;

use jitney_core::Bypass;
use jitney_core::batch::FlushReason;
use jitney_core::policy::Injected;

use super::cell::Label;
use crate::error::{Bound, ErrorKind, Side};

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn index(self) -> usize { self as usize }
            fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

labels! {
    /// What became of an item that was queued for a batch.
    ItemOutcome {
        /// It got its part of a batch reply, with a status below 400.
        Ok = "ok",
        /// It got its part of a batch reply, or the status of the whole batch: 400 or above.
        Failed = "failed",
        /// It got its reply by a call of its own: asked alone, replayed, or a batch of one.
        Alone = "alone",
        /// It was refused because a bound was reached.
        Shed = "shed",
        /// Its deadline passed before it could be sent.
        Expired = "expired",
        /// Its caller left.
        Cancelled = "cancelled",
        /// It got an error of this sidecar: 502, 503 or 504.
        Error = "error",
    }
}

labels! {
    /// Why a connection was closed as soon as it was accepted.
    Refusal {
        /// It came to the listener directly, which is for what the kernel hands over.
        NotRedirected = "not_redirected",
        /// It was meant for what only this machine may reach, such as the admin endpoint.
        Forbidden = "forbidden",
        /// Its caller shows no certificate, which its port is strict about.
        NotSecured = "not_secured",
        /// Its caller, a sidecar, could not prove who it is, or this one cannot.
        Untrusted = "untrusted",
        /// It is not HTTP, and no rule allows its bytes to its caller.
        Denied = "denied",
        /// This sidecar made it: its own user is not spared by the rules.
        Own = "own",
    }
}

labels! {
    /// What became of a call, or a connection of bytes, that no rule allows.
    Unauthorized {
        /// It was refused.
        Enforced = "enforced",
        /// It was served, and would be refused if the rules were enforced.
        DryRun = "dry_run",
    }
}

labels! {
    /// How a batch failed as a whole.
    BatchFailure {
        /// A status of 400 or above.
        Status = "status",
        /// Another number of results than of items.
        Count = "count",
        /// A result that belongs to no item, or two to one.
        Id = "id",
        /// A reply that is not of the convention's shape.
        Shape = "shape",
        /// A reply larger than this sidecar holds, or 413.
        Size = "size",
        /// No reply in time.
        Timeout = "timeout",
        /// No connection, or one that broke.
        Connection = "connection",
    }
}

labels! {
    /// Where a call was when its caller left.
    CancelStage {
        /// Its body was being read.
        Reading = "reading",
        /// It was queued: nothing was sent.
        Queued = "queued",
        /// Its batch was in flight.
        InFlight = "in_flight",
    }
}

labels! {
    /// Why a call went upstream.
    #[derive(Default)]
    UpstreamCall {
        /// A call that is not batched, or a batch of one.
        #[default]
        Single = "single",
        /// A batch of two members or more.
        Batch = "batch",
        /// A member asked alone after a batch, or a part of a bisected batch.
        Replay = "replay",
        /// Another try of a call, which takes from the retry budget.
        Retry = "retry",
        /// The same on another endpoint, as the one before could not be reached and has seen nothing of it.
        Elsewhere = "elsewhere",
        /// A copy of a call that came to another backend.
        Mirror = "mirror",
    }
}

labels! {
    /// What became of a call's copy.
    MirrorOutcome {
        /// Its reply was thrown away.
        Replied = "replied",
        /// It got none.
        Failed = "failed",
        /// It took too long.
        TimedOut = "timed_out",
        /// It was given up: too much of its body waited to be sent.
        Behind = "behind",
        /// It was given up: the call itself was not read to its end.
        CallerGone = "caller_gone",
        /// It was not made: too many are under way.
        TooMany = "too_many",
        /// It was not made: memory is short.
        Memory = "memory",
        /// It was not made: the sidecar drains.
        Draining = "draining",
        /// It was not made: nothing is known of the backend.
        Unknown = "unknown_backend",
    }
}

labels! {
    /// What was done to a call on purpose.
    Fault {
        /// It had to wait.
        Delay = "delay",
        /// It was answered and went nowhere.
        Abort = "abort",
    }
}

labels! {
    /// The class of a status.
    StatusClass {
        /// 1xx, of which only 101 is final.
        Informational = "1xx",
        /// 2xx.
        Success = "2xx",
        /// 3xx.
        Redirection = "3xx",
        /// 4xx.
        ClientError = "4xx",
        /// 5xx.
        ServerError = "5xx",
    }
}

labels! {
    /// What a downstream connection turned out to speak.
    Protocol {
        /// HTTP/1.0 or HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2.
        Http2 = "http2",
        /// TLS that is the service's own, passed on unread.
        Tls = "tls",
        /// Anything else, passed on as bytes.
        Opaque = "opaque",
    }
}

impl From<ErrorKind> for ItemOutcome {
    fn from(kind: ErrorKind) -> Self {
        if kind == ErrorKind::DeadlineExceeded {
            Self::Expired
        } else if kind.side() == Side::Sidecar {
            Self::Shed
        } else {
            Self::Error
        }
    }
}

impl From<http::StatusCode> for StatusClass {
    fn from(status: http::StatusCode) -> Self {
        match status.as_u16() {
            ..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }
}

impl Label for FlushReason {
    const ALL: &'static [Self] = &Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Bypass {
    const ALL: &'static [Self] = Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for ErrorKind {
    const ALL: &'static [Self] = &[
        Self::BadRequest(""),
        Self::BodyTooLarge,
        Self::CallerGone,
        Self::Shed(Bound::Queue, Duration::ZERO),
        Self::Shed(Bound::QueueTimeout, Duration::ZERO),
        Self::Shed(Bound::Requests, Duration::ZERO),
        Self::RateLimited(Duration::ZERO),
        Self::DeadlineExceeded,
        Self::NoEndpoint,
        Self::Connect,
        Self::ConnectTimeout,
        Self::TryTimeout,
        Self::UpstreamReset,
        Self::UpstreamProtocol(""),
        Self::ReplyTooLarge,
        Self::Mismatch,
        Self::Loop,
        Self::Denied,
        Self::Shed(Bound::Memory, Duration::ZERO),
        Self::Shed(Bound::Concurrency, Duration::ZERO),
        Self::FaultInjected(Injected {
            http: None,
            grpc: None,
        }),
    ];

    fn index(self) -> usize {
        match self {
            Self::BadRequest(_) => 0,
            Self::BodyTooLarge => 1,
            Self::CallerGone => 2,
            Self::Shed(Bound::Queue, _) => 3,
            Self::Shed(Bound::QueueTimeout, _) => 4,
            Self::Shed(Bound::Requests, _) => 5,
            Self::RateLimited(_) => 6,
            Self::DeadlineExceeded => 7,
            Self::NoEndpoint => 8,
            Self::Connect => 9,
            Self::ConnectTimeout => 10,
            Self::TryTimeout => 11,
            Self::UpstreamReset => 12,
            Self::UpstreamProtocol(_) => 13,
            Self::ReplyTooLarge => 14,
            Self::Mismatch => 15,
            Self::Loop => 16,
            Self::Denied => 17,
            Self::Shed(Bound::Memory, _) => 18,
            Self::Shed(Bound::Concurrency, _) => 19,
            Self::FaultInjected(_) => 20,
        }
    }

    fn text(self) -> &'static str {
        self.as_str()
    }
}
