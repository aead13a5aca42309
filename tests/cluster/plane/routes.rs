//! A policy for a rule of an HTTPRoute: the kind is defined, edited and gone again while the control plane runs and a
//! sidecar is connected.

use std::sync::Arc;

use http::{HeaderMap, Method};
use jitney_core::route::Head;
use jitney_tests::fleet::{Common, Fleet, Member, Seen};
use jitney_tests::wait;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::rights::allow_all;
use super::{ALONE, Plane};
use crate::api::chart::installed;
use crate::gateway::Definitions;
use crate::kubectl::{Namespace, token_of_pod};
use crate::shop::condition;

const NAMESPACE: &str = "routes";

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_for_a_rule_is_in_force_while_its_kind_is_defined() {
    let _alone = ALONE.lock().await;
    installed().await;
    let namespace = Namespace::labelled(NAMESPACE, &json!({}));
    service(&namespace);
    namespace.apply(policy());
    let plane = Plane::start(NAMESPACE, "plane", &["--webhook-configuration", "rights"]);
    let fleet = sidecar(&plane).await;
    met(&fleet, &plane);
    let unknown = "the API server serves no HTTPRoutes of gateway.networking.k8s.io/v1: the CRDs of the Gateway API are \
                   not installed";
    says(&namespace, &plane, ["False", "TargetNotFound", unknown]).await;

    fleet.expect(|seen| takes(seen, "/users/7") && !takes(seen, "/users/me") && !takes(seen, "/people/7"));
    let definitions = Definitions::applied();
    namespace.apply(route("/users"));
    met(&fleet, &plane);
    says(
        &namespace,
        &plane,
        ["True", "ResolvedRefs", "all that it names is there"],
    )
    .await;
    let status = namespace.get("batchpolicy/users")["status"].take();
    assert_eq!(condition(&status, "Accepted")["status"], "True", "{status:#}");
    let ancestor = &status["ancestors"][0]["ancestorRef"];
    assert_eq!(
        *ancestor,
        json!({
            "group": "gateway.networking.k8s.io",
            "kind": "HTTPRoute",
            "namespace": NAMESPACE,
            "name": "users",
            "sectionName": "by-id",
        })
    );
    wait::until("the sidecar is told of", || {
        namespace.get("batchpolicy/users")["status"]["sidecars"]["summary"] == "1/1"
    })
    .await;

    fleet.expect(|seen| !takes(seen, "/users/7") && takes(seen, "/people/7"));
    namespace.apply(route("/people"));
    met(&fleet, &plane);

    fleet.expect(|seen| !takes(seen, "/users/7") && !takes(seen, "/people/7"));
    drop(definitions);
    met(&fleet, &plane);
    says(&namespace, &plane, ["False", "TargetNotFound", unknown]).await;
}

/// A Service, the pod behind it, which nobody runs, and its account.
fn service(namespace: &Namespace) {
    allow_all(namespace);
    let ports = |number: &str, port: u16| json!([{"name": "http", number: port}]);
    namespace.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "users"}}));
    let mut ports_of_service = ports("port", 80);
    ports_of_service[0]["targetPort"] = 8080.into();
    namespace.apply(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "users"},
        "spec": {"ports": ports_of_service},
    }));
    namespace.apply(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "users-1", "labels": {"jitney.dev/injected": "true"}},
        "spec": {
            "nodeName": "nowhere",
            "serviceAccountName": "users",
            "containers": [{"name": "nothing", "image": "nothing"}],
        },
    }));
    namespace.apply(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "users-1", "labels": {"kubernetes.io/service-name": "users"}},
        "addressType": "IPv4",
        "ports": ports("port", 8080),
        "endpoints": [{
            "addresses": ["10.244.0.5"],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": "users-1", "namespace": NAMESPACE},
        }],
    }));
}

/// For one rule of a route; any of its calls.
fn policy() -> Value {
    json!({
        "apiVersion": "jitney.dev/v1alpha1",
        "kind": "BatchPolicy",
        "metadata": {"name": "users"},
        "spec": {
            "targetRefs": [{
                "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "users", "sectionName": "by-id",
            }],
            "routes": [{"name": "rpc", "codec": {"jsonRpc": {}}}],
        },
    })
}

/// A route of a wide rule and one for a path below it.
fn route(prefix: &str) -> Value {
    let rule = |name: &str, kind: &str, path: &str| json!({"name": name, "matches": [{"path": {"type": kind, "value": path}}]});
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "users"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "users", "port": 80}],
            "rules": [rule("by-id", "PathPrefix", prefix), rule("me", "Exact", "/users/me")],
        },
    })
}

/// The pod's sidecar, which waits until it runs nothing.
async fn sidecar(plane: &Plane) -> Fleet {
    let address = plane.address("run: listening").await;
    let (folder, token) = (plane.folder(), plane.folder().join("token"));
    std::fs::write(&token, token_of_pod(NAMESPACE, "users", "users-1")).unwrap();
    let common = Common {
        control_plane: format!("https://{address}"),
        roots: folder.join("state/roots.pem"),
        any_backend: true,
    };
    let node = "users-1".to_owned();
    Fleet::start(&common, &[Member { node, token }], |seen| {
        has_port(seen) && !takes(seen, "/users/7")
    })
    .unwrap()
}

fn met(fleet: &Fleet, plane: &Plane) {
    let met = tokio::task::block_in_place(|| fleet.met(1, Instant::now()));
    drop(met.unwrap_or_else(|error| panic!("{error:#}\n{}", plane.said())));
}

fn has_port(seen: &Seen<'_>) -> bool {
    let mut ports = seen.pushed.inbound_by_port(seen.workload);
    ports.any(|port| port.number == 8080)
}

/// Whether a sidecar gathers a call that comes in.
fn takes(seen: &Seen<'_>, path: &str) -> bool {
    let mut ports = seen.pushed.inbound_by_port(seen.workload);
    let policy = ports.find(|port| port.number == 8080);
    let policy = policy.map_or_else(Arc::default, |port| port.compiled.policy);
    let uri = path.parse().unwrap();
    let head = Head {
        method: &Method::POST,
        uri: &uri,
        headers: &HeaderMap::new(),
    };
    policy.route(&head).is_some()
}

/// Waits until it is told of the policy whether what it names is there.
async fn says(namespace: &Namespace, plane: &Plane, expected: [&str; 3]) {
    let told = || {
        let status = namespace.get("batchpolicy/users")["status"].take();
        let resolved = condition(&status, "ResolvedRefs");
        ["status", "reason", "message"].map(|part| resolved[part].as_str().unwrap_or_default().to_owned())
    };
    let limit = Instant::now() + wait::PATIENCE;
    while told() != expected {
        assert!(Instant::now() < limit, "{:?}\n{}", told(), plane.said());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
