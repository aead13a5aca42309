//! What a drain does for callers whose calls the sidecar has not read yet, and for those who do not speak HTTP any
//! more; and how connections end that are old.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jitney_proxy::connection::Limits;
use jitney_proxy::send::BackendSettings;
use jitney_tests::caller::{Caller, request};
use jitney_tests::frames::{END_HEADERS, END_STREAM, Frame, Frames, GET, frame, kind, literals};
use jitney_tests::{Reply, TestProxy, TestUpstream, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::mtls::{SWITCHING, echoing, talking};

use super::wire::{PATIENCE, Rig, Upstream, Wire, eventually};

const CALL: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Connects without letting the sidecar run, which is in this thread: the connection stays in its listen queue.
fn queue(address: SocketAddr, first: &str) -> Wire {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(first.as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    Wire(TcpStream::from_std(stream).unwrap())
}

#[tokio::test]
async fn calls_in_the_listen_queue_are_served() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let mut whole: Vec<Wire> = (0..20).map(|_| queue(rig.address, CALL)).collect();
    let (first, rest) = CALL.split_at(9);
    let mut half = queue(rig.address, first);
    rig.drain.signal();
    for wire in &mut whole {
        let reply = wire.rest().await;
        assert!(
            reply.starts_with("HTTP/1.1 200") && reply.ends_with("hello"),
            "{reply:?}"
        );
    }
    half.send(rest).await;
    let reply = half.rest().await;
    assert!(
        reply.starts_with("HTTP/1.1 200") && reply.ends_with("hello"),
        "{reply:?}"
    );
    tokio::time::timeout(PATIENCE, rig.drain.drained()).await.unwrap();
}

#[tokio::test]
async fn h2_connection_in_the_listen_queue_is_served() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let Wire(stream) = queue(rig.address, "");
    rig.drain.signal();
    let (mut caller, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let call = Request::get("http://a/").body(Empty::<Bytes>::new()).unwrap();
    let reply = caller.send_request(call).await.unwrap();
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "hello");
    drop(caller);
    tokio::time::timeout(PATIENCE, rig.drain.drained()).await.unwrap();
}

#[tokio::test]
async fn call_that_meets_the_drain_on_its_way_is_served_and_told_to_go() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(CALL).await;
    wire.until("hello").await;
    rig.drain.signal();
    // The sidecar learns of the drain first, and closes what it takes for idle.
    tokio::task::yield_now().await;
    wire.send(CALL).await;
    let reply = wire.rest().await;
    assert!(reply.ends_with("\r\nconnection: close\r\n\r\nhello"), "{reply:?}");
    tokio::time::timeout(PATIENCE, rig.drain.drained()).await.unwrap();
}

#[tokio::test]
async fn head_that_is_half_sent_on_a_used_connection_is_waited_for() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(CALL).await;
    wire.until("hello").await;
    let (first, rest) = CALL.split_at(9);
    wire.send(first).await;
    rig.drain.signal();
    // Longer than the connection lingers for a caller that says nothing.
    assert!(
        tokio::time::timeout(Duration::from_millis(600), wire.0.read_u8())
            .await
            .is_err()
    );
    wire.send(rest).await;
    let reply = wire.rest().await;
    assert!(reply.ends_with("\r\nconnection: close\r\n\r\nhello"), "{reply:?}");
    tokio::time::timeout(PATIENCE, rig.drain.drained()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_old_finishes_its_calls_and_ends() {
    let upstream = Upstream::answering(HELLO).await;
    let limits = Limits {
        max_age: Some(Duration::from_millis(400)),
        ..Limits::default()
    };
    let rig = Rig::with(
        &BackendSettings::new("test", vec![upstream.address.into()]),
        limits,
    );
    // One that calls is told with a reply,
    let mut wire = rig.connect().await;
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let reply = wire.until("hello").await;
            if reply.contains("connection: close\r\n") {
                return;
            }
        }
    });
    told.await.expect("it is told");
    assert_eq!(wire.rest().await, "");
    // one that does not is closed,
    let mut idle = rig.connect().await;
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    idle.until("hello").await;
    assert_eq!(idle.rest().await, "");
    // and one of streams is told to go away.
    let mut frames = Frames::connect(rig.address).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, async {
        while frames.read().await.expect("it is told before the end").kind != kind::GOAWAY {}
    });
    told.await.expect("it is told");
}

/// Answers at once, but for `/held`, which waits for a word.
async fn holding(word: &Arc<Notify>) -> Upstream {
    let word = Arc::clone(word);
    Upstream::scripted(move |mut wire, seen| {
        let word = Arc::clone(&word);
        async move {
            loop {
                let head = wire.until("\r\n\r\n").await;
                seen(head.as_bytes());
                if head.contains("/held") {
                    word.notified().await;
                }
                wire.send("HTTP/1.1 204 No Content\r\n\r\n").await;
            }
        }
    })
    .await
}

/// What becomes of a stream, whatever is said of the connection.
async fn fate(frames: &mut Frames, stream: u32) -> Frame {
    loop {
        let frame = frames.read().await.expect("the connection is open");
        if frame.stream == stream && matches!(frame.kind, kind::HEADERS | kind::RST_STREAM) {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_caller_that_does_not_say_that_it_has_heard_finishes_its_calls_and_has_no_others() {
    let word = Arc::default();
    let upstream = holding(&word).await;
    let limits = Limits {
        max_age: Some(Duration::from_millis(400)),
        heard_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let rig = Rig::with(
        &BackendSettings::new("test", vec![upstream.address.into()]),
        limits,
    );
    // Frames answer no PING.
    let mut frames = Frames::connect(rig.address).await.unwrap();
    let mut held = GET;
    held[3] = (":path", "/held");
    let call = |stream, fields: &[_]| {
        let flags = END_HEADERS | END_STREAM;
        frame(kind::HEADERS, flags, stream, &literals(fields))
    };
    frames.send(&call(1, &held)).await.unwrap();
    eventually("it is on its way", || !upstream.seen().is_empty()).await;
    let refused = async {
        let mut stream = 1;
        loop {
            stream += 2;
            frames.send(&call(stream, &GET)).await.unwrap();
            let fate = fate(&mut frames, stream).await;
            if fate.kind == kind::RST_STREAM {
                return fate.payload;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("it ends");
    assert_eq!(refused, REFUSED_STREAM, "it may be sent elsewhere");
    word.notify_one();
    assert_eq!(fate(&mut frames, 1).await.kind, kind::HEADERS);
    let ended = tokio::time::timeout(PATIENCE, async { while frames.read().await.is_some() {} });
    ended.await.expect("nothing is left to wait for");
}

/// RFC 9113 section 7.
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

/// What is not HTTP from its beginning, and what is no more.
const BYTES: [&[u8]; 2] = [b"\0\0\0\x08some bytes", SWITCHING];

async fn echoing_through(drain_time: &str) -> TestProxy {
    let upstream = echoing().await.parse().unwrap();
    let settings = TestProxy::with().upstream(upstream).arg("--access-log");
    settings.arg("--drain-time").arg(drain_time).start().await
}

#[tokio::test]
async fn connections_that_are_not_http_have_the_time_of_a_drain() {
    for first in BYTES {
        let mut proxy = echoing_through("10m").await;
        let mut stream = talking(proxy.address, first).await;
        let open = proxy.metric("jitney_downstream_connections", "").await;
        assert!((open - 1.0).abs() < 0.1, "{open} are open");
        proxy.terminate();
        wait::until("it drains", || proxy.log().contains("draining")).await;
        for _ in 0..100 {
            stream.write_all(b"still here").await.unwrap();
            assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 10, "{}", proxy.log());
        }
        drop(stream);
        assert!(proxy.ended(wait::PATIENCE).await.success(), "{}", proxy.log());
        assert!(proxy.log().contains("drained"), "{}", proxy.log());
    }
}

#[tokio::test]
async fn connections_that_are_not_http_end_when_the_time_of_a_drain_is_over() {
    for first in BYTES {
        let mut proxy = echoing_through("100ms").await;
        let mut stream = talking(proxy.address, first).await;
        proxy.terminate();
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0);
        assert!(proxy.ended(wait::PATIENCE).await.success(), "{}", proxy.log());
        let log = proxy.log();
        assert!(log.contains("drain time is over"), "{log}");
        let is_told_of = |line: &str| line.contains("\"opaque\"") && line.contains("reason=\"drain_time\"");
        assert!(first == SWITCHING || log.lines().any(is_told_of), "{log}");
    }
}

#[tokio::test]
async fn each_call_that_a_drain_cuts_off_is_told_of() {
    const CALLS: usize = 20;
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        let head = wire.until("\r\n\r\n").await;
        if head.starts_with("GET /begun") {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
                .await;
        }
        seen(head.as_bytes());
        std::future::pending().await
    })
    .await;
    let settings = TestProxy::with().upstream(upstream.address).arg("--access-log");
    let mut proxy = settings.arg("--drain-time").arg("100ms").start().await;
    let mut callers = Vec::new();
    for path in ["/begun", "/silent"].repeat(CALLS / 2) {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let call = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(call.as_bytes()).await.unwrap();
        if path == "/begun" {
            let mut wire = Wire(stream);
            wire.until("abc").await;
            callers.push(wire);
        } else {
            callers.push(Wire(stream));
        }
    }
    eventually("all have arrived", || upstream.seen().len() == CALLS).await;
    proxy.terminate();
    assert!(proxy.ended(wait::PATIENCE).await.success(), "{}", proxy.log());
    for (path, status) in [("/begun", "status=200"), ("/silent", "status=503")] {
        let told = |line: &&str| {
            [path, status, "reason=\"drain_time\""]
                .iter()
                .all(|part| line.contains(part))
        };
        wait::until("each is told of", || {
            proxy.log().lines().filter(told).count() == CALLS / 2
        })
        .await;
    }
    drop(callers);
}

#[tokio::test]
async fn a_second_signal_ends_a_drain() {
    let mut proxy = echoing_through("10m").await;
    let mut stream = talking(proxy.address, BYTES[0]).await;
    proxy.terminate();
    wait::until("it drains", || proxy.log().contains("draining")).await;
    proxy.terminate();
    let status = proxy.ended(wait::PATIENCE).await;
    assert!(!status.success(), "{status}: {}", proxy.log());
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0);
}

/// Each connection between the two sidecars ends many times while callers use it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_when_connections_between_sidecars_end_for_their_age() {
    const CALLERS: usize = 16;
    const CALLS: usize = 150;
    let service = TestUpstream::start_unrecorded(|seen| Reply::json(200, seen.body.clone())).await;
    let limits = Limits {
        max_age: Some(Duration::from_millis(20)),
        ..Limits::default()
    };
    let callee = Rig::with(
        &BackendSettings::new("service", vec![service.address.into()]),
        limits,
    );
    let config = format!(
        "kind: Listener\nmetadata: {{name: a}}\nspec: {{address: '127.0.0.1:0', backend: callee}}\n---\n\
         kind: Backend\nmetadata: {{name: callee}}\nspec: {{endpoints: ['{}'], protocol: HTTP2}}\n",
        callee.address
    );
    let caller = TestProxy::with().config(config).start().await;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..CALLERS {
        let address = caller.address;
        callers.spawn(async move {
            let mut caller = Caller::h1(address).await.unwrap();
            for call in 0..CALLS {
                let body = format!("{number}, {call}: {}", "x".repeat(500));
                let answer = caller
                    .call(request("POST", "/", &[], body.clone()))
                    .await
                    .unwrap();
                assert_eq!((answer.status, answer.text()), (200, body));
            }
        });
    }
    callers.join_all().await;
    let made = caller.metric("jitney_upstream_connects_total", "").await;
    assert!(made > 10.0, "{made} connections");
}
