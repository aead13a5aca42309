//! The main job between real sockets: calls pass, calls are gathered, replies are split, policy
//! changes while calls are on their way, and the end loses none of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jitney_tests::caller::{self, request};
use jitney_tests::wait::until;
use jitney_tests::{Caller, Reply, Route, TestProxy, TestUpstream, model, policy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::shared::{alone, instances, items_queued, predict, together};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_arrive_together_share_one_upstream_call() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(8)])).await;
    let calls = (0..8).map(|n| predict(instances(&[&n.to_string()]))).collect();
    for (n, answer) in together(proxy.address, calls).await.iter().enumerate() {
        assert_eq!(
            (answer.status, answer.text()),
            (200, model::predictions(&[&n.to_string()], "")),
            "call {n}"
        );
        assert_eq!(answer.header("content-type"), "application/json");
    }
    assert_eq!(upstream.seen().len(), 1, "{:?}", upstream.seen());
    assert_eq!(proxy.metric("jitney_batch_size_count", "").await, 1.0);
    assert_eq!(proxy.metric("jitney_batch_size_sum", "").await, 8.0);
    assert_eq!(proxy.metric("jitney_upstream_calls_saved_total", "").await, 7.0);
    assert_eq!(
        proxy
            .metric("jitney_batch_dispatch_total", r#"reason="full""#)
            .await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mini_batches_get_their_own_items_back() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(6)])).await;
    let groups: [&[&str]; 3] = [&["1", "2", "3"], &["\"a\""], &["{}", "[4]"]];
    let answers = together(
        proxy.address,
        groups.iter().map(|group| predict(instances(group))).collect(),
    )
    .await;
    for (group, answer) in groups.iter().zip(&answers) {
        assert_eq!(answer.text(), model::predictions(group, ""));
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lone_call_leaves_at_once_and_as_it_came() {
    let upstream = TestUpstream::start(model::kserve).await;
    let route = Route::kserve().line("batch: {timeout: 20s, queueTimeout: 60s}");
    let proxy = TestProxy::start(upstream.address, &policy::active(&[route])).await;
    for n in 0..20 {
        let body = format!("{{ \"instances\" : [ {n} ] }}");
        let answer = alone(proxy.address, predict(body.clone())).await;
        assert_eq!(answer.text(), model::predictions(&[&n.to_string()], ""));
        assert_eq!(upstream.seen().last().unwrap().text(), body);
    }
    assert_eq!(
        proxy
            .metric("jitney_batch_dispatch_total", r#"reason="idle""#)
            .await,
        20.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_upstream_is_asked_for_many_at_once() {
    let upstream = TestUpstream::start(|seen| model::kserve(seen).after(Duration::from_millis(20))).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve()])).await;
    let mut callers = JoinSet::new();
    for caller in 0..48 {
        let address = proxy.address;
        callers.spawn(async move {
            let mut connection = Caller::h1(address).await.unwrap();
            for call in 0..10 {
                let item = format!("{caller}.{call}");
                let answer = connection.call(predict(instances(&[&item]))).await.unwrap();
                assert_eq!(answer.text(), model::predictions(&[&item], ""));
            }
        });
    }
    callers.join_all().await;
    let calls = upstream.seen().len();
    assert!(
        calls < 240,
        "480 calls became {calls} upstream calls: hardly any were gathered"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2_streams_are_gathered_too() {
    let upstream = TestUpstream::start(model::users).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::users().fixed(5)])).await;
    let Caller::H2(sender) = Caller::h2(proxy.address).await.unwrap() else {
        panic!("asked for HTTP/2")
    };
    let mut going = JoinSet::new();
    for id in 1..=5 {
        let mut caller = Caller::H2(sender.clone());
        going.spawn(async move {
            let answer = caller
                .call(request("GET", &format!("http://users.test/users/{id}"), &[], ""))
                .await
                .unwrap();
            assert_eq!(
                (answer.status, answer.text()),
                (200, model::user(&id.to_string(), ""))
            );
        });
    }
    going.join_all().await;
    assert_eq!(upstream.seen().len(), 1, "{:?}", upstream.seen());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_route_matches_passes_through() {
    let upstream = TestUpstream::start(|seen| {
        Reply::json(418, seen.body.clone())
            .header("x-target", &seen.target)
            .header("x-a", "1")
            .header("x-a", "2")
    });
    let upstream = upstream.await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(8)])).await;
    let call = request(
        "PUT",
        "/a%20b/../c?x=%2F&y",
        &[("x-under_score", ""), ("x-tenant", "acme")],
        "\u{0}body",
    );
    let answer = alone(proxy.address, call).await;
    assert_eq!((answer.status, answer.text()), (418, "\u{0}body".to_owned()));
    assert_eq!(answer.header("x-target"), "/a%20b/../c?x=%2F&y");
    assert_eq!(answer.headers.get_all("x-a").iter().count(), 2);
    let seen = &upstream.seen()[0];
    assert_eq!(
        (
            seen.header("x-tenant"),
            seen.headers.contains_key("x-under_score")
        ),
        ("acme", true)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shadow_sends_every_call_alone_and_tells_what_it_would_save() {
    let upstream = TestUpstream::start(|seen| model::kserve(seen).after(Duration::from_millis(5))).await;
    let proxy = TestProxy::start(upstream.address, &policy::with_mode("Shadow", &[Route::kserve()])).await;
    let calls: Vec<_> = (0..32).map(|n| predict(instances(&[&n.to_string()]))).collect();
    for (n, answer) in together(proxy.address, calls).await.iter().enumerate() {
        assert_eq!(answer.text(), model::predictions(&[&n.to_string()], ""));
    }
    assert_eq!(upstream.seen().len(), 32);
    assert_eq!(
        proxy.metric("jitney_bypass_total", r#"reason="shadow""#).await,
        32.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabled_policy_leaves_everything_alone() {
    let upstream = TestUpstream::start(model::kserve).await;
    let proxy = TestProxy::start(
        upstream.address,
        &policy::with_mode("Disabled", &[Route::kserve().fixed(4)]),
    )
    .await;
    let answer = alone(proxy.address, predict(instances(&["1"]))).await;
    assert_eq!(answer.text(), model::predictions(&["1"], ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_documents_take_the_place_of_flags() {
    let users = TestUpstream::start(model::users).await;
    let config = format!(
        "kind: Listener\nmetadata: {{name: in}}\nspec: {{address: \"127.0.0.1:0\", backend: users}}\n---\n\
         kind: Backend\nmetadata: {{name: users}}\nspec: {{endpoints: [\"{}\"]}}\n---\n{}",
        users.address,
        policy::active(&[Route::users().fixed(2)])
    );
    let proxy = TestProxy::with().config(config).start().await;
    let calls = vec![
        request("GET", "/users/1", &[], ""),
        request("GET", "/users/2", &[], ""),
    ];
    let answers = together(proxy.address, calls).await;
    assert_eq!(
        (answers[0].text(), answers[1].text()),
        (model::user("1", ""), model::user("2", ""))
    );
    assert_eq!(users.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_serves_what_is_queued_and_in_flight() {
    let upstream = TestUpstream::start(|seen| model::kserve(seen).after(Duration::from_millis(700))).await;
    let mut proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(4)])).await;
    let address = proxy.address;
    // Four fill a batch and are in flight; three are queued and would wait 30 s for a fourth.
    let in_flight = tokio::spawn(together(
        address,
        (0..4).map(|n| predict(instances(&[&n.to_string()]))).collect(),
    ));
    until("the first batch is in flight", || upstream.seen().len() == 1).await;
    let queued = tokio::spawn(together(
        address,
        (4..7).map(|n| predict(instances(&[&n.to_string()]))).collect(),
    ));
    items_queued(&proxy, 3.0).await;
    proxy.terminate();
    let answers = [in_flight.await.unwrap(), queued.await.unwrap()].concat();
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(
            (answer.status, answer.text()),
            (200, model::predictions(&[&n.to_string()], "")),
            "call {n}"
        );
    }
    assert!(
        proxy.ended(Duration::from_secs(20)).await.success(),
        "{}",
        proxy.log()
    );
    assert!(
        caller::connect(address).await.is_err(),
        "the listener is still open"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_serves_what_is_still_being_sent() {
    let upstream = TestUpstream::start(model::kserve).await;
    let mut proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve().fixed(4)])).await;
    let mut socket = caller::connect(proxy.address).await.unwrap();
    let body = instances(&["1.50"]);
    let (first, rest) = body.split_at(9);
    let head = format!(
        "POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{first}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // Another caller is answered, so the first one's head has long been read.
    alone(proxy.address, request("GET", "/other", &[], "")).await;
    proxy.terminate();
    until("it drains", || proxy.log().contains("drain")).await;
    socket.write_all(rest.as_bytes()).await.unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.ends_with(&model::predictions(&["1.50"], "")), "{reply}");
    assert!(
        proxy.ended(Duration::from_secs(20)).await.success(),
        "{}",
        proxy.log()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_hold_up_the_end() {
    let mut slow = Vec::new();
    for kind in [
        "silent",
        "h1 between calls",
        "h2 between calls",
        "h2 without a call",
    ] {
        let upstream = TestUpstream::start(model::kserve).await;
        let mut proxy = TestProxy::start(upstream.address, &policy::active(&[Route::kserve()])).await;
        let (mut socket, mut caller) = (None, None::<Caller>);
        match kind {
            "silent" => socket = Some(caller::connect(proxy.address).await.unwrap()),
            "h1 between calls" => caller = Some(Caller::h1(proxy.address).await.unwrap()),
            _ => caller = Some(Caller::h2(proxy.address).await.unwrap()),
        }
        if let Some(caller) = caller.as_mut().filter(|_| kind.ends_with("calls")) {
            let call = request("GET", "http://service.test/", &[], "");
            caller.call(call).await.unwrap();
        }
        proxy.terminate();
        let started = tokio::time::Instant::now();
        assert!(
            proxy.ended(Duration::from_secs(30)).await.success(),
            "{kind}: {}",
            proxy.log()
        );
        drop((socket, caller));
        slow.extend((started.elapsed() > Duration::from_secs(5)).then(|| (kind, started.elapsed())));
    }
    assert!(slow.is_empty(), "the end was held up: {slow:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_swap_under_load_drops_nothing_and_counts() {
    let upstream = TestUpstream::start_unrecorded(|seen| {
        model::kserve(seen).header(
            "x-items",
            &model::elements(&seen.body, b"\"instances\"")
                .unwrap()
                .len()
                .to_string(),
        )
    });
    let upstream = upstream.await;
    let size = |max: usize| policy::active(&[Route::kserve().line(format!("batch: {{maxSize: {max}}}"))]);
    let proxy = Arc::new(TestProxy::start(upstream.address, &size(16)).await);
    let (stop, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let (address, stop, served) = (proxy.address, Arc::clone(&stop), Arc::clone(&served));
        callers.spawn(async move {
            let mut connection = Caller::h1(address).await.unwrap();
            for call in 0.. {
                let item = format!("{caller}{call:06}");
                let answer = connection.call(predict(instances(&[&item]))).await.unwrap();
                assert_eq!(
                    (answer.status, answer.text()),
                    (200, model::predictions(&[&item], ""))
                );
                served.fetch_add(1, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) > 0 {
                    return;
                }
            }
        });
    }
    for swap in 0..10_usize {
        let before = served.load(Ordering::Relaxed);
        let next = proxy.policy_path().with_extension("next");
        std::fs::write(&next, size(2 + swap)).unwrap();
        std::fs::rename(&next, proxy.policy_path()).unwrap();
        until("calls went on after a swap", || {
            served.load(Ordering::Relaxed) > before + 50
        })
        .await;
    }
    std::fs::write(proxy.policy_path(), "kind: BatchPolicy\nspec: {mode: Activ}\n").unwrap();
    until("the faulty file is refused in the log", || {
        proxy.log().contains("policy.yaml:2:")
    })
    .await;
    stop.store(1, Ordering::Relaxed);
    callers.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_keep_their_cap_on_series() {
    let upstream = TestUpstream::start_unrecorded(model::users).await;
    let proxy = TestProxy::start(upstream.address, &policy::active(&[Route::users()])).await;
    let mut connection = Caller::h1(proxy.address).await.unwrap();
    for n in 0..5_000 {
        let (path, who, host) = (format!("/users/{n}"), format!("Bearer {n}"), format!("h{n}.test"));
        let headers = [("authorization", who.as_str()), ("host", host.as_str())];
        let answer = connection
            .call(request("GET", &path, &headers, ""))
            .await
            .unwrap();
        assert_eq!(answer.text(), model::user(&n.to_string(), &who));
    }
    let text = proxy.admin("/metrics").await.text();
    let series = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .count();
    assert!(series < 3_000, "{series} series");
}
