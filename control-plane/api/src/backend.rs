//! `kind: Backend`: a named destination outside Kubernetes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{Ignored, Metadata};
use crate::{Duration, Mtls};

/// A named destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// The schema's version.
    #[serde(default = "crate::document::api_version")]
    pub api_version: String,
    /// `Backend`.
    pub kind: String,
    /// The backend's name.
    pub metadata: Metadata,
    /// Where it is.
    pub spec: BackendSpec,
    /// Written by the control plane; not read.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub status: Ignored,
}

/// Where a backend is and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendSpec {
    /// Addresses as `host:port`; an IPv6 address in brackets.
    #[schemars(length(min = 1, max = 1000))]
    pub endpoints: Vec<String>,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The longest that a connection may take to come about.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Duration,
    /// Whether calls from sidecars to its endpoints are secured: `Permissive` secures them where a Listener's
    /// address is the endpoint, or `workload` says whose sidecars answer.
    #[serde(default)]
    pub mtls: Mtls,
    /// Whose sidecars answer at the endpoints. Default: those of the Listener that has such an address; with
    /// `mtls: Strict` those of the workload that has the backend's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
}

pub(crate) fn connect_timeout() -> Duration {
    Duration::from_secs(5)
}

/// How a backend is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// As the caller spoke: HTTP/2 goes on as HTTP/2 where the endpoint knows it, else as HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    HTTP1,
    /// HTTP/2 without TLS, by prior knowledge.
    HTTP2,
    /// Bytes that nobody looks at, whoever speaks first.
    TCP,
}
