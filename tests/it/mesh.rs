//! The control plane and sidecars, as processes: what is pushed, what is rejected, what happens while one
//! of them is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jitney_tests::caller::get;
use jitney_tests::{Reply, TestControlPlane, TestProxy, TestUpstream, control_plane, model, wait};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A policy for the users service, with what is put in it.
pub(crate) fn policy(spec: &str, batch: &str) -> String {
    format!(
        r#"
kind: Backend
metadata: {{name: users, namespace: shop}}
spec: {{endpoints: ["127.0.0.1:9"]}}
---
kind: BatchPolicy
metadata: {{name: users, namespace: shop}}
spec:
  targetRefs: [{{kind: Backend, name: users}}]
  {spec}
  routes:
  - name: by-id
    match: {{method: GET, path: {{type: Template, value: "/users/{{id}}"}}}}
    codec: {{keyedGet: {{batchPath: "/users?ids={{id}}", key: /id}}}}
    batch: {{{batch}}}
"#
    )
}

pub(crate) async fn users() -> TestUpstream {
    TestUpstream::start(model::users).await
}

pub(crate) async fn config(proxy: &TestProxy) -> Value {
    serde_json::from_str(&proxy.admin("/config").await.text()).unwrap()
}

/// What the sidecar runs of a route's settings.
pub(crate) async fn batch_settings(proxy: &TestProxy) -> Value {
    config(proxy).await["policy"]["effective"]["documents"][0]["resource"]["spec"]["routes"][0]["batch"]
        .clone()
}

pub(crate) fn acked(count: u64) -> impl Fn(&Value) -> bool {
    move |policy| policy["sidecars"]["acked"] == count
}

/// Calls that go on until they are stopped; none may fail.
struct Calls {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    callers: JoinSet<Vec<String>>,
}

impl Calls {
    fn begin(proxy: &TestProxy) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let (stop, made, address) = (Arc::clone(&stop), Arc::clone(&made), proxy.address);
            callers.spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = made.fetch_add(1, Ordering::Relaxed) % 1000;
                    match get(address, &format!("/users/{id}")).await {
                        Ok(answer) if answer.text() == model::user(&id.to_string(), "") => {}
                        other => failed.push(format!("{caller} {id}: {other:?}")),
                    }
                }
                failed
            });
        }
        Self { stop, made, callers }
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Waits until so many more were made.
    async fn go_on(&self, more: usize) {
        let goal = self.made() + more;
        wait::until("calls went on", || self.made() >= goal).await;
    }

    /// How many were made, all of them well.
    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(failed) = self.callers.join_next().await {
            assert_eq!(failed.unwrap(), [""; 0]);
        }
        self.made()
    }
}

#[tokio::test]
async fn a_policy_whose_batches_fail_is_known_to_until_they_do_not() {
    let users = TestUpstream::start(|seen| {
        let reply = if seen.target.starts_with("/users") {
            model::users(seen)
        } else {
            Reply::json(404, "{}")
        };
        reply.after(Duration::from_millis(3))
    });
    let users = users.await;
    let good = policy("mode: Active", "maxSize: 20");
    let plane = TestControlPlane::start(&good.replace("/users?ids", "/members?ids")).await;
    let proxy = plane
        .sidecar("shop/users", "users-1")
        .upstream(users.address)
        .start()
        .await;
    let calls = Calls::begin(&proxy);
    let fails = |told: &Value| told["failingBatches"][0]["sidecars"] == 1;
    let told = plane.until_policy("shop/users", fails).await;
    let why = "batches of route by-id fail in users-1: the batch failed as a whole with status 404 Not Found";
    assert_eq!(told["failingBatches"][0]["route"], "by-id");
    assert!(told["text"].as_str().unwrap().ends_with(why), "{told:#}");
    let status = plane.page("/status").await;
    assert_eq!(status["warnings"], json!([format!("shop/users: {why}")]));
    let backends: Value = serde_json::from_str(&proxy.admin("/backends").await.text()).unwrap();
    let note = "users/by-id: its batches fail: the batch failed as a whole with status 404 Not Found";
    assert_eq!(backends["backends"][0]["notes"], json!([note]));

    plane.write(&good);
    let is_well = |told: &Value| told["failingBatches"] == json!([]) && told["sidecars"]["acked"] == 1;
    plane.until_policy("shop/users", is_well).await;
    calls.go_on(500).await;
    calls.end().await;
    assert_eq!(plane.page("/status").await["warnings"], json!([]));
}

#[tokio::test]
async fn a_policy_is_pushed_batches_and_is_known_to_run() {
    let users = users().await;
    let plane = TestControlPlane::start(&policy("mode: Active", "maxSize: 20")).await;
    let proxy = plane
        .sidecar("shop/users", "users-1")
        .upstream(users.address)
        .start()
        .await;
    let told = plane.until_policy("shop/users", acked(1)).await;
    assert_eq!(told["sidecars"]["selected"], 1, "{told:#}");
    let calls = Calls::begin(&proxy);
    wait::until("calls share batches", || {
        users
            .seen_at("/users?ids=")
            .iter()
            .any(|seen| seen.target.contains(','))
    })
    .await;
    plane.write(&policy("mode: Active", "maxSize: 7"));
    let told = plane
        .until_policy("shop/users", |told| {
            told["generation"] != json!(1) && acked(1)(told)
        })
        .await;
    assert!(
        told["text"].as_str().unwrap().starts_with("Programmed: 1 of 1"),
        "{told:#}"
    );
    assert_eq!(batch_settings(&proxy).await["maxSize"], 7);
    assert!(calls.end().await > 0);
    drop(proxy);
    plane.until_policy("shop/users", acked(0)).await;
}

#[tokio::test]
async fn a_bad_policy_is_refused_at_the_source_and_one_that_a_sidecar_cannot_run_by_that_one() {
    let users = users().await;
    let plane = TestControlPlane::start(&policy("mode: Active", "maxSize: 8")).await;
    let able = plane
        .sidecar("shop/users", "able")
        .upstream(users.address)
        .start()
        .await;
    let small = plane
        .sidecar("shop/users", "small")
        .upstream(users.address)
        .arg("--max-batch-size=16")
        .start()
        .await;
    plane.until_policy("shop/users", acked(2)).await;

    plane.write(&policy("mode: Actve", "maxSize: 9"));
    let refused = async || plane.page("/status").await["source"]["refused"].clone();
    let mut told = refused().await;
    while told == json!([]) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        told = refused().await;
    }
    let text = told.to_string();
    assert!(text.contains("mesh.yaml:10:9: spec.mode"), "{text}");
    for proxy in [&able, &small] {
        assert_eq!(batch_settings(proxy).await["maxSize"], 8);
    }

    plane.write(&policy("mode: Active", "maxSize: 32"));
    let both = |told: &Value| told["sidecars"]["rejected"] == 1 && acked(1)(told);
    let told = plane.until_policy("shop/users", both).await;
    let last = &told["sidecars"]["lastRejection"];
    assert_eq!(last["node"], "small", "{told:#}");
    let reason = last["reason"].as_str().unwrap();
    assert!(
        reason.contains("found 32, this sidecar takes at most 16"),
        "{reason}"
    );
    assert_eq!(batch_settings(&able).await["maxSize"], 32);
    assert_eq!(batch_settings(&small).await["maxSize"], 8, "its last good one");
    assert_eq!(small.metric("jitney_config_rejected_total", "").await, 1.0);
    let rejected = async || config(&small).await["controlPlane"]["rejected"].clone();
    let told = rejected().await;
    assert_eq!(told[0]["name"], "shop/users/by-id", "{told:#}");
    assert_eq!(told[0]["reason"], "found 32, this sidecar takes at most 16");

    // One that has no good one says of the policy what is wrong with its route.
    let new = plane.sidecar("shop/users", "new").upstream(users.address);
    let new = new.arg("--max-batch-size=4").start().await;
    let two = |told: &Value| {
        let last = &told["sidecars"]["lastRejection"];
        told["sidecars"]["rejected"] == 2 && last["type"] == "policy" && last["node"] == "new"
    };
    let told = plane.until_policy("shop/users", two).await;
    let last = &told["sidecars"]["lastRejection"];
    assert_eq!(last["field"], "spec.routes[0].batch.maxSize");
    assert_eq!(
        last["reason"],
        "route \"shop/users/by-id\" was rejected: found 32, this sidecar takes at most 4"
    );
    drop(new);

    plane.write(&policy("mode: Active", "maxSize: 16"));
    plane.until_policy("shop/users", acked(2)).await;
    assert_eq!(batch_settings(&small).await["maxSize"], 16);
    assert_eq!(rejected().await, json!([]));
}

#[tokio::test]
async fn a_control_plane_that_is_killed_is_not_missed_and_resends_nothing() {
    let users = users().await;
    let mut plane = TestControlPlane::start(&policy("mode: Active", "maxSize: 20")).await;
    let proxy = plane
        .sidecar("shop/users", "users-1")
        .upstream(users.address)
        .start()
        .await;
    plane.until_policy("shop/users", acked(1)).await;
    assert!(plane.metric("jitney_xds_resources_total", "").await > 0.0);
    let calls = Calls::begin(&proxy);
    calls.go_on(200).await;
    plane.kill();
    wait::until("the sidecar noticed", || {
        proxy.log().contains("what is in force stays")
    })
    .await;
    calls.go_on(200).await;
    assert_eq!(proxy.metric("jitney_control_plane_connected", "").await, 0.0);
    plane.restart().await;
    plane.until_policy("shop/users", acked(1)).await;
    calls.go_on(200).await;
    assert_eq!(
        plane.metric("jitney_xds_resources_total", "").await,
        0.0,
        "nothing changed"
    );
    assert_eq!(proxy.metric("jitney_control_plane_connected", "").await, 1.0);
    assert!(calls.end().await >= 600);
}

#[tokio::test]
async fn a_sidecar_restarts_from_disk_while_the_control_plane_is_away() {
    let users = users().await;
    let mut plane = TestControlPlane::start(&policy("mode: Active", "maxSize: 20")).await;
    let settings = || plane.sidecar("shop/users", "users-1").upstream(users.address);
    let (first, second) = (settings(), settings());
    let proxy = first.start().await;
    plane.until_policy("shop/users", acked(1)).await;
    let snapshots = plane.folder().join("snapshots/users-1");
    wait::until("the last good set is on disk", || {
        control_plane::is_kept(&snapshots)
    })
    .await;
    plane.kill();
    drop(proxy);
    let proxy = second.start().await;
    assert_eq!(config(&proxy).await["controlPlane"]["fromSnapshot"], true);
    assert_eq!(batch_settings(&proxy).await["maxSize"], 20);
    let calls = Calls::begin(&proxy);
    wait::until("calls share batches", || {
        users
            .seen_at("/users?ids=")
            .iter()
            .any(|seen| seen.target.contains(','))
    })
    .await;
    plane.restart().await;
    plane.until_policy("shop/users", acked(1)).await;
    assert_eq!(
        plane.metric("jitney_xds_resources_total", "").await,
        0.0,
        "it had everything"
    );
    assert_eq!(config(&proxy).await["controlPlane"]["fromSnapshot"], false);
    calls.end().await;
}

#[tokio::test]
async fn a_sidecar_that_never_had_a_control_plane_passes_calls_and_is_not_ready() {
    let users = users().await;
    let mut plane = TestControlPlane::start(&policy("mode: Active", "maxSize: 20")).await;
    let settings = plane.sidecar("shop/users", "users-1").upstream(users.address);
    plane.kill();
    let mut proxy = settings.spawn();
    wait::until("it listens", || proxy.log().contains("admin endpoint listening")).await;
    wait::until("it noticed", || proxy.log().contains("no control plane")).await;
    assert!(proxy.runs());
    plane.restart().await;
    proxy.ready().await;
    plane.until_policy("shop/users", acked(1)).await;
}

#[tokio::test]
async fn two_control_planes_share_the_sidecars_and_take_over_from_each_other() {
    let users = users().await;
    let mut one = TestControlPlane::start(&policy("mode: Active", "maxSize: 20")).await;
    let mut other = one.replica().await;
    let proxy = one
        .sidecar("shop/users", "users-1")
        .upstream(users.address)
        .arg("--control-plane")
        .arg(format!("https://{}", other.address))
        .start()
        .await;
    let calls = Calls::begin(&proxy);
    let at_one = one.policy("shop/users").await["sidecars"]["selected"] == 1;
    let (used, spare) = if at_one {
        (&mut one, &mut other)
    } else {
        (&mut other, &mut one)
    };
    used.until_policy("shop/users", acked(1)).await;
    assert_eq!(spare.metric("jitney_xds_resources_total", "").await, 0.0);
    used.kill();
    spare.until_policy("shop/users", acked(1)).await;
    assert_eq!(
        spare.metric("jitney_xds_resources_total", "").await,
        0.0,
        "nothing is resent"
    );
    spare.write(&policy("mode: Active", "maxSize: 9"));
    spare
        .until_policy("shop/users", |told| {
            told["generation"] != json!(1) && acked(1)(told)
        })
        .await;
    assert_eq!(batch_settings(&proxy).await["maxSize"], 9);
    calls.end().await;
    // Its certificate is good with either, and so is shown to either.
    assert!(!proxy.log().contains("is not renewed"), "{}", proxy.log());
    let status = spare.page("/status").await;
    assert_eq!(status["certificates"]["refused"], json!([]), "{}", spare.log());
}
