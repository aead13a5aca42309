//! What a policy's `traffic` says, done: who gets a call, how many may be under way or come in, and
//! what is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jitney_tests::caller::{get, request};
use jitney_tests::upstream::Ending;
use jitney_tests::wait::PATIENCE;
use jitney_tests::{Answer, Reply, Route, Seen, TestProxy, TestUpstream, model, policy};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::shared::{alone, instances, predict, predict_as, together};

/// A policy with one route and these traffic settings.
fn policy(traffic: &str) -> String {
    policy::active(&[Route::kserve()]) + "  traffic: {" + traffic + "}\n"
}

/// A sidecar before several upstreams.
async fn before(upstreams: &[TestUpstream], traffic: &str) -> TestProxy {
    let settings = upstreams.iter().fold(TestProxy::with(), |settings, upstream| {
        settings.upstream(upstream.address)
    });
    settings.policy(policy(traffic)).start().await
}

/// Two upstreams that do as `handler` says, which is told which of them it is.
async fn two(handler: impl Fn(usize, &Seen) -> Reply + Clone + Send + Sync + 'static) -> [TestUpstream; 2] {
    let also = handler.clone();
    [
        TestUpstream::start(move |seen| handler(0, seen)).await,
        TestUpstream::start(move |seen| also(1, seen)).await,
    ]
}

fn ok() -> Reply {
    Reply::json(200, "1")
}

/// An upstream that answers 503 so many times, and then well.
async fn failing(times: usize) -> TestUpstream {
    let left = Arc::new(AtomicUsize::new(times));
    TestUpstream::start(move |_| {
        let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() {
            Reply::json(503, "no")
        } else {
            ok()
        }
    })
    .await
}

async fn of_user(proxy: &TestProxy, user: &str) -> Answer {
    alone(proxy.address, request("GET", "/x", &[("x-user", user)], "")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_balancer_is_as_the_policy_says_and_changes_with_it() {
    let upstreams = two(|_, _| ok()).await;
    let proxy = before(&upstreams, "loadBalancer: {type: RoundRobin}").await;
    for _ in 0..10 {
        of_user(&proxy, "ann").await;
    }
    assert_eq!(upstreams.each_ref().map(|upstream| upstream.seen().len()), [5, 5]);
    std::fs::write(
        proxy.policy_path(),
        policy("loadBalancer: {type: ConsistentHash, header: x-user}"),
    )
    .unwrap();
    let end = Instant::now() + PATIENCE;
    while !proxy.admin("/config").await.text().contains("ConsistentHash") {
        assert!(Instant::now() < end, "the policy was not applied");
        sleep(Duration::from_millis(5)).await;
    }
    upstreams.iter().for_each(TestUpstream::forget);
    for _ in 0..10 {
        of_user(&proxy, "ann").await;
    }
    let mut shares = upstreams.each_ref().map(|upstream| upstream.seen().len());
    shares.sort_unstable();
    assert_eq!(shares, [0, 10]);
    // The connections were kept: it is the same backend.
    assert_eq!(upstreams.each_ref().map(TestUpstream::connections), [1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_breakers_bound_are_shed() {
    let upstream = TestUpstream::start(|_| ok().after(Duration::from_secs(1))).await;
    let proxy = TestProxy::start(upstream.address, &policy("circuitBreaker: {maxRequests: 2}")).await;
    let calls = |count| (0..count).map(|_| request("GET", "/x", &[], "")).collect();
    let answers = together(proxy.address, calls(8)).await;
    let (served, shed): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((served.len(), shed.len(), upstream.seen().len()), (2, 6, 2));
    for answer in shed {
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
        assert_eq!(answer.header("x-jitney-error"), "too_many_requests_in_flight");
    }
    // The places were given back.
    let answers = together(proxy.address, calls(2)).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_one_request_to_the_breaker() {
    let upstream = TestUpstream::start(model::kserve).await;
    let text =
        policy::active(&[Route::kserve().fixed(8)]) + "  traffic: {circuitBreaker: {maxRequests: 1}}\n";
    let proxy = TestProxy::start(upstream.address, &text).await;
    let calls = (0..8).map(|n| predict(instances(&[&n.to_string()]))).collect();
    let answers = together(proxy.address, calls).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limit_counts_calls_of_each_identity_batched_or_not() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(
        upstream.address,
        &policy("rateLimit: {requestsPerSecond: 0.01, per: identity}"),
    )
    .await;
    // Slow enough that nothing comes back within the test: each identity has one call.
    let call = |who: &str| predict_as(who, instances(&["1"]));
    for who in ["Bearer ann", "Bearer bob", ""] {
        assert_eq!(alone(proxy.address, call(who)).await.status, 200, "{who}");
        let refused = alone(proxy.address, call(who)).await;
        assert_eq!(
            (refused.status, refused.header("x-jitney-error")),
            (429, "rate_limited")
        );
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!((90..=100).contains(&wait), "Retry-After: {wait}");
        let headers = [("authorization", who)];
        let headers = if who.is_empty() {
            &headers[..0]
        } else {
            &headers[..]
        };
        let passing = alone(proxy.address, request("GET", "/other", headers, "")).await;
        assert_eq!(passing.status, 429, "{who}");
    }
    assert_eq!(upstream.seen().len(), 3);
    let label = r#"reason="rate_limited""#;
    assert_eq!(proxy.metric("jitney_errors_total", label).await, 6.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limit_of_the_backend_is_shared() {
    let upstream = TestUpstream::start(|_| ok()).await;
    let proxy = TestProxy::start(upstream.address, &policy("rateLimit: {requestsPerSecond: 0.01}")).await;
    assert_eq!(of_user(&proxy, "ann").await.status, 200);
    let bob = request("GET", "/x", &[("authorization", "Bearer bob")], "");
    assert_eq!(alone(proxy.address, bob).await.status, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_status_is_tried_again_where_repeating_is_allowed() {
    const RETRY: &str = r#"retry: {attempts: 2, on: ["503"]}"#;
    for (method, body, fails, status, sent) in [
        ("GET", "", 1, 200, 2_u32),
        ("GET", "", 2, 200, 3),
        ("GET", "", 9, 503, 3),
        ("PUT", "whole", 0, 200, 1),
        ("POST", "whole", 1, 503, 1),
    ] {
        let upstream = failing(fails).await;
        let proxy = TestProxy::start(upstream.address, &policy(RETRY)).await;
        let answer = alone(proxy.address, request(method, "/x", &[], body)).await;
        let case = format!("{method} that fails {fails} times");
        assert_eq!(
            (answer.status, upstream.seen().len()),
            (status, usize::try_from(sent).unwrap()),
            "{case}"
        );
        let retries = proxy
            .metric("jitney_upstream_calls_total", r#"kind="retry""#)
            .await;
        assert_eq!(retries, f64::from(sent - 1), "{case}");
    }
    let upstream = failing(1).await;
    let proxy = TestProxy::start(upstream.address, &policy("")).await;
    assert_eq!(
        get(proxy.address, "/x").await.unwrap().status,
        503,
        "without `retry`"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lone_call_of_a_route_declared_safe_is_tried_again_with_its_body() {
    let left = AtomicUsize::new(1);
    let upstream = TestUpstream::start(move |seen| {
        let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() {
            model::kserve(seen).ending(Ending::HangUp)
        } else {
            model::kserve(seen)
        }
    })
    .await;
    let proxy = TestProxy::start(upstream.address, &policy("retry: {attempts: 1, on: [reset]}")).await;
    let answer = alone(proxy.address, predict(instances(&["9007199254740993"]))).await;
    assert_eq!(answer.text(), model::predictions(&["9007199254740993"], ""));
    let seen = upstream.seen();
    assert_eq!((seen.len(), seen[0].body.clone()), (2, seen[1].body.clone()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_end_with_their_budget() {
    let upstream = failing(usize::MAX).await;
    let retry = r#"retry: {attempts: 10, on: [gateway-error], budget: {ratio: 0.5, minPerSecond: 0}}"#;
    let proxy = TestProxy::start(upstream.address, &policy(retry)).await;
    for _ in 0..20 {
        assert_eq!(of_user(&proxy, "ann").await.status, 503);
    }
    assert_eq!(upstream.seen().len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_connection_is_tried_again_on_the_same_endpoint_too() {
    // Bound and let go: nobody listens there.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = TestProxy::start(nowhere, &policy("retry: {attempts: 2, on: [connect-failure]}")).await;
    let answer = alone(proxy.address, request("POST", "/x", &[], "whole")).await;
    assert_eq!((answer.status, answer.header("x-jitney-error")), (502, "connect"));
    let retries = proxy
        .metric("jitney_upstream_calls_total", r#"kind="retry""#)
        .await;
    assert_eq!(retries, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoint_that_keeps_failing_rests_and_is_shown_so() {
    let upstreams = two(|n, _| if n == 1 { Reply::json(500, "no") } else { ok() }).await;
    let proxy = before(
        &upstreams,
        "loadBalancer: {type: RoundRobin}, circuitBreaker: {consecutiveFailures: 3}",
    )
    .await;
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(of_user(&proxy, "ann").await.status == 500);
    }
    assert_eq!((failed, upstreams[1].seen().len()), (3, 3));
    let shown: Value = serde_json::from_slice(&proxy.admin("/backends").await.body).unwrap();
    let endpoints = &shown["backends"][0]["endpoints"];
    assert_eq!(
        (&endpoints[0]["is_healthy"], &endpoints[1]["is_healthy"]),
        (&true.into(), &false.into())
    );
    let note = endpoints[1]["note"].as_str().unwrap();
    assert!(note.starts_with("its calls failed: gets none for"), "{note}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoint_that_has_too_much_to_do_gets_fewer_calls_and_is_shown_so() {
    for (status, code) in [(429, ""), (503, ""), (200, "8"), (200, "14")] {
        let plea = move || {
            Reply::json(status, "no")
                .header("grpc-status", code)
                .header("retry-after", "30")
        };
        let upstreams = two(move |n, _| if n == 1 { plea() } else { ok() }).await;
        let proxy = before(&upstreams, "").await;
        for _ in 0..40 {
            of_user(&proxy, "ann").await;
        }
        // By latency it would get most of them, as the one that answers soonest.
        let case = format!("{status} {code}");
        assert_eq!(upstreams[1].seen().len(), 1, "{case}");
        let shown: Value = serde_json::from_slice(&proxy.admin("/backends").await.body).unwrap();
        let endpoint = &shown["backends"][0]["endpoints"][1];
        let note = endpoint["note"].as_str().unwrap();
        assert!(note.starts_with("it has too much to do"), "{case}: {note}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_rests_without_a_breaker_and_a_lone_one_never_does() {
    let upstream = failing(30).await;
    let proxy = TestProxy::start(
        upstream.address,
        &policy("circuitBreaker: {consecutiveFailures: 3}"),
    )
    .await;
    for n in 0..40 {
        let wanted = if n < 30 { 503 } else { 200 };
        let answer = of_user(&proxy, "ann").await;
        assert_eq!(
            (answer.status, answer.header("x-jitney-error")),
            (wanted, ""),
            "call {n}"
        );
    }
    let upstreams = two(|n, _| if n == 1 { Reply::json(500, "no") } else { ok() }).await;
    let proxy = before(&upstreams, "loadBalancer: {type: RoundRobin}").await;
    for _ in 0..40 {
        of_user(&proxy, "ann").await;
    }
    assert_eq!(upstreams[1].seen().len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_hold_for_calls_without_a_route_too() {
    let upstream = TestUpstream::start(|_| ok().ending(Ending::Never)).await;
    let proxy = TestProxy::start(upstream.address, &policy("timeouts: {request: 200ms}")).await;
    let answer = of_user(&proxy, "ann").await;
    assert_eq!(
        (answer.status, answer.header("x-jitney-error")),
        (504, "deadline_exceeded")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_shed_while_memory_is_short_and_taken_again_after_it() {
    let root = tempfile::tempdir().unwrap();
    let group = |used: &str| std::fs::write(root.path().join("memory.current"), used).unwrap();
    // The sidecar itself has more than a quarter of so little.
    std::fs::write(root.path().join("memory.max"), "16000000\n").unwrap();
    group("1000000\n");
    let upstream = TestUpstream::start(|_| ok()).await;
    let settings = TestProxy::with().upstream(upstream.address).policy(policy(""));
    let proxy = settings
        .arg(format!("--cgroup-root={}", root.path().display()))
        .start()
        .await;
    assert_eq!(of_user(&proxy, "ann").await.status, 200);
    for (used, pressure, status) in [
        ("14000000\n", 1.0, 200),
        ("15900000\n", 2.0, 503),
        ("1000000\n", 0.0, 200),
    ] {
        group(used);
        let end = Instant::now() + PATIENCE;
        while proxy.metric("jitney_memory_pressure", "").await != pressure {
            assert!(Instant::now() < end, "never {pressure} by {used}");
            sleep(Duration::from_millis(20)).await;
        }
        let answer = of_user(&proxy, "ann").await;
        let error = if status == 503 { ("memory", "1") } else { ("", "") };
        let told = (answer.header("x-jitney-error"), answer.header("retry-after"));
        assert_eq!((answer.status, told), (status, error), "{used}");
        let ready = proxy.admin("/ready").await;
        assert_eq!(ready.status, 200);
        assert_eq!(ready.text().contains("short of memory"), pressure > 0.0, "{used}");
    }
    assert_eq!(upstream.seen().len(), 3);
    assert!(proxy.log().contains("memory is short"));
}
