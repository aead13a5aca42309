//! Who may call a workload, and what.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::PathMatch;

/// Who may call a workload. Without it, everybody; with it, nobody but those that a rule allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorization {
    /// Whether what no rule allows is refused, or only told.
    #[serde(default)]
    pub mode: AuthorizationMode,
    /// What is allowed; one rule that fits is enough. None: nothing is.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub rules: Vec<AccessRule>,
}

/// What becomes of calls that no rule allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthorizationMode {
    /// They are refused: a call with 403, a connection that is not HTTP by its end.
    #[default]
    Enforce,
    /// They are served, counted (`jitney_unauthorized_total`) and logged at level debug.
    DryRun,
}

/// What is allowed to whom: everything that is named has to fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// Its name. Default: its place among the rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Callers, as their certificates say: `shop/front`, `shop/*` for a namespace, `*` for whoever has a
    /// certificate, or a whole SPIFFE ID. Default: everybody, with a certificate or without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub from: Vec<String>,
    /// Ports that are called. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<u16>,
    /// Methods, in capitals. Default: all. A rule with methods or paths is for HTTP alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub methods: Vec<String>,
    /// Raw paths. Default: all. One with dot segments, empty segments, or an encoded dot, slash, percent sign
    /// or semicolon fits none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub paths: Vec<PathMatch>,
}
