//! Callers that leave: their item is not sent if it was not, nobody else's place moves, and what
//! comes back for them is given to nobody.

use std::net::SocketAddr;
use std::time::Duration;

use jitney_tests::caller::{connect, request};
use jitney_tests::wait::until;
use jitney_tests::{Caller, Route, TestProxy, TestUpstream, model, policy};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::shared::{alone, instances, items_queued, predict, together};

/// Sends a prediction and keeps the socket, so that it can be closed in one way or another.
async fn begin(address: SocketAddr, item: &str) -> TcpStream {
    let mut socket = connect(address).await.unwrap();
    let body = instances(&[item]);
    let head = "POST /v1/models/m:predict HTTP/1.1\r\nhost: service.test\r\ncontent-type: application/json";
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

/// Waits until nothing is queued any more.
async fn emptied(proxy: &TestProxy) {
    let end = tokio::time::Instant::now() + jitney_tests::wait::PATIENCE;
    while proxy.metric("jitney_queue_items", "").await > 0.0 {
        assert!(
            tokio::time::Instant::now() < end,
            "a departed caller's item stays queued"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18e_caller_that_left_the_queue_is_not_sent() {
    for reset in [false, true] {
        let upstream = TestUpstream::start(model::kserve).await;
        let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(3)])).await;
        let gone = begin(proxy.address, "\"gone\"").await;
        items_queued(&proxy, 1.0).await;
        if reset {
            gone.set_zero_linger().unwrap();
        }
        drop(gone);
        emptied(&proxy).await;
        let calls = (0..3).map(|n| predict(instances(&[&n.to_string()]))).collect();
        for (n, answer) in together(proxy.address, calls).await.iter().enumerate() {
            assert_eq!(answer.text(), model::predictions(&[&n.to_string()], ""));
        }
        assert_eq!(upstream.seen().len(), 1);
        assert!(
            !upstream.seen()[0].text().contains("gone"),
            "a departed caller's item was sent (reset: {reset})"
        );
        assert_eq!(proxy.metric("jitney_cancelled_total", "queue").await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c05_reset_stream_leaves_the_queue() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(2)])).await;
    let mut caller = Caller::h2(proxy.address).await.unwrap();
    let headers = [("content-type", "application/json")];
    let call = request(
        "POST",
        "http://service.test/v1/models/m:predict",
        &headers,
        instances(&["\"gone\""]),
    );
    let going = tokio::spawn(async move { caller.send(call).await.map(|_| caller) });
    items_queued(&proxy, 1.0).await;
    going.abort();
    emptied(&proxy).await;
    let calls = vec![predict(instances(&["1"])), predict(instances(&["2"]))];
    assert_eq!(
        together(proxy.address, calls).await[1].text(),
        model::predictions(&["2"], "")
    );
    assert!(!upstream.seen().iter().any(|seen| seen.text().contains("gone")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_that_left_a_batch_in_flight_moves_nobody() {
    let upstream = TestUpstream::start(|seen| model::kserve(seen).after(Duration::from_millis(500))).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(4)])).await;
    let gone = begin(proxy.address, "\"gone\"").await;
    items_queued(&proxy, 1.0).await;
    let calls = (0..3).map(|n| predict(instances(&[&n.to_string()]))).collect();
    let others = tokio::spawn(together(proxy.address, calls));
    until("the batch is in flight", || upstream.seen().len() == 1).await;
    drop(gone);
    for (n, answer) in others.await.unwrap().iter().enumerate() {
        assert_eq!(
            (answer.status, answer.text()),
            (200, model::predictions(&[&n.to_string()], "")),
            "call {n}"
        );
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_goes_on_after_half_of_its_body() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve()])).await;
    let mut socket = connect(proxy.address).await.unwrap();
    let head =
        b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{\"instances\":[";
    socket.write_all(head).await.unwrap();
    // The announced body never comes; others are not held for it beyond the cap.
    let answer = alone(proxy.address, predict(instances(&["1"]))).await;
    assert_eq!(answer.text(), model::predictions(&["1"], ""));
    drop(socket);
    let answer = alone(proxy.address, predict(instances(&["2"]))).await;
    assert_eq!(answer.text(), model::predictions(&["2"], ""));
    assert_eq!(upstream.seen().len(), 2);
}
