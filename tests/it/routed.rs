//! Policies for rules of HTTPRoutes at a real sidecar: what a control plane in Kubernetes pushes of them, without
//! the cluster. The sidecar finds it on its disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use jitney_api::push::config::{Kept, Snapshot};
use jitney_api::push::{Catalog, Held, ServiceEndpoint, ServicePort, resources_of};
use jitney_api::{Documents, MeshRoute, Protocol, RouteKind, Sources, Workload};
use jitney_tests::caller::{call, post, request};
use jitney_tests::{TestControlPlane, TestProxy, TestUpstream, model};
use serde_json::json;
use tokio::task::JoinSet;

use crate::pushed::free_ports;

/// The calls of the second version are gathered, by the sidecar of whoever makes them.
const POLICY: &str = r#"
kind: BatchPolicy
metadata: {name: users, namespace: shop}
spec:
  placement: Outbound
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: users, sectionName: second}]
  routes:
  - name: by-id
    match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
    batch: {maxSize: 20, dispatch: Fixed, timeout: 20ms}
"#;

/// Calls to users of the second version belong to one rule, all others to another.
fn route() -> MeshRoute {
    let version = json!([{"name": "X-Version", "value": "2"}]);
    let below = json!({"type": "PathPrefix", "value": "/users"});
    let spec = json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "users", "port": 80}],
        "rules": [
            {"name": "any", "matches": [{"path": below}]},
            {"name": "second", "matches": [{"path": below, "headers": version}]},
            {"name": "me", "matches": [{"path": {"type": "Exact", "value": "/users/me"}}]},
        ],
    });
    MeshRoute::read(
        RouteKind::HTTPRoute,
        &json!({"metadata": {"name": "users"}, "spec": spec}),
    )
}

fn catalog(users: &TestUpstream) -> Catalog {
    let port = ServicePort {
        name: "http".to_owned(),
        number: 80,
        addresses: vec![],
        protocol: Protocol::Auto,
        endpoints: vec![ServiceEndpoint {
            address: users.address,
            zone: None,
            sidecar: None,
            is_serving: true,
        }],
    };
    let routes = BTreeMap::from([("users".to_owned(), route())]);
    Catalog {
        namespace: "shop".to_owned(),
        services: BTreeMap::from([("users".to_owned(), vec![port])]),
        sidecars: BTreeMap::new(),
        unserved: BTreeMap::new(),
        routes: BTreeMap::from([(RouteKind::HTTPRoute, routes)]),
    }
}

/// Has on disk what the sidecar of orders would have been pushed.
fn keep(folder: &Path, catalog: &Catalog, port: u16) {
    let listener = format!(
        "---\nkind: Listener\nmetadata: {{name: out, namespace: shop}}\nspec: {{address: '127.0.0.1:{port}', \
         backend: users, workload: orders}}\n"
    );
    let documents = Documents::read(&Sources::inline("shop.yaml", &(POLICY.to_owned() + &listener)));
    let orders = Workload {
        namespace: "shop".to_owned(),
        account: "orders".to_owned(),
    };
    let pushed = resources_of(&documents, catalog).pushed.into_iter();
    let own = pushed.filter(|one| one.readers.include(&orders, "orders"));
    let kept = own.map(|one| Kept {
        type_url: one.kind.type_url().to_owned(),
        name: one.name.to_string(),
        version: one.held.version.to_string(),
        content: one.held.content,
    });
    let snapshot = Held::of(&Snapshot {
        workload: orders.to_string(),
        resources: kept.collect(),
    });
    let mut made = fs::DirBuilder::new();
    made.recursive(true).mode(0o700).create(folder).unwrap();
    let file = folder.join(format!("{}.snapshot", snapshot.version));
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .unwrap();
    std::io::Write::write_all(&mut file, &snapshot.content).unwrap();
}

async fn ten_calls(proxy: &TestProxy, version: &'static str) {
    let mut calls = JoinSet::new();
    for id in 0..10 {
        let address = proxy.address;
        calls.spawn(async move {
            let headers = [("x-version", version)];
            let request = request("GET", &format!("/users/{id}"), &headers, "");
            (id, call(address, request).await)
        });
    }
    for (id, answer) in calls.join_all().await {
        assert_eq!(answer.unwrap().text(), model::user(&id.to_string(), ""));
    }
}

#[tokio::test]
async fn calls_of_a_rule_are_batched_and_others_pass_through() {
    let users = TestUpstream::start(model::users).await;
    let [port] = free_ports();
    let mut plane = TestControlPlane::start("").await;
    let settings = plane.sidecar("shop/orders", "orders").pushed();
    keep(&plane.folder().join("snapshots/orders"), &catalog(&users), port);
    plane.kill();
    let proxy = settings.start().await;
    assert_eq!(proxy.address.port(), port);

    ten_calls(&proxy, "2").await;
    let seen = users.seen();
    assert!(
        seen.len() < 10 && seen.iter().any(|one| one.target.starts_with("/users?ids=")),
        "{seen:?}\n{}",
        proxy.log()
    );
    users.forget();
    ten_calls(&proxy, "1").await;
    let mut targets: Vec<String> = users.seen().into_iter().map(|one| one.target).collect();
    targets.sort();
    assert_eq!(
        targets,
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|id| format!("/users/{id}"))
    );

    // Of a more precise rule, although the policy's own match would have it.
    users.forget();
    let me = request("GET", "/users/me", &[("x-version", "2")], "");
    assert_eq!(call(proxy.address, me).await.unwrap().status, 200);
    let explain = |version: &str| {
        let head = format!("GET /users/me HTTP/1.1\r\nhost: users\r\nx-version: {version}\r\n\r\n");
        post(proxy.admin, "/explain", head)
    };
    let told = explain("2").await.unwrap().text();
    assert!(told.contains("bypass: no route matches"), "{told}");
}
