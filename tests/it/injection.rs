//! `faultInjection`: calls that wait or fail because a policy wants to see what comes of it.

use std::time::Duration;

use http::Request;
use jitney_tests::caller::{Body, request};
use jitney_tests::wait::{self, PATIENCE};
use jitney_tests::{Answer, Caller, Reply, Route, TestProxy, TestUpstream, model, policy};
use tokio::time::{Instant, sleep};

use crate::shared::{alone, instances, predict, together};

/// A policy with a batching route and these faults.
fn policy(faults: &str) -> String {
    policy::active(&[Route::kserve()]) + "  traffic: {faultInjection: {" + faults + "}}\n"
}

async fn count(proxy: &TestProxy, fault: &str) -> f64 {
    let label = format!("fault=\"{fault}\"");
    proxy.metric("jitney_faults_injected_total", &label).await
}

fn of_grpc() -> Request<Body> {
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    request("POST", "/shop.Orders/Place", &headers, "\0\0\0\0\0")
}

/// What a call of gRPC and one of HTTP are told.
async fn told(proxy: &TestProxy) -> [(u16, String); 2] {
    let mut caller = Caller::h2(proxy.address).await.unwrap();
    let grpc = caller.call(of_grpc()).await.unwrap();
    let http = alone(proxy.address, request("GET", "/x", &[], "")).await;
    for answer in [&grpc, &http] {
        assert_eq!(answer.header("x-jitney-error"), "fault_injected");
    }
    [grpc, http].map(|answer: Answer| (answer.status, answer.header("grpc-status").to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_calls_get_their_status_and_reach_nobody() {
    let upstream = TestUpstream::start(model::kserve).await;
    for (abort, code, status) in [
        ("httpStatus: 503", "14", 503),
        ("httpStatus: 418", "2", 418),
        ("grpcStatus: 8", "8", 429),
        ("httpStatus: 500, grpcStatus: 4", "4", 500),
    ] {
        let proxy = TestProxy::start(upstream.address, &policy(&format!("abort: {{{abort}}}"))).await;
        let expected = [(200, code.to_owned()), (status, String::new())];
        assert_eq!(told(&proxy).await, expected, "{abort}");
        let calls = (0..4).map(|_| predict(instances(&["1"]))).collect();
        for answer in together(proxy.address, calls).await {
            assert_eq!(
                (answer.status, answer.header("x-jitney-error")),
                (status, "fault_injected")
            );
        }
        assert_eq!(count(&proxy, "abort").await, 6.0);
        assert_eq!(
            proxy
                .metric("jitney_errors_total", r#"reason="fault_injected""#)
                .await,
            6.0
        );
        assert_eq!(proxy.metric("jitney_calls_total", "").await, 6.0);
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_calls_fails_and_the_share_changes_while_calls_go_on() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "1")).await;
    let proxy = TestProxy::start(
        upstream.address,
        &policy("abort: {httpStatus: 503, percentage: 25}"),
    )
    .await;
    let mut caller = Caller::h1(proxy.address).await.unwrap();
    let mut failed = 0;
    for _ in 0..1000 {
        let answer = caller.call(request("GET", "/x", &[], "")).await.unwrap();
        failed += usize::from(answer.status == 503);
    }
    // Five standard deviations.
    assert!((180..=320).contains(&failed), "{failed} of 1,000");
    assert_eq!(upstream.seen().len(), 1000 - failed);
    assert_eq!(count(&proxy, "abort").await, failed as f64);
    std::fs::write(proxy.policy_path(), policy::active(&[Route::kserve()])).unwrap();
    let end = Instant::now() + PATIENCE;
    let mut in_a_row = 0;
    while in_a_row < 100 {
        let answer = caller.call(request("GET", "/x", &[], "")).await.unwrap();
        in_a_row = if answer.status == 200 { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < end, "calls go on failing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_calls_wait_and_are_batched_then() {
    const DELAY: Duration = Duration::from_millis(300);
    let upstream = TestUpstream::start(model::kserve).await;
    // What waits on purpose has not waited in the queue.
    let route =
        Route::kserve().line("batch: {dispatch: Fixed, maxSize: 8, timeout: 100ms, queueTimeout: 100ms}");
    let text = policy::active(&[route]) + "  traffic: {faultInjection: {delay: {fixedDelay: 300ms}}}\n";
    let proxy = TestProxy::start(upstream.address, &text).await;
    let began = Instant::now();
    let calls = (0..8).map(|n| predict(instances(&[&n.to_string()]))).collect();
    let answers = together(proxy.address, calls).await;
    assert!(began.elapsed() >= DELAY);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(
            (answer.status, answer.text()),
            (200, model::predictions(&[&n.to_string()], ""))
        );
    }
    assert!(upstream.seen().len() < 8, "{} requests", upstream.seen().len());
    assert_eq!(count(&proxy, "delay").await, 8.0);
    let explained =
        jitney_tests::caller::call(proxy.admin, request("POST", "/explain", &[], "GET /x\n")).await;
    assert!(explained.unwrap().text().contains("fault: 100 % wait 300ms\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_delayed_call_longer_than_its_caller() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "1")).await;
    let text =
        policy("delay: {fixedDelay: 1h}").replace("traffic: {", "traffic: {timeouts: {request: 200ms}, ");
    let proxy = TestProxy::start(upstream.address, &text).await;
    let answer = alone(proxy.address, request("GET", "/x", &[], "")).await;
    assert_eq!(
        (answer.status, answer.header("x-jitney-error")),
        (504, "deadline_exceeded")
    );
    // One that leaves while it waits.
    std::fs::write(proxy.policy_path(), policy("delay: {fixedDelay: 1h}")).unwrap();
    wait::until("it is in force", || proxy.log().contains("generation=2")).await;
    let mut caller = Caller::h1(proxy.address).await.unwrap();
    let leaving = tokio::spawn(async move { caller.call(request("GET", "/gone", &[], "")).await });
    let end = Instant::now() + PATIENCE;
    while count(&proxy, "delay").await < 2.0 {
        assert!(Instant::now() < end, "it never came");
        sleep(Duration::from_millis(5)).await;
    }
    leaving.abort();
    std::fs::write(
        proxy.policy_path(),
        policy("delay: {fixedDelay: 1h, percentage: 0}"),
    )
    .unwrap();
    wait::until("it is in force", || proxy.log().contains("generation=3")).await;
    assert_eq!(
        alone(proxy.address, request("GET", "/y", &[], "")).await.status,
        200
    );
    let targets: Vec<String> = upstream.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/y"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_the_backend_that_gets_a_call_hold_for_it() {
    let (users, next) = (
        TestUpstream::start(|_| Reply::json(200, "1")).await,
        TestUpstream::start(|_| Reply::json(200, "1")).await,
    );
    let text = format!(
        "kind: Backend\nmetadata: {{name: users}}\nspec: {{endpoints: ['{}']}}\n---\n\
         kind: Backend\nmetadata: {{name: next}}\nspec: {{endpoints: ['{}']}}\n---\n\
         kind: Listener\nmetadata: {{name: in}}\nspec: {{address: '127.0.0.1:0', backend: users}}\n---\n\
         kind: BatchPolicy\nmetadata: {{name: p}}\nspec:\n  targetRefs: [{{kind: Backend, name: users}}]\n  \
         traffic: {{backendRefs: [{{name: next}}], requestMirror: {{backendRef: {{name: next}}}}}}\n---\n\
         kind: BatchPolicy\nmetadata: {{name: q}}\nspec:\n  targetRefs: [{{kind: Backend, name: next}}]\n  \
         traffic: {{faultInjection: {{abort: {{httpStatus: 503}}}}}}\n",
        users.address, next.address
    );
    let proxy = TestProxy::with().config(text).start().await;
    let answer = alone(proxy.address, request("GET", "/x", &[], "")).await;
    assert_eq!(
        (answer.status, answer.header("x-jitney-error")),
        (503, "fault_injected")
    );
    let label = r#"backend="next",fault="abort""#;
    assert_eq!(proxy.metric("jitney_faults_injected_total", label).await, 1.0);
    // Copies are not calls, and no fault is for them.
    wait::until("the copy comes", || next.seen().len() == 1).await;
    assert!(users.seen().is_empty());
}
