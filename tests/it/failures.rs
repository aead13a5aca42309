//! When a batch fails: the bad call fails alone, the truth reaches those it concerns, a reply that
//! does not fit is delivered to nobody, and nothing runs twice without leave.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use jitney_tests::caller::{Body, request};
use jitney_tests::upstream::Ending;
use jitney_tests::{Reply, Route, Seen, TestProxy, TestUpstream, model, policy};
use serde_json::value::RawValue;

use crate::shared::{alone, instances, predict, together};

/// Eight predictions, each with a number of its own.
fn eight() -> Vec<Request<Body>> {
    (0..8).map(|n| predict(instances(&[&n.to_string()]))).collect()
}

/// True for a request that merges calls.
fn is_batch(seen: &Seen) -> bool {
    model::elements(&seen.body, b"\"instances\"").is_some_and(|items| items.len() > 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18c_one_bad_item_of_eight_leaves_seven_served() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(8)])).await;
    let item = |n: usize| {
        if n == 3 {
            r#"{"bad":3}"#.to_owned()
        } else {
            n.to_string()
        }
    };
    let calls = (0..8).map(|n| predict(instances(&[&item(n)]))).collect();
    for (n, answer) in together(proxy.address, calls).await.iter().enumerate() {
        let wanted = if n == 3 {
            (400, r#"{"error":"an instance is bad"}"#.to_owned())
        } else {
            (200, model::predictions(&[&item(n)], ""))
        };
        assert_eq!((answer.status, answer.text()), wanted, "call {n}");
    }
    // The batch itself, and at most 2 * log2(8) more to find the bad one.
    assert!(
        upstream.seen().len() <= 7,
        "{} upstream calls",
        upstream.seen().len()
    );
    assert_eq!(proxy.metric("jitney_poison_items_total", "").await, 1.0);
    assert_eq!(proxy.metric("jitney_items_total", "").await, 8.0);
    assert!(proxy.metric("jitney_items_total", "outcome=\"ok\"").await >= 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_told_to_every_member_and_not_repeated() {
    for (status, wait) in [(429, "9"), (503, "3")] {
        let upstream = TestUpstream::start(move |_| {
            Reply::json(status, r#"{"error":"not now"}"#).header("retry-after", wait)
        });
        let upstream = upstream.await;
        let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(8)])).await;
        for answer in together(proxy.address, eight()).await {
            assert_eq!((answer.status, answer.header("retry-after")), (status, wait));
            assert_eq!(answer.text(), r#"{"error":"not now"}"#);
        }
        assert_eq!(upstream.seen().len(), 1, "a {status} was replayed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn error_of_a_lone_call_is_the_upstreams_own() {
    let upstream = TestUpstream::start(|seen| {
        let status = seen.header("x-want").parse().unwrap();
        Reply::json(status, "why")
            .header("retry-after", "4")
            .header("x-detail", "d")
            .header("www-authenticate", "Basic")
    });
    let upstream = upstream.await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve()])).await;
    for status in ["400", "401", "404", "409", "413", "429", "500", "503", "504"] {
        let headers = [("content-type", "application/json"), ("x-want", status)];
        let answer = alone(
            proxy.address,
            request("POST", "/v1/models/m:predict", &headers, instances(&["1"])),
        )
        .await;
        assert_eq!(
            (answer.status.to_string().as_str(), answer.text().as_str()),
            (status, "why")
        );
        assert_eq!(
            (answer.header("retry-after"), answer.header("x-detail")),
            ("4", "d")
        );
        assert_eq!(answer.header("www-authenticate"), "Basic");
    }
}

/// A name, and the reply in place of the right one.
type Fault = (&'static str, fn(&Seen) -> Reply);

/// Ways in which a batch reply can be wrong.
const WRONG: &[Fault] = &[
    ("one result short", |_| {
        Reply::json(200, r#"{"predictions":[1,2,3,4,5,6,7]}"#)
    }),
    ("one result long", |_| {
        Reply::json(200, r#"{"predictions":[1,2,3,4,5,6,7,8,9]}"#)
    }),
    ("no results", |_| Reply::json(200, r#"{"predictions":[]}"#)),
    ("not a list", |_| Reply::json(200, r#"{"predictions":{"a":1}}"#)),
    ("another object", |_| Reply::json(200, r#"{"error":"no"}"#)),
    ("not JSON", |_| Reply::json(200, "<html>")),
    ("empty", |_| Reply::json(200, "")),
    ("cut JSON", |_| {
        Reply::json(200, r#"{"predictions":[1,2,3,4,5,6,7,8"#)
    }),
    ("cut short", |seen| model::kserve(seen).ending(Ending::Cut(40))),
    ("hung up", |seen| model::kserve(seen).ending(Ending::HangUp)),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18b_wrong_batch_reply_is_delivered_to_nobody_and_asked_again_where_allowed() {
    for (what, wrong) in WRONG {
        let upstream = TestUpstream::start(|seen| {
            if is_batch(seen) {
                wrong(seen)
            } else {
                model::kserve(seen)
            }
        })
        .await;
        let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(8)])).await;
        for (n, answer) in together(proxy.address, eight()).await.iter().enumerate() {
            let right = answer.status == 200 && answer.text() == model::predictions(&[&n.to_string()], "");
            let refused = matches!(answer.status, 502..=504) && !answer.header("x-jitney-error").is_empty();
            assert!(
                right || refused,
                "{what}: call {n} got {} {}",
                answer.status,
                answer.text()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_rpc_reply_without_leave_to_replay_is_502_for_all_and_once() {
    type Spoilt = (&'static str, fn(Vec<String>) -> String);
    let wrong: [Spoilt; 5] = [
        ("an unknown id", |replies| {
            format!("[{}]", replies.join(",").replacen("\"id\":", "\"id\":99", 1))
        }),
        ("one id twice", |replies| {
            format!("[{0},{0},{1}]", replies[0], replies[1])
        }),
        ("one too many", |replies| {
            format!("[{0},{1}]", replies.join(","), replies[0])
        }),
        ("one missing", |replies| format!("[{}]", replies[1..].join(","))),
        ("cut", |replies| format!("[{}", replies.join(","))),
    ];
    for (what, spoil) in wrong {
        let upstream = TestUpstream::start(move |seen| {
            let reply = model::json_rpc(seen).body;
            let replies: Vec<&RawValue> = serde_json::from_slice(&reply).unwrap();
            Reply::json(200, spoil(replies.iter().map(ToString::to_string).collect()))
        });
        let upstream = upstream.await;
        let route = Route::json_rpc().fixed(3).line("onFailure: {replay: Never}");
        let proxy = TestProxy::start(upstream.address, &policy::active(&[route])).await;
        let call = |id: usize| {
            let body = format!(r#"{{"jsonrpc":"2.0","method":"echo","params":["p{id}"],"id":{id}}}"#);
            request("POST", "/rpc", &[("content-type", "application/json")], body)
        };
        for answer in together(proxy.address, (0..3).map(call).collect()).await {
            assert_eq!(answer.status, 502, "{what}: {}", answer.text());
            assert!(!answer.header("x-jitney-error").is_empty(), "{what}");
        }
        assert_eq!(upstream.seen().len(), 1, "{what}: something ran twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18j_without_leave_to_replay_predictions_go_alone_and_once() {
    let upstream = TestUpstream::start(|_| Reply::json(500, "no")).await;
    let route = Route::kserve().fixed(8).line("onFailure: {replay: Never}");
    let proxy = TestProxy::start(upstream.address, &policy::active(&[route])).await;
    for answer in together(proxy.address, eight()).await {
        assert_eq!((answer.status, answer.text().as_str()), (500, "no"));
    }
    let seen = upstream.seen();
    assert!(
        seen.len() == 8 && !seen.iter().any(is_batch),
        "{} upstream calls",
        seen.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn element_that_nobody_asked_for_is_never_delivered() {
    let upstream = TestUpstream::start(|seen| {
        if seen.target.starts_with("/users?") {
            return Reply::json(
                200,
                format!("[{},{}]", model::user("1", ""), model::user("3", "")),
            );
        }
        model::users(seen)
    });
    let upstream = upstream.await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::users().fixed(2)])).await;
    let get = |id: &str| request("GET", &format!("/users/{id}"), &[], "");
    let answers = together(proxy.address, vec![get("1"), get("2")]).await;
    for (id, answer) in ["1", "2"].iter().zip(&answers) {
        let right = answer.status == 200 && answer.text() == model::user(id, "");
        assert!(
            right || answer.status == 502,
            "user {id}: {} {}",
            answer.status,
            answer.text()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_that_is_not_there_is_502_with_its_reason() {
    // Bound and closed again: nobody listens there.
    let nobody: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = TestProxy::start(
        nobody,
        &policy::active(&[Route::kserve(), Route::users().fixed(2)]),
    )
    .await;
    let users = ["1", "2"].map(|id| request("GET", &format!("/users/{id}"), &[], ""));
    let mut answers = together(proxy.address, users.into()).await;
    answers.push(alone(proxy.address, predict(instances(&["1"]))).await);
    answers.push(alone(proxy.address, request("GET", "/other", &[], "")).await);
    for answer in answers {
        assert_eq!(answer.status, 502);
        assert!(
            !answer.header("x-jitney-error").is_empty(),
            "{:?}",
            answer.headers
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queue_sheds_with_retry_after() {
    let upstream = TestUpstream::start(|seen| model::kserve(seen).after(Duration::from_millis(300))).await;
    let route = Route::kserve().line("batch: {maxSize: 2, maxQueueSize: 4}");
    let proxy = TestProxy::start(upstream.address, &policy::active(&[route])).await;
    let calls = (0..64).map(|n| predict(instances(&[&n.to_string()]))).collect();
    let (mut served, mut shed) = (0, 0);
    for (n, answer) in together(proxy.address, calls).await.iter().enumerate() {
        if answer.status == 200 {
            assert_eq!(answer.text(), model::predictions(&[&n.to_string()], ""));
            served += 1;
        } else {
            assert!(matches!(answer.status, 429 | 503), "{}", answer.status);
            assert!(!answer.header("retry-after").is_empty() && !answer.header("x-jitney-error").is_empty());
            shed += 1;
        }
    }
    // Four may wait; whether the first of them have left before the last one comes is a matter of luck.
    assert!(served >= 4 && shed > 0, "{served} served, {shed} shed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_413_makes_batches_smaller_and_fails_nobody() {
    let upstream = TestUpstream::start(|seen| {
        let items = model::elements(&seen.body, b"\"instances\"").map_or(0, |items| items.len());
        if items > 2 {
            Reply::json(413, "too many")
        } else {
            model::kserve(seen)
        }
    });
    let upstream = upstream.await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(8)])).await;
    for (n, answer) in together(proxy.address, eight()).await.iter().enumerate() {
        assert_eq!(
            (answer.status, answer.text()),
            (200, model::predictions(&[&n.to_string()], "")),
            "call {n}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_that_never_answers_is_504_in_time() {
    let upstream = TestUpstream::start(|seen| model::kserve(seen).ending(Ending::Never)).await;
    let text = policy::active(&[Route::kserve()]) + "  traffic: {timeouts: {request: 500ms}}\n";
    let proxy = TestProxy::start(upstream.address, &text).await;
    let answer = alone(proxy.address, predict(instances(&["1"]))).await;
    assert_eq!(answer.status, 504);
    assert!(!answer.header("x-jitney-error").is_empty());
}
