//! What several suites say in the same words.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use jitney_tests::caller::{Body, request};
use jitney_tests::wait::PATIENCE;
use jitney_tests::{Answer, Caller, TestProxy};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Longer than any call may take that waits for nobody; far shorter than the 30 s for which
/// `Route::fixed` holds a call that waits for companions.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(8);

/// A prediction request.
#[track_caller]
pub(crate) fn predict(body: impl Into<bytes::Bytes>) -> Request<Body> {
    predict_as("", body)
}

/// A prediction request of one caller.
#[track_caller]
pub(crate) fn predict_as(authorization: &str, body: impl Into<bytes::Bytes>) -> Request<Body> {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend((!authorization.is_empty()).then_some(("authorization", authorization)));
    request("POST", "/v1/models/m:predict", &headers, body)
}

/// The body of a prediction request.
pub(crate) fn instances(each: &[&str]) -> String {
    format!(r#"{{"instances":[{}]}}"#, each.join(","))
}

/// Makes the calls at the same time, each on a connection of its own; the answers in their order.
pub(crate) async fn together(address: SocketAddr, calls: Vec<Request<Body>>) -> Vec<Answer> {
    let mut going = JoinSet::new();
    for (place, call) in calls.into_iter().enumerate() {
        let mut caller = Caller::h1(address).await.unwrap();
        going.spawn(async move { (place, caller.call(call).await.unwrap()) });
    }
    let mut answers = going.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// One call that must not wait for companions.
#[track_caller]
pub(crate) fn alone(address: SocketAddr, call: Request<Body>) -> impl Future<Output = Answer> {
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        let answer = jitney_tests::caller::call(address, call).await;
        let answer = answer.unwrap_or_else(|error| panic!("{place}: {error:#}"));
        let took = start.elapsed();
        assert!(took < AT_ONCE, "{place}: the call waited {took:?} for companions");
        answer
    }
}

/// Waits until so many items are queued.
pub(crate) async fn items_queued(proxy: &TestProxy, items: f64) {
    let end = Instant::now() + PATIENCE;
    while proxy.metric("jitney_queue_items", "").await < items {
        assert!(Instant::now() < end, "never were {items} items queued");
        sleep(Duration::from_millis(5)).await;
    }
}
