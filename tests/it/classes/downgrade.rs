//! From HTTP/2 to HTTP/1: what one says in a frame must not become more than one thing in a line.

use jitney_tests::frames::{END_HEADERS, END_STREAM, Frames, frame, kind, literals};
use jitney_tests::{Reply, TestProxy, TestUpstream, caller};

/// The status of the answer on stream 1 to these frames, as far as its first byte tells; `None`: it was refused
/// with a reset, or the connection ended.
async fn answered(proxy: &TestProxy, frames: &[u8]) -> Option<u8> {
    let mut wire = Frames::connect(proxy.address).await.unwrap();
    wire.send(frames).await.unwrap();
    let answer = tokio::time::timeout(jitney_tests::wait::PATIENCE, wire.answer(1)).await;
    let answer = answer.expect("it is answered")?;
    (answer.kind == kind::HEADERS).then(|| answer.payload[0])
}

/// A request without a body.
fn get(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &literals(fields))
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "service.test");
const PATH: (&str, &str) = (":path", "/");
/// `:status` 200 in HPACK's static table.
const OK: u8 = 0x88;

#[tokio::test]
async fn c03_what_would_become_another_line_never_leaves_http2() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let proxy = TestProxy::with().upstream(upstream.address).start().await;
    assert_eq!(
        answered(&proxy, &get(&[METHOD, SCHEME, AUTHORITY, PATH])).await,
        Some(OK)
    );
    upstream.forget();
    let connections = upstream.connections();
    let with = |field| vec![METHOD, SCHEME, AUTHORITY, PATH, field];
    let cases: Vec<Vec<(&str, &str)>> = vec![
        with(("x-a", "1\r\nx-b: 2")),
        with(("x-a", "1\nx-b: 2")),
        with(("x-a", "1\0")),
        with(("x-a: 1\r\nx-b", "2")),
        with(("X-Upper", "1")),
        with(("x a", "1")),
        with(("", "1")),
        with(("transfer-encoding", "chunked")),
        with(("connection", "keep-alive")),
        with(("content-length", "5")),
        with(("content-length", "+0")),
        with((":path", "/again")),
        vec![
            METHOD,
            SCHEME,
            AUTHORITY,
            (":path", "/ HTTP/1.1\r\nx-a: 1\r\n\r\nGET /smuggled"),
        ],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "/a b")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "")],
        vec![METHOD, SCHEME, AUTHORITY, (":path", "relative")],
        vec![METHOD, SCHEME, AUTHORITY],
        vec![METHOD, AUTHORITY, PATH],
        vec![SCHEME, AUTHORITY, PATH],
        vec![(":method", "GET / HTTP/1.1\r\nx-a"), SCHEME, AUTHORITY, PATH],
        vec![METHOD, SCHEME, (":authority", "a\r\nx-a: 1"), PATH],
        vec![METHOD, SCHEME, (":authority", "a b"), PATH],
        vec![METHOD, SCHEME, (":authority", "u@a"), PATH],
        vec![METHOD, SCHEME, AUTHORITY, PATH, ("host", "another.test")],
        vec![(":method", "CONNECT"), AUTHORITY],
        vec![(":method", "CONNECT"), SCHEME, AUTHORITY],
    ];
    for fields in &cases {
        assert_ne!(answered(&proxy, &get(fields)).await, Some(OK), "{fields:?}");
        let seen = upstream.seen();
        assert!(seen.is_empty(), "{fields:?}: {seen:?}");
    }
    assert_eq!(
        upstream.connections(),
        connections,
        "not even a connection was made for them"
    );
}

#[tokio::test]
async fn c03_a_length_that_the_data_belie_is_never_a_whole_request() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let proxy = TestProxy::with().upstream(upstream.address).start().await;
    let data = |length: &'static str, data: &[u8]| {
        let fields = [
            (":method", "POST"),
            SCHEME,
            AUTHORITY,
            PATH,
            ("content-length", length),
        ];
        let head = frame(kind::HEADERS, END_HEADERS, 1, &literals(&fields));
        [head, frame(kind::DATA, END_STREAM, 1, data)].concat()
    };
    assert_eq!(answered(&proxy, &data("5", b"hello")).await, Some(OK));
    for (length, sent) in [
        ("4", &b"hello"[..]),
        ("6", b"hello"),
        ("5", b""),
        ("0", b"hello"),
        ("5, 5", b"hello"),
    ] {
        assert_ne!(
            answered(&proxy, &data(length, sent)).await,
            Some(OK),
            "{length}: {sent:?}"
        );
    }
    // Those whose connection upstream was used have not left anything on it.
    for _ in 0..3 {
        assert_eq!(caller::get(proxy.address, "/after").await.unwrap().status, 200);
    }
    let whole: Vec<String> = upstream
        .seen()
        .into_iter()
        .map(|seen| seen.target + &String::from_utf8_lossy(&seen.body))
        .collect();
    assert_eq!(whole, ["/hello", "/after", "/after", "/after"]);
}
