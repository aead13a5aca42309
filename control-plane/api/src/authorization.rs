//! Who may call a workload, and what.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::PathMatch;
use crate::schema::rules::{self, rule};

/// Who may call a workload. Without it, everybody; with it, nobody but those that a rule allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorization {
    /// Whether what no rule allows is refused, or only told.
    #[serde(default)]
    pub mode: AuthorizationMode,
    /// What is allowed; one rule that fits is enough. None: nothing is.
    #[serde(default)]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [
        rule(
            "self.all(one, !has(one.name) || self.exists_one(other, has(other.name) && other.name == one.name))",
            "found a name a second time, expected one of its own",
        ),
    ]))]
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
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Callers, as their certificates say: `shop/front`, `shop/*` for a namespace, `*` for whoever has a
    /// certificate, or a whole SPIFFE ID. Default: everybody, with a certificate or without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(regex(pattern = rules::CALLER), length(max = 1024)))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub from: Vec<String>,
    /// Ports that are called. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1)), extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Vec<u16>,
    /// Methods, in capitals. Default: all. A rule with methods or paths is for HTTP alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = rules::METHOD), length(max = 64)))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub methods: Vec<String>,
    /// Raw paths. Default: all. One with dot segments, empty segments, or an encoded dot, slash, percent sign
    /// or semicolon fits none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub paths: Vec<PathMatch>,
}
