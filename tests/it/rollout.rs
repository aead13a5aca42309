//! Rollouts in a mesh of processes: who takes a change, what stops it, and what a restart leaves of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jitney_api::Workload;
use jitney_control_plane::store::{Recipient, place};
use jitney_tests::caller::get;
use jitney_tests::{Reply, TestControlPlane, TestProxy, TestUpstream, model, wait};
use serde_json::Value;

use crate::mesh::{batch_settings, config, policy, users};
use crate::pushed::free_ports;

/// At 50 percent the first two take a change of the policy, and the others do not.
const NODES: [&str; 4] = ["users-1", "users-3", "users-0", "users-2"];

fn staged(percent: u32, max_size: u32) -> String {
    let spec = format!("rollout: {{percent: {percent}}}");
    policy(&spec, &format!("maxSize: {max_size}"))
}

/// A sidecar of each of [`NODES`], which all run the policy; the first of them gathers so many at most.
async fn fleet(plane: &TestControlPlane, upstreams: [&TestUpstream; 4], first_takes: u32) -> Vec<TestProxy> {
    let mut fleet = Vec::new();
    for (node, upstream) in NODES.into_iter().zip(upstreams) {
        let mut settings = plane.sidecar("shop/users", node).upstream(upstream.address);
        if fleet.is_empty() {
            settings = settings.arg(format!("--max-batch-size={first_takes}"));
        }
        fleet.push(settings.start().await);
    }
    plane.until_policy("shop/users", is("Complete", 4)).await;
    fleet
}

fn is(state: &str, acked: u64) -> impl Fn(&Value) -> bool {
    move |told| told["rollout"]["state"] == state && told["sidecars"]["acked"] == acked
}

async fn max_sizes(fleet: &[TestProxy]) -> Vec<Value> {
    let mut sizes = Vec::new();
    for proxy in fleet {
        sizes.push(batch_settings(proxy).await["maxSize"].clone());
    }
    sizes
}

/// What a sidecar holds, by type, name and version.
async fn held(proxy: &TestProxy) -> Value {
    config(proxy).await["controlPlane"]["resources"].clone()
}

#[test]
fn the_nodes_are_on_both_sides() {
    let places = NODES.map(|node| {
        let workload = Workload {
            namespace: "shop".into(),
            account: "users".into(),
        };
        let node = node.into();
        place("shop/users", &Recipient { workload, node })
    });
    assert_eq!(places, [20, 42, 64, 69]);
}

#[tokio::test]
async fn a_change_goes_to_its_share_survives_a_restart_and_is_completed() {
    let users = users().await;
    let mut plane = TestControlPlane::start(&staged(100, 20)).await;
    let fleet = fleet(&plane, [&users; 4], 64).await;
    let before = [held(&fleet[2]).await, held(&fleet[3]).await];
    plane.write(&staged(50, 7));
    let told = plane.until_policy("shop/users", is("Staged", 4)).await;
    assert_eq!(told["rollout"]["staged"], 2, "{told:#}");
    let text = told["text"].as_str().unwrap();
    assert!(
        text.starts_with("Staged: 2 of 4 sidecars take generation ")
            && text.contains(" (50 %), the others keep "),
        "{text}"
    );
    assert_eq!(max_sizes(&fleet).await, [7, 7, 20, 20]);
    assert_eq!([held(&fleet[2]).await, held(&fleet[3]).await], before);
    assert_eq!(plane.metric("jitney_rollouts", "state=\"staged\"").await, 1.0);

    plane.kill();
    plane.restart().await;
    plane.until_policy("shop/users", is("Staged", 4)).await;
    assert_eq!(
        plane.metric("jitney_xds_resources_total", "").await,
        0.0,
        "everyone has what is theirs"
    );
    assert_eq!(max_sizes(&fleet).await, [7, 7, 20, 20]);

    plane.write(&staged(100, 7));
    plane.until_policy("shop/users", is("Complete", 4)).await;
    assert_eq!(max_sizes(&fleet).await, [7; 4]);
    assert_eq!(
        plane.metric("jitney_xds_resources_total", "").await,
        2.0,
        "a route for each that had not taken it"
    );
    let log = plane.log();
    for line in [
        "files read files=1 documents=2 policies=1 generation=1",
        "another generation is pushed generation=1",
        "a staged change goes on",
        "a rollout is complete",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(!log.contains("a change is staged"), "{log}");
    wait::until("all have come", || plane.log().contains("connected=4")).await;
    drop(fleet);
    wait::until("all have left", || plane.log().contains("connected=0")).await;
}

#[tokio::test]
async fn one_that_cannot_run_a_change_stops_it_for_all() {
    let users = users().await;
    let mut plane = TestControlPlane::start(&staged(50, 8)).await;
    let fleet = fleet(&plane, [&users; 4], 16).await;
    plane.write(&staged(50, 32));
    let told = plane.until_policy("shop/users", is("Stopped", 4)).await;
    let reason = told["rollout"]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("users-1 rejected route shop/users/by-id: ")
            && reason.ends_with("found 32, this sidecar takes at most 16"),
        "{reason}"
    );
    assert_eq!(max_sizes(&fleet).await, [8; 4]);
    let warnings = plane.page("/status").await["warnings"].clone();
    let warning = format!("shop/users: its rollout has stopped: {reason}");
    assert_eq!(warnings, serde_json::json!([warning]));

    plane.write(&staged(100, 32));
    plane
        .until_policy("shop/users", |told| told["rollout"]["percent"] == 100)
        .await;
    plane.kill();
    plane.restart().await;
    let again = plane.until_policy("shop/users", is("Stopped", 4)).await;
    assert_eq!(again["rollout"]["reason"], reason);
    let log = plane.log();
    assert!(
        log.contains("a rollout that had stopped stays so") && !log.contains("a change is staged"),
        "{log}"
    );
    assert_eq!(plane.metric("jitney_xds_resources_total", "").await, 0.0);
    assert_eq!(max_sizes(&fleet).await, [8; 4]);

    plane.write(&staged(100, 16));
    plane.until_policy("shop/users", is("Complete", 4)).await;
    assert_eq!(max_sizes(&fleet).await, [16; 4]);
}

/// An upstream that fails when it is told to.
async fn fragile() -> (TestUpstream, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&broken);
    let upstream = TestUpstream::start(move |seen| {
        if broken.load(Ordering::Relaxed) {
            Reply::json(500, "{}")
        } else {
            model::users(seen)
        }
    });
    (upstream.await, switch)
}

async fn call(proxy: &TestProxy, status: u16) {
    call_at(proxy.address, status).await;
}

async fn call_at(address: SocketAddr, status: u16) {
    for id in 0..30 {
        let answer = get(address, &format!("/users/{id}")).await.unwrap();
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn calls_that_fail_since_a_change_stop_it_where_it_was_made_and_nowhere_else() {
    let ((first, first_breaks), (last, last_breaks)) = (fragile().await, fragile().await);
    let users = users().await;
    let plane = TestControlPlane::start(&staged(50, 8)).await;
    let fleet = fleet(&plane, [&first, &users, &users, &last], 64).await;
    call(&fleet[0], 200).await;
    call(&fleet[3], 200).await;
    // A change that all take, so that each has something to compare with.
    plane.write(&staged(100, 6));
    let is_new = |told: &Value| told["generation"] != 1 && is("Complete", 4)(told);
    plane.until_policy("shop/users", is_new).await;
    call(&fleet[0], 200).await;
    plane.write(&staged(50, 4));
    plane.until_policy("shop/users", is("Staged", 4)).await;

    // One that took no part says that its calls fail, too.
    last_breaks.store(true, Ordering::Relaxed);
    call(&fleet[3], 500).await;
    wait::until("it is told", || {
        plane
            .log()
            .contains("calls fail more often since a policy was applied")
    })
    .await;
    let told = plane.policy("shop/users").await;
    assert!(is("Staged", 4)(&told), "{told:#}");

    first_breaks.store(true, Ordering::Relaxed);
    call(&fleet[0], 500).await;
    let told = plane.until_policy("shop/users", is("Stopped", 4)).await;
    let reason = told["rollout"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("users-1 saw "), "{reason}");
    assert_eq!(max_sizes(&fleet).await, [6; 4]);
}

/// A service that the callers' sidecars of `web` batch calls to.
fn called(name: &str, upstream: &TestUpstream, port: u16, spec: &str) -> String {
    let address = upstream.address;
    format!(
        r#"
kind: Backend
metadata: {{name: {name}, namespace: shop}}
spec: {{endpoints: ["{address}"]}}
---
kind: Listener
metadata: {{name: to-{name}, namespace: shop}}
spec: {{address: "127.0.0.1:{port}", backend: {name}, workload: web}}
---
kind: BatchPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{kind: Backend, name: {name}}}]
  placement: Outbound
  {spec}
  routes:
  - name: by-id
    match: {{method: GET, path: {{type: Template, value: "/users/{{id}}"}}}}
    codec: {{keyedGet: {{batchPath: "/users?ids={{id}}", key: /id}}}}
"#
    )
}

#[tokio::test]
async fn of_two_policies_that_change_together_only_the_one_whose_calls_fail_stops() {
    let ((good, _), (bad, breaks)) = (fragile().await, fragile().await);
    let ports: [u16; 2] = free_ports();
    let documents = |percent: u32, attempts: u32| {
        let spec =
            format!("rollout: {{percent: {percent}}}\n  traffic: {{timeouts: {{request: {attempts}s}}}}");
        let of = |name, upstream, port| called(name, upstream, port, &spec);
        format!("{}---{}", of("good", &good, ports[0]), of("bad", &bad, ports[1]))
    };
    let addresses = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let plane = TestControlPlane::start(&documents(100, 10)).await;
    let _web = plane.sidecar("shop/web", "web-1").pushed().start().await;
    let until = async |state: &'static str, after: &Value| {
        for name in ["shop/good", "shop/bad"] {
            let is_new = |told: &Value| told["version"] != *after && is(state, 1)(told);
            plane.until_policy(name, is_new).await;
        }
        plane.policy("shop/bad").await["version"].clone()
    };
    let first = until("Complete", &Value::Null).await;
    for address in addresses {
        call_at(address, 200).await;
    }
    // A change that all take, so that there is something to compare with.
    plane.write(&documents(100, 20));
    let second = until("Complete", &first).await;
    for address in addresses {
        call_at(address, 200).await;
    }
    plane.write(&documents(99, 30));
    until("Staged", &second).await;
    breaks.store(true, Ordering::Relaxed);
    call_at(addresses[0], 200).await;
    call_at(addresses[1], 500).await;
    let told = plane.until_policy("shop/bad", is("Stopped", 1)).await;
    let reason = told["rollout"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("web-1 saw "), "{reason}");
    let told = plane.policy("shop/good").await;
    assert!(is("Staged", 1)(&told), "{told:#}");
    assert_eq!(told["findings"]["sidecars"], 0);
}
