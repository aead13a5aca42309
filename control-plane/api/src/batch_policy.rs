//! `kind: BatchPolicy`: which calls are gathered, how they merge, and how their traffic is treated.

mod batching;
mod codec;
mod detour;
mod matching;
mod status;
mod traffic;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{Ignored, Metadata};
use crate::schema::rules::{self, rule};

pub use batching::{
    BatchSettings, Dispatch, Identity, Isolate, KeySettings, OnFailure, Order, Replay, WindowBounds,
};
pub use codec::{CodecSettings, JsonArraySettings, JsonRpcSettings, KeyedGetSettings, Missing};
pub use detour::{BackendRef, FaultAbort, FaultDelay, FaultInjection, MirrorRef, RequestMirror};
pub use matching::{FieldMatch, FieldMatchType, PathMatch, PathMatchType, RouteMatch};
pub use status::{
    AncestorRef, AncestorStatus, BatchPolicyStatus, CONTROLLER_NAME, Condition, ConditionStatus,
    ConditionType, Reason, Rejection, SidecarStatus,
};
pub use traffic::{
    AdaptiveConcurrency, CircuitBreaker, LoadBalancer, LoadBalancerType, RateLimit, RatePer, Retry,
    RetryBudget, RetryCondition, Timeouts, Traffic, TrafficDistribution,
};

/// Which calls are gathered into batches, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchPolicy {
    /// The schema's version.
    #[serde(default = "crate::document::api_version")]
    pub api_version: String,
    /// `BatchPolicy`.
    pub kind: String,
    /// The policy's name.
    pub metadata: Metadata,
    /// What the policy says.
    pub spec: BatchPolicySpec,
    /// What became of it. Written by the control plane; not read.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<BatchPolicyStatus>")]
    pub status: Ignored,
}

/// What a policy says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "!has(self.targetRefs) || !has(self.traffic) || !has(self.traffic.requestMirror) || \
         !self.targetRefs.exists(target, target.kind in ['Service', 'Backend'] && \
         target.name == self.traffic.requestMirror.backendRef.name)",
        "expected another backend than the target",
    )
    .at(".traffic.requestMirror.backendRef.name"),
    rule(
        "!has(self.targetRefs) || !has(self.traffic) || self.targetRefs.all(target, target.kind in ['Service', 'Backend'])",
        "expected no traffic settings where a target is an HTTPRoute or GRPCRoute: they hold for all calls of a Service",
    )
    .at(".traffic"),
]))]
pub struct BatchPolicySpec {
    /// What the policy is for, at most 16. May be left out where there is one backend only.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [
        rule(
            "self.all(one, self.exists_one(other, one.kind == other.kind && one.name == other.name && \
             (has(one.sectionName) ? one.sectionName : '') == (has(other.sectionName) ? other.sectionName : '')))",
            "found one of them a second time, expected it once",
        ),
    ]))]
    pub target_refs: Vec<TargetRef>,
    /// Whether calls are merged.
    #[serde(default)]
    pub mode: Mode,
    /// Which sidecar batches.
    #[serde(default)]
    pub placement: Placement,
    /// Rules, of which the first that matches a call wins, at most 256. A call that none matches passes through.
    #[serde(default)]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [
        rule(
            "self.all(one, !has(one.name) || self.exists_one(other, has(other.name) && other.name == one.name))",
            "found a name a second time, expected one of its own",
        ),
    ]))]
    pub routes: Vec<RouteRule>,
    /// How the target's traffic is treated, batched or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// How a change of this policy spreads over the sidecars that a control plane pushes it to.
    #[serde(default, skip_serializing_if = "Rollout::is_default")]
    pub rollout: Rollout,
}

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "!has(self.group) || self.group == (self.kind == 'Service' ? '' : self.kind == 'Backend' ? 'jitney.dev' : \
         'gateway.networking.k8s.io')",
        "expected \"\" for kind: Service, jitney.dev for Backend, gateway.networking.k8s.io for HTTPRoute and GRPCRoute",
    )
    .at(".group"),
]))]
pub struct TargetRef {
    /// API group of the kind; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// A `Service`, `HTTPRoute` or `GRPCRoute` of Kubernetes, or a `Backend`. In files a Service is the Backend
    /// of the same name. A route stands for the calls to the Services among its parentRefs that belong to its
    /// rules; such a policy has no traffic settings, which hold for all calls of a Service.
    #[serde(default)]
    pub kind: TargetKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// A port of a Service or a rule of a route, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub section_name: Option<String>,
}

/// Kinds that a policy can be for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// A Kubernetes Service.
    #[default]
    Service,
    /// A Gateway API HTTPRoute.
    HTTPRoute,
    /// A Gateway API GRPCRoute.
    GRPCRoute,
    /// A Backend of the same files.
    Backend,
}

/// Whether calls are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// They are.
    #[default]
    Active,
    /// Batches are formed and reported, but every call is sent alone.
    Shadow,
    /// Every call is forwarded untouched.
    Disabled,
}

/// Which sidecar batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Placement {
    /// That of the callee: it sees every caller, so batches fill best.
    #[default]
    Inbound,
    /// That of the caller, for upstreams outside the mesh.
    Outbound,
}

/// How a change spreads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// Share of the sidecars that take a change first, 1 to 100; the others keep what they have. Which ones
    /// follows from their names: a larger share has all of a smaller one, and with 100 the change is
    /// complete. When one that takes it rejects it, or sees calls fail twice as often, the rollout stops by
    /// itself: all run what was before, whatever the share, until the policy is changed again. To give up a
    /// change, take it back. A policy that is new goes to the share alone; one that is removed is gone
    /// everywhere at once. A lone sidecar takes every change.
    #[serde(default = "all_sidecars")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: u32,
}

impl Rollout {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            percent: all_sidecars(),
        }
    }
}

const fn all_sidecars() -> u32 {
    100
}

/// One rule: which calls, and how they merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::route()))]
pub struct RouteRule {
    /// The rule's name in metrics and logs, unique within the policy. Default: its position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = rules::LABEL), length(max = 63))]
    pub name: Option<String>,
    /// Which calls the rule is for; all that is named must fit. Default: every call.
    #[serde(default, rename = "match")]
    pub matches: RouteMatch,
    /// How calls merge; exactly one of its fields.
    pub codec: CodecSettings,
    /// Caps of a batch and its queue.
    #[serde(default)]
    pub batch: BatchSettings,
    /// What the members of a batch may differ in.
    #[serde(default)]
    pub key: KeySettings,
    /// What follows a failed batch.
    #[serde(default)]
    pub on_failure: OnFailure,
}
