//! `kind: Backend`: a named destination outside Kubernetes.

use std::fmt::{self, Formatter};

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::document::{Ignored, Metadata};
use crate::schema::rules;
use crate::{Duration, Mtls};

/// A named destination; in Kubernetes, one outside it.
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
    /// Addresses as `host:port`, an IPv6 address in brackets; or maps of an address and where it is.
    #[schemars(length(min = 1, max = 1000), extend("x-kubernetes-list-type" = "atomic"))]
    pub endpoints: Vec<BackendEndpoint>,
    /// The protocol. Where it is HTTP, a caller who says nothing is connected to nobody: no server speaks first.
    #[serde(default)]
    pub protocol: Protocol,
    /// The longest that a connection may take to come about.
    #[serde(default = "connect_timeout")]
    #[schemars(extend("x-kubernetes-validations" = [rules::some_time()]))]
    pub connect_timeout: Duration,
    /// Whether calls from sidecars to its endpoints are secured: `Permissive` secures them where a Listener's
    /// address is the endpoint, or `workload` says whose sidecars answer.
    #[serde(default)]
    pub mtls: Mtls,
    /// Whose sidecars answer at the endpoints. Default: those of the Listener that has such an address; with
    /// `mtls: Strict` those of the workload that has the backend's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = rules::SEGMENT), length(max = 253))]
    pub workload: Option<String>,
}

/// One address of a backend. Written as a text when nothing is said of it.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("type" = ["string", "object"], "pattern" = rules::ENDPOINT))]
pub struct BackendEndpoint {
    /// `host:port`; an IPv6 address in brackets.
    #[schemars(regex(pattern = rules::ENDPOINT))]
    pub address: String,
    /// The zone that it is in, as its callers' sidecars call theirs (`--zone`). Default: in none that they know.
    #[serde(default)]
    #[schemars(length(min = 1, max = 253))]
    pub zone: Option<String>,
}

impl Serialize for BackendEndpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.zone {
            None => serializer.serialize_str(&self.address),
            Some(zone) => serializer.collect_map([("address", &self.address), ("zone", zone)]),
        }
    }
}

impl<'de> Deserialize<'de> for BackendEndpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            address: String,
            #[serde(default)]
            zone: Option<String>,
        }

        impl<'de> Visitor<'de> for Written {
            type Value = BackendEndpoint;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("host:port, or a map with address and zone")
            }

            fn visit_str<E: Error>(self, address: &str) -> Result<BackendEndpoint, E> {
                Ok(address.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BackendEndpoint, A::Error> {
                let Fields { address, zone } = Fields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(BackendEndpoint { address, zone })
            }
        }

        deserializer.deserialize_any(Written)
    }
}

impl From<&str> for BackendEndpoint {
    fn from(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            zone: None,
        }
    }
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
