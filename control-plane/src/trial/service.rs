//! The service: it knows nothing of sidecars, but that one may be beside it which counts its batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing;
use jitney_api::program::serve;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::{Seen, ServeArgs, TrialError, get, item};

/// What handlers know.
#[derive(Clone, Debug)]
struct Service {
    merged: Arc<AtomicU64>,
    sidecar: Arc<str>,
}

#[derive(Debug, Deserialize)]
struct Several {
    ids: String,
}

/// Answers until the process is told to end.
pub(super) async fn run(args: &ServeArgs) -> Result<(), TrialError> {
    let told =
        signal(SignalKind::terminate()).map_err(|error| TrialError::System("listen for signals", error));
    let mut told = told?;
    let listener = std::net::TcpListener::bind(args.listen);
    let listener = listener.map_err(|error| TrialError::Listen(args.listen, error))?;
    let router = router(&args.sidecar.to_string());
    serve(listener, router, std::future::pending()).map_err(|error| TrialError::System("serve", error))?;
    told.recv().await;
    Ok(())
}

/// All that it answers.
pub(super) fn router(sidecar: &str) -> Router {
    let service = Service {
        merged: Arc::default(),
        sidecar: sidecar.into(),
    };
    Router::new()
        .route("/items/{id}", routing::get(one))
        .route("/items", routing::get(several))
        .route("/seen", routing::get(seen))
        .with_state(service)
}

async fn one(Path(id): Path<String>) -> Response {
    sleep(WORK).await;
    of_json(item(&id))
}

async fn several(State(service): State<Service>, Query(Several { ids }): Query<Several>) -> Response {
    let items: Vec<String> = ids.split(',').map(item).collect();
    if items.len() > 1 {
        service.merged.fetch_add(1, Ordering::Relaxed);
    }
    sleep(WORK).await;
    of_json(format!("[{}]", items.join(",")))
}

async fn seen(State(service): State<Service>) -> Response {
    let metrics = match get(&service.sidecar, "/metrics").await {
        Ok(metrics) => metrics,
        Err(error) => {
            let told = format!("no sidecar answers at {}: {error}\n", service.sidecar);
            return (StatusCode::NOT_FOUND, told).into_response();
        }
    };
    let metrics = String::from_utf8_lossy(&metrics);
    let seen = Seen {
        merged: service.merged.load(Ordering::Relaxed),
        batches: sum(&metrics, "jitney_batch_size_count{"),
        items: sum(&metrics, "jitney_batch_size_sum{"),
    };
    axum::Json(seen).into_response()
}

/// All series of a metric together.
pub(super) fn sum(exposition: &str, series: &str) -> f64 {
    let lines = exposition.lines().filter(|line| line.starts_with(series));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum()
}

fn of_json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// How long a call takes: while some are here, others come together.
const WORK: Duration = Duration::from_millis(20);
