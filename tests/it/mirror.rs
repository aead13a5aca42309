//! `requestMirror`: copies of calls that go to another backend, and do nothing to the calls.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, StreamBody};
use jitney_tests::caller::{Body, request};
use jitney_tests::upstream::Ending;
use jitney_tests::wait::{self, PATIENCE};
use jitney_tests::{Caller, Reply, Seen, TestControlPlane, TestProxy, TestUpstream, model};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use crate::pushed::free_ports;
use crate::shared::{alone, together};

/// A backend with a listener, another one to which calls are copied, and a policy with more than that.
fn config(users: SocketAddr, recorder: SocketAddr, percent: &str, more: &str) -> String {
    format!(
        "kind: Backend\nmetadata: {{name: users}}\nspec: {{endpoints: ['{users}']}}\n---\n\
         kind: Backend\nmetadata: {{name: recorder}}\nspec: {{endpoints: ['{recorder}']}}\n---\n\
         kind: Listener\nmetadata: {{name: in}}\nspec: {{address: '127.0.0.1:0', backend: users}}\n---\n\
         kind: BatchPolicy\nmetadata: {{name: p}}\nspec:\n  targetRefs: [{{kind: Backend, name: users}}]\n  \
         traffic: {{requestMirror: {{backendRef: {{name: recorder}}{percent}}}}}\n{more}"
    )
}

async fn sidecar(users: SocketAddr, recorder: SocketAddr) -> TestProxy {
    TestProxy::with()
        .config(config(users, recorder, "", ""))
        .start()
        .await
}

async fn upstream() -> TestUpstream {
    TestUpstream::start(|_| Reply::json(200, "1")).await
}

/// Waits until so many copies have come to this end.
async fn until_copies(proxy: &TestProxy, outcome: &str, count: f64) {
    let label = format!("outcome=\"{outcome}\"");
    let end = Instant::now() + PATIENCE;
    loop {
        let found = proxy.metric("jitney_mirror_total", &label).await;
        if found >= count {
            assert!(found <= count, "{found} {outcome}, expected {count}");
            return;
        }
        assert!(
            Instant::now() < end,
            "{found} {outcome}, expected {count}: {}",
            proxy.log()
        );
        sleep(Duration::from_millis(5)).await;
    }
}

fn streamed(pieces: usize, size: usize) -> Body {
    let pieces = (0..pieces).map(move |n| {
        let piece = Bytes::from(vec![u8::try_from(n % 251).unwrap(); size]);
        Ok(http_body::Frame::data(piece))
    });
    StreamBody::new(tokio_stream::iter(pieces)).boxed()
}

/// What a request says, but for the connection that it came over.
fn said(seen: &Seen) -> (http::Version, String, String, http::HeaderMap, Bytes) {
    let Seen {
        version,
        method,
        target,
        headers,
        body,
        connection: _,
    } = seen.clone();
    (version, method.to_string(), target, headers, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_the_call_byte_for_byte() {
    let (users, recorder) = (upstream().await, upstream().await);
    let proxy = sidecar(users.address, recorder.address).await;
    let credentials = [
        ("authorization", "Bearer ann"),
        ("cookie", "a=b"),
        ("host", "users.shop"),
    ];
    let streaming = || {
        let builder = Request::post("/stream?x=%20y").header("host", "users.shop");
        builder.body(streamed(50, 10_000)).unwrap()
    };
    let mut calls = vec![
        request("GET", "/a?b=c&b=%2F", &credentials, ""),
        request(
            "POST",
            "/b",
            &[("te", "trailers"), ("connection", "x-mine"), ("x-mine", "1")],
            "whole",
        ),
        request(
            "PUT",
            "/c",
            &[("expect-ct", "a"), ("x-y", "1"), ("x-y", "2")],
            vec![7; 300_000],
        ),
        request("DELETE", "/d", &[("x-jitney-client-id", "forged")], ""),
        streaming(),
    ];
    let mut count = 0.0;
    for mut caller in [
        Caller::h1(proxy.address).await.unwrap(),
        Caller::h2(proxy.address).await.unwrap(),
    ] {
        for call in std::mem::take(&mut calls) {
            assert_eq!(caller.call(call).await.unwrap().status, 200);
            count += 1.0;
            until_copies(&proxy, "replied", count).await;
        }
        calls.push(streaming());
        calls.push(request("GET", "/e", &[("authorization", "Bearer bob")], ""));
    }
    let (calls, copies) = (users.seen(), recorder.seen());
    assert_eq!(calls.len(), 7);
    for (call, copy) in calls.iter().zip(&copies) {
        assert_eq!(said(call), said(copy));
    }
    assert_eq!(copies[0].header("host"), "users.shop");
    assert_eq!(copies[4].body.len(), 500_000);
    // One connection each, as long as a call waits for the copy before.
    assert_eq!(users.raw(0), recorder.raw(0));
    let sent = proxy.metric(
        "jitney_upstream_calls_total",
        "backend=\"recorder\",kind=\"mirror\"",
    );
    assert_eq!((sent.await, copies.len()), (7.0, 7));
    let answered = proxy.metric("jitney_calls_total", "backend=\"recorder\"").await;
    assert_eq!(answered, 0.0, "nobody called it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batched_calls_are_copied_one_by_one() {
    let (users, recorder) = (TestUpstream::start(model::users).await, upstream().await);
    let route = "  routes:\n  - match: {method: GET, path: {type: Template, value: \"/users/{id}\"}}\n    \
                 codec: {keyedGet: {batchPath: \"/users?ids={id}\", key: /id}}\n    \
                 batch: {maxSize: 20, dispatch: Fixed, timeout: 30s, queueTimeout: 60s}\n";
    let text = config(users.address, recorder.address, "", route);
    let proxy = TestProxy::with().config(text).start().await;
    let calls = (0..40).map(|id| request("GET", &format!("/users/{id}"), &[], ""));
    let answers = together(proxy.address, calls.collect()).await;
    for (id, answer) in answers.iter().enumerate() {
        assert_eq!(answer.text(), model::user(&id.to_string(), ""));
    }
    assert_eq!(users.seen().len(), 2);
    until_copies(&proxy, "replied", 40.0).await;
    let mut targets: Vec<String> = recorder.seen().into_iter().map(|seen| seen.target).collect();
    let mut expected: Vec<String> = (0..40).map(|id| format!("/users/{id}")).collect();
    targets.sort_unstable();
    expected.sort_unstable();
    assert_eq!(targets, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_hang_hold_up_no_call_and_are_bounded() {
    let users = upstream().await;
    let recorder = TestUpstream::start(|_| Reply::json(200, "1").ending(Ending::Never)).await;
    let proxy = sidecar(users.address, recorder.address).await;
    let mut caller = Caller::h1(proxy.address).await.unwrap();
    for _ in 0..150 {
        let answer = caller
            .call(request("POST", "/x", &[], vec![1; 10_000]))
            .await
            .unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "1"));
    }
    // All calls are answered, and every copy that was made is still held.
    until_copies(&proxy, "too_many", 50.0).await;
    assert_eq!(proxy.metric("jitney_mirror_total", "").await, 50.0);
    wait::until("the others are there", || recorder.seen().len() == 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_take_no_longer_than_their_calls_may() {
    let users = upstream().await;
    let recorder = TestUpstream::start(|_| Reply::json(200, "1").ending(Ending::Never)).await;
    let text = config(users.address, recorder.address, "", "");
    let text = text.replace("traffic: {", "traffic: {timeouts: {request: 300ms}, ");
    let proxy = TestProxy::with().config(text).start().await;
    assert_eq!(
        alone(proxy.address, request("GET", "/x", &[], "")).await.status,
        200
    );
    until_copies(&proxy, "timed_out", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_to_nobody_fail_alone() {
    // Bound and let go: nobody listens there.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let users = upstream().await;
    let proxy = sidecar(users.address, nowhere).await;
    for _ in 0..20 {
        let answer = alone(proxy.address, request("POST", "/x", &[], "whole")).await;
        assert_eq!((answer.status, answer.header("x-jitney-error")), (200, ""));
    }
    until_copies(&proxy, "failed", 20.0).await;
    assert_eq!(proxy.metric("jitney_errors_total", "").await, 0.0);
    let retries = proxy
        .metric("jitney_upstream_calls_total", r#"kind="retry""#)
        .await;
    assert_eq!(retries, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_read_slowly_is_given_up_and_its_call_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let recorder = listener.local_addr().unwrap();
    // Takes connections, and never reads.
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let users = TestUpstream::start_unrecorded(|seen| Reply::json(200, seen.body.len().to_string())).await;
    let proxy = sidecar(users.address, recorder).await;
    let mut caller = Caller::h1(proxy.address).await.unwrap();
    // More than sockets take in by themselves.
    let call = Request::post("/x")
        .header("host", "a")
        .body(streamed(1_000, 65_536))
        .unwrap();
    assert_eq!(caller.call(call).await.unwrap().text(), "65536000");
    until_copies(&proxy, "behind", 1.0).await;
    assert_eq!(
        caller.call(request("GET", "/y", &[], "")).await.unwrap().text(),
        "0"
    );
    holding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cut_short_is_copied_to_nobody() {
    let (users, recorder) = (upstream().await, upstream().await);
    let proxy = sidecar(users.address, recorder.address).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let half = "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    stream.write_all(half.as_bytes()).await.unwrap();
    wait::until("it is on its way", || recorder.raw(0).ends_with(b"half\r\n")).await;
    drop(stream);
    until_copies(&proxy, "caller_gone", 1.0).await;
    assert!(recorder.seen().is_empty(), "a part must not pass for the whole");
    assert!(!recorder.raw(0).ends_with(b"0\r\n\r\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_ask_for_another_protocol_are_not_copied() {
    let (users, recorder) = (upstream().await, upstream().await);
    let proxy = sidecar(users.address, recorder.address).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let asks = "GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: names\r\n\r\n";
    stream.write_all(asks.as_bytes()).await.unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    assert_eq!(
        alone(proxy.address, request("GET", "/y", &[], "")).await.status,
        200
    );
    until_copies(&proxy, "replied", 1.0).await;
    assert_eq!(recorder.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_is_copied_and_the_share_changes_while_calls_go_on() {
    let (users, recorder) = (upstream().await, upstream().await);
    let text = |percent: &str| config(users.address, recorder.address, percent, "");
    let proxy = TestProxy::with().config(text(", percent: 25")).start().await;
    let mut caller = Caller::h1(proxy.address).await.unwrap();
    let mut call = async |times: usize| {
        for _ in 0..times {
            let answer = caller.call(request("GET", "/x", &[], "")).await.unwrap();
            assert_eq!(answer.status, 200);
        }
    };
    call(1000).await;
    // Five standard deviations.
    let copied = recorder.seen().len();
    assert!((180..=320).contains(&copied), "{copied} of 1,000");
    std::fs::write(proxy.policy_path(), text(", percent: 0")).unwrap();
    let explained = async || {
        let asked = request("POST", "/explain", &[], "GET /x\n");
        jitney_tests::caller::call(proxy.admin, asked)
            .await
            .unwrap()
            .text()
    };
    let end = Instant::now() + PATIENCE;
    while !explained().await.contains("copied: 0 % to recorder\n") {
        assert!(Instant::now() < end, "{}", explained().await);
        sleep(Duration::from_millis(5)).await;
    }
    let begun = proxy
        .metric("jitney_upstream_calls_total", r#"kind="mirror""#)
        .await;
    call(100).await;
    let after = proxy
        .metric("jitney_upstream_calls_total", r#"kind="mirror""#)
        .await;
    assert_eq!(after, begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_copied_while_memory_is_short() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("memory.max"), "16000000\n").unwrap();
    std::fs::write(root.path().join("memory.current"), "14000000\n").unwrap();
    let (users, recorder) = (upstream().await, upstream().await);
    let settings = TestProxy::with().config(config(users.address, recorder.address, "", ""));
    let root = format!("--cgroup-root={}", root.path().display());
    let proxy = settings.arg(root).start().await;
    let end = Instant::now() + PATIENCE;
    while proxy.metric("jitney_memory_pressure", "").await < 1.0 {
        assert!(Instant::now() < end, "memory never was short");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        alone(proxy.address, request("GET", "/x", &[], "")).await.status,
        200
    );
    until_copies(&proxy, "memory", 1.0).await;
    assert!(recorder.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_is_sent_the_backend_that_a_pushed_policy_copies_to() {
    let (users, recorder) = (upstream().await, upstream().await);
    let [port] = free_ports();
    let documents = config(users.address, recorder.address, "", "  placement: Outbound\n").replace(
        "127.0.0.1:0', backend: users",
        &format!("127.0.0.1:{port}', backend: users, workload: web"),
    );
    let plane = TestControlPlane::start(&documents).await;
    let proxy = plane.sidecar("default/web", "web").pushed().start().await;
    let end = Instant::now() + PATIENCE;
    while recorder.seen().is_empty() {
        assert!(Instant::now() < end, "{}", proxy.log());
        assert_eq!(
            alone(proxy.address, request("GET", "/x", &[], "")).await.status,
            200
        );
    }
}

#[tokio::test]
async fn a_call_is_copied_whole_although_nobody_asks_for_its_end_and_however_small_its_pieces_are() {
    let (users, recorder) = (upstream().await, upstream().await);
    let text = config(users.address, recorder.address, "", "");
    let [from, to] = ["", ", protocol: HTTP1"].map(|more| format!("['{}']{more}", users.address));
    let proxy = TestProxy::with().config(text.replace(&from, &to)).start().await;
    let mut caller = Caller::h2(proxy.address).await.unwrap();
    // Over HTTP/1.1 no more of a body is asked for once its length has passed, and here its end comes after that.
    let length = [("content-length", "6000")];
    for fields in [&length[..], &[]] {
        let mut call = request("POST", "/x", fields, "");
        *call.body_mut() = streamed(120, 50);
        assert_eq!(caller.call(call).await.unwrap().status, 200);
    }
    until_copies(&proxy, "replied", 2.0).await;
    for (copy, call) in recorder.seen().iter().zip(users.seen()) {
        assert_eq!((copy.body.len(), &copy.body), (6000, &call.body));
    }
}
