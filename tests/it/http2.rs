//! HTTP/2 through the sidecar, to upstreams of either version, by the sections of RFC 9113.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jitney_proxy::connection::Limits;
use jitney_proxy::send::{BackendSettings, Speaks};
use jitney_tests::frames::{END_HEADERS, END_STREAM, Frames, GET, frame, kind, literals};
use tokio::net::{TcpListener, TcpStream};

use super::wire::{Rig, Upstream, eventually};

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

type Whole = BoxBody<Bytes, Infallible>;

fn full(text: &'static str) -> Whole {
    Full::new(Bytes::from_static(text.as_bytes())).boxed()
}

fn with_trailers(text: &'static str, fields: &[(&'static str, &'static str)]) -> Whole {
    let field = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    let trailers = HeaderMap::from_iter(fields.iter().map(field));
    Full::new(Bytes::from_static(text.as_bytes()))
        .with_trailers(async move { Some(Ok(trailers)) })
        .boxed()
}

/// An HTTP/2 server; counts its connections.
async fn serve<S, F>(streams: u32, service: S) -> (SocketAddr, Arc<AtomicUsize>)
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Whole>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let service = service.clone();
            let service = service_fn(move |call| {
                let reply = service(call);
                async move { Ok::<_, Infallible>(reply.await) }
            });
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.max_concurrent_streams(streams);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, connections)
}

async fn call_of(rig: &Rig) -> SendRequest<Whole> {
    let stream = TcpStream::connect(rig.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn collect(reply: Response<Incoming>) -> (StatusCode, Bytes, Option<HeaderMap>) {
    let status = reply.status();
    let collected = reply.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (status, collected.to_bytes(), trailers)
}

#[tokio::test]
async fn a_grpc_call_keeps_its_trailers_both_ways() {
    let (upstream, _) = serve(100, |call| async move {
        assert_eq!(call.version(), Version::HTTP_2);
        assert_eq!(call.uri().to_string(), "http://shop/a.B/C");
        assert_eq!(call.headers()["te"], "trailers");
        assert_eq!(call.headers().get("host"), None);
        let asked = call.into_body().collect().await.unwrap();
        let trailers = asked.trailers().unwrap();
        assert_eq!(
            (trailers.len(), &trailers["x-asked"]),
            (1, &HeaderValue::from_static("1"))
        );
        assert_eq!(asked.to_bytes(), "ask");
        let mut reply = Response::new(with_trailers("answer", &[("grpc-status", "0")]));
        reply
            .headers_mut()
            .insert("content-type", HeaderValue::from_static("application/grpc"));
        reply
    })
    .await;
    let rig = Rig::start(upstream);
    let mut caller = call_of(&rig).await;
    let asked = [
        ("x-asked", "1"),
        ("x-jitney-client-id", "nobody says so here, either"),
    ];
    for _ in 0..3 {
        let call = Request::post("http://shop/a.B/C").header("te", "trailers");
        let reply = caller
            .send_request(call.body(with_trailers("ask", &asked)).unwrap())
            .await
            .unwrap();
        assert_eq!(reply.headers()["content-type"], "application/grpc");
        let (status, body, trailers) = collect(reply).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"answer"[..]));
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    }
    let endpoint = &rig.backend.endpoints_snapshot()[0];
    assert_eq!((endpoint.http2_connections, endpoint.idle), (1, 0));
}

#[tokio::test]
async fn an_upstream_of_http1_is_found_out_once_and_served_as_such() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let mut caller = call_of(&rig).await;
    for _ in 0..3 {
        let call = Request::get("http://shop/a?b")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        let reply = caller
            .send_request(call.body(Empty::new().boxed()).unwrap())
            .await
            .unwrap();
        let (status, body, _) = collect(reply).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"hello"[..]));
    }
    let calls: Vec<_> = upstream
        .seen()
        .into_iter()
        .filter(|head| head.starts_with("GET "))
        .collect();
    assert_eq!(
        calls,
        ["GET /a?b HTTP/1.1\r\ncookie: a=1; b=2\r\nhost: shop\r\n\r\n"; 3]
    );
    let asked = upstream
        .seen()
        .into_iter()
        .filter(|head| head.starts_with("PRI "));
    assert_eq!(asked.count(), 1);
}

#[tokio::test]
async fn trailers_of_http1_say_nothing_of_its_connection() {
    let reply = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\
                 x-sum: 1\r\nconnection: x-hop, close\r\nx-hop: 2\r\nkeep-alive: 3\r\nte: trailers\r\n\r\n";
    let upstream = Upstream::answering(reply).await;
    let rig = Rig::start(upstream.address);
    let mut caller = call_of(&rig).await;
    let call = Request::get("http://shop/").body(Empty::new().boxed()).unwrap();
    let (status, body, trailers) = collect(caller.send_request(call).await.unwrap()).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"hello"[..]));
    let sum = (HeaderName::from_static("x-sum"), HeaderValue::from_static("1"));
    assert_eq!(trailers, Some(HeaderMap::from_iter([sum])));
}

#[tokio::test]
async fn refused_requests_get_400_and_nothing_goes_upstream() {
    let upstream = Upstream::answering(HELLO).await;
    let rig = Rig::start(upstream.address);
    let mut caller = call_of(&rig).await;
    for (section, call) in [
        (
            "8.3.1: Host differs",
            Request::get("http://a/").header("host", "b"),
        ),
        (
            "8.3.1: two Hosts",
            Request::get("http://a/").header("host", "a").header("host", "a"),
        ),
        (
            "8.5: CONNECT",
            Request::builder().method(Method::CONNECT).uri("a:80"),
        ),
    ] {
        let reply = caller
            .send_request(call.body(Empty::new().boxed()).unwrap())
            .await
            .unwrap();
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST, "{section}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn a_reset_ends_the_call_upstream_in_either_version() {
    let gone = Arc::new(AtomicUsize::new(0));
    let (counted, arrived) = (gone.clone(), Arc::new(AtomicUsize::new(0)));
    let arrivals = arrived.clone();
    let (over_http2, _) = serve(100, move |_| {
        struct Count(Arc<AtomicUsize>);
        impl Drop for Count {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        arrivals.fetch_add(1, Ordering::Relaxed);
        let guard = Count(counted.clone());
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Response::new(full(""))
        }
    })
    .await;
    let rig = Rig::start(over_http2);
    let mut caller = call_of(&rig).await;
    let call = tokio::spawn(caller.send_request(Request::get("http://a/").body(full("")).unwrap()));
    eventually("the call arrives", || arrived.load(Ordering::Relaxed) == 1).await;
    call.abort();
    eventually("the call ends upstream", || gone.load(Ordering::Relaxed) == 1).await;
    eventually("nothing is in flight", || {
        rig.backend.endpoints_snapshot()[0].in_flight == 0
    })
    .await;

    let over_http1 = Upstream::scripted(|mut wire, seen| async move {
        let head = wire.until("\r\n\r\n").await;
        if head.starts_with("GET") {
            seen(b"called");
            let _ended = tokio::io::AsyncReadExt::read(&mut wire.0, &mut [0]).await;
            seen(b"closed");
        }
    })
    .await;
    let rig = Rig::start(over_http1.address);
    let mut caller = call_of(&rig).await;
    let call = tokio::spawn(caller.send_request(Request::get("http://a/").body(full("")).unwrap()));
    eventually("the call arrives", || over_http1.seen() == ["called"]).await;
    call.abort();
    eventually("its connection is closed", || {
        over_http1.seen() == ["called", "closed"]
    })
    .await;
}

/// An upstream that answers the first call with GOAWAY of this reason, which leaves it out, and stays; all
/// others well. Counts the calls it reads.
async fn leaving(reason: u32) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut frames = Frames::accept(stream).await.unwrap();
                while let Some(found) = frames.read().await {
                    // A call ends with its body.
                    if !matches!(found.kind, kind::HEADERS | kind::DATA) || found.flags & END_STREAM == 0 {
                        continue;
                    }
                    let answer = if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                        let none = 0_u32.to_be_bytes();
                        frame(kind::GOAWAY, 0, 0, &[none, reason.to_be_bytes()].concat())
                    } else {
                        let status = literals(&[(":status", "200")]);
                        frame(kind::HEADERS, END_STREAM | END_HEADERS, found.stream, &status)
                    };
                    frames.send(&answer).await.unwrap();
                }
            });
        }
    });
    (address, calls)
}

#[tokio::test]
async fn a_call_that_goaway_leaves_out_is_sent_again_whatever_its_method() {
    const NO_ERROR: u32 = 0;
    const INTERNAL_ERROR: u32 = 2;
    const BODIES: [&str; 3] = [
        "content-length: 0\r\n\r\n",
        "content-length: 5\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ];
    let reasons = [(NO_ERROR, (200, 2)), (INTERNAL_ERROR, (502, 1))];
    for ((reason, expected), body) in reasons.into_iter().flat_map(|one| BODIES.map(|body| (one, body))) {
        let (upstream, calls) = leaving(reason).await;
        let mut settings = BackendSettings::new("test", vec![upstream.into()]);
        settings.speaks = Speaks::Http2;
        let rig = Rig::with(&settings, Limits::default());
        let mut wire = rig.connect().await;
        wire.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{body}")).await;
        let head = wire.until("\r\n\r\n").await;
        let status = head[9..12].parse::<u16>().unwrap();
        assert_eq!((status, calls.load(Ordering::Relaxed)), expected, "{head}");
    }
}

/// The stream of the next call.
async fn called(service: &mut Frames) -> u32 {
    loop {
        let found = service.read().await.unwrap();
        if found.kind == kind::HEADERS {
            return found.stream;
        }
    }
}

/// RFC 9113 section 8.1: a message is whole only once its stream has ended. Envoy resets without an error what it
/// breaks off itself.
#[tokio::test]
async fn a_reply_that_is_cut_off_without_an_error_is_not_whole() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut settings = BackendSettings::new("test", vec![listener.local_addr().unwrap().into()]);
    settings.speaks = Speaks::Http2;
    let rig = Rig::with(&settings, Limits::default());
    let mut wire = rig.connect().await;
    wire.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (stream, _) = listener.accept().await.unwrap();
    let mut service = Frames::accept(stream).await.unwrap();
    let stream = called(&mut service).await;
    let status = literals(&[(":status", "200")]);
    let reply = [
        frame(kind::HEADERS, END_HEADERS, stream, &status),
        frame(kind::DATA, 0, stream, b"hello"),
        frame(kind::RST_STREAM, 0, stream, &[0; 4]),
    ];
    service.send(&reply.concat()).await.unwrap();
    let reply = wire.rest().await;
    assert!(reply.ends_with("hello\r\n"), "{reply}");
    // What is whole stays so.
    let mut wire = rig.connect().await;
    wire.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let stream = called(&mut service).await;
    let reply = [
        frame(kind::HEADERS, END_HEADERS, stream, &status),
        frame(kind::DATA, END_STREAM, stream, b"hello"),
        frame(kind::RST_STREAM, 0, stream, &[0; 4]),
    ];
    service.send(&reply.concat()).await.unwrap();
    let reply = wire.until("\r\n0\r\n\r\n").await;
    assert!(reply.contains("hello"), "{reply}");
}

#[tokio::test]
async fn an_upload_that_is_cut_off_without_an_error_is_not_whole() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        wire.until("hello\r\n").await;
        seen(b"begun");
        seen(wire.rest().await.as_bytes());
    })
    .await;
    let rig = Rig::start(upstream.address);
    for calls in 1..=20 {
        let mut caller = Frames::connect(rig.address).await.unwrap();
        let post = literals(&[&[(":method", "POST")], &GET[1..]].concat());
        let call = [
            frame(kind::HEADERS, END_HEADERS, 1, &post),
            frame(kind::DATA, 0, 1, b"hello"),
        ];
        caller.send(&call.concat()).await.unwrap();
        let begun = || upstream.seen().iter().filter(|seen| *seen == "begun").count();
        eventually("it has begun", || begun() == calls).await;
        caller
            .send(&frame(kind::RST_STREAM, 0, 1, &[0; 4]))
            .await
            .unwrap();
        eventually("it has ended", || upstream.seen().len() == 2 * calls).await;
    }
    let ends = upstream.seen().into_iter().filter(|seen| seen != "begun");
    assert_eq!(ends.collect::<Vec<_>>(), [""; 20]);
}

#[tokio::test]
async fn more_calls_than_streams_all_get_through() {
    let (upstream, connections) = serve(10, |call| async move {
        let body = call.into_body().collect().await.unwrap().to_bytes();
        Response::new(Full::new(body).boxed())
    })
    .await;
    let rig = Rig::start(upstream);
    let caller = call_of(&rig).await;
    let calls = (0..300_u32).map(|number| {
        let mut caller = caller.clone();
        tokio::spawn(async move {
            let body = Full::new(Bytes::from(number.to_string())).boxed();
            let reply = caller
                .send_request(Request::post("http://a/").body(body).unwrap())
                .await
                .unwrap();
            assert_eq!(collect(reply).await.1, number.to_string());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert!(connections.load(Ordering::Relaxed) <= 16);
    assert_eq!(rig.backend.endpoints_snapshot()[0].in_flight, 0);
}

#[tokio::test]
async fn no_call_waits_for_long_ones_that_have_all_streams_of_a_connection() {
    let (upstream, _) = serve(2, |call| async move {
        if call.uri().path() == "/long" {
            std::future::pending::<()>().await;
        }
        Response::new(full("hello"))
    })
    .await;
    let rig = Rig::start(upstream);
    let mut caller = call_of(&rig).await;
    let call = |path| {
        let call = Request::get(format!("http://a{path}"));
        call.body(Empty::new().boxed()).unwrap()
    };
    // All at once, before it is known what the upstream allows.
    let long: Vec<_> = (0..4)
        .map(|_| tokio::spawn(caller.send_request(call("/long"))))
        .collect();
    eventually("they are under way", || {
        rig.backend.endpoints_snapshot()[0].in_flight == 4
    })
    .await;
    let reply = caller.send_request(call("/short")).await.unwrap();
    assert_eq!(collect(reply).await.1, "hello");
    assert_eq!(rig.backend.endpoints_snapshot()[0].http2_connections, 3);
    long.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn long_bodies_pass_under_flow_control() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 64;
    let (upstream, _) = serve(100, |call| async move {
        // Echoed as it comes.
        let echo = call
            .into_body()
            .map_err(|error| -> Infallible { panic!("{error}") });
        Response::new(echo.boxed())
    })
    .await;
    let rig = Rig::start(upstream);
    let mut caller = call_of(&rig).await;
    let body = Full::new(Bytes::from(vec![7; CHUNK * CHUNKS])).boxed();
    let reply = caller
        .send_request(Request::post("http://a/").body(body).unwrap())
        .await
        .unwrap();
    let (_, body, _) = collect(reply).await;
    assert_eq!(body.len(), CHUNK * CHUNKS);
}

#[tokio::test]
async fn a_drain_lets_streams_finish() {
    let release = Arc::new(tokio::sync::Notify::new());
    let wait = release.clone();
    let (upstream, _) = serve(100, move |_| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            Response::new(full("late"))
        }
    })
    .await;
    let rig = Rig::start(upstream);
    let mut caller = call_of(&rig).await;
    let call = tokio::spawn(caller.send_request(Request::get("http://a/").body(full("")).unwrap()));
    eventually("the call arrives", || {
        rig.backend.endpoints_snapshot()[0].in_flight == 1
    })
    .await;
    rig.drain.signal();
    release.notify_one();
    assert_eq!(collect(call.await.unwrap().unwrap()).await.1, "late");
    tokio::time::timeout(super::wire::PATIENCE, rig.drain.drained())
        .await
        .unwrap();
}
