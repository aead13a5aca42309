//! Calls stay in the sidecar's zone while enough of it is fit.

use std::time::Duration;

use jitney_tests::caller::get;
use jitney_tests::wait::PATIENCE;
use jitney_tests::{Reply, TestControlPlane, TestProxy, TestUpstream};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use crate::pushed::free_ports;

/// An endpoint of a zone, on a runtime of its own: to end that is to kill it.
struct Zone {
    runtime: Option<Runtime>,
    upstream: TestUpstream,
}

impl Zone {
    async fn start(name: &'static str) -> Self {
        let runtime = Runtime::new().unwrap();
        let upstream = runtime.spawn(TestUpstream::start(move |_| Reply::json(200, name)));
        Self {
            upstream: upstream.await.unwrap(),
            runtime: Some(runtime),
        }
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A listener and a backend in two zones.
fn documents(port: u16, near: &Zone, far: &Zone) -> String {
    let (near, far) = (near.upstream.address, far.upstream.address);
    format!(
        r#"
kind: Listener
metadata: {{name: to-users, namespace: shop}}
spec: {{address: "127.0.0.1:{port}", backend: users, workload: orders}}
---
kind: Backend
metadata: {{name: users, namespace: shop}}
spec:
  endpoints:
  - {{address: "{far}", zone: west}}
  - {{address: "{near}", zone: east}}
---
kind: BatchPolicy
metadata: {{name: users, namespace: shop}}
spec:
  placement: Outbound
  targetRefs: [{{kind: Backend, name: users}}]
  traffic:
    loadBalancer: {{type: RoundRobin, trafficDistribution: PreferSameZone}}
    retry: {{attempts: 1, on: [connect-failure, reset]}}
"#
    )
}

/// Who answers a call.
async fn answers(proxy: &TestProxy) -> String {
    let answer = get(proxy.address, "/").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text()
}

async fn stays_and_leaves(proxy: &TestProxy, near: Zone) {
    for _ in 0..10 {
        assert_eq!(answers(proxy).await, "east");
    }
    let shown: Value = serde_json::from_str(&proxy.admin("/backends").await.text()).unwrap();
    let endpoints = shown["backends"][0]["endpoints"].as_array().unwrap();
    let zones: Vec<&Value> = endpoints.iter().map(|endpoint| &endpoint["zone"]).collect();
    assert_eq!(zones, ["east", "west"]);
    // Nothing listens there any more: calls are tried in the other zone, and then begin there.
    drop(near);
    for _ in 0..10 {
        assert_eq!(answers(proxy).await, "west");
    }
}

#[tokio::test]
async fn calls_stay_in_the_zone_while_it_serves_them() {
    let (near, far) = (Zone::start("east").await, Zone::start("west").await);
    let settings = TestProxy::with().config(documents(0, &near, &far));
    let proxy = settings.arg("--zone").arg("east").start().await;
    stays_and_leaves(&proxy, near).await;
}

#[tokio::test]
async fn zones_are_pushed_with_the_endpoints() {
    let (near, far) = (Zone::start("east").await, Zone::start("west").await);
    let [port] = free_ports();
    let plane = TestControlPlane::start(&documents(port, &near, &far)).await;
    let settings = plane.sidecar("shop/orders", "orders").pushed();
    let proxy = settings.arg("--zone").arg("east").start().await;
    let end = Instant::now() + PATIENCE;
    while !proxy.admin("/config").await.text().contains("PreferSameZone") {
        assert!(Instant::now() < end, "the policy did not come");
        sleep(Duration::from_millis(10)).await;
    }
    stays_and_leaves(&proxy, near).await;
}

#[tokio::test]
async fn a_sidecar_that_knows_no_zone_calls_all() {
    let (near, far) = (Zone::start("east").await, Zone::start("west").await);
    let settings = TestProxy::with().config(documents(0, &near, &far));
    // As on a node without a label of it.
    let proxy = settings.arg("--zone").arg("").start().await;
    let (one, other) = (answers(&proxy).await, answers(&proxy).await);
    assert_ne!(one, other);
}
