//! Callers that leave and upstreams that break, between raw sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jitney_proxy::connection::Limits;
use jitney_proxy::send::BackendSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::wire::{Rig, Upstream, Wire, eventually};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok";
/// A departure must be noticed within this.
const NOTICED: Duration = Duration::from_millis(250);

/// An upstream that answers nothing and notes when the sidecar closes.
async fn silent() -> Upstream {
    Upstream::scripted(|mut wire, seen| async move {
        seen(wire.until("\r\n\r\n").await.as_bytes());
        drop(wire.0.read(&mut [0]).await);
        seen(b"closed");
    })
    .await
}

#[tokio::test]
async fn a_caller_that_leaves_ends_its_call_upstream_in_time() {
    for abruptly in [false, true] {
        let upstream = silent().await;
        let rig = Rig::start(upstream.address);
        let mut wire = rig.connect().await;
        wire.send(GET).await;
        eventually("the call goes upstream", || upstream.seen().len() == 1).await;
        if abruptly {
            wire.0.set_zero_linger().unwrap();
        }
        drop(wire);
        let left = std::time::Instant::from(tokio::time::Instant::now());
        eventually("the upstream call ends", || upstream.seen().len() == 2).await;
        assert!(left.elapsed() < NOTICED, "{:?}", left.elapsed());
        eventually("nothing is in flight", || {
            rig.backend.endpoints_snapshot()[0].in_flight == 0
        })
        .await;
        assert_eq!(rig.backend.endpoints_snapshot()[0].idle, 0);
    }
}

#[tokio::test]
async fn a_caller_that_leaves_while_its_reply_comes_ends_it() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        wire.until("\r\n\r\n").await;
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
            .await;
        drop(wire.0.read(&mut [0]).await);
        seen(b"closed");
    })
    .await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(GET).await;
    wire.until("2\r\nok\r\n").await;
    drop(wire);
    eventually("the upstream connection ends", || upstream.seen() == ["closed"]).await;
    assert_eq!(rig.backend.endpoints_snapshot()[0].idle, 0);
}

#[tokio::test]
async fn a_reply_that_breaks_breaks_for_the_caller_too() {
    for part in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n",
    ] {
        let upstream = Upstream::scripted(move |mut wire, _| async move {
            wire.until("\r\n\r\n").await;
            wire.send(part).await;
        })
        .await;
        let rig = Rig::start(upstream.address);
        let reply = rig.tell(GET).await;
        assert!(reply.contains("he") && !reply.ends_with("0\r\n\r\n"), "{reply}");
    }
}

#[tokio::test]
async fn what_is_no_reply_is_502_with_its_reason() {
    for (reply, reason) in [
        ("", "upstream_reset"),
        ("HTTP/1.1 200 OK\r\ncontent-le", "upstream_reset"),
        ("hello\r\n\r\n", "upstream_protocol"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "upstream_protocol",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
            "upstream_protocol",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nab",
            "upstream_protocol",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "upstream_protocol",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nsmuggled",
            "upstream_protocol",
        ),
    ] {
        let upstream = Upstream::scripted(move |mut wire, seen| async move {
            seen(wire.until("\r\n\r\nok").await.as_bytes());
            wire.send(reply).await;
        })
        .await;
        let rig = Rig::start(upstream.address);
        let mut wire = rig.connect().await;
        wire.send(POST).await;
        let head = wire.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{reply:?}: {head}");
        assert!(
            head.contains(&format!("x-jitney-error: {reason}\r\n")),
            "{reply:?}: {head}"
        );
        assert_eq!(upstream.seen().len(), 1, "sent twice: {reply:?}");
        assert_eq!(rig.backend.endpoints_snapshot()[0].idle, 0, "{reply:?}");
    }
}

#[tokio::test]
async fn bytes_behind_a_reply_reach_nobody() {
    let poisoned = format!("{HELLO}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison");
    let upstream = Upstream::answering(poisoned).await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    for _ in 0..5 {
        wire.send(GET).await;
        assert_eq!(wire.until("hello").await, HELLO);
    }
}

/// Answers the first call on each connection and closes without a word when the second comes.
async fn closing_on_the_second() -> (Upstream, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let upstream = Upstream::scripted(move |mut wire: Wire, seen| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            wire.until("\r\n\r\n").await;
            wire.send(HELLO).await;
            let mut next = [0; 4];
            if wire.0.read_exact(&mut next).await.is_ok() {
                seen(&next);
            }
        }
    })
    .await;
    (upstream, connections)
}

#[tokio::test]
async fn a_dead_idle_connection_costs_an_idempotent_call_nothing() {
    let (upstream, connections) = closing_on_the_second().await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    for _ in 0..2 {
        wire.send(GET).await;
        assert_eq!(wire.until("hello").await, HELLO);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    assert_eq!(upstream.seen(), ["GET "]);
}

#[tokio::test]
async fn a_call_that_may_have_been_executed_is_not_sent_twice() {
    let (upstream, connections) = closing_on_the_second().await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(GET).await;
    wire.until("hello").await;
    wire.send(POST).await;
    let head = wire.until("\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 502 ") && head.contains("x-jitney-error: upstream_reset"),
        "{head}"
    );
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    assert_eq!(upstream.seen(), ["POST"]);
}

#[tokio::test]
async fn an_early_reply_reaches_a_caller_that_is_still_sending() {
    let upstream = Upstream::scripted(|mut wire, _| async move {
        wire.until("\r\n\r\n").await;
        wire.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await;
    })
    .await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n")
        .await;
    let head = wire.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(wire.0.read(&mut [0]).await.unwrap(), 0, "that was all");
    // Nothing that is sent now resets the connection, and with it what was not read yet.
    for _ in 0..10 {
        wire.0.write_all(&[b'x'; 10_000]).await.expect("it is not reset");
    }
}

#[tokio::test]
async fn a_refused_caller_that_is_still_sending_gets_to_read_why() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let body = "x".repeat(200_000);
    for _ in 0..20 {
        let reply = rig
            .tell(format!("POST / HTTP/1.1\r\ncontent-length: 200000\r\n\r\n{body}"))
            .await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{reply:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_passed_over() {
    let closed = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let rig = Rig::start(closed);
    let mut wire = rig.connect().await;
    wire.send(POST).await;
    let head = wire.until("\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 502 ") && head.contains("x-jitney-error: connect\r\n"),
        "{head}"
    );

    let upstream = Upstream::answering(HELLO).await;
    let endpoints = vec![closed.into(), upstream.address.into()];
    let rig = Rig::with(&BackendSettings::new("test", endpoints), Limits::default());
    let mut wire = rig.connect().await;
    for _ in 0..20 {
        wire.send(GET).await;
        assert_eq!(wire.until("hello").await, HELLO);
    }
    assert!(rig.backend.endpoints_snapshot()[0].failing > 0.0);
}

#[tokio::test]
async fn c02_a_protocol_switch_passes_and_its_connection_carries_nothing_else() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        let head = wire.until("\r\n\r\n").await;
        seen(head.as_bytes());
        if head.contains("upgrade: echo") {
            wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhi")
                .await;
            let (mut read, mut write) = wire.0.split();
            drop(tokio::io::copy(&mut read, &mut write).await);
        } else {
            wire.send(HELLO).await;
        }
    })
    .await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(
        "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nGET / HTTP/1.1 early",
    )
    .await;
    let head = wire.until("\r\n\r\nhi").await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(
        head.contains("upgrade: echo\r\n") && head.contains("connection: Upgrade\r\n"),
        "{head}"
    );
    assert_eq!(wire.until("early").await, "GET / HTTP/1.1 early");
    assert_eq!(
        upstream.seen(),
        ["GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"]
    );
    assert_eq!(rig.backend.endpoints_snapshot()[0].idle, 0);

    // Declined, the connection stays HTTP; h2c is not passed on at all.
    let mut wire = rig.connect().await;
    for protocol in ["other", "h2c"] {
        wire.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        ))
        .await;
        assert_eq!(wire.until("hello").await, HELLO);
    }
    assert_eq!(upstream.seen()[2], "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[tokio::test]
async fn bytes_that_are_not_http_pass_with_half_closes() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        let mut all = Vec::new();
        drop(wire.0.read_to_end(&mut all).await);
        seen(&all);
        wire.send(b"\x15bye").await;
    })
    .await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(b"\x16\x03\x01hello").await;
    wire.0.shutdown().await.unwrap();
    assert_eq!(wire.rest().await, "\u{15}bye");
    assert_eq!(upstream.seen(), ["\u{16}\u{3}\u{1}hello"]);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_a_late_http_caller_is_still_http() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        wire.send("220 ready\r\n").await;
        seen(wire.until("\r\n").await.as_bytes());
        wire.send("250 ok\r\n").await;
    })
    .await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    assert_eq!(wire.until("\r\n").await, "220 ready\r\n");
    wire.send("EHLO a\r\n").await;
    assert_eq!(wire.until("\r\n").await, "250 ok\r\n");

    let upstream = Upstream::scripted(|mut wire, seen| async move {
        seen(b"connected");
        let mut read = Vec::new();
        drop(wire.0.read_to_end(&mut read).await);
        seen(&read);
    })
    .await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    eventually("the server is let speak first", || upstream.seen().len() == 1).await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    let reply = wire.rest().await;
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    eventually("the connection to the server ends", || upstream.seen().len() == 2).await;
    assert_eq!(upstream.seen()[1], "");
}
