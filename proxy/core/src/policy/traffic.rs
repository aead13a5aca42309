//! How a backend's traffic is treated: plain, validated settings. `rate`, `retry` and `breaker`
//! decide by them, for the part of the proxy that owns connections.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use super::{Detours, Replay};
use crate::grpc::{self, Code};

/// Everything of a policy that holds for batched calls and others alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Bounds on how long a call may take.
    pub timeouts: Timeouts,
    /// When a call is tried again; `None`: never by policy.
    pub retry: Option<Retry>,
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// It is one of the own zone, while enough of those are fit.
    pub prefers_zone: bool,
    /// When an endpoint or the backend is given a rest; `None`: never.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How many requests may be in flight is learned; `None`: it is not.
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// How many calls are let through; `None`: no limit.
    pub rate_limit: Option<RateLimit>,
    /// What is done to calls before they are sent on.
    pub detours: Detours,
}

/// Bounds on how long a call may take; `None`: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the reply's head, retries and waiting included.
    pub request: Option<Duration>,
    /// The same for one try.
    pub per_try: Option<Duration>,
}

/// How long a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// `request`, or less by the caller's own word; `None`: for ever.
    pub limit: Option<Duration>,
    /// It is the caller's word.
    pub is_callers: bool,
}

impl Timeouts {
    /// That of the caller of a call with these fields.
    pub fn patience(&self, call: &HeaderMap) -> Patience {
        let own = grpc::timeout(call);
        Patience {
            limit: [self.request, own].into_iter().flatten().min(),
            is_callers: own.is_some_and(|own| self.request.is_none_or(|request| own < request)),
        }
    }
}

/// When and how often a call is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Tries after the first one.
    pub attempts: u32,
    /// What is worth another try.
    pub on: RetryOn,
    /// The bound on retries over all calls of the backend.
    pub budget: RetryBudget,
    /// Which calls may reach the upstream again after something of them may have.
    pub replay: Replay,
}

/// What is worth another try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection could be made: nothing was sent.
    pub connect_failure: bool,
    /// The connection ended before the reply's head, or the try took too long, as in Envoy.
    pub reset: bool,
    /// HTTP/2 `REFUSED_STREAM` or a `GOAWAY` that excludes the call: nothing was processed.
    pub refused_stream: bool,
    /// Reply statuses, sorted.
    pub statuses: Vec<StatusCode>,
    /// Codes of gRPC.
    pub codes: Vec<Code>,
}

/// The bound on retries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Share of calls that may be retried, 0 to 1.
    pub ratio: f64,
    /// Retries a second that are always allowed.
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            ratio: 0.2,
            min_per_second: 10,
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancer {
    /// The better of two, by a moving average of latency that jumps at a peak, times load.
    #[default]
    PeakEwma,
    /// The better of two, by calls in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// The same endpoint for equal values of a header.
    ConsistentHash {
        /// The header that is hashed.
        header: HeaderName,
    },
}

/// When an endpoint or the backend is given a rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CircuitBreaker {
    /// Requests in flight to the backend before more are shed. A batch is one.
    pub max_requests: u32,
    /// Failures in a row after which an endpoint rests.
    pub consecutive_failures: u32,
    /// Share of good replies below which an endpoint rests, 0 to 1.
    pub success_rate: f64,
    /// The first rest; each that follows soon is twice as long.
    pub base_ejection_time: Duration,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            max_requests: 1024,
            consecutive_failures: 7,
            success_rate: 0.8,
            base_ejection_time: Duration::from_secs(30),
        }
    }
}

/// Bounds on the number of requests in flight that is learned. A batch is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveConcurrency {
    /// It is never fewer.
    pub min: NonZeroUsize,
    /// It is never more; at least `min`.
    pub max: NonZeroUsize,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        let bound = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        Self {
            min: bound(3),
            max: bound(1000),
        }
    }
}

/// How many calls are let through. Calls are counted, not batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Calls a second.
    pub requests_per_second: f64,
    /// Who has a budget of their own.
    pub per: RatePer,
}

/// Who has a rate budget of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RatePer {
    /// Nobody: one budget for the backend.
    #[default]
    Backend,
    /// Every caller identity.
    Identity,
}
