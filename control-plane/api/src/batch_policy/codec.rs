//! How calls merge: one codec with its settings, or a preset.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::rules::{self, rule};

/// How calls merge: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1, "x-kubernetes-validations" = [
    rule(
        "[has(self.preset), has(self.jsonArray), has(self.jsonRpc), has(self.keyedGet)].exists_one(has, has)",
        "expected exactly one of preset, jsonArray, jsonRpc, keyedGet",
    ),
]))]
pub struct CodecSettings {
    /// A convention by its name: `kserve-v1`, `tf-serving`, `openai-embeddings`, `tei-embed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = rules::presets()))]
    pub preset: Option<String>,
    /// An array in a JSON body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_array: Option<JsonArraySettings>,
    /// JSON-RPC 2.0 batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_rpc: Option<JsonRpcSettings>,
    /// Many GETs of one thing each into one GET of many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyed_get: Option<KeyedGetSettings>,
}

/// An array in a JSON body; everything around it must be equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JsonArraySettings {
    /// JSON pointer to the items of a request. Empty: the whole body is the array.
    #[schemars(regex(pattern = rules::POINTER), length(max = 512))]
    pub items: String,
    /// JSON pointer to the results of a reply. Empty: the whole body is the array.
    #[schemars(regex(pattern = rules::POINTER), length(max = 512))]
    pub results: String,
    /// JSON pointer, inside a result, to its item's position. Empty: results are in the items' order.
    #[serde(default)]
    #[schemars(regex(pattern = rules::POINTER), length(max = 512))]
    pub index: String,
    /// JSON pointers to what must be equal. Everything outside the items must; this is for the reader.
    #[serde(default)]
    #[schemars(length(max = 64), inner(regex(pattern = rules::POINTER), length(max = 512)))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub invariants: Vec<String>,
    /// One text, or one array of token numbers, may stand without an array around it.
    #[serde(default)]
    pub scalar: bool,
    /// JSON pointers to counters of a reply that are shared out among the calls, at most 4.
    #[serde(default)]
    #[schemars(length(max = 4), inner(regex(pattern = rules::POINTER), length(max = 512)))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub usage: Vec<String>,
}

/// JSON-RPC 2.0; there is nothing to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JsonRpcSettings {}

/// Many GETs of one thing each into one GET of many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyedGetSettings {
    /// Path and query of the batch request, a template (RFC 6570) over the variables of the route's
    /// path. The list expands comma-joined: `/users?ids={id}`, or as its operators say: `/users{?id*}`.
    #[schemars(regex(pattern = rules::BATCH_PATH), length(max = 1024))]
    pub batch_path: String,
    /// The variable that becomes the list. Default: the last one of the route's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = rules::VARIABLE), length(max = 64))]
    pub item: Option<String>,
    /// JSON pointer to the elements of a reply. Empty: the whole body.
    #[serde(default)]
    #[schemars(regex(pattern = rules::POINTER), length(max = 512))]
    pub elements: String,
    /// JSON pointer, inside an element, to its key. Left out: the elements are the members of an
    /// object, by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = rules::POINTER), length(max = 512))]
    pub key: Option<String>,
    /// What follows for a key that the reply does not have.
    #[serde(default)]
    pub missing: Missing,
}

/// What follows for a key that the reply does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Missing {
    /// The upstream is asked for it alone: only it knows.
    #[default]
    AskAlone,
    /// 404 without a body.
    NotFound,
}
