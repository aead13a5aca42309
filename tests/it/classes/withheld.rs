//! Bodies that callers begin and withhold: what is read of them to be gathered is bounded.

use jitney_tests::caller::post;
use jitney_tests::usage::Usage;
use jitney_tests::wait::PATIENCE;
use jitney_tests::{Route, TestProxy, TestUpstream, model, policy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What one caller sends of a body that it never ends.
const WITHHELD: usize = 1 << 20;

#[tokio::test]
async fn c11_bodies_that_are_begun_and_withheld_are_not_hoarded() {
    let upstream = TestUpstream::start_unrecorded(model::json_rpc).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::json_rpc()])).await;
    let call = r#"{"jsonrpc":"2.0","method":"echo","params":[""#;
    let length = call.len() + WITHHELD - 4096;
    let head = format!("POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    let most = call.len() + length - 8192;
    let mut connections = Vec::new();
    for _ in 0..240 {
        let mut connection = TcpStream::connect(proxy.address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(call.as_bytes()).await.unwrap();
        connection
            .write_all(&vec![b'a'; most - call.len()])
            .await
            .unwrap();
        connections.push(connection);
    }
    let end = tokio::time::Instant::now() + PATIENCE;
    while proxy.metric("jitney_bypass_total", "reason=\"memory\"").await < 150.0 {
        assert!(tokio::time::Instant::now() < end, "they are hoarded");
    }
    let resident = Usage::of(proxy.pid()).unwrap().most_resident;
    assert!(resident < 192 << 20, "{resident} bytes of 240 MiB that were sent");
    // Who is polite is served, gathered or not; and so is each of them, once its body is whole.
    let polite = post(
        proxy.address,
        "/rpc",
        r#"{"jsonrpc":"2.0","method":"echo","id":1}"#,
    )
    .await;
    assert_eq!(polite.unwrap().status, 200);
    let last = r#""],"id":7}"#;
    let end = "b".repeat(length - most - last.len()) + last;
    for mut connection in [connections.remove(0), connections.pop().unwrap()] {
        connection.write_all(end.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        connection.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
}
