//! What batching itself could break, and what others' batch endpoints have broken.

use std::time::Duration;

use bytes::Bytes;
use jitney_tests::caller::{self, request};
use jitney_tests::flood::{Polite, memory};
use jitney_tests::{Caller, Reply, Route, Seen, TestProxy, TestUpstream, model, policy};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::shared::{AT_ONCE, alone, instances, predict, predict_as, together};
use crate::wire::Upstream;

/// The head of a prediction.
const PREDICT: (&str, &str) = ("POST", "/v1/models/m:predict");
const JSON: (&str, &str) = ("content-type", "application/json");
/// What a process may take for what is in flight, whatever it would be unfolded.
const BOUND: usize = 48 << 20;

/// Zeros, 158 times as many as these bytes, by RFC 1951: one literal, then its repetition, 258 at a time.
fn bomb(length: usize) -> Bytes {
    let mut bits: Vec<u8> = vec![1, 1, 0];
    // Fixed Huffman codes, the highest bit first: 0 is 00110000, 258 times is 11000101, one back is 00000.
    bits.extend([0, 0, 1, 1, 0, 0, 0, 0]);
    let mut bytes = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    while bytes.len() < length {
        bits.extend([1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]);
        while bits.len() >= 8 {
            let byte = bits.drain(..8).rev().fold(0, |byte, bit| byte << 1 | bit);
            bytes.push(byte);
        }
    }
    bytes.into()
}

fn is_batch(seen: &Seen) -> bool {
    seen.headers.contains_key("x-jitney-batch-size")
}

async fn before(upstream: &TestUpstream, route: Route) -> TestProxy {
    TestProxy::start(upstream.address, &policy::active(&[route])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_nothing_is_unfolded_neither_a_member_nor_a_batch_reply() {
    let folded = bomb(1 << 20);
    let reply = folded.clone();
    let upstream = TestUpstream::start(move |seen| match is_batch(seen) {
        true => Reply::json(200, reply.clone()).header("content-encoding", "gzip"),
        false if seen.header("content-encoding") == "gzip" => Reply::json(200, "{}"),
        false => model::kserve(seen),
    })
    .await;
    let proxy = before(&upstream, Route::kserve().fixed(2)).await;
    alone(proxy.address, request("GET", "/", &[], "")).await;
    let memory_before = memory(proxy.pid());
    let coded = request(
        PREDICT.0,
        PREDICT.1,
        &[JSON, ("content-encoding", "gzip")],
        folded.clone(),
    );
    assert_eq!(alone(proxy.address, coded).await.status, 200);
    assert!(upstream.seen()[1].body == folded, "it passes as it came");
    let calls = vec![predict(instances(&["1"])), predict(instances(&["2"]))];
    for (n, answer) in together(proxy.address, calls).await.iter().enumerate() {
        let is_right =
            answer.status == 200 && answer.text() == model::predictions(&[&(n + 1).to_string()], "");
        let is_refused = (502..=504).contains(&answer.status);
        assert!(is_right || is_refused, "{} {:?}", answer.status, answer.headers);
    }
    let grown = memory(proxy.pid()).saturating_sub(memory_before);
    assert!(grown < BOUND, "{} KiB", grown >> 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_paths_are_matched_and_passed_on_as_they_came() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let proxy = before(&upstream, Route::users().fixed(2)).await;
    // None of these is /users/{id}; a call that matched would wait for another.
    for target in [
        "//users/1",
        "/users//1",
        "/users/",
        "/users/../users/1",
        "/users/1/",
        "/./users/1",
        "/Users/1",
        "/%75sers/1",
        "/users%2f1",
        "/users\\1",
        "/users;x/1",
    ] {
        upstream.forget();
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let reply = caller::raw(proxy.address, bytes.as_bytes(), AT_ONCE)
            .await
            .unwrap();
        match reply.starts_with(b"HTTP/1.1 200 ") {
            true => assert_eq!(upstream.seen()[0].target, target),
            false => assert!(
                reply.starts_with(b"HTTP/1.1 400 ") && upstream.seen().is_empty(),
                "{target}"
            ),
        }
    }
    // Absolute-form says it in another way, which must be no way round the route, and its authority counts.
    upstream.forget();
    let mut going = JoinSet::new();
    for (authority, id) in [("a", 1), ("b", 1), ("a", 2), ("b", 2)] {
        let bytes =
            format!("GET http://{authority}/users/{id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let address = proxy.address;
        going.spawn(async move { caller::raw(address, bytes.as_bytes(), AT_ONCE).await });
    }
    going.join_all().await;
    let mut batches: Vec<String> = upstream
        .seen()
        .iter()
        .filter(|seen| is_batch(seen))
        .map(|seen| seen.header("host").to_owned())
        .collect();
    batches.sort();
    assert_eq!(batches, ["a", "b"], "{:?}", upstream.seen());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c15_a_batch_reply_without_end_or_bottom_is_bounded() {
    let upstream = Upstream::scripted(|mut wire, seen| async move {
        seen(wire.until("\r\n\r\n").await.as_bytes());
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        let chunk = [b"10000\r\n", &[b'['; 0x10000][..], b"\r\n"].concat();
        while wire.0.write_all(&chunk).await.is_ok() {}
    })
    .await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(4)])).await;
    let memory_before = memory(proxy.pid());
    let calls = (0..4)
        .map(|n| predict(instances(&[&n.to_string()])))
        .collect::<Vec<_>>();
    let mut going = JoinSet::new();
    for call in calls {
        let mut caller = Caller::h1(proxy.address).await.unwrap();
        // Who is asked alone gets the reply without end, as he would have without a sidecar.
        going.spawn(async move { caller.send(call).await.map(|reply| reply.status().as_u16()) });
    }
    for status in going.join_all().await {
        let status = status.unwrap();
        assert!(status == 200 || (502..=504).contains(&status), "{status}");
    }
    let grown = memory(proxy.pid()).saturating_sub(memory_before);
    // Three such replies, held up to their cap, can be there at one time.
    assert!(grown < 4 * (64 << 20), "{} KiB", grown >> 10);
    let deep = TestUpstream::start(|seen| match is_batch(seen) {
        true => Reply::json(200, format!("{{\"predictions\":{}", "[".repeat(1 << 20))),
        false => model::kserve(seen),
    })
    .await;
    let mut proxy = before(&deep, Route::kserve().fixed(2)).await;
    let calls = vec![predict(instances(&["1"])), predict(instances(&["2"]))];
    let answers = together(proxy.address, calls).await;
    assert!(answers.iter().all(|answer| answer.status != 500) && proxy.runs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c17_what_a_member_says_of_its_caller_is_nobody_elses() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = before(&upstream, Route::kserve().fixed(2)).await;
    let names = [
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "x-forwarded-client-cert",
        "x-client-ip",
        "via",
    ];
    let kinds: Vec<(&str, &str)> = names
        .iter()
        .flat_map(|name| [(*name, "10.0.0.1"), (*name, "10.0.0.2")])
        .collect();
    let call = |kind: &(&str, &str)| request(PREDICT.0, PREDICT.1, &[JSON, *kind], instances(&["1"]));
    // Twice each: equal ones fill a batch of two, and no other may join it.
    let answers = together(proxy.address, kinds.iter().chain(&kinds).map(call).collect()).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(upstream.seen().len(), kinds.len());
    for (name, value) in &kinds {
        let with = upstream
            .seen()
            .into_iter()
            .filter(|seen| seen.header(name) == *value);
        assert_eq!(with.count(), 1, "{name}: {value}");
    }
    // A batch that a caller made himself is one call, and takes no other's identity along.
    upstream.forget();
    let own = request(
        PREDICT.0,
        PREDICT.1,
        &[JSON, ("x-jitney-batch-size", "9")],
        instances(&["1", "2"]),
    );
    assert_eq!(
        alone(proxy.address, own).await.text(),
        model::predictions(&["1", "2"], "")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18a_two_identities_never_share_a_batch_unless_the_route_says_so() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = before(&upstream, Route::kserve().fixed(2)).await;
    let calls = ["a", "b", "a", "b"].map(|who| predict_as(who, instances(&[&format!("\"{who}\"")])));
    together(proxy.address, calls.into()).await;
    assert_eq!(upstream.seen().len(), 2);
    for seen in upstream.seen() {
        let who = format!("\"{}\"", seen.header("authorization"));
        let items = model::elements(&seen.body, b"\"instances\"").unwrap();
        assert_eq!(items, [who.as_bytes(); 2]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18g_members_are_never_compressed_together() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = before(&upstream, Route::kserve().fixed(2)).await;
    let call = |item| {
        request(
            PREDICT.0,
            PREDICT.1,
            &[JSON, ("accept-encoding", "gzip, br")],
            instances(&[item]),
        )
    };
    let answers = together(proxy.address, vec![call("1"), call("2")]).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 && answer.header("content-encoding").is_empty())
    );
    let [batch] = &upstream.seen()[..] else {
        panic!("{:?}", upstream.seen());
    };
    assert!(
        !batch.headers.contains_key("accept-encoding"),
        "its length would tell one of the other"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18h_a_quiet_key_is_served_beside_a_busy_one() {
    let upstream = TestUpstream::start(|seen| model::kserve(seen).after(Duration::from_millis(10))).await;
    let proxy = before(&upstream, Route::kserve()).await;
    let mut busy = JoinSet::new();
    for n in 0..64 {
        let mut caller = Caller::h1(proxy.address).await.unwrap();
        busy.spawn(async move {
            loop {
                let call = predict_as("busy", instances(&[&n.to_string()]));
                assert_eq!(caller.call(call).await.unwrap().status, 200);
            }
        });
    }
    for n in 0..20 {
        let answer = alone(proxy.address, predict_as("quiet", instances(&[&n.to_string()]))).await;
        assert_eq!(answer.text(), model::predictions(&[&n.to_string()], "quiet"));
    }
    assert_eq!(busy.len(), 64, "the busy ones go on");
    assert!(busy.try_join_next().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18k_a_caller_who_makes_keys_up_harms_nobody() {
    let upstream = TestUpstream::start_unrecorded(|seen| match seen.target == "/" {
        true => Reply::json(200, "{}"),
        false => model::kserve(seen),
    })
    .await;
    let proxy = before(&upstream, Route::kserve()).await;
    alone(proxy.address, predict(instances(&["1"]))).await;
    let memory_before = memory(proxy.pid());
    let polite = Polite::start(proxy.address);
    let mut going = JoinSet::new();
    for part in 0..8_usize {
        let mut caller = Caller::h1(proxy.address).await.unwrap();
        going.spawn(async move {
            for n in 0..1_000 {
                let key = format!("{part}-{n}-{}", "k".repeat(1_000));
                let call = request(PREDICT.0, PREDICT.1, &[JSON, ("x-key", &key)], instances(&["1"]));
                assert_eq!(caller.call(call).await.unwrap().status, 200);
            }
        });
    }
    going.join_all().await;
    polite.stop().await;
    assert!(proxy.metric("jitney_keys", "").await <= 1_024.0);
    let grown = memory(proxy.pid()).saturating_sub(memory_before);
    assert!(grown < BOUND, "{} KiB", grown >> 10);
}
