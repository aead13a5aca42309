//! HTTP/1.1 through the sidecar, byte by byte, by the sections of RFC 9110 and RFC 9112.

use std::future::Future;
use std::time::Duration;

use jitney_proxy::connection::Limits;
use jitney_proxy::send::BackendSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::wire::{PATIENCE, Rig, Upstream};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_call_passes_and_its_connections_are_used_again() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    for _ in 0..3 {
        wire.send("GET /a%20b?c=d HTTP/1.1\r\nHost: shop\r\nX-A: 1\r\n\r\n")
            .await;
        assert_eq!(wire.until("hello").await, HELLO);
    }
    assert_eq!(
        upstream.seen(),
        ["GET /a%20b?c=d HTTP/1.1\r\nhost: shop\r\nx-a: 1\r\n\r\n"; 3]
    );
    let endpoint = &rig.backend.endpoints_snapshot()[0];
    assert_eq!((endpoint.idle, endpoint.in_flight), (1, 0));
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_then_is_done() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.until("hello").await;
    rig.drain.signal();
    assert_eq!(wire.rest().await, "");
    tokio::time::timeout(PATIENCE, rig.drain.drained()).await.unwrap();
}

/// Sends a request over a fresh sidecar to an upstream with this reply; checks what each side saw.
#[track_caller]
fn check_exchange(
    request: &'static str,
    sent_on: &'static str,
    reply: &'static str,
    sent_back: &'static str,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let upstream = Upstream::scripted(move |mut wire, seen| async move {
            seen(wire.until(sent_on).await.as_bytes());
            wire.send(reply).await;
        })
        .await;
        let rig = Rig::start(upstream.address);
        let mut wire = rig.connect().await;
        wire.send(request).await;
        let read = wire.until(sent_back).await;
        assert_eq!(read, sent_back, "{caller}: reply");
        assert_eq!(upstream.seen(), [sent_on], "{caller}: request");
    }
}

#[tokio::test]
async fn heads_pass_but_for_hop_by_hop_fields() {
    check_exchange(
        "GET /%2e%2E//a;b?%00&c HTTP/1.1\r\nHost: Shop:8080\r\nConnection: x-hop, keep-alive, authorization\r\n\
         X-Hop: 1\r\nX-Two: b\r\nX-Two: a\r\nX-Two: \r\nunder_score: 1\r\nAuthorization: Basic x\r\nKeep-Alive: 5\r\n\r\n",
        "GET /%2e%2E//a;b?%00&c HTTP/1.1\r\nhost: Shop:8080\r\nauthorization: Basic x\r\nunder_score: 1\r\n\
         x-two: b\r\nx-two: a\r\nx-two: \r\n\r\n",
        "HTTP/1.1 299 Fine By Me\r\nSet-Cookie: a=1\r\nConnection: x-hop\r\nSet-Cookie: b=2\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 299 Fine By Me\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
}

#[tokio::test]
async fn bodies_keep_their_framing_and_trailers() {
    // A GET with a body of unknown length keeps it (RFC 9110 section 9.3.1).
    check_exchange(
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: x-sum\r\n\r\n\
         3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntrailer: x-sum\r\nte: trailers\r\ntransfer-encoding: chunked\r\nconnection: te\r\n\r\n\
         3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 2\r\n\r\n",
    )
    .await;
    check_exchange(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    )
    .await;
    check_exchange(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nD\r\nuntil the end\r\n0\r\n\r\n",
    )
    .await;
}

#[tokio::test]
async fn replies_without_a_body_have_none() {
    for (request, reply, expected) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx-a: 1\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ),
    ] {
        let upstream = Upstream::answering(reply).await;
        let rig = Rig::start(upstream.address);
        let mut wire = rig.connect().await;
        for _ in 0..2 {
            wire.send(format!("{request} / HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            assert_eq!(wire.until("\r\n\r\n").await, expected);
        }
        assert_eq!(rig.backend.endpoints_snapshot()[0].idle, 1, "{expected}");
    }
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_wins() {
    check_exchange(
        "GET http://Right:81/a?b HTTP/1.1\r\nHost: wrong\r\n\r\n",
        "GET /a?b HTTP/1.1\r\nhost: Right:81\r\n\r\n",
        HELLO,
        HELLO,
    )
    .await;
    check_exchange(
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
        HELLO,
        HELLO,
    )
    .await;
}

#[tokio::test]
async fn an_http10_caller_gets_a_reply_that_ends_with_the_connection() {
    let upstream =
        Upstream::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            .await;
    let rig = Rig::start(upstream.address);
    let reply = rig.tell("GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        reply.starts_with("HTTP/1.0 200 OK\r\n") && reply.ends_with("\r\n\r\nok"),
        "{reply:?}"
    );
    assert_eq!(
        upstream.seen(),
        [format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", upstream.address)]
    );
}

#[tokio::test]
async fn pipelined_calls_are_answered_in_order_and_none_behind_a_refused_one() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let good = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let bad =
        "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n";
    let replies = rig.tell(format!("{good}{good}{bad}{good}")).await;
    let statuses: Vec<_> = replies
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &replies[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "200", "400"], "{replies}");
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn long_bodies_pass_both_ways_at_once() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        seen(wire.until("\r\n\r\n").await.as_bytes());
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n"))
            .await;
        let (mut read, mut write) = wire.0.split();
        let echoed = tokio::io::copy(&mut (&mut read).take(LENGTH as u64), &mut write).await;
        assert_eq!(echoed.unwrap(), LENGTH as u64);
    })
    .await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"
    ))
    .await;
    let (mut read, mut write) = wire.0.split();
    let body: Vec<u8> = (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut back = vec![0; LENGTH];
    let (sent, received) = tokio::join!(write.write_all(&body), async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(read.read_u8().await.unwrap());
        }
        read.read_exact(&mut back).await
    });
    sent.unwrap();
    received.unwrap();
    assert!(body == back);
}

#[tokio::test]
async fn c11_a_head_that_takes_too_long_ends_the_connection() {
    let upstream = Upstream::answering(HELLO).await;
    let limits = Limits {
        head_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let rig = Rig::with(
        &BackendSettings::new("test", vec![upstream.address.into()]),
        limits,
    );
    let mut wire = rig.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT").await;
    assert_eq!(wire.rest().await, HELLO);
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_head_or_target_that_is_too_long_is_refused() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let long = "x".repeat(80 * 1024);
    let many = "X-A: 1\r\n".repeat(200);
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431"),
    ] {
        let reply = rig.tell(request).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn a_body_that_waits_for_100_is_asked_for() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        seen(wire.until("\r\n\r\n").await.as_bytes());
        wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        seen(wire.until("abc").await.as_bytes());
        wire.send(HELLO).await;
    })
    .await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        .await;
    assert_eq!(wire.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("abc").await;
    assert_eq!(wire.until("hello").await, HELLO);
}
