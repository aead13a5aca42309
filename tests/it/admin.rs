//! The admin endpoint of the real sidecar: what it shows, what it hides, and what it never lets grow.

use std::time::Duration;

use jitney_tests::caller::{call, connect, post, raw, request};
use jitney_tests::flood::unread;
use jitney_tests::wait::{PATIENCE, until};
use jitney_tests::{Caller, Reply, TestProxy, TestUpstream};
use serde_json::{Value, from_str};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

const USERS: &str = r#"
kind: BatchPolicy
metadata: {name: users}
spec:
  mode: Active
  routes:
  - name: by-id
    match:
      method: GET
      path: {type: Template, value: "/users/{id}"}
      headers: [{name: x-api-key, value: t0p-secret}]
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
"#;

/// Answers slowly enough that calls gather.
async fn users() -> TestUpstream {
    users_after(Duration::from_millis(5)).await
}

/// Answers `/users?ids=1,2` and `/users/1`.
async fn users_after(work: Duration) -> TestUpstream {
    TestUpstream::start(move |seen| {
        let element = |id: &str| format!(r#"{{"id":"{id}"}}"#);
        let body = match seen.target.split_once("ids=") {
            Some((_, ids)) => format!("[{}]", ids.split(',').map(element).collect::<Vec<_>>().join(",")),
            None => element(seen.target.rsplit('/').next().unwrap_or_default()),
        };
        Reply::json(200, body).after(work)
    })
    .await
}

async fn get_user(proxy: &TestProxy, id: usize, headers: &[(&str, &str)]) -> u16 {
    let headers = [headers, &[("x-api-key", "t0p-secret")]].concat();
    let request = request("GET", &format!("/users/{id}"), &headers, "");
    call(proxy.address, request).await.unwrap().status
}

async fn json(proxy: &TestProxy, path: &str) -> Value {
    from_str(&proxy.admin(path).await.text()).unwrap()
}

/// Calls from 32 callers at once until one batch had several members.
async fn make_batches(proxy: &TestProxy) {
    for _ in 0..20 {
        let callers: Vec<_> = (0..32)
            .map(|id| get_user(proxy, id, &[("authorization", "Bearer t0p-token")]))
            .collect();
        for status in futures_join(callers).await {
            assert_eq!(status, 200);
        }
        if proxy.metric("jitney_upstream_calls_saved_total", "by-id").await > 0.0 {
            return;
        }
    }
    panic!(
        "no calls were gathered:\n{}",
        proxy.admin("/metrics").await.text()
    );
}

/// Runs futures of one task side by side.
async fn futures_join<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut waits = false;
        for (future, done) in futures
            .iter_mut()
            .zip(&mut done)
            .filter(|(_, done)| done.is_none())
        {
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => *done = Some(output),
                std::task::Poll::Pending => waits = true,
            }
        }
        if waits {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn batches_show_up_with_reason_wait_and_outcome_and_without_secrets() {
    let upstream = users().await;
    let proxy = TestProxy::start(upstream.address, USERS).await;
    make_batches(&proxy).await;

    let batches = json(&proxy, "/batches").await;
    let recent = batches["backends"][0]["recent"].as_array().unwrap();
    let whole = recent
        .iter()
        .find(|batch| batch["members"].as_u64() > Some(1))
        .expect("a batch of several");
    assert_eq!(whole["route"], "users/by-id");
    assert_eq!(whole["outcome"], "split");
    assert!(
        whole["wait_ms"].as_f64().is_some() && whole["duration_ms"].as_f64() > Some(1.0),
        "{whole}"
    );
    assert!(
        whole["key"].as_str().unwrap().contains("authorization"),
        "{whole}"
    );

    assert!(
        proxy
            .metric("jitney_upstream_calls_total", "kind=\"batch\"")
            .await
            > 0.0
    );
    let called = proxy.metric("jitney_upstream_calls_total", "").await;
    assert!(
        (called - f64::from(u32::try_from(upstream.seen().len()).unwrap())).abs() < 0.5,
        "{called}"
    );
    assert!(proxy.metric("jitney_upstream_connections", "").await >= 1.0);
    assert!(proxy.metric("jitney_downstream_connections_total", "http1").await >= 32.0);

    let backends = json(&proxy, "/backends").await;
    let route = &backends["backends"][0]["routes"][0];
    assert!(route["saved"].as_u64() > Some(0), "{route}");
    assert_eq!(
        backends["backends"][0]["endpoints"][0]["address"],
        upstream.address.to_string()
    );

    for path in ["/batches", "/backends", "/config", "/metrics", "/"] {
        let text = proxy.admin(path).await.text();
        assert!(!text.contains("t0p-"), "{path} shows a secret:\n{text}");
    }
    assert!(proxy.admin("/config").await.text().contains("x-api-key"));
}

#[tokio::test]
async fn c13_series_stay_bounded_whatever_callers_send() {
    let upstream = users_after(Duration::ZERO).await;
    let proxy = TestProxy::start(upstream.address, USERS).await;
    let mut caller = Caller::h1(proxy.address).await.unwrap();
    for n in 0..5_000 {
        let (identity, host) = (format!("Bearer {n}"), format!("host-{n}.test"));
        let target = if n % 2 == 0 {
            format!("/users/{n}")
        } else {
            format!("/path-{n}/{n}")
        };
        let headers = [
            ("authorization", &*identity),
            ("host", &*host),
            ("x-api-key", "t0p-secret"),
        ];
        let answer = caller.call(request("GET", &target, &headers, "")).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    let text = proxy.admin("/metrics").await.text();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < 3_000, "{series} series");
    for leaked in ["host-", "path-", "Bearer"] {
        assert!(!text.contains(leaked), "{leaked}");
    }
    assert!(proxy.metric("jitney_calls_total", "").await >= 5_000.0);
}

#[tokio::test]
async fn drain_on_demand_ends_the_process_with_zero() {
    let upstream = users().await;
    let mut proxy = TestProxy::start(upstream.address, USERS).await;
    assert_eq!(proxy.admin("/ready").await.status, 200);
    // Held open, so that the drain cannot end before it was looked at.
    let mut caller = Caller::h1(proxy.address).await.unwrap();
    let slow = caller.send(request("GET", "/users/1", &[("x-api-key", "t0p-secret")], ""));
    let (sent, drained) = tokio::join!(slow, post(proxy.admin, "/drain", ""));
    assert_eq!(drained.unwrap().status, 202);
    assert_eq!(sent.unwrap().status(), 200);
    drop(caller);
    let status = proxy.ended(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
}

#[tokio::test]
async fn not_ready_while_draining() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let proxy = TestProxy::start(upstream.address, USERS).await;
    // The drain waits for a call of which a byte is missing.
    let mut slow = connect(proxy.address).await.unwrap();
    let begun = b"POST /slow HTTP/1.1\r\nhost: users\r\nconnection: close\r\ncontent-length: 2\r\n\r\na";
    slow.write_all(begun).await.unwrap();
    until("the call is upstream", || upstream.connections() > 0).await;
    assert_eq!(post(proxy.admin, "/drain", "").await.unwrap().status, 202);
    assert_eq!(proxy.admin("/ready").await.status, 503);
    assert_eq!(proxy.admin("/live").await.status, 200);
    let end = Instant::now() + PATIENCE;
    while proxy.metric("jitney_draining", "").await < 1.0 {
        assert!(Instant::now() < end, "it is not counted");
    }
    slow.write_all(b"b").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn explain_says_what_the_data_path_would_do() {
    let upstream = users().await;
    let proxy = TestProxy::start(upstream.address, USERS).await;
    for (text, expected) in [
        (
            "GET /users/7 HTTP/1.1\r\nhost: a\r\nx-api-key: t0p-secret\r\n\r\n",
            "codec: keyedGet",
        ),
        (
            "GET /users/7 HTTP/1.1\r\nx-api-key: t0p-secret\r\nrange: bytes=0-\r\n\r\n",
            "bypass: conditional",
        ),
        ("GET /users/7 HTTP/1.1\r\nhost: a\r\n\r\n", "no route matches"),
    ] {
        let answer = post(proxy.admin, "/explain", text).await.unwrap();
        let said = answer.text();
        assert!(answer.status == 200 && said.contains(expected), "{text}\n{said}");
        assert!(!said.contains("t0p-"), "{said}");
    }
    assert_eq!(upstream.seen().len(), 0, "explaining asks nobody");
}

#[tokio::test]
async fn access_lines_come_and_go_with_the_log_level() {
    let upstream = users().await;
    let proxy = TestProxy::start(upstream.address, USERS).await;
    assert_eq!(get_user(&proxy, 1, &[]).await, 200);
    let put = |host, level| request("PUT", "/log-level", &[("host", host)], level);
    let set = |level: &'static str| call(proxy.admin, put("localhost:9901", level));
    // A page whose name leads here since it was loaded.
    let rebound = call(proxy.admin, put("evil.test:9901", "trace")).await.unwrap();
    assert_eq!(rebound.status, 403, "{}", rebound.text());
    assert_eq!(set("info,access=info").await.unwrap().status, 200);
    assert_eq!(get_user(&proxy, 2, &[]).await, 200);
    until("the line is there", || proxy.log().contains("/users/2")).await;
    assert_eq!(set("info").await.unwrap().status, 200);
    assert_eq!(get_user(&proxy, 3, &[]).await, 200);
    assert_eq!(set("loud").await.unwrap().status, 400);
    until("what was logged before is written", || {
        proxy.log().matches("log level set").count() == 2
    })
    .await;
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("/users/2")).unwrap();
    for part in [
        "method=GET",
        "status=200",
        "route=\"users/by-id\"",
        "batch=",
        "position=0",
        "wait_ms=",
        "left=\"idle\"",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!log.contains("/users/1") && !log.contains("/users/3"), "{log}");
}

#[tokio::test]
async fn an_access_log_outlives_a_change_of_the_level() {
    let upstream = users().await;
    let proxy = TestProxy::with()
        .upstream(upstream.address)
        .policy(USERS)
        .arg("--access-log")
        .start()
        .await;
    for (id, level, set) in [
        (1, "debug", "debug,access=info\n"),
        (2, "info", "info,access=info\n"),
    ] {
        let answer = post(proxy.admin, "/log-level", level).await.unwrap();
        assert_eq!((answer.status, &*answer.text()), (200, set));
        assert_eq!(get_user(&proxy, id, &[]).await, 200);
        let line = format!("/users/{id}");
        until("the line is there", || proxy.log().contains(&line)).await;
    }
    // Whoever names them has the last word.
    let answer = post(proxy.admin, "/log-level", "info,access=off").await.unwrap();
    assert_eq!(&*answer.text(), "info,access=off\n");
    assert_eq!(get_user(&proxy, 3, &[]).await, 200);
    post(proxy.admin, "/log-level", "info").await.unwrap();
    assert_eq!(get_user(&proxy, 4, &[]).await, 200);
    until("the line is there", || proxy.log().contains("/users/4")).await;
    assert!(!proxy.log().contains("/users/3"), "{}", proxy.log());
}

#[tokio::test]
async fn slow_and_broken_callers_of_the_admin_endpoint_do_not_shut_it() {
    let upstream = users().await;
    let proxy = TestProxy::start(upstream.address, USERS).await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(tokio::net::TcpStream::connect(proxy.admin).await.unwrap());
    }
    let patience = Duration::from_millis(200);
    for garbage in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET",
        b"GET / HTTP/1.1\r\nhost",
        b"\r\n\r\n\r\n",
    ] {
        raw(proxy.admin, garbage, patience).await.unwrap();
    }
    assert_eq!(proxy.admin("/live").await.status, 200);
    assert_eq!(get_user(&proxy, 1, &[]).await, 200);
}

#[tokio::test]
async fn who_reads_no_answers_of_the_admin_endpoint_takes_it_from_nobody() {
    let upstream = users().await;
    let proxy = TestProxy::start(upstream.address, USERS).await;
    let mut held = unread(proxy.admin, "/metrics", 64).await.unwrap();
    for path in ["/live", "/ready", "/metrics"] {
        let answer = timeout(PATIENCE, proxy.admin(path)).await;
        assert_eq!(answer.expect("it is answered").status, 200, "{path}");
    }
    // Those whose places nobody needs, too.
    until("they are cut off", || {
        // An error is told once.
        held.retain(|stream| matches!(stream.take_error(), Ok(None)));
        held.is_empty()
    })
    .await;
}
