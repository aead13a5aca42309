//! What is done to calls before they are sent on, in the words of Gateway API and Envoy Gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;
use crate::schema::rules::{self, rule};

/// A backend that gets a share of the calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// Name of a Backend in the policy's namespace; the target's own takes part only if it is named, too.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its part of the sum of all weights, 0 to 1,000,000; 0: none.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: u32,
}

/// Copies of calls that go to another backend, whose replies are thrown away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// The backend.
    pub backend_ref: MirrorRef,
    /// Share of the calls that is copied, 0 to 100.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
}

/// A backend that calls are copied to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorRef {
    /// Name of a Backend in the policy's namespace, other than the target.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Calls that wait or fail on purpose, to see what their callers make of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.delay) || has(self.abort)", "found neither delay nor abort, expected at least one"),
]))]
pub struct FaultInjection {
    /// Calls that wait before they go on, no longer than they may take: then 504. At most 10,000 at one
    /// time, others do not wait. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Calls that are answered at once, or after their delay, and go nowhere. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// Calls that wait before they go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long, above 0 and at most 1h.
    #[schemars(extend("x-kubernetes-validations" = [rules::some_time(), rules::wait()]))]
    pub fixed_delay: Duration,
    /// Share of the calls, 0 to 100.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: f64,
}

/// Calls that are answered and go nowhere; at least one of the two statuses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "has(self.httpStatus) || has(self.grpcStatus)",
        "found neither httpStatus nor grpcStatus, expected at least one",
    ),
]))]
pub struct FaultAbort {
    /// The status, 200 to 599. Default: what `grpcStatus` stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub http_status: Option<u16>,
    /// The code for calls of gRPC, 1 to 16. Default: what stands for `httpStatus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub grpc_status: Option<u8>,
    /// Share of the calls, 0 to 100.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: f64,
}

const fn all() -> f64 {
    100.0
}

const fn one() -> u32 {
    1
}
