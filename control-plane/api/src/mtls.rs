//! What two sidecars ask of each other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far connections are to be secured: TLS in which both sides show the certificate of their workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mtls {
    /// They are bare.
    Disabled,
    /// They are secured where both sides have a sidecar with a certificate; others may be bare.
    #[default]
    Permissive,
    /// They are secured, or there are none.
    Strict,
}

/// What a workload's sidecars ask of their callers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InboundMtls {
    /// On every port.
    pub mode: Mtls,
    /// On these, in its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"]))]
    pub ports: Vec<PortMtls>,
}

/// What is asked on one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMtls {
    /// The port that callers connect to.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// What is asked there.
    pub mode: Mtls,
}

impl InboundMtls {
    /// What is asked on a port.
    pub fn on(&self, port: u16) -> Mtls {
        let own = self.ports.iter().find(|own| own.port == port);
        own.map_or(self.mode, |own| own.mode)
    }

    /// Whether there are ports whose callers have to prove who they are.
    pub fn is_strict_somewhere(&self) -> bool {
        self.mode == Mtls::Strict || self.ports.iter().any(|own| own.mode == Mtls::Strict)
    }
}
