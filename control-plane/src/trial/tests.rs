//! Both sides against each other, and a front in the place of sidecars.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::response::IntoResponse;
use axum::routing;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::*;

/// A server on a free port.
async fn served(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address.to_string()
}

/// The service, beside a sidecar that says this.
async fn service(metrics: &'static str) -> String {
    let sidecar = served(Router::new().route("/metrics", routing::get(async move || metrics))).await;
    served(service::router(&sidecar)).await
}

fn asking(service: &str) -> CallArgs {
    CallArgs {
        service: service.to_owned(),
        patience: Duration::from_millis(1),
    }
}

async fn failed(service: &str) -> String {
    callers::run(&asking(service)).await.unwrap_err().to_string()
}

const BATCHES: &str = "jitney_batch_size_sum{backend=\"b\",route=\"r\"} 12.0\njitney_batch_size_count{backend=\"b\",route=\"r\"} 5\n";

#[tokio::test]
async fn service_answers_for_several_items_what_it_answers_for_each() {
    let service = service(BATCHES).await;
    let one = get(&service, "/items/7").await.unwrap();
    assert_eq!(one, r#"{"id":"7","name":"item 7"}"#);
    let several = get(&service, "/items?ids=7,a").await.unwrap();
    assert_eq!(several, format!("[{},{}]", item("7"), item("a")));
    let seen: Seen = serde_json::from_slice(&get(&service, "/seen").await.unwrap()).unwrap();
    let expected = Seen {
        merged: 1,
        batches: 5.0,
        items: 12.0,
    };
    assert_eq!(seen, expected);
}

/// Who gathers calls is told from who only passes them on, and by both: what was asked for, and what was counted.
#[tokio::test]
async fn batch_is_believed_when_both_ends_know_of_it() {
    let service = service(BATCHES).await;
    let told = failed(&service).await;
    assert!(
        told.contains(
            "no batch was formed: its sidecar counts 5 batches of 12 items, and 0 calls for several"
        ),
        "{told}"
    );
    let _merged = get(&service, "/items?ids=1,2").await.unwrap();
    let shown = callers::run(&asking(&service)).await.unwrap().to_string();
    assert!(
        shown.starts_with("calls are batched: 8 were made, eight at once"),
        "{shown}"
    );
    assert!(
        shown.ends_with("5 batches of 12 items, 1 of them of more than one"),
        "{shown}"
    );
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let told = failed(&service("").await).await;
    assert!(told.contains("Look at the status of the BatchPolicy"), "{told}");
    let alone = served(service::router("127.0.0.1:1")).await;
    let told = failed(&alone).await;
    assert!(
        told.contains("no sidecar answers at 127.0.0.1:1: Connection refused"),
        "{told}"
    );
    assert!(told.contains("Has its pod been given a sidecar?"), "{told}");
    let told = failed("127.0.0.1:1").await;
    assert!(
        told.starts_with("127.0.0.1:1 has answered no call in 0 s: Connection refused"),
        "{told}"
    );
}

#[tokio::test]
async fn reply_of_another_is_a_failure_at_once() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let swapped = async move |Path(id): Path<String>| {
        counted.fetch_add(1, Ordering::Relaxed);
        item(if id == "3" { "4" } else { &id }).into_response()
    };
    let service = served(Router::new().route("/items/{id}", routing::get(swapped))).await;
    let mut patient = asking(&service);
    patient.patience = Duration::from_secs(60);
    let told = callers::run(&patient).await.unwrap_err().to_string();
    let expected = format!("{service}/items/3: expected {}, got {}", item("3"), item("4"));
    assert_eq!(told, expected);
    assert!(calls.load(Ordering::Relaxed) <= 9);
}

#[tokio::test]
async fn failed_call_is_told_with_its_status() {
    let answers = Arc::new(Mutex::new(vec![200]));
    let answer = async move || {
        let status = answers.lock().pop().unwrap_or(503);
        (StatusCode::from_u16(status).unwrap(), "no endpoint\n")
    };
    let service = served(Router::new().route("/items/{id}", routing::get(answer))).await;
    let told = failed(&service).await;
    assert!(told.ends_with("got status 503: no endpoint"), "{told}");
}
