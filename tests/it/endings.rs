//! How a reply ends is part of its call: a body that stalls or breaks off is no success, and a caller that leaves is
//! told of.

use std::net::SocketAddr;
use std::time::Duration;

use jitney_tests::caller::{get, request};
use jitney_tests::frames::{END_HEADERS, END_STREAM, Frames, GET, frame, kind, literals};
use jitney_tests::programs::program;
use jitney_tests::upstream::Ending;
use jitney_tests::wait::{PATIENCE, until};
use jitney_tests::{Caller, Host, Network, Process, Reply, TestProxy, TestUpstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::mtls::{echoing, talking};

fn policy(traffic: &str) -> String {
    format!("kind: BatchPolicy\nmetadata: {{name: users}}\nspec:\n  traffic: {traffic}\n")
}

/// A service that begins each reply and never ends it.
async fn stalling() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
                let mut read = [0; 4096];
                // However it ends: what the caller gets is what is tested.
                drop(socket.read(&mut read).await);
                drop(socket.write_all(begun).await);
                drop(socket.read(&mut read).await);
            });
        }
    });
    address
}

#[tokio::test]
async fn the_time_of_a_call_ends_while_its_reply_comes() {
    let text = policy("{timeouts: {request: 200ms}}");
    let proxy = TestProxy::start(stalling().await, &text).await;
    let mut over_http1 = TcpStream::connect(proxy.address).await.unwrap();
    over_http1
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut read = Vec::new();
    timeout(PATIENCE, over_http1.read_to_end(&mut read))
        .await
        .expect("it is cut off")
        .unwrap();
    let read = String::from_utf8(read).unwrap();
    assert!(
        read.starts_with("HTTP/1.1 200 ") && read.ends_with("abc"),
        "{read}"
    );

    let mut over_http2 = Caller::h2(proxy.address).await.unwrap();
    let call = over_http2.call(request("GET", "/", &[], ""));
    timeout(PATIENCE, call)
        .await
        .expect("it is cut off")
        .expect_err("it is not whole");
    let late = proxy
        .metric("jitney_errors_total", "reason=\"deadline_exceeded\"")
        .await;
    assert_eq!(late, 2.0);
}

#[tokio::test]
async fn the_time_of_a_call_ends_while_its_reply_is_not_read() {
    let reply = |seen: &jitney_tests::Seen| match &*seen.target {
        "/long" => Reply::json(200, vec![b' '; 32 << 20]),
        _ => Reply::json(200, "short"),
    };
    let upstream = TestUpstream::start_unrecorded(reply).await;
    let text =
        policy("{timeouts: {request: 500ms}, circuitBreaker: {maxRequests: 2, consecutiveFailures: 1}}");
    let proxy = TestProxy::start(upstream.address, &text).await;
    let socket = TcpSocket::new_v4().unwrap();
    // The least that the system allows.
    socket.set_recv_buffer_size(1).unwrap();
    let mut over_http1 = socket.connect(proxy.address).await.unwrap();
    over_http1
        .write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut over_http2 = Frames::connect(proxy.address).await.unwrap();
    let [method, scheme, authority, _] = GET;
    let fields = literals(&[method, scheme, authority, (":path", "/long")]);
    let call = frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &fields);
    over_http2.send(&call).await.unwrap();
    let late = async {
        let late = "reason=\"deadline_exceeded\"";
        while proxy.metric("jitney_errors_total", late).await < 2.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, late).await.expect("both are given up");
    // Their places are free, and nothing is held against the endpoint, which was not slow.
    assert_eq!(get(proxy.address, "/").await.unwrap().text(), "short");
    assert!(!proxy.log().contains("an endpoint rests"), "{}", proxy.log());
    drop((over_http1, over_http2));
}

#[tokio::test]
async fn whoever_says_how_long_it_waits_ends_its_stream_itself() {
    // The deadline of gRPC is the caller's, which knows what to do when it has passed.
    let upstream = TestUpstream::start(|_| Reply::json(200, "whole")).await;
    let proxy = TestProxy::start(upstream.address, &policy("{timeouts: {request: 10s}}")).await;
    let call = request("GET", "/", &[("grpc-timeout", "5S")], "");
    let answer = Caller::h2(proxy.address).await.unwrap().call(call).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "whole"));
}

#[tokio::test]
async fn an_endpoint_whose_replies_break_off_is_given_a_rest() {
    let cut = TestUpstream::start(|_| Reply::json(200, "0123456789").ending(Ending::Cut(4))).await;
    let whole = TestUpstream::start(|_| Reply::json(200, "0123456789")).await;
    let text = policy("{loadBalancer: {type: RoundRobin}, circuitBreaker: {consecutiveFailures: 3}}");
    let settings = TestProxy::with().upstream(cut.address).upstream(whole.address);
    let proxy = settings.policy(text).start().await;
    let mut broken = 0;
    for _ in 0..20 {
        broken += usize::from(get(proxy.address, "/").await.is_err());
    }
    assert_eq!(broken, 3, "{}", proxy.log());
    assert_eq!(cut.seen().len(), 3);
    let reset = proxy
        .metric("jitney_errors_total", "reason=\"upstream_reset\"")
        .await;
    assert_eq!(reset, 3.0);
    let failed = proxy.metric("jitney_calls_total", "class=\"5xx\"").await;
    assert_eq!(failed, 3.0);
}

#[tokio::test]
async fn the_access_log_tells_of_each_call_when_it_has_ended() {
    let answer = |seen: &jitney_tests::Seen| match &*seen.target {
        "/never" => Reply::json(200, "").ending(Ending::Never),
        "/cut" => Reply::json(200, "0123456789").ending(Ending::Cut(4)),
        _ => Reply::json(200, "whole"),
    };
    let upstream = TestUpstream::start(answer).await;
    let settings = TestProxy::with().upstream(upstream.address);
    let proxy = settings.arg("--access-log").start().await;
    let call = request("GET", "http://users/whole", &[("x-request-id", "one\"two")], "");
    let mut caller = Caller::h1(proxy.address).await.unwrap();
    assert_eq!(caller.call(call).await.unwrap().text(), "whole");
    get(proxy.address, "/cut").await.expect_err("it is not whole");
    let mut hasty = Caller::h1(proxy.address).await.unwrap();
    let leaving = tokio::spawn(async move { hasty.call(request("GET", "/never", &[], "")).await });
    until("it has arrived", || !upstream.seen_at("/never").is_empty()).await;
    leaving.abort();
    let line = |path: &str| {
        let log = proxy.log();
        let path = format!("path=\"{path}\"");
        log.lines().find(|line| line.contains(&path)).map(str::to_owned)
    };
    until("all are told of", || line("/never").is_some()).await;
    for (path, expected) in [
        ("/whole", "status=200"),
        ("/whole", r#"request_id="one\"two""#),
        ("/whole", "host=\"users"),
        ("/cut", "status=502"),
        ("/cut", "reason=\"upstream_reset\""),
        ("/never", "status=499"),
        ("/never", "reason=\"caller_gone\""),
    ] {
        let line = line(path).unwrap_or_default();
        assert!(line.contains(expected), "{expected} in {line}");
    }
}

/// A service of HTTP/2 that ends no reply, and what it reads.
async fn never_ending() -> (SocketAddr, Frames, TestProxy) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = format!(
        "kind: Listener\nmetadata: {{name: a}}\nspec: {{address: '127.0.0.1:0', backend: one}}\n---\n\
         kind: Backend\nmetadata: {{name: one}}\nspec: {{endpoints: ['{address}'], protocol: HTTP2}}\n"
    );
    let proxy = TestProxy::with().config(config).arg("--access-log").start().await;
    let mut first = TcpStream::connect(proxy.address).await.unwrap();
    first
        .write_all(b"GET /first HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut service = Frames::accept(stream).await.unwrap();
    let stream = opened(&mut service).await;
    let status = literals(&[(":status", "200")]);
    let whole = frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &status);
    service.send(&whole).await.unwrap();
    first.read_u8().await.unwrap();
    (proxy.address, service, proxy)
}

/// The next call that comes.
async fn opened(service: &mut Frames) -> u32 {
    loop {
        let found = service.read().await.expect("the connection goes on");
        match found.kind {
            kind::HEADERS => return found.stream,
            kind::RST_STREAM => panic!("a call is taken back: {found:?}"),
            kind::SETTINGS if found.flags == 0 => {
                service.send(&frame(kind::SETTINGS, 1, 0, &[])).await.unwrap();
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_reply_that_has_come_whole_is_no_loss_whenever_its_stream_ends() {
    let (address, mut service, proxy) = never_ending().await;
    let ten = ("content-length", "10");
    for (number, (method, status, fields, body)) in [
        ("GET", "200", vec![ten], "0123456789"),
        ("HEAD", "200", vec![ten], ""),
        ("GET", "204", vec![], ""),
        ("GET", "304", vec![ten], ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut caller = TcpStream::connect(address).await.unwrap();
        let call = format!("{method} /{number} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        caller.write_all(call.as_bytes()).await.unwrap();
        // Whoever takes the last call back is found out here.
        let stream = timeout(PATIENCE, opened(&mut service)).await.unwrap();
        let fields = literals(&[&[(":status", status)], &*fields].concat());
        service
            .send(&frame(kind::HEADERS, END_HEADERS, stream, &fields))
            .await
            .unwrap();
        if !body.is_empty() {
            service
                .send(&frame(kind::DATA, 0, stream, body.as_bytes()))
                .await
                .unwrap();
        }
        let mut reply = String::new();
        timeout(PATIENCE, caller.read_to_string(&mut reply))
            .await
            .unwrap()
            .unwrap();
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status}")) && reply.ends_with(body),
            "{reply}"
        );
        let path = format!("path=\"/{number}\"");
        until("it is told of", || proxy.log().contains(&path)).await;
        let log = proxy.log();
        let line = log.lines().find(|line| line.contains(&path)).unwrap();
        assert!(
            line.contains(&format!("status={status}")) && !line.contains("reason"),
            "{line}"
        );
        if number % 2 == 0 {
            service
                .send(&frame(kind::DATA, END_STREAM, stream, &[]))
                .await
                .unwrap();
        }
    }
    let gone = proxy
        .metric("jitney_errors_total", "reason=\"caller_gone\"")
        .await;
    assert_eq!(gone, 0.0);
    let mut last = TcpStream::connect(address).await.unwrap();
    last.write_all(b"GET /last HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    timeout(PATIENCE, opened(&mut service)).await.unwrap();
}

/// The timers of the established connections of which `is_meant` knows the ports, this side's first: 2 asks whether
/// the peer is there.
fn timers(pid: u32, is_meant: impl Fn(u16, u16) -> bool) -> Vec<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let port = |end: &str| u16::from_str_radix(end.split(':').nth(1).unwrap(), 16).unwrap();
    let connections = table.lines().skip(1).map(|line| line.split_whitespace());
    connections
        .map(|fields| fields.collect::<Vec<_>>())
        .filter(|fields| fields[3] == "01" && is_meant(port(fields[1]), port(fields[2])))
        .map(|fields| fields[5].split(':').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn peers_that_are_silent_are_asked_whether_they_are_there() {
    let upstream = echoing().await.parse::<SocketAddr>().unwrap();
    let proxy = TestProxy::with().upstream(upstream).start().await;
    let _talking = talking(proxy.address, b"\0\0\0\x08some bytes").await;
    // An acknowledgement may be under way, which has a timer of its own.
    let (own, to) = (proxy.address.port(), upstream.port());
    until("its caller is asked", || {
        timers(proxy.pid(), |local, _| local == own) == ["02"]
    })
    .await;
    until("its service is asked", || {
        timers(proxy.pid(), |_, peer| peer == to) == ["02"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_and_owes_an_acknowledgement_is_noticed_and_one_that_reads_nothing_is_not() {
    const LONG: usize = 32 << 20;
    let network = Network::new();
    let far = network.listen(Host::B, "10.77.0.2:9000");
    let _far = TestUpstream::start_on(far, |_| Reply::json(200, "far"));
    let mut sidecar = network.command(Host::A, program("jitney-proxy"));
    sidecar.args([
        "run",
        "--listen",
        "127.0.0.1:8080",
        "--upstream",
        "10.77.0.2:9000",
    ]);
    let sidecar = Process::run("the sidecar", sidecar);
    until("the sidecar listens", || sidecar.log().contains("listening")).await;
    let call = async || {
        let mut curl = network.command(Host::A, "curl");
        curl.args(["--silent", "--max-time", "120", "--write-out", " %{http_code}"]);
        curl.arg("http://127.0.0.1:8080/");
        let output = tokio::task::spawn_blocking(move || curl.output());
        String::from_utf8(output.await.unwrap().unwrap().stdout).unwrap()
    };
    assert_eq!(call().await, "far 200");

    let near = TestUpstream::start(|_| Reply::json(200, "x".repeat(LONG))).await;
    let proxy = TestProxy::with().upstream(near.address).start().await;
    let mut slow = TcpStream::connect(proxy.address).await.unwrap();
    let get = b"GET / HTTP/1.1\r\nhost: users\r\nconnection: close\r\n\r\n";
    slow.write_all(get).await.unwrap();
    until("it is answered", || near.seen().len() == 1).await;

    let mut down = network.command(Host::B, "ip");
    assert!(
        down.args(["link", "set", "wire", "down"])
            .status()
            .unwrap()
            .success()
    );
    // Over the connection that there is, which would be kept for a quarter of an hour.
    let said = call().await;
    assert!(said.ends_with(" 502") || said.ends_with(" 504"), "{said}");
    let mut read = Vec::new();
    slow.read_to_end(&mut read).await.unwrap();
    assert!(read.len() > LONG, "{}", read.len());
}

#[tokio::test]
async fn a_connection_that_is_not_http_is_counted_and_told_of_when_it_has_ended() {
    let service = echoing().await;
    let settings = TestProxy::with().upstream(service.parse().unwrap());
    let proxy = settings.arg("--access-log").start().await;
    let mut stream = talking(proxy.address, b"\0\0\0\x08some bytes").await;
    stream.write_all(b" and more").await.unwrap();
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 9);
    for (metric, expected) in [
        ("jitney_upstream_connects_total", 1.0),
        ("jitney_upstream_connections", 1.0),
        ("jitney_upstream_sent_bytes_total", 23.0),
        ("jitney_upstream_received_bytes_total", 23.0),
    ] {
        assert_eq!(
            proxy.metric(metric, "backend=\"upstream\"").await,
            expected,
            "{metric}"
        );
    }
    assert!(!proxy.log().contains("protocol=\"opaque\""), "{}", proxy.log());
    let peer = format!("peer={}", stream.local_addr().unwrap());
    drop(stream);
    until("it is told of", || proxy.log().contains("protocol=\"opaque\"")).await;
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("opaque")).unwrap();
    let destination = format!("destination={}", proxy.address);
    for expected in [&*peer, &destination, "backend=\"upstream\"", "duration_ms="] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
    assert!(!line.contains("reason"), "{line}");
}

#[tokio::test]
async fn a_connection_that_is_not_http_and_finds_no_server_is_an_error_of_its_backend() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let settings = TestProxy::with().upstream(address);
    let proxy = settings.arg("--access-log").start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"\0\0\0\x08some bytes").await.unwrap();
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0);
    until("it is told of", || proxy.log().contains("reason=\"connect\"")).await;
    assert_eq!(
        proxy.metric("jitney_errors_total", "reason=\"connect\"").await,
        1.0
    );
}

#[tokio::test]
async fn requests_that_are_refused_are_counted_and_told_of() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let settings = TestProxy::with().upstream(upstream.address);
    let proxy = settings.arg("--access-log").start().await;
    let fields = "x-y: z\r\n".repeat(120);
    let (counted, told) = ("jitney_errors_total", "reason=\"bad_request\"");
    for (before, (head, expected, line)) in [
        (
            "GET /a HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            400,
            "path=\"/a\"",
        ),
        ("GET /b HTTP/1.1\r\n\r\n", 400, "path=\"/b\""),
        (
            "GET /c HTTP/1.1\r\nhost: c\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "path=\"/c\"",
        ),
        ("GET /d d HTTP/1.1\r\nhost: d\r\n\r\n", 400, "protocol=\"http\""),
        (
            &*format!("GET /e HTTP/1.1\r\nhost: e\r\n{fields}\r\n"),
            431,
            "protocol=\"http\"",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let peer = format!("peer={}", stream.local_addr().unwrap());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{head}: {reply}"
        );
        let is_its = |told_of: &&str| {
            told_of.contains(told)
                && told_of.contains(line)
                && (line.contains("path") || told_of.contains(&peer))
        };
        until("it is told of", || {
            proxy.log().lines().any(|found| is_its(&found))
        })
        .await;
        assert_eq!(proxy.metric(counted, told).await, (before + 1) as f64, "{head}");
    }
    assert!(upstream.seen().is_empty());
}
