//! `/config`, `/batches` and `/backends`: JSON, gathered when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jitney_api::push::Kind;
use jitney_core::key::Sharing;
use jitney_core::policy::Policy;
use serde_json::{Value, json};

use super::inspect::BackendView;
use super::{Admin, mask};
use crate::control::{Rejected, Standing};
use crate::listeners::ListenerView;
use crate::metrics::{Histogram, RouteMetrics};
use crate::policy_status::Refusal;

pub(super) async fn config(State(admin): State<Admin>) -> Response {
    let standing = admin.policy.standing();
    let mut effective = standing.effective;
    mask::mask(&mut effective);
    let notes: Vec<String> = admin
        .backends
        .list()
        .iter()
        .flat_map(|view| shared_identities(&view.policy()))
        .collect();
    page(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "settings": admin.settings,
        "policy": {
            "generation": standing.generation,
            "applied": standing.applied.map(seconds),
            "sources": standing.sources,
            "warnings": standing.warnings,
            "notes": notes,
            "effective": effective,
        },
        "refusal": standing.refusal.as_ref().map(refusal),
        "listeners": admin.listeners.borrow().iter().map(listener).collect::<Vec<_>>(),
        "controlPlane": admin.control.as_ref().map(|standing| control_plane(&standing.lock())),
    }))
}

fn listener(listener: &ListenerView) -> Value {
    json!({
        "name": &*listener.name,
        "address": listener.address,
        "backend": &*listener.backend,
        "pending": listener.pending.as_ref().map(|pending| &pending.reason),
    })
}

fn control_plane(standing: &Standing) -> Value {
    let resource = |((kind, name), version): (&(Kind, String), &String)| json!({"type": kind.as_str(), "name": name, "version": version});
    let rejected = |one: &Rejected| json!({"type": one.kind, "name": one.name, "field": one.field, "reason": one.reason});
    json!({
        "connected": standing.connected,
        "fault": standing.fault,
        "identity": standing.identity,
        "certificateExpires": standing.expires.map(seconds),
        "fromSnapshot": standing.from_snapshot,
        "resources": standing.resources.iter().map(resource).collect::<Vec<_>>(),
        "rejected": standing.rejected.iter().map(rejected).collect::<Vec<_>>(),
    })
}

pub(super) async fn batches(State(admin): State<Admin>) -> Response {
    let backends: Vec<Value> = admin
        .backends
        .list()
        .iter()
        .map(|view| json!({"name": view.name(), "open": view.lanes(), "recent": view.recent()}))
        .collect();
    page(&json!({"now": seconds(SystemTime::now()), "backends": backends}))
}

pub(super) async fn backends(State(admin): State<Admin>) -> Response {
    let standing = admin.policy.standing();
    page(&json!({
        "now": seconds(SystemTime::now()),
        "draining": admin.drain.is_draining(),
        "generation": standing.generation,
        "refusal": standing.refusal.as_ref().map(refusal),
        "backends": admin.backends.list().iter().map(|view| backend(view.as_ref())).collect::<Vec<_>>(),
    }))
}

/// Label values and their counts.
type Counts = BTreeMap<&'static str, u64>;

fn backend(view: &dyn BackendView) -> Value {
    let now = view.gauges();
    let metrics = view.metrics();
    let policy = view.policy();
    let routes: Vec<Value> = metrics
        .routes()
        .iter()
        .map(|metrics| route(metrics, &policy))
        .collect();
    json!({
        "name": view.name(),
        "endpoints": view.endpoints(),
        "window": now.window,
        "in_flight": now.batches_in_flight,
        "concurrency_limit": now.concurrency_limit,
        "inflation": now.latency_inflation,
        "keys": now.keys,
        "queue_items": now.queue_items,
        "queue_oldest_ms": now.queue_oldest_age.as_secs_f64() * 1e3,
        "upstream_calls": metrics.upstream_calls.total(),
        "upstream": metrics.upstream_calls.values().collect::<Counts>(),
        "errors": metrics.errors.seen().collect::<Counts>(),
        "passed_through": metrics.pass_through.replies.total(),
        "routes": routes,
        "notes": view.notes(),
    })
}

fn route(metrics: &Arc<RouteMetrics>, policy: &Policy) -> Value {
    let route = policy.routes().iter().find(|route| route.name == *metrics.name());
    json!({
        "name": metrics.name(),
        "mode": route.map(|route| route.mode.as_str()),
        "codec": route.map(|route| route.codec.name()),
        "max_size": route.map(|route| route.limits.max_size),
        "calls": metrics.calls.replies.total(),
        "replies": metrics.calls.replies.seen().collect::<Counts>(),
        "duration_ms": mean(&metrics.calls.duration).map(|seconds| seconds * 1e3),
        "batches": metrics.batch_size.count(),
        "mean_size": mean(&metrics.batch_size),
        "waits": metrics.queue_wait.count(),
        "wait_ms": mean(&metrics.queue_wait).map(|seconds| seconds * 1e3),
        "saved": metrics.calls_saved.value(),
        "shadow_saved": metrics.shadow_calls_saved.value(),
        "left": metrics.dispatch.seen().collect::<Counts>(),
        "bypass": metrics.bypass.seen().collect::<Counts>(),
        "items": metrics.items.seen().collect::<Counts>(),
        "failures": metrics.batch_failures.seen().collect::<Counts>(),
        "cost_fixed_ms": metrics.cost_fixed.value() * 1e3,
        "cost_per_item_ms": metrics.cost_per_item.value() * 1e3,
    })
}

/// Merging callers of different identity is the one switch that nobody should overlook.
pub(crate) fn shared_identities(policy: &Policy) -> Vec<String> {
    let shared = policy
        .routes()
        .iter()
        .filter(|route| route.key.sharing() == Sharing::Shared);
    shared
        .map(|route| {
            format!(
                "{}: callers of different identity share batches (`identity: Shared`)",
                route.name
            )
        })
        .collect()
}

fn refusal(refusal: &Refusal) -> Value {
    json!({"at": seconds(refusal.at), "faults": refusal.faults, "current": refusal.is_current})
}

fn mean(histogram: &Histogram) -> Option<f64> {
    let count = histogram.count();
    (count > 0).then(|| histogram.sum() / count as f64)
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

fn page(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
}
