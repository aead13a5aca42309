//! Calls that ask to switch protocols: until they have, they are calls like others, and their bounds hold.

use std::net::SocketAddr;

use jitney_tests::TestProxy;
use jitney_tests::caller::get;
use jitney_tests::wait::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::mtls::SWITCHED;

/// A service that switches to an echo at `/echo`, begins its reply and never ends it at `/stall`, says nothing at
/// `/hang`, and answers well elsewhere.
async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let (mut read, mut write) = stream.split();
                match head.split(|byte| *byte == b' ').nth(1) {
                    Some(b"/echo") => {
                        write.write_all(SWITCHED).await?;
                        tokio::io::copy(&mut read, &mut write).await?;
                    }
                    Some(b"/stall") => {
                        let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
                        write.write_all(begun).await?;
                        read.read_u8().await?;
                    }
                    Some(b"/hang") => drop(read.read_u8().await?),
                    _ => {
                        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                        write.write_all(whole).await?;
                    }
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    address
}

async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

async fn before(upstreams: &[SocketAddr], traffic: &str) -> TestProxy {
    let settings = upstreams.iter().fold(TestProxy::with(), |settings, upstream| {
        settings.upstream(*upstream)
    });
    let policy = format!("kind: BatchPolicy\nmetadata: {{name: users}}\nspec: {{traffic: {traffic}}}\n");
    settings.policy(policy).start().await
}

/// A connection over which that was asked.
async fn asking(proxy: &TestProxy, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let call = format!("GET {path} HTTP/1.1\r\nhost: users\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
    stream.write_all(call.as_bytes()).await.unwrap();
    stream
}

/// The head of the reply.
async fn answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, stream.read_u8()).await.expect("an answer");
        head.push(byte.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut heard))
        .await
        .expect("an echo")
        .unwrap();
    assert_eq!(&heard, b"ping");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_goes_elsewhere_where_nobody_listens_which_is_learned() {
    let (service, nobody) = (service().await, nobody().await);
    let traffic = "{loadBalancer: {type: RoundRobin}, circuitBreaker: {consecutiveFailures: 3}}";
    let proxy = before(&[nobody, service], traffic).await;
    for _ in 0..20 {
        let mut stream = asking(&proxy, "/echo").await;
        let head = answer(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
    let note = proxy.admin("/backends").await.text();
    assert!(note.contains("its calls failed"), "{note}");
    let tried = proxy.metric("jitney_upstream_calls_total", "").await;
    assert_eq!(tried, 23.0, "three went to nobody first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_asks_to_switch_is_held_to_its_time_until_it_has() {
    let proxy = before(&[service().await], "{timeouts: {request: 300ms}}").await;
    let mut switched = asking(&proxy, "/echo").await;
    assert!(answer(&mut switched).await.starts_with("HTTP/1.1 101 "));
    let mut hanging = asking(&proxy, "/hang").await;
    let head = answer(&mut hanging).await;
    assert!(
        head.starts_with("HTTP/1.1 504 ") && head.contains("deadline_exceeded"),
        "{head}"
    );
    let mut stalling = asking(&proxy, "/stall").await;
    let mut read = String::new();
    timeout(PATIENCE, stalling.read_to_string(&mut read))
        .await
        .expect("it is cut off")
        .unwrap();
    assert!(
        read.starts_with("HTTP/1.1 200 ") && read.ends_with("abc"),
        "{read}"
    );
    // Longer than any call may last.
    echoes(&mut switched).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_asks_to_switch_is_held_to_its_time() {
    let proxy = before(&[service().await], "{timeouts: {perTry: 200ms}}").await;
    let head = answer(&mut asking(&proxy, "/hang").await).await;
    assert!(
        head.starts_with("HTTP/1.1 504 ") && head.contains("try_timeout"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_asks_to_switch_is_one_in_flight_until_it_has() {
    let proxy = before(&[service().await], "{circuitBreaker: {maxRequests: 1}}").await;
    let mut switched = asking(&proxy, "/echo").await;
    assert!(answer(&mut switched).await.starts_with("HTTP/1.1 101 "));
    assert_eq!(get(proxy.address, "/").await.unwrap().status, 200);
    let hanging = asking(&proxy, "/hang").await;
    let calls = "jitney_upstream_calls_total";
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while proxy.metric(calls, "").await < 3.0 {
        assert!(tokio::time::Instant::now() < deadline, "it is not counted");
    }
    let shed = get(proxy.address, "/").await.unwrap();
    assert_eq!(
        (shed.status, shed.header("x-jitney-error")),
        (503, "too_many_requests_in_flight")
    );
    drop(hanging);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while get(proxy.address, "/").await.unwrap().status != 200 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "its place is not given back"
        );
    }
    echoes(&mut switched).await;
}
