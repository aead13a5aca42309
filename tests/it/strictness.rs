//! What came before a rule is held to it, too: connections and calls that began bare, and processes that drain.

use std::net::SocketAddr;
use std::time::Duration;

use jitney_tests::caller::{self, request};
use jitney_tests::frames::{END_HEADERS, END_STREAM, Frames, GET, frame, kind, literals};
use jitney_tests::wait::{PATIENCE, until};
use jitney_tests::{Caller, Reply, TestControlPlane, TestProxy, TestUpstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::mtls::{STRICT, SWITCHED, SWITCHING, echoing, mesh, start, talking};
use crate::pushed::free_ports;

/// A mesh whose service is at `service`, and where its sidecar listens.
async fn plane(service: &str) -> (TestControlPlane, String, SocketAddr) {
    let ports = free_ports();
    let inbound = SocketAddr::from(([127, 0, 0, 1], ports[0]));
    let documents = mesh(service, ports, &inbound.to_string(), "workload: users");
    (TestControlPlane::start(&documents).await, documents, inbound)
}

/// Has the port be strict, and waits until it is.
async fn turn_strict(plane: &TestControlPlane, documents: &str, inbound: SocketAddr) {
    plane.write(&format!("{documents}{STRICT}"));
    let end = tokio::time::Instant::now() + PATIENCE;
    while caller::get(inbound, "/")
        .await
        .is_ok_and(|answer| answer.status == 200)
    {
        assert!(tokio::time::Instant::now() < end, "it never turns strict");
    }
}

#[tokio::test]
async fn a_bare_http2_connection_that_does_not_say_it_has_heard_is_served_no_more() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let (plane, documents, inbound) = plane(&upstream.address.to_string()).await;
    let _callee = start(&plane, "users", "users-1").await;
    // It answers no PING, and so no GOAWAY is the last one.
    let mut bare = Frames::connect(inbound).await.unwrap();
    let call = |stream| frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &literals(&GET));
    const OK: u8 = 0x88;
    bare.send(&call(1)).await.unwrap();
    assert_eq!(bare.answer(1).await.unwrap().payload[0], OK);
    turn_strict(&plane, &documents, inbound).await;
    let served = upstream.seen().len();
    if bare.send(&call(3)).await.is_ok() {
        while let Some(found) = timeout(PATIENCE, bare.read()).await.unwrap() {
            if found.kind == kind::HEADERS && found.stream == 3 {
                assert_ne!(found.payload[0], OK);
                break;
            }
        }
    }
    assert_eq!(upstream.seen().len(), served);
}

#[tokio::test]
async fn a_head_that_ends_after_its_port_turned_strict_switches_to_nothing() {
    let (plane, documents, inbound) = plane(&echoing().await).await;
    let _callee = start(&plane, "users", "users-1").await;
    let (begin, rest) = SWITCHING.split_at(20);
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(inbound).await.unwrap();
        stream.write_all(begin).await.unwrap();
        halves.push(stream);
    }
    // All of them have been accepted, for this one has, and is served.
    let mut whole = talking(inbound, SWITCHING).await;
    plane.write(&format!("{documents}{STRICT}"));
    assert_eq!(whole.read(&mut [0; 64]).await.unwrap_or(0), 0, "it is strict now");
    for mut stream in halves {
        let mut answer = Vec::new();
        if stream.write_all(rest).await.is_ok() {
            drop(stream.read_to_end(&mut answer).await);
        }
        assert!(!answer.starts_with(&SWITCHED[..12]));
    }
}

#[tokio::test]
async fn a_bare_call_that_does_not_end_is_cut_off_when_the_time_of_a_drain_is_over() {
    let upstream = TestUpstream::start(|seen| match &*seen.target {
        "/held" => Reply::json(200, "{}").after(Duration::from_secs(600)),
        _ => Reply::json(200, "{}"),
    })
    .await;
    let (plane, documents, inbound) = plane(&upstream.address.to_string()).await;
    let settings = plane.sidecar("shop/users", "users-1").pushed();
    let _callee = settings.arg("--drain-time").arg("1s").start().await;
    let mut plain = TcpStream::connect(inbound).await.unwrap();
    plain
        .write_all(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut frames = Frames::connect(inbound).await.unwrap();
    let mut held = GET;
    held[3] = (":path", "/held");
    let call = frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &literals(&held));
    frames.send(&call).await.unwrap();
    until("they are on their way", || upstream.seen().len() == 2).await;
    turn_strict(&plane, &documents, inbound).await;
    let ended = timeout(PATIENCE, plain.read(&mut [0])).await;
    assert_eq!(ended.expect("it is cut off").unwrap_or(0), 0);
    let ended = timeout(PATIENCE, async { while frames.read().await.is_some() {} });
    ended.await.expect("it is cut off");
}

#[tokio::test]
async fn a_sidecar_that_drains_goes_by_the_rules_of_now() {
    let (plane, documents, inbound) = plane(&echoing().await).await;
    let settings = plane.sidecar("shop/users", "users-1").pushed();
    let mut callee = settings.arg("--drain-time").arg("10m").start().await;
    let mut bare = talking(inbound, b"\0\0\0\x08some bytes").await;
    callee.terminate();
    until("it drains", || callee.log().contains("draining")).await;
    bare.write_all(b"still here").await.unwrap();
    assert_eq!(bare.read(&mut [0; 64]).await.unwrap(), 10, "{}", callee.log());
    plane.write(&format!("{documents}{STRICT}"));
    assert_eq!(bare.read(&mut [0; 64]).await.unwrap_or(0), 0, "it is strict now");
    assert!(callee.ended(PATIENCE).await.success(), "nobody is left");
}

#[tokio::test]
async fn who_is_drained_and_then_ended_serves_its_calls() {
    let slow = |_: &_| Reply::json(200, "{}").after(Duration::from_secs(1));
    let upstream = TestUpstream::start(slow).await;
    let mut proxy = TestProxy::with().upstream(upstream.address).start().await;
    let mut connection = Caller::h1(proxy.address).await.unwrap();
    let call = tokio::spawn(async move { connection.call(request("GET", "/", &[], "")).await });
    until("it is on its way", || !upstream.seen().is_empty()).await;
    let asked = caller::post(proxy.admin, "/drain", "").await.unwrap();
    assert_eq!(asked.status, 202, "{}", asked.text());
    until("it drains", || proxy.log().contains("draining")).await;
    proxy.terminate();
    assert_eq!(call.await.unwrap().unwrap().status, 200);
    assert!(proxy.ended(PATIENCE).await.success(), "{}", proxy.log());
}
