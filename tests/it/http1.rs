//! HTTP/1.1 through the sidecar, byte by byte, by the sections of RFC 9110 and RFC 9112.

use super::wire::{PATIENCE, Rig, Upstream};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// Section, and a request that it forbids.
const REFUSED: &[(&str, &str)] = &[
    (
        "9112 6.1: CL before TE",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE before CL",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: HTTP/1.0 with TE",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE gzip",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    ),
    (
        "9112 6.1: TE gzip, chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9112 6.1: TE xchunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    ),
    (
        "9112 6.3: two lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    ),
    (
        "9110 8.6: a length list",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
    ),
    (
        "9110 8.6: a signed length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
    ),
    (
        "9110 8.6: an empty length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    ),
    (
        "9110 8.6: an overflowing length",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
    ),
    (
        "9112 3.2: two hosts",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ),
    ("9112 3.2: no host", "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"),
    ("9112 3.2: invalid host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (
        "9112 3.2: a host with a path",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    ),
    (
        "9112 3.2: a host with a user",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    ),
    ("9112 3.2: a host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("9112 3.2: a bad port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    (
        "9112 5.1: white space before the colon",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A : 1\r\n\r\n",
    ),
    (
        "9112 5.1: the same on a framing field",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
    ),
    (
        "9112 5.2: obs-fold",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n 2\r\n\r\n",
    ),
    (
        "9112 5.2: obs-fold of a framing field",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "9110 5.1: an empty name",
        "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
    ),
    (
        "9110 5.1: a name of no token",
        "GET / HTTP/1.1\r\nHost: a\r\nX(A: 1\r\n\r\n",
    ),
    (
        "9110 5.5: NUL in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\0\r\n\r\n",
    ),
    (
        "9110 5.5: a bare CR in a value",
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r2\r\n\r\n",
    ),
    ("9112 3: no version", "GET /\r\nHost: a\r\n\r\n"),
    ("9112 3: an unknown version", "GET / HTTP/3.0\r\nHost: a\r\n\r\n"),
    (
        "9112 3: white space before the method",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("9112 3: two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "9112 3: a space in the target",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3: a method of no token",
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("9112 3.2: a fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "9112 3.2.3: authority-form",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "9112 3.2.3: CONNECT",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    ),
    (
        "9110 4.2.4: user information",
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
];

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
async fn refused_requests_get_400_and_a_close_and_nothing_goes_upstream() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    for (section, request) in REFUSED {
        let reply = rig.tell(request).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{section}: {reply}");
        assert_eq!(upstream.seen(), [""; 0], "{section}");
    }
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
