//! How the target's traffic is treated, in the words of Gateway API and Envoy Gateway.

use std::fmt::{self, Formatter};

use schemars::JsonSchema;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use super::{BackendRef, FaultInjection, Replay, RequestMirror};
use crate::Duration;
use crate::schema::rules::{self, rule};

/// How the target's traffic is treated, batched or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Traffic {
    /// How long a call may take.
    pub timeouts: Timeouts,
    /// When a call is tried again. Default: not by policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// When an endpoint or the whole backend is given a rest. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How many requests may be in flight to the backend, a batch being one, is learned; `{}` is enough.
    /// Default: it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// How many calls are let through. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Backends that the calls that come to the target are shared out over by weight, each with a policy
    /// of its own, 1 to 16; so are connections that are not HTTP. Default: all are the target's. The target's
    /// rate limit is asked first. One hop: what a backend's own policy says here is not followed. The share of
    /// one that a sidecar knows nothing of stays with the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [
        rule(
            "self.all(one, self.exists_one(other, other.name == one.name))",
            "found a name a second time, expected it once",
        ),
        rule("self.exists(one, one.weight > 0)", "found no weight above 0, expected at least one"),
    ]))]
    pub backend_refs: Option<Vec<BackendRef>>,
    /// Copies of the calls that come to the target, wherever these go, are sent to another backend, whose
    /// replies are thrown away. Default: none. A copy has the head of its call, host and credentials
    /// included, and as much time; it travels alone and is not tried again. It never delays its call, but is given
    /// up: when 1 MiB or 1,024 pieces of its body wait to be sent, when the backend has 100 copies or cannot be reached, when
    /// memory is short, when the sidecar drains, and after a minute. Calls that ask for another protocol, and
    /// connections that are not HTTP, are not copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<RequestMirror>,
    /// Calls that wait or fail on purpose, before they join a batch. Connections that are not HTTP do
    /// neither. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_injection: Option<FaultInjection>,
}

/// How long a call may take. Unlike Envoy, which ends a call after 15 s, nothing is bounded by
/// default: a call takes what it would take without a sidecar. What a call has switched to, such as a WebSocket, lasts as
/// long as both sides like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "self.request == duration('0s') || self.perTry <= self.request",
        "expected at most timeouts.request",
    )
    .at(".perTry"),
]))]
pub struct Timeouts {
    /// The whole call, retries and waiting included; then 504. `0s`: no bound. Where the caller took more than a tenth of
    /// it to send the body, that says nothing of the endpoint.
    pub request: Duration,
    /// One try, from when the request has been passed on whole to the head of its reply, as in Envoy; before, only time
    /// counts in which the endpoint takes nothing of it. `0s`: no bound.
    pub per_try: Duration,
}

/// When a call that passes through or travels alone is tried again: one that may be repeated, whose body
/// is at hand or, sent as it came, had no more than 64 KiB. What was certainly not sent may be tried again
/// whatever its method. A batch of several is isolated by `onFailure` instead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// Tries after the first.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// What is worth another try: `connect-failure`, `reset` (no reply: the connection
    /// ended, or the try took longer than `timeouts.perTry`), `refused-stream`, `gateway-error` (502,
    /// 503, 504), `5xx`, or a status; and of calls of gRPC `cancelled`, `deadline-exceeded`, `internal`,
    /// `resource-exhausted`, `unavailable`. A status or code also stands for errors that the caller would
    /// get with it; codes count in replies that are all head, and whoever names one declares that calls that end
    /// with it may be repeated.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub on: Vec<RetryCondition>,
    /// The bound on retries over all calls.
    pub budget: RetryBudget,
    /// Which calls may be tried again after they may have been sent: `Idempotent`, those of GET, HEAD, PUT, DELETE,
    /// OPTIONS and TRACE (RFC 9110); `Declared`, all; `Never`, none. A route's `onFailure.replay` adds to it,
    /// and `Never` there stands.
    pub replay: Replay,
}

impl Default for Retry {
    fn default() -> Self {
        let on = ["connect-failure", "refused-stream"]
            .map(|name| RetryCondition(name.to_owned()))
            .into();
        Self {
            attempts: 2,
            on,
            budget: RetryBudget::default(),
            replay: Replay::Idempotent,
        }
    }
}

/// A condition's name, or a status as text or number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend(
    "type" = ["string", "integer"],
    "pattern" = rules::RETRY_CONDITION,
    "minimum" = 400,
    "maximum" = 599
))]
pub struct RetryCondition(pub String);

impl<'de> Deserialize<'de> for RetryCondition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Condition;

        impl Visitor<'_> for Condition {
            type Value = RetryCondition;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a condition such as connect-failure, or a status such as 503")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RetryCondition, E> {
                Ok(RetryCondition(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, status: u64) -> Result<RetryCondition, E> {
                Ok(RetryCondition(status.to_string()))
            }
        }

        deserializer.deserialize_any(Condition)
    }
}

/// The bound on retries over all calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryBudget {
    /// Share of the last 10 s' calls that may be tried again, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub ratio: f64,
    /// Retries a second that are allowed beyond it.
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "self.type != 'ConsistentHash' || has(self.header)",
        "expected the field that type: ConsistentHash hashes",
    )
    .at(".header"),
    rule("self.type == 'ConsistentHash' || !has(self.header)", "expected it only with type: ConsistentHash")
        .at(".header"),
]))]
pub struct LoadBalancer {
    /// The rule.
    #[serde(rename = "type")]
    pub kind: LoadBalancerType,
    /// With `ConsistentHash`, the field that is hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = rules::HEADER_NAME), length(max = 256))]
    pub header: Option<String>,
    /// Which endpoints come first, as for a Service of Kubernetes; by default all are alike. `PreferSameZone`:
    /// those in the sidecar's own zone (`--zone`), unless fewer than half of them are fit; one that rests or
    /// cannot be reached is not. Then all are alike, so that the few that are left of a zone never get all
    /// of its calls, as they would in Kubernetes. A call that was tried on all of the zone goes on outside.
    /// With `ConsistentHash`, equal values go to one endpoint of a zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// Which endpoints come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficDistribution {
    /// Those in the sidecar's own zone.
    PreferSameZone,
}

/// Rules by which an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancerType {
    /// The better of two by latency, with a memory for peaks, and load.
    #[default]
    PeakEwma,
    /// The better of two by calls in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// The same endpoint for equal values of a field.
    ConsistentHash,
}

/// When an endpoint or the whole backend is given a rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// Requests in flight to the backend, a batch being one; more are shed with 503. Beside them, as many connections
    /// may be open to hear whether the backend speaks first, for callers who are silent; others wait.
    #[schemars(range(min = 1))]
    pub max_requests: u32,
    /// Failures in a row after which an endpoint rests; then one call finds out whether it is well, and another one where
    /// that has not ended after as long again. At most half of the endpoints rest at once. A connection that is not HTTP and cannot be made is a failure, too.
    #[schemars(range(min = 1))]
    pub consecutive_failures: u32,
    /// Share of good replies, 0 to 1, below which an endpoint rests, once it had 100 calls in 10 s.
    #[schemars(range(min = 0, max = 1))]
    pub success_rate: f64,
    /// How long an endpoint rests first, above 0; twice as long each time that follows soon, up to 5 minutes.
    #[schemars(extend("x-kubernetes-validations" = [rules::some_time()]))]
    pub base_ejection_time: Duration,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            max_requests: 1024,
            consecutive_failures: 7,
            success_rate: 0.8,
            base_ejection_time: Duration(std::time::Duration::from_secs(30)),
        }
    }
}

/// Bounds on what is learned. More requests in flight are not of use when each then takes longer in proportion:
/// they only wait for each other. Nothing is measured in advance, and nothing stops to be measured; calls of
/// other sizes and an upstream that turns slower change nothing. Timeouts, 429 and 5xx lower the limit where
/// more than one in ten answers is one. Beyond it a call that travels alone is shed with 503, and batches wait
/// and grow, but for those of `dispatch: Fixed`; each of the two kinds gets half where both want all. A request is
/// in flight until the head of its reply has come: what is streamed after that does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.minConcurrency <= self.maxConcurrency", "expected at least minConcurrency").at(".maxConcurrency"),
]))]
pub struct AdaptiveConcurrency {
    /// The limit is never lower.
    #[schemars(range(min = 1))]
    pub min_concurrency: u32,
    /// It is never higher; at least `minConcurrency`.
    #[schemars(range(min = 1))]
    pub max_concurrency: u32,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self {
            min_concurrency: 3,
            max_concurrency: 1000,
        }
    }
}

/// How many calls are let through; more are shed with 429. Calls are counted, not batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Calls a second, above 0; at once, as many as one second brings.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub requests_per_second: f64,
    /// Who has a budget of their own.
    #[serde(default)]
    pub per: RatePer,
}

/// Who has a rate budget of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RatePer {
    /// One budget for all.
    #[default]
    Backend,
    /// Every caller identity: the workload that mTLS has proven, whatever credentials its calls carry, or else their
    /// credentials, which nobody has checked yet: whoever invents some has a budget for them. Callers without any
    /// share one.
    Identity,
}
