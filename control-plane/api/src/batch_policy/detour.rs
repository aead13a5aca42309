//! What is done to calls before they are sent on, in the words of Gateway API and Envoy Gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A backend that gets a share of the calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendRef {
    /// Name of a Backend in the policy's namespace; the target's own takes part only if it is named, too.
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
    pub name: String,
}

const fn all() -> f64 {
    100.0
}

const fn one() -> u32 {
    1
}
