//! The admin endpoint: what the control plane knows, in a thread and a runtime of its own, so that it
//! answers while sidecars come by the thousand.
//!
//! Whoever can reach it may read, other replicas among them; what changes state is POST, and from this machine only.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use jitney_api::program::only_local;
use serde::Deserialize;
use serde_json::Value;

mod page;
mod rotation;
mod shares;
mod views;
mod warnings;

use rotation::Standing;

use crate::faults::Faults;
use crate::identity::{Alive, Trust};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::replicas::Replicas;
use crate::rollout::Rollouts;
use crate::source::Standings;
use crate::status::{Findings, Handshakes, Refusals, Sidecars, Tally};
use crate::store::Store;

/// What the admin endpoint shows and changes.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What is pushed.
    pub store: Arc<Store>,
    /// Who it is pushed to.
    pub sidecars: Arc<Sidecars>,
    /// What they have noticed.
    pub findings: Arc<Findings>,
    /// Where it comes from.
    pub source: Standings,
    /// How far it may go.
    pub rollouts: Arc<Rollouts>,
    /// Who signs.
    pub trust: Arc<Trust>,
    /// Whether the roots come from `--issuer`.
    pub has_issuer: bool,
    /// Whether other replicas have a state of their own, as in a cluster.
    pub is_apart: bool,
    /// What they have signed.
    pub alive: Arc<Alive>,
    /// Whom they have signed nothing for.
    pub refusals: Arc<Refusals>,
    /// With whom there is no TLS.
    pub handshakes: Arc<Handshakes>,
    /// Who else does, and for whom.
    pub replicas: Arc<Replicas>,
    /// What is wrong with what is shared with them.
    pub faults: Arc<Faults>,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether sidecars should come here.
    pub lifecycle: Lifecycle,
}

impl Admin {
    /// What is wrong with the state folder, a line each.
    fn state_faults(&self) -> Vec<String> {
        let mut faults = self.rollouts.faults();
        faults.extend(self.faults.texts());
        faults
    }
}

/// The routes, to be served by [`jitney_api::program::serve`].
pub fn router(admin: Admin) -> Router {
    let changing = Router::new()
        .route("/trust/add", post(rotation::add))
        .route("/trust/switch", post(rotation::switch))
        .route("/trust/drop", post(rotation::drop_old))
        .layer(middleware::from_fn(only_local));
    Router::new()
        .route("/", get(page::page))
        .route("/ready", get(ready))
        .route("/live", get(|| async { "live\n" }))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/sidecars", get(sidecars))
        .route("/policies", get(policies))
        .route("/progress", get(progress))
        .merge(changing)
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page; / lists what there is\n") })
        .layer(middleware::map_response(harden))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    match admin.lifecycle.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let standing = Standing::of(&admin).await;
    let text = admin.metrics.render(&views::levels(&admin, &standing));
    ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}

async fn status(State(admin): State<Admin>) -> Response {
    let standing = Standing::of(&admin).await;
    lines(&views::status(&admin, &standing))
}

async fn sidecars(State(admin): State<Admin>) -> Response {
    lines(&views::sidecars(&admin))
}

async fn policies(State(admin): State<Admin>) -> Response {
    lines(&views::policies(&admin))
}

/// What another replica has of this one already.
#[derive(Debug, Deserialize)]
struct Known {
    revision: Option<String>,
}

/// What the sidecars that are connected here run, for the other replicas; nothing when they know it.
async fn progress(State(admin): State<Admin>, Query(known): Query<Known>) -> Response {
    let (replica, store, sidecars) = (admin.replicas.name(), &admin.store, &admin.sidecars);
    if known.revision == Some(Tally::revision(replica, store, sidecars)) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    Json(Tally::of(replica, store, sidecars)).into_response()
}

/// JSON that people can read, ended like a line.
fn lines(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
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
