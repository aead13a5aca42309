//! What callers see of a connection, with and without hyper.

use super::*;

use http::{Request, Response};

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio::task::yield_now;

use super::super::{ConnInfo, Limits, serve_http1};
use crate::transport::Transport;

/// Answers with what it was given, from memory or, when that streams, as it comes.
#[derive(Clone, Debug)]
struct Echo {
    is_batching: bool,
}

impl Serve for Echo {
    fn serve(&self, call: Request<Body>, _: &Arc<ConnInfo>) -> Serving {
        Box::pin(async move {
            let (head, body) = call.into_parts();
            let path = head.uri.path();
            if path.contains("/later") {
                yield_now().await;
            }
            if path == "/slow" {
                tokio::time::sleep(SLOW).await;
            }
            if path.contains("/stream") {
                return Response::new(body).into();
            }
            let body = body.collect().await.map(http_body_util::Collected::to_bytes);
            let told = format!("{:?} {} {:?} {body:?}", head.method, head.uri, head.headers);
            let mut reply = Response::new(Body::full(told));
            match path {
                "/404" => *reply.status_mut() = http::StatusCode::NOT_FOUND,
                "/599" => *reply.status_mut() = http::StatusCode::from_u16(599).unwrap(),
                "/204" => {
                    *reply.status_mut() = http::StatusCode::NO_CONTENT;
                    *reply.body_mut() = Body::empty();
                }
                "/empty" => *reply.body_mut() = Body::empty(),
                "/large" => *reply.body_mut() = Body::full(vec![b'a'; 3 * WHOLE]),
                "/pieces" => {
                    let pieces = [&b"one"[..], b"two", b"three"].map(Bytes::from_static);
                    *reply.body_mut() = Body::chunks(pieces.into_iter().collect());
                }
                "/large-pieces" => {
                    let pieces = [vec![b'a'; WHOLE], vec![b'b'; WHOLE]].map(Bytes::from);
                    *reply.body_mut() = Body::chunks(pieces.into_iter().collect());
                }
                "/length" => {
                    *reply.body_mut() = Body::full("12");
                    reply.headers_mut().insert("x-before", "a".parse().unwrap());
                    reply.headers_mut().insert("content-length", "2".parse().unwrap());
                    reply.headers_mut().append("x-after", "b".parse().unwrap());
                    reply.headers_mut().append("x-after", "c".parse().unwrap());
                }
                "/close" => {
                    let close = "close".parse().unwrap();
                    reply.headers_mut().insert("connection", close);
                }
                _ => {}
            }
            reply.into()
        })
    }

    fn is_batching(&self) -> bool {
        self.is_batching
    }
}

const SLOW: Duration = Duration::from_secs(1);

fn info() -> ConnInfo {
    let nowhere = ([127, 0, 0, 1], 1).into();
    ConnInfo {
        peer: nowhere,
        local: nowhere,
        identity: None,
        guard: None,
    }
}

/// What a server sends to a caller who sends these pieces and waits for the end.
async fn served(pieces: Vec<Vec<u8>>, is_batching: bool, seat: &Arc<Seat>) -> Vec<u8> {
    // Small, so that replies are written in parts.
    let (caller, server) = duplex(100);
    let (mut replies, mut calls) = tokio::io::split(caller);
    let limits = Limits::default();
    let serving = serve_http1(
        Transport::Bare(server),
        Bytes::new(),
        info(),
        Echo { is_batching },
        Arc::clone(seat),
        &limits,
    );
    let calling = async {
        for piece in pieces {
            // The server may have had enough.
            if calls.write_all(&piece).await.is_err() {
                break;
            }
            yield_now().await;
        }
        calls
    };
    let mut told = Vec::new();
    let reading = async {
        replies.read_to_end(&mut told).await.unwrap();
    };
    let all = async { tokio::join!(serving, calling, reading) };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    told
}

const PLAIN: [&str; 11] = [
    "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST /later HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a:  2 \r\nContent-Length: 4\r\n\r\nbody",
    "GET /404 HTTP/1.1\r\nhost: a\r\nconnection: Keep-Alive\r\n\r\n",
    "GET /599 HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /length HTTP/1.1\nhost: a\n\n",
    "\r\n\r\nPUT /pieces HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    "OPTIONS /large HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /empty HTTP/1.1\r\nhost: a\r\n\r\n",
    "PURGE /large-pieces HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /later/a?b=c&d=%23 HTTP/1.1\r\nhost:\r\ncookie: a\r\ncookie: b\r\n\r\n",
    "DELETE /%ff HTTP/1.1\r\nhost: a:1\r\nx: é\r\n\r\n",
];

/// What hyper is to see: heads that it refuses, bodies that stream, and what says something about the connection.
const OTHER: [&str; 24] = [
    "HEAD / HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n",
    "GET /204 HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /close HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
    "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n",
    "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nbody",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +4\r\n\r\nbody",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4, 4\r\n\r\nbody",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\nx: y\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\nbody",
    "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n",
    "\x16\x03\x01",
];

const LAST: &str = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// These bytes in as many pieces.
fn cut(whole: &[u8], at: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut ends: Vec<usize> = at.iter().map(|index| index.index(whole.len())).collect();
    ends.push(whole.len());
    ends.sort_unstable();
    let mut begin = 0;
    let piece = |end| whole[std::mem::replace(&mut begin, end)..end].to_vec();
    ends.into_iter().map(piece).collect()
}

#[track_caller]
fn assert_told_the_same(pieces: &[Vec<u8>]) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let told = [true, false].map(|is_batching| {
        let seat = Arc::default();
        let told = runtime.block_on(served(pieces.to_vec(), is_batching, &seat));
        String::from_utf8(told).unwrap()
    });
    assert_eq!(told[0], told[1]);
    let [told, _] = told;
    told
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nobody_can_tell_who_served_a_call(
        calls in prop::collection::vec(
            prop_oneof![8 => prop::sample::select(&PLAIN[..]), 1 => prop::sample::select(&OTHER[..])],
            0..8,
        ),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = calls.concat() + LAST;
        assert_told_the_same(&cut(whole.as_bytes(), &at));
    }
}

#[test]
fn each_call_is_answered_as_hyper_answers_it() {
    for call in PLAIN.iter().chain(&OTHER) {
        let told = assert_told_the_same(&[call.as_bytes().to_vec(), LAST.into()]);
        assert!(told.starts_with("HTTP/1."), "{call:?}: {told:?}");
    }
}

/// What becomes of a connection on which these bytes come at once.
async fn left(
    caller: &mut DuplexStream,
    server: &mut DuplexStream,
    calls: &[u8],
) -> io::Result<Option<Left>> {
    let shared = Shared::new(Echo { is_batching: true }, info(), Arc::default());
    caller.write_all(calls).await.unwrap();
    caller.shutdown().await.unwrap();
    serve(server, Bytes::new(), &shared, 64 << 10).await
}

#[tokio::test]
async fn plain_calls_need_no_hyper() {
    for call in PLAIN.iter().filter(|call| !call.contains("/later")) {
        let (mut caller, mut server) = duplex(1 << 20);
        let left = left(&mut caller, &mut server, call.repeat(3).as_bytes())
            .await
            .unwrap();
        assert!(left.is_none(), "{call:?}");
        drop(server);
        let mut told = String::new();
        caller.read_to_string(&mut told).await.unwrap();
        assert_eq!(told.matches("HTTP/1.1 ").count(), 3, "{call:?}: {told}");
    }
}

#[tokio::test]
async fn what_is_not_plain_is_left_as_it_was_read() {
    let large = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {WHOLE}\r\n\r\n{}",
        "a".repeat(WHOLE)
    );
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(40));
    for call in OTHER.iter().copied().chain([&*large, &many]) {
        let (mut caller, mut server) = duplex(1 << 20);
        let begun = left(&mut caller, &mut server, call.as_bytes())
            .await
            .unwrap()
            .unwrap();
        let read = begun.read.len();
        assert_eq!(begun.read, call.as_bytes()[..read], "{call:?}");
        assert!(read == call.len() || read == WHOLE, "{call:?}");
        let is_served = ["/204", "/close", "a@b", "1.1\r\n\r\n"]
            .iter()
            .any(|its| call.contains(its));
        assert_eq!(begun.first.is_some(), is_served, "{call:?}");
    }
}

#[tokio::test]
async fn who_leaves_is_served_no_longer() {
    let (mut caller, mut server) = duplex(1 << 10);
    let call = b"GET /later HTTP/1.1\r\nhost: a\r\n\r\n";
    let ended = left(&mut caller, &mut server, call)
        .await
        .map(|left| left.is_some());
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_to_end_says_so_in_the_reply_to_the_call_that_it_has() {
    let seat = Arc::<Seat>::default();
    let calls = "POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody".repeat(2);
    let closing = async {
        tokio::time::sleep(SLOW / 2).await;
        seat.close();
    };
    let (told, ()) = tokio::join!(served(vec![calls.into()], true, &seat), closing);
    let told = String::from_utf8(told).unwrap();
    assert_eq!(told.matches("HTTP/1.1 200").count(), 1, "{told}");
    assert!(told.contains("connection: close\r\n"), "{told}");
    assert!(told.contains("b\"body\""), "{told}");
}
