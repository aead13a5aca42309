//! `kind: Runtime`: what changes in a workload's sidecars while they run, whatever the policies say.

use jitney_core::batch::Window;
use jitney_core::policy::{self, Policy};
use jitney_core::route::Route;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compile::core_mode;
use crate::document::{Ignored, Metadata};
use crate::schema::rules;
use crate::{Authorization, Condition, Duration, InboundMtls, Mode, Mtls, SidecarStatus, WindowBounds};

/// What changes in the sidecars of a workload while they run. It has the workload's name, in Kubernetes that of
/// its service account; a lone sidecar takes the first one of its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Runtime {
    /// The schema's version.
    #[serde(default = "crate::document::api_version")]
    pub api_version: String,
    /// `Runtime`.
    pub kind: String,
    /// The workload.
    pub metadata: Metadata,
    /// What it says.
    #[serde(default)]
    pub spec: RuntimeSpec,
    /// What became of it. Written by the control plane; not read.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<RuntimeStatus>")]
    pub status: Ignored,
}

/// Caps on what policies say, and what sidecars log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeSpec {
    /// What is logged: a level, or levels by target as in `info,jitney_proxy=debug`. Default: what the
    /// sidecar was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = [rules::log_level()]))]
    pub log_level: Option<String>,
    /// The most that any route does: with `Shadow` none merges calls, with `Disabled` none looks at them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The most items in a batch of any route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_size: Option<usize>,
    /// The longest that a call of any route may wait for companions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [rules::wait()]))]
    pub timeout: Option<Duration>,
    /// How many batches of any route may be in flight, in place of what the route says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowBounds>,
    /// What callers have to prove: by default, whoever has a certificate uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<InboundMtls>,
    /// Who may call the workload, and what. Default: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
}

/// What became of a Runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeStatus {
    /// `Accepted` and `Programmed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Which sidecars of the workload run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarStatus>,
}

impl RuntimeSpec {
    /// What callers have to prove who connect to a port.
    pub fn mtls_on(&self, port: u16) -> Mtls {
        self.mtls
            .as_ref()
            .map_or_else(Mtls::default, |mtls| mtls.on(port))
    }

    /// A policy within these caps. What is batched under other caps is of another generation.
    pub fn cap(&self, policy: &Policy) -> Policy {
        let caps = Self {
            log_level: None,
            mtls: None,
            authorization: None,
            ..self.clone()
        };
        if caps == Self::default() {
            return policy.clone();
        }
        let text = serde_json::to_vec(&caps).unwrap_or_default();
        let seed = policy.generation.to_le_bytes();
        let generation = crate::compile::fnv(&[&seed[..], &text].concat());
        let routes = policy.routes().iter().map(|route| {
            let capped = caps.cap_route((**route).clone());
            Route { generation, ..capped }.into()
        });
        Policy::new(generation, policy.traffic.clone(), routes.collect())
            .with_claims(policy.claims().cloned())
    }

    fn cap_route(&self, mut route: Route) -> Route {
        if let Some(mode) = self.mode {
            route.mode = least(route.mode, core_mode(mode));
        }
        let mut limits = (*route.limits).clone();
        if let Some(size) = self.max_size {
            limits.max_size = limits.max_size.min(size);
        }
        if let Some(timeout) = self.timeout {
            limits.timeout = limits.timeout.min(timeout.0);
        }
        if let Some(WindowBounds { min, max }) = self.window {
            limits.window = Window::Within { min, max };
        }
        route.limits = limits.into();
        route
    }
}

/// The one of two modes that does less.
const fn least(one: policy::Mode, other: policy::Mode) -> policy::Mode {
    use policy::Mode::{Active, Disabled, Shadow};
    match (one, other) {
        (Disabled, _) | (_, Disabled) => Disabled,
        (Shadow, _) | (_, Shadow) => Shadow,
        (Active, Active) => Active,
    }
}
