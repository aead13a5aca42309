//! The admin endpoint: what the sidecar is doing, in a thread and a runtime of its own, so that it
//! answers while the data path is saturated.
//!
//! Whoever can reach it may read; what changes state is POST or PUT, and from this machine only.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jitney_api::program::only_local;
use jitney_core::pressure::Pressure;
use serde::Deserialize;
use tokio::sync::watch;

mod dashboard;
mod explain;
pub mod inspect;
mod mask;
mod probes;
mod views;

pub use explain::{BadRequest, RawRequest};
pub use probes::Probes;
pub(crate) use views::shared_identities;

use crate::control;
use crate::drain::Drain;
use crate::listeners::Listeners;
use crate::log::{Level, LogControl};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::mtls::Mesh;
use crate::policy_status::PolicyStatus;
use inspect::{BackendView, Views};

/// What the admin endpoint shows and changes.
#[derive(Clone)]
pub struct Admin {
    /// What is counted.
    pub metrics: Metrics,
    /// The drain that `POST /drain` begins; ready means that it has not begun.
    pub drain: Drain,
    /// The log level.
    pub log: LogControl,
    /// There is a line for each call at any level that says nothing of those.
    pub access_log: bool,
    /// The standing of the policy files.
    pub policy: Arc<PolicyStatus>,
    /// The backends.
    pub backends: Views,
    /// Where calls are taken, and where they are to be and cannot.
    pub listeners: Listeners,
    /// Whether callers have to be secured, on some port at least.
    pub is_strict: watch::Receiver<bool>,
    /// Who this sidecar is to others.
    pub mesh: Mesh,
    /// The standing towards the control plane, if there is to be one.
    pub control: Option<control::Shared>,
    /// How short of memory the process is.
    pub memory: Memory,
    /// What may be asked of the service.
    pub probes: Probes,
    /// What else `/config` shows: the flags in force.
    pub settings: serde_json::Value,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The routes, to be served by [`jitney_api::program::serve`].
pub fn router(admin: Admin) -> Router {
    let changing = Router::new()
        .route("/drain", post(drain))
        .route(
            "/log-level",
            get(log_level).put(set_log_level).post(set_log_level),
        )
        .layer(middleware::from_fn(only_local));
    Router::new()
        .route("/", get(dashboard::page))
        .route("/ready", get(ready))
        .route("/live", get(|| async { "live\n" }))
        .route("/probes/{container}/{probe}", get(probes::probe))
        .route("/metrics", get(metrics))
        .route("/config", get(views::config))
        .route("/batches", get(views::batches))
        .route("/backends", get(views::backends))
        .route("/explain", post(explain_call))
        .merge(changing)
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page; / lists what there is\n") })
        .layer(DefaultBodyLimit::max(EXPLAIN_BYTES_MAX))
        .layer(middleware::map_response(harden))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.drain.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let fault = admin
        .control
        .as_ref()
        .and_then(|control| control.lock().fault.clone());
    if admin.policy.standing().generation == 0 {
        let why = fault.map_or_else(String::new, |fault| format!(": {fault}"));
        let told = format!("waiting for the control plane{why}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, told).into_response();
    }
    let listeners = admin.listeners.borrow().clone();
    let mut waiting = listeners.iter().filter_map(|listener| {
        let pending = listener.pending.as_ref()?;
        Some(format!("listener {}: {}\n", listener.name, pending.reason))
    });
    if let Some(first) = waiting.next() {
        let all: String = std::iter::once(first).chain(waiting).collect();
        return (StatusCode::SERVICE_UNAVAILABLE, all).into_response();
    }
    if *admin.is_strict.borrow() && !admin.mesh.is_known() {
        let why = fault.map_or_else(String::new, |fault| format!(": {fault}"));
        let told = format!("callers have to be secured, and there is no certificate{why}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, told).into_response();
    }
    if admin.memory.pressure() != Pressure::None {
        return "ready, but short of memory: see jitney_memory_pressure\n".into_response();
    }
    match fault {
        None => "ready\n".into_response(),
        Some(fault) => format!("ready, with what was pushed before: {fault}\n").into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([(CONTENT_TYPE, OPEN_METRICS)], admin.metrics.render()).into_response()
}

async fn drain(State(admin): State<Admin>) -> Response {
    tracing::info!("drain asked for on the admin endpoint");
    admin.drain.signal();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

async fn log_level(State(admin): State<Admin>) -> String {
    format!("{}\n", admin.log.level())
}

async fn set_log_level(State(admin): State<Admin>, level: Bytes) -> Response {
    let level = std::str::from_utf8(&level).unwrap_or_default();
    match level.parse::<Level>() {
        Ok(level) => {
            admin.log.set(level.with_access_log(admin.access_log));
            tracing::info!(level = %admin.log.level(), "log level set");
            format!("{}\n", admin.log.level()).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

#[derive(Deserialize)]
struct Which {
    backend: Option<String>,
}

async fn explain_call(State(admin): State<Admin>, Query(which): Query<Which>, request: Bytes) -> Response {
    let request = match RawRequest::parse(&request) {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let is_meant =
        |view: &&Arc<dyn BackendView>| which.backend.as_ref().is_none_or(|name| view.name() == name);
    let explanations: Vec<String> = admin
        .backends
        .list()
        .iter()
        .filter(is_meant)
        .map(|view| format!("backend: {}\n{}", view.name(), request.explain(&view.policy())))
        .collect();
    if explanations.is_empty() {
        return (StatusCode::NOT_FOUND, "no such backend\n").into_response();
    }
    explanations.join("\n").into_response()
}

/// Nothing here is for a browser to guess at, keep or frame.
async fn harden(mut response: Response) -> Response {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A head of 64 KiB, and a body somewhat larger than one that would be batched.
const EXPLAIN_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests;
