//! `Expect: 100-continue` (RFC 9110 section 10.1.1): whether a body is sent is up to the service, and not to the sidecar.

use super::wire::{Rig, Upstream, Wire};

const HEAD: &str = "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A caller that has asked whether it may send its body, and may.
async fn asked_for_its_body(upstream: &Upstream) -> Wire {
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(HEAD).await;
    assert_eq!(wire.take(CONTINUE.len()).await, CONTINUE);
    wire
}

#[tokio::test]
async fn a_service_that_wants_no_body_is_sent_none() {
    let reply = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nno!";
    let upstream = Upstream::answering(reply).await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(HEAD).await;
    // The caller does not send the body either, and is heard no more: what follows could be either.
    assert_eq!(
        wire.take(usize::MAX).await.replace("connection: close\r\n", ""),
        reply
    );
    assert_eq!(upstream.seen(), [HEAD]);
}

#[tokio::test]
async fn a_body_is_asked_for_once_the_service_asks_for_it() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        wire.until("\r\n\r\n").await;
        seen(b"head");
        wire.send("HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n").await;
        wire.send(CONTINUE).await;
        seen(wire.take(5).await.as_bytes());
        wire.send(OK).await;
    })
    .await;
    let mut wire = asked_for_its_body(&upstream).await;
    assert_eq!(upstream.seen(), ["head"]);
    wire.send("hello").await;
    let reply = wire.until("ok").await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    assert_eq!(upstream.seen(), ["head", "hello"]);
}

#[tokio::test]
async fn a_service_that_does_not_know_the_question_gets_the_body_all_the_same() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        wire.until("\r\n\r\n").await;
        seen(wire.take(5).await.as_bytes());
        wire.send(OK).await;
    })
    .await;
    let mut wire = asked_for_its_body(&upstream).await;
    wire.send("hello").await;
    wire.until("ok").await;
    assert_eq!(upstream.seen(), ["hello"]);
}

/// Whoever does not wait is not made to, and no endpoint is blamed for what nobody sends.
#[tokio::test]
async fn a_body_that_comes_with_the_question_is_not_held_back() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        let head = wire.until("\r\n\r\n").await;
        // One that waited for leave would come behind this.
        wire.until("hello").await;
        seen(head.as_bytes());
        wire.send(OK).await;
    })
    .await;
    let rig = Rig::start(upstream.address);
    let mut wire = rig.connect().await;
    wire.send(format!("{HEAD}hello")).await;
    let reply = wire.until("ok").await;
    assert!(reply.contains("HTTP/1.1 200 "), "{reply}");
    assert_eq!(upstream.seen(), [HEAD]);
}
