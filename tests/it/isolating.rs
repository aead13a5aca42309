//! Calls that make batches fail, again and again: the others never hear of it, and the upstream hardly.

use std::time::Duration;

use http::Request;
use jitney_tests::caller::{Body, request};
use jitney_tests::{Reply, Route, Seen, TestProxy, TestUpstream, policy};

use crate::shared::together;

/// A user as this service writes it.
fn user(id: u64) -> String {
    format!(r#"{{"id":{id},"name":"user {id}"}}"#)
}

fn asked(seen: &Seen) -> &str {
    let target = seen.target.trim_start_matches("/users");
    target
        .strip_prefix("?ids=")
        .unwrap_or_else(|| target.trim_start_matches('/'))
}

/// A service that reads ids as numbers, so that it knows `007` as 7.
fn reading_numbers(seen: &Seen) -> Reply {
    let ids = asked(seen).split(',').map(|id| id.parse().unwrap());
    let users: Vec<String> = ids.map(user).collect();
    let body = if seen.target.contains('?') {
        format!("[{}]", users.join(","))
    } else {
        users[0].clone()
    };
    Reply::json(200, body).after(Duration::from_millis(3))
}

/// A service that refuses a whole list for one id that is no number.
fn refusing_lists(seen: &Seen) -> Reply {
    let parsed: Vec<Option<u64>> = asked(seen).split(',').map(|id| id.parse().ok()).collect();
    let reply = match (
        seen.target.contains('?'),
        parsed.iter().copied().collect::<Option<Vec<u64>>>(),
    ) {
        (true, None) => Reply::json(400, r#"{"error":"an id in the list is no number"}"#),
        (false, None) => Reply::json(404, r#"{"error":"no such user"}"#),
        (true, Some(ids)) => {
            let users: Vec<String> = ids.into_iter().map(user).collect();
            Reply::json(200, format!("[{}]", users.join(",")))
        }
        (false, Some(ids)) => Reply::json(200, user(ids[0])),
    };
    reply.after(Duration::from_millis(3))
}

fn get(id: &str) -> Request<Body> {
    request("GET", &format!("/users/{id}"), &[], "")
}

/// Waves of calls, one in ten of them odd; every answer is the one of a direct call.
async fn waves(service: fn(&Seen) -> Reply, odd: impl Fn(usize) -> String) -> (TestProxy, usize) {
    let upstream = TestUpstream::start(service).await;
    // One batch at a time, so that calls gather.
    let route = Route::users().line("batch: {dispatch: Eager, maxSize: 16}");
    let proxy = TestProxy::start(upstream.address, &policy::active(&[route])).await;
    let mut calls = 0;
    for wave in 0..20 {
        let id = |n: usize| match (wave * 40 + n) % 10 {
            3 => odd(wave * 40 + n),
            _ => (n + 1).to_string(),
        };
        let ids: Vec<String> = (0..40).map(id).collect();
        calls += ids.len();
        let answers = together(proxy.address, ids.iter().map(|id| get(id)).collect()).await;
        let mut direct = upstream.seen()[0].clone();
        for (id, answer) in ids.iter().zip(answers) {
            direct.target = format!("/users/{id}");
            let direct = service(&direct);
            let found = (answer.status, answer.text());
            let wanted = (direct.status, String::from_utf8_lossy(&direct.body).into_owned());
            assert_eq!(found, wanted, "wave {wave}, /users/{id}");
        }
    }
    let extra = proxy.metric("jitney_bisect_calls_total", "").await;
    let bound = f64::from(u32::try_from(calls).unwrap()) / 5.0;
    assert!(extra <= bound, "{extra} extra calls for {calls}");
    let (saved, made) = (
        proxy.metric("jitney_upstream_calls_saved_total", "").await,
        upstream.seen().len(),
    );
    let balance = f64::from(u32::try_from(calls).unwrap()) - f64::from(u32::try_from(made).unwrap());
    assert_eq!(
        saved - extra,
        balance,
        "what is told to be saved, less what isolation cost"
    );
    (proxy, made)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_the_upstream_knows_otherwise_is_remembered() {
    let (proxy, upstream_calls) = waves(reading_numbers, |_| "007".to_owned()).await;
    let held = proxy
        .metric("jitney_bypass_total", "reason=\"quarantined\"")
        .await;
    assert!(held >= 40.0, "{held} of 80 calls went alone");
    // How many meet in a batch is the machine's affair: most do, and none would if the name broke each of them.
    assert!(upstream_calls < 600, "{upstream_calls} upstream calls for 800");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_batches_fail_only_what_can_be_taken_apart_travels_together() {
    let (_, upstream_calls) = waves(refusing_lists, |n| format!("nobody-{n}")).await;
    assert!(
        upstream_calls <= 960,
        "{upstream_calls} upstream calls for 800 and a fifth"
    );
}
