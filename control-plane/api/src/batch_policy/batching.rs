//! Caps of a batch, what its members may differ in, and what follows when it fails.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::rules::{self, rule};
use crate::{ByteSize, Duration};

/// Caps of a batch and its queue. The dispatcher learns the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("self.maxSize <= self.maxQueueSize", "expected at least maxSize: no batch would ever be full")
        .at(".maxQueueSize"),
    rule(
        "self.timeout <= self.queueTimeout",
        "expected at most queueTimeout: calls would be shed before they leave",
    )
    .at(".timeout"),
    rule(
        "!has(self.priorityHeader) || self.order == 'Priority'",
        "expected it only together with order: Priority",
    )
    .at(".priorityHeader"),
]))]
pub struct BatchSettings {
    /// Most items in one batch. A call with more is divided where the codec can (`kserve-v1`,
    /// `tf-serving`), and goes alone where it cannot.
    #[schemars(range(min = 1, max = 65536))]
    pub max_size: usize,
    /// Most bytes in a merged body, separators included, 1 to 256Mi. A call with more goes alone.
    #[schemars(range(min = 1, max = 268_435_456))]
    pub max_bytes: ByteSize,
    /// The longest a call may wait for companions. `0s`: only for those already on their way in;
    /// with `Fixed`, not at all. At most `queueTimeout`.
    #[schemars(extend("x-kubernetes-validations" = [rules::wait()]))]
    pub timeout: Duration,
    /// When batches leave.
    pub dispatch: Dispatch,
    /// Which queued call goes first.
    pub order: Order,
    /// With `order: Priority`, the field that carries a call's class, 0 (most urgent) to 7, alone or
    /// as `u=1` (RFC 9218). A call without is of class 3. Default: `priority`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = rules::HEADER_NAME), length(max = 256))]
    pub priority_header: Option<String>,
    /// Most items queued under one key. More are shed with 503.
    #[schemars(range(min = 1, max = 1000000))]
    pub max_queue_size: usize,
    /// Most bytes queued under one key, `maxBytes` to 4Gi. More are shed with 503.
    #[schemars(range(max = 4_294_967_296_u64))]
    pub max_queue_bytes: ByteSize,
    /// The longest a call may be queued, whatever it waits for, more than 0s and at most 1h. Then it is shed
    /// with 503.
    #[schemars(extend("x-kubernetes-validations" = [rules::some_time(), rules::wait()]))]
    pub queue_timeout: Duration,
    /// How many batches may be in flight to the backend. Default: as many as `dispatch` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowBounds>,
}

/// Bounds of the window, whatever is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [rule("self.min <= self.max", "expected 1 <= min <= max <= 256")]))]
pub struct WindowBounds {
    /// Never fewer batches in flight, while there are calls for them.
    #[schemars(range(min = 1, max = 256))]
    pub min: usize,
    /// Never more.
    #[schemars(range(min = 1, max = 256))]
    pub max: usize,
}

impl Default for WindowBounds {
    fn default() -> Self {
        Self { min: 1, max: 256 }
    }
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self {
            max_size: 64,
            max_bytes: ByteSize(1 << 20),
            timeout: Duration::default(),
            dispatch: Dispatch::default(),
            order: Order::default(),
            priority_header: None,
            max_queue_size: 1024,
            max_queue_bytes: ByteSize(16 << 20),
            queue_timeout: Duration::from_secs(2),
            window: None,
        }
    }
}

/// When batches leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Dispatch {
    /// At once while the upstream has room, gathered while it has none; how much room is learned.
    #[default]
    Adaptive,
    /// The same with room for four batches.
    Eager,
    /// At `maxSize` items or after `timeout`, and for no other reason.
    Fixed,
}

/// Which queued call goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Order {
    /// First come, first served.
    #[default]
    Fifo,
    /// The one with fewest items.
    ShortestFirst,
    /// The one of the most urgent class.
    Priority,
    /// The one whose deadline is next.
    EarliestDeadline,
}

/// What the members of a batch may differ in. Everything that is not named here is equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = rules::key()))]
pub struct KeySettings {
    /// Whether callers of different identity may share a batch.
    pub identity: Identity,
    /// Header fields that must be equal although they are left out by default: `traceparent`,
    /// `tracestate`, `b3`, `x-b3-*`, `x-request-id`, `content-length`, `date`; and with
    /// `identity: Shared` the credentials.
    #[schemars(length(max = 16), inner(regex(pattern = rules::HEADER_NAME), length(max = 64)))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub include_headers: Vec<String>,
    /// Header fields that may differ, such as `user-agent` or `x-forwarded-for`. The batch carries
    /// those of its first member.
    #[schemars(length(max = 16), inner(regex(pattern = rules::HEADER_NAME), length(max = 64)))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub ignore_headers: Vec<String>,
}

/// Whether callers of different identity may share a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Identity {
    /// Never.
    #[default]
    Strict,
    /// They may: the batch travels with the credentials of its first member.
    Shared,
}

/// What follows a failed batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OnFailure {
    /// Which calls may reach the upstream again. Default: `Idempotent`; with a preset for
    /// inference `Declared`, as a prediction changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// How the bad item is found.
    pub isolate: Isolate,
}

/// Which calls may reach the upstream again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Replay {
    /// None, whatever happened.
    Never,
    /// Those with an idempotent method (RFC 9110).
    Idempotent,
    /// All: repeating them does no harm.
    Declared,
}

/// How the bad item of a failed batch is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Isolate {
    /// By halves, within a budget.
    #[default]
    Bisect,
    /// Every member is sent alone.
    Singles,
    /// It is not.
    None,
}
