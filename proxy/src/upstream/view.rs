//! What people see of an upstream: its queues, endpoints and latest batches.

use std::sync::Arc;
use std::time::Duration;

use jitney_core::batch::{LaneSnapshot, Snapshot};
use jitney_core::key::describe;
use jitney_core::policy::Policy;

use super::Upstream;
use crate::admin::inspect::{BackendView, BatchView, EndpointView, LaneView};
use crate::metrics::{BackendMetrics, GaugeSource, Gauges, RouteMetrics};

impl GaugeSource for Upstream {
    fn gauges(&self) -> Gauges {
        let snapshot = self.batches.snapshot();
        for class in &snapshot.classes {
            if let Some(state) = self.state_of(class.class) {
                state
                    .metrics
                    .cost_fixed
                    .set(class.fixed_seconds.unwrap_or_default());
                state
                    .metrics
                    .cost_per_item
                    .set(class.per_item_seconds.unwrap_or_default());
            }
        }
        Gauges {
            concurrency_limit: self.backend.gate.learned(),
            ..Gauges::from(&snapshot)
        }
    }
}

impl BackendView for Upstream {
    fn name(&self) -> &str {
        &self.backend.name
    }

    fn metrics(&self) -> Arc<BackendMetrics> {
        Arc::clone(&self.metrics)
    }

    fn policy(&self) -> Policy {
        Self::policy(self)
    }

    fn gauges(&self) -> Gauges {
        GaugeSource::gauges(self)
    }

    fn lanes(&self) -> Vec<LaneView> {
        let snapshot = self.batches.snapshot();
        snapshot
            .lanes
            .iter()
            .filter_map(|lane| self.lane(&snapshot, lane))
            .collect()
    }

    fn endpoints(&self) -> Vec<EndpointView> {
        let endpoints = self.backend.endpoints_snapshot().into_iter();
        let view = |endpoint: crate::send::EndpointView| EndpointView {
            address: endpoint.address.to_string(),
            secured: endpoint.secured.map(|peer| peer.workload.to_string()),
            zone: endpoint.zone,
            is_healthy: endpoint.rest.is_none() && endpoint.failing < 0.5,
            note: match (endpoint.rest, endpoint.spared, endpoint.failing) {
                (Some(Duration::ZERO), ..) => "its calls failed: the next one is a trial".to_owned(),
                (Some(rest), ..) => format!(
                    "its calls failed: gets none for {:.0} s",
                    rest.as_secs_f64().ceil()
                ),
                (None, Some(left), _) => format!(
                    "it has too much to do, as it says: gets fewer for {:.0} s",
                    left.as_secs_f64().ceil()
                ),
                (None, None, failing) if failing < 0.005 => String::new(),
                (None, None, failing) => format!("{:.0} % of its calls failed lately", failing * 100.0),
            },
            load: endpoint.latency.as_secs_f64(),
            in_flight: endpoint.in_flight,
            connections: endpoint.idle + endpoint.http2_connections,
        };
        endpoints.map(view).collect()
    }

    fn recent(&self) -> Vec<BatchView> {
        self.recent.view(|key| describe(key).to_string())
    }

    fn notes(&self) -> Vec<String> {
        let routes = self.metrics.routes().into_iter();
        let note = |route: Arc<RouteMetrics>| {
            let why = route.trouble.reason()?;
            Some(format!("{}: its batches fail: {why}", route.name()))
        };
        let policy = self.policy();
        let others = policy.traffic.detours.others();
        let unknown = others.filter(|other| self.others.find(other).is_none());
        let unknown =
            unknown.map(|other| format!("nothing is known of {other}, whose share of the calls stays here"));
        routes.filter_map(note).chain(unknown).collect()
    }
}

impl Upstream {
    fn lane(&self, snapshot: &Snapshot, lane: &LaneSnapshot) -> Option<LaneView> {
        let state = self.state_of(lane.class)?;
        let learned = snapshot.classes.iter().find(|class| class.class == lane.class);
        Some(LaneView {
            route: state.metrics.name().clone(),
            key: describe(&lane.key).to_string(),
            items: lane.items,
            bytes: lane.bytes,
            oldest: lane.oldest_age,
            max_size: learned
                .and_then(|class| class.learned_max_size)
                .unwrap_or_default(),
        })
    }
}
