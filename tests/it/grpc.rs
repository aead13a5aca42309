//! What callers of gRPC say of their calls and hear of errors, in their own words.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use jitney_tests::caller::{Body, request};
use jitney_tests::upstream::Ending;
use jitney_tests::wait::until;
use jitney_tests::{Answer, Caller, Reply, Route, Seen, TestProxy, TestUpstream, model, policy};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::shared::{alone, instances, predict, together};

/// A call of gRPC whose caller waits so long.
fn method(timeout: &str) -> Request<Body> {
    let headers = [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
        ("grpc-timeout", timeout),
    ];
    request("POST", "/shop.Orders/Place", &headers, "\0\0\0\0\0")
}

/// The status and code that a call over HTTP/2 gets.
async fn told(proxy: &TestProxy, call: Request<Body>) -> (u16, String, String) {
    let mut caller = Caller::h2(proxy.address).await.unwrap();
    let answer = caller.call(call).await.unwrap();
    assert_eq!(answer.header("content-type"), "application/grpc+proto");
    assert_eq!(answer.text(), "", "all of it is head");
    let field = |name| Answer::header(&answer, name).to_owned();
    (answer.status, field("grpc-status"), field("x-jitney-error"))
}

fn code(number: &str, error: &str) -> (u16, String, String) {
    (200, number.to_owned(), error.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_timeout_is_a_deadline_and_the_error_a_code() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "1").ending(Ending::Never)).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve()])).await;
    assert_eq!(told(&proxy, method("200m")).await, code("4", "deadline_exceeded"));
    // As it came, for the service to keep to.
    assert_eq!(upstream.seen()[0].header("grpc-timeout"), "200m");
    let plain = alone(
        proxy.address,
        request("GET", "/x", &[("grpc-timeout", "200m")], ""),
    );
    let plain = plain.await;
    assert_eq!((plain.status, plain.header("grpc-status")), (504, ""));
    let label = r#"class="5xx""#;
    assert_eq!(proxy.metric("jitney_calls_total", label).await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_that_cannot_be_reached_is_unavailable_and_a_spent_rate_exhausted() {
    // Bound and let go: nobody listens there.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let limited = policy::active(&[Route::kserve()]) + "  traffic: {rateLimit: {requestsPerSecond: 0.01}}\n";
    let proxy = TestProxy::start(nowhere, &limited).await;
    assert_eq!(told(&proxy, method("1M")).await, code("14", "connect"));
    assert_eq!(told(&proxy, method("1M")).await, code("8", "rate_limited"));
}

#[tokio::test]
async fn failure_that_is_all_head_is_counted_and_told_as_one() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "").header("grpc-status", "14")).await;
    let settings = TestProxy::with().upstream(upstream.address);
    let proxy = settings.arg("--access-log").start().await;
    let mut caller = Caller::h2(proxy.address).await.unwrap();
    let answer = caller.call(method("1M")).await.unwrap();
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "14"));
    until("it is told of", || proxy.log().contains("grpc_status=14")).await;
    assert!(proxy.log().contains("status=503"), "{}", proxy.log());
    for (class, expected) in [("2xx", 0.0), ("5xx", 1.0)] {
        let label = format!("class=\"{class}\"");
        assert_eq!(
            proxy.metric("jitney_calls_total", &label).await,
            expected,
            "{class}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_with_different_deadlines_share_a_batch_that_outlives_the_first() {
    let upstream = TestUpstream::start(|seen| model::kserve(seen).after(Duration::from_millis(1500))).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(2)])).await;
    let call = |value: &str, timeout: &'static str| {
        let mut call = predict(instances(&[value]));
        call.headers_mut()
            .insert("grpc-timeout", HeaderValue::from_static(timeout));
        call
    };
    let answers = together(proxy.address, vec![call("1", "700m"), call("2", "1M")]).await;
    let seen = upstream.seen();
    assert_eq!((seen.len(), seen[0].header("x-jitney-batch-size")), (1, "2"));
    assert_eq!(
        seen[0].header("grpc-timeout"),
        "",
        "one caller's is not the other's"
    );
    assert_eq!(
        (answers[0].status, answers[0].header("x-jitney-error")),
        (504, "deadline_exceeded")
    );
    assert_eq!(answers[1].text(), model::predictions(&["2"], ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_in_a_hurry_take_no_endpoint_out() {
    let never = |_: &Seen| Reply::json(200, "1").ending(Ending::Never);
    let upstreams = [TestUpstream::start(never).await, TestUpstream::start(never).await];
    let text = policy::active(&[Route::kserve()])
        + "  traffic: {timeouts: {request: 1m}, circuitBreaker: {consecutiveFailures: 1}}\n";
    let settings = upstreams.iter().fold(TestProxy::with(), |settings, upstream| {
        settings.upstream(upstream.address)
    });
    let proxy = settings.policy(text).start().await;
    for _ in 0..8 {
        assert_eq!(told(&proxy, method("50m")).await, code("4", "deadline_exceeded"));
    }
    let shown = proxy.admin("/backends").await.text();
    assert!(!shown.contains("its calls failed"), "{shown}");
}

/// A service whose first call comes to this code, and all others go well.
async fn failing_first(code: &'static str) -> TestUpstream {
    let first = AtomicBool::new(true);
    TestUpstream::start(move |_| {
        let is_first = first.swap(false, Ordering::SeqCst);
        Reply::json(200, "")
            .header("content-type", "application/grpc")
            .header("grpc-status", if is_first { code } else { "0" })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_code_is_tried_again_where_repeating_is_allowed() {
    for (path, on, more, sent, expected) in [
        ("/v1/models/m:predict", "resource-exhausted", "", 2, "0"),
        // Whoever names a code declares it: all calls of gRPC are POST.
        ("/shop.Orders/Place", "resource-exhausted", "", 2, "0"),
        ("/shop.Orders/Place", "unavailable", "", 1, "8"),
        (
            "/shop.Orders/Place",
            "resource-exhausted",
            ", replay: Never",
            1,
            "8",
        ),
        // A status is no code: the path of the route is declared safe to repeat, a POST elsewhere is not.
        ("/v1/models/m:predict", "\"429\"", "", 2, "0"),
        ("/shop.Orders/Place", "\"429\"", "", 1, "8"),
        ("/shop.Orders/Place", "\"429\"", ", replay: Declared", 2, "0"),
    ] {
        let upstream = failing_first("8").await;
        let retry = format!("  traffic: {{retry: {{attempts: 2, on: [{on}]{more}}}}}\n");
        let proxy = TestProxy::start(upstream.address, &(policy::active(&[Route::kserve()]) + &retry)).await;
        let call = request("POST", path, &[("content-type", "application/grpc")], "");
        let answer = alone(proxy.address, call).await;
        assert_eq!(
            (upstream.seen().len(), answer.header("grpc-status")),
            (sent, expected),
            "{path} {on}{more}"
        );
    }
}

/// A call whose length is not said beforehand, in pieces of a kilobyte; its path is declared safe to
/// repeat, and the key has it travel alone, as it comes.
fn streamed(kilobytes: usize) -> Request<Body> {
    let piece = |n: usize| Ok::<_, Infallible>(Frame::data(vec![n.to_le_bytes()[0]; 1024].into()));
    let mut call = request("POST", "/v1/models/m:predict", &[], "");
    *call.body_mut() = StreamBody::new(tokio_stream::iter((0..kilobytes).map(piece))).boxed();
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("idempotency-key", "1"),
    ] {
        call.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    call
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamed_call_is_repeated_whole_while_it_is_short() {
    for (kilobytes, sent, expected) in [(3, 2, "0"), (40, 2, "0"), (70, 1, "14")] {
        let upstream = failing_first("14").await;
        let text =
            policy::active(&[Route::kserve()]) + "  traffic: {retry: {attempts: 2, on: [unavailable]}}\n";
        let proxy = TestProxy::start(upstream.address, &text).await;
        let mut caller = Caller::h2(proxy.address).await.unwrap();
        let answer = caller.call(streamed(kilobytes)).await.unwrap();
        assert_eq!(answer.header("grpc-status"), expected, "{kilobytes} KiB");
        let seen = upstream.seen();
        assert_eq!(seen.len(), sent, "{kilobytes} KiB");
        for one in seen {
            assert_eq!(one.header("content-length"), "");
            let pieces: Vec<u8> = one.body.iter().step_by(1024).copied().collect();
            assert_eq!(one.body.len(), 1024 * kilobytes);
            assert!(pieces.iter().map(|piece| usize::from(*piece)).eq(0..kilobytes));
        }
    }
}

/// A place whose first connection ends without a word, as when a service starts.
async fn starting(service: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        drop(listener.accept().await.unwrap());
        loop {
            let (mut caller, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut service = TcpStream::connect(service).await?;
                copy_bidirectional(&mut caller, &mut service).await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_did_not_say_what_it_speaks_is_asked_again() {
    let upstream = TestUpstream::start(|seen| Reply::json(200, format!("{:?}", seen.version))).await;
    let proxy = TestProxy::start(starting(upstream.address).await, "").await;
    let spoken = async |content_type| {
        let headers = [("content-type", content_type), ("te", "trailers")];
        let call = request("POST", "/shop.Orders/Place", &headers, "\0\0\0\0\0");
        let mut caller = Caller::h2(proxy.address).await.unwrap();
        caller.call(call).await.unwrap().text()
    };
    // Nothing is known yet, and what is not gRPC is served by whatever is spoken.
    assert_eq!(spoken("application/json").await, "HTTP/1.1");
    assert_eq!(spoken("application/json").await, "HTTP/1.1");
    for content_type in ["application/grpc", "application/json"] {
        assert_eq!(spoken(content_type).await, "HTTP/2.0");
    }
}
