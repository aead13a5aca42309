//! `kind: Listener`: where calls come in, outside Kubernetes.

mod headers;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Mtls;
use crate::document::{Ignored, Metadata};

pub use headers::{Forwarded, HeaderRules, NotAPseudonym, Pseudonym, RequestId};

/// Where calls come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// The schema's version.
    #[serde(default = "crate::document::api_version")]
    pub api_version: String,
    /// `Listener`.
    pub kind: String,
    /// The listener's name.
    pub metadata: Metadata,
    /// What it does.
    pub spec: ListenerSpec,
    /// Written by the control plane; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub status: Ignored,
}

/// What a listener does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerSpec {
    /// The address to listen on, as `ip:port`; an IPv6 address in brackets.
    pub address: String,
    /// Name of the Backend that its calls go to. Default: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Where its calls go in place of the backend's endpoints, as `host:port`: the service itself, where
    /// those endpoints are the addresses of its sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The workload whose sidecars listen here, where a control plane pushes the listener. Default: the one
    /// that serves the backend, which has its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// What callers have to prove. Default: what the workload's Runtime says where the listener serves the
    /// workload itself; else, where it is for the workload's own calls, `Disabled`. A sidecar without a control plane has
    /// no certificate, and secures nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// What becomes of the heads of its requests.
    #[serde(default, skip_serializing_if = "HeaderRules::is_default")]
    pub headers: HeaderRules,
}
