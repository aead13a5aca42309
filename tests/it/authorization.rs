//! Who may call: asked for every call, by what its caller has proven.

use std::time::Duration;

use jitney_tests::caller::{get, post};
use jitney_tests::{Caller, Reply, Seen, TestControlPlane, TestProxy, TestUpstream, caller, model, wait};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::pushed::free_ports;

/// Users, called by fronts and by orders. The Runtime says who may.
fn mesh(users: &TestUpstream, ports: [u16; 3], authorization: &str) -> String {
    let [inbound, front, orders] = ports;
    let service = users.address;
    format!(
        r#"
kind: Backend
metadata: {{name: users, namespace: shop}}
spec: {{endpoints: ["127.0.0.1:{inbound}"]}}
---
kind: Listener
metadata: {{name: users-inbound, namespace: shop}}
spec: {{address: "127.0.0.1:{inbound}", backend: users, local: "{service}"}}
---
kind: Listener
metadata: {{name: front-to-users, namespace: shop}}
spec: {{address: "127.0.0.1:{front}", backend: users, workload: front}}
---
kind: Listener
metadata: {{name: orders-to-users, namespace: shop}}
spec: {{address: "127.0.0.1:{orders}", backend: users, workload: orders}}
---
kind: BatchPolicy
metadata: {{name: users, namespace: shop}}
spec:
  targetRefs: [{{kind: Backend, name: users}}]
  routes:
  - name: by-id
    match: {{method: GET, path: {{type: Template, value: "/users/{{id}}"}}}}
    codec: {{keyedGet: {{batchPath: "/users?ids={{id}}", key: /id}}}}
    key: {{identity: Shared}}
    batch: {{maxSize: 8, dispatch: Fixed, timeout: 100ms}}
---
kind: Runtime
metadata: {{name: users, namespace: shop}}
spec: {{authorization: {authorization}}}
"#
    )
}

const FRONT_READS: &str =
    r#"{rules: [{name: front, from: [shop/front], methods: [GET], paths: [{value: /users}]}]}"#;

struct Mesh {
    plane: TestControlPlane,
    ports: [u16; 3],
    users: TestUpstream,
    callee: TestProxy,
    front: TestProxy,
    orders: TestProxy,
}

impl Mesh {
    async fn of(authorization: &str) -> Self {
        let users = TestUpstream::start(answer).await;
        let ports = free_ports();
        let plane = TestControlPlane::start(&mesh(&users, ports, authorization)).await;
        let [callee, front, orders] = ["users", "front", "orders"].map(|workload| {
            let settings = plane.sidecar(&format!("shop/{workload}"), workload);
            settings.pushed().start()
        });
        Self {
            callee: callee.await,
            front: front.await,
            orders: orders.await,
            plane,
            ports,
            users,
        }
    }

    async fn unauthorized(&self, mode: &str) -> f64 {
        let labels = format!("mode=\"{mode}\"");
        self.callee.metric("jitney_unauthorized_total", &labels).await
    }
}

fn answer(seen: &Seen) -> Reply {
    match seen.target.as_str() {
        "/" => Reply::json(200, "{}"),
        _ => model::users(seen),
    }
}

#[tokio::test]
async fn a_call_that_no_rule_allows_is_refused_and_joins_no_batch() {
    let mesh = Mesh::of(FRONT_READS).await;
    let mut calls = JoinSet::new();
    // They would share batches: the route says so.
    for id in 0..8_u16 {
        let (address, status) = match id % 2 {
            0 => (mesh.front.address, 200),
            _ => (mesh.orders.address, 403),
        };
        calls.spawn(async move { (status, get(address, &format!("/users/{id}")).await.unwrap()) });
    }
    for (status, answer) in calls.join_all().await {
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 403 {
            assert_eq!(answer.header("x-jitney-error"), "denied");
        }
    }
    let targets: Vec<String> = mesh.users.seen().into_iter().map(|seen| seen.target).collect();
    let is_even = |id: &str| id.parse::<u16>().unwrap() % 2 == 0;
    for target in &targets {
        let ids = target
            .trim_start_matches("/users?ids=")
            .trim_start_matches("/users/");
        assert!(ids.split(',').all(is_even), "{targets:?}");
    }
    assert_eq!(
        post(mesh.front.address, "/users/2", "{}").await.unwrap().status,
        403
    );
    for path in ["/", "/users/../", "/users//2", "/users/%2e%2e/2"] {
        assert_eq!(get(mesh.front.address, path).await.unwrap().status, 403, "{path}");
    }
    let bare = get(mesh.callee.address, "/users/2").await.unwrap();
    assert_eq!(bare.status, 403, "nothing was proven");
    for part in [
        "caller=\"spiffe://cluster.local/ns/shop/sa/orders\"",
        "caller=\"unauthenticated\"",
    ] {
        let is_told = |line: &str| line.contains("refused: no rule allows it") && line.contains(part);
        let told = || mesh.callee.log().lines().any(is_told);
        wait::until("the log says who was refused", told).await;
    }
    assert!((mesh.unauthorized("enforced").await - 10.0).abs() < 0.1);
}

#[tokio::test]
async fn rules_change_under_open_connections() {
    let mesh = Mesh::of(FRONT_READS).await;
    let mut caller = Caller::h1(mesh.orders.address).await.unwrap();
    until_told(&mut caller, 403).await;
    let everybody = r#"{rules: [{from: ["shop/*"]}]}"#;
    mesh.plane.write(&self::mesh(&mesh.users, mesh.ports, everybody));
    until_told(&mut caller, 200).await;
    mesh.plane
        .write(&self::mesh(&mesh.users, mesh.ports, "{rules: []}"));
    // Without a rule nobody may.
    until_told(&mut caller, 403).await;
}

/// Calls over one connection until a status comes.
async fn until_told(caller: &mut Caller, status: u16) {
    let end = tokio::time::Instant::now() + wait::PATIENCE;
    loop {
        let call = caller::request("GET", "/users/1", &[], "");
        let found = caller.call(call).await.unwrap().status;
        if found == status {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{found}");
    }
}

#[tokio::test]
async fn a_dry_run_serves_and_counts() {
    let authorization = FRONT_READS.replace("{rules", "{mode: DryRun, rules");
    let mesh = Mesh::of(&authorization).await;
    assert_eq!(get(mesh.front.address, "/users/2").await.unwrap().status, 200);
    for _ in 0..5 {
        assert_eq!(
            get(mesh.orders.address, "/users/2?a=b").await.unwrap().status,
            200
        );
    }
    assert!((mesh.unauthorized("dry_run").await - 5.0).abs() < 0.1);
    assert!(mesh.unauthorized("enforced").await.abs() < 0.1);
    let told = "served (DryRun): no rule allows it";
    wait::until("the log says so", || mesh.callee.log().contains(told)).await;
    let log = mesh.callee.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(told)).collect();
    // The next one would come after ten seconds.
    assert_eq!(lines.len(), 1, "{log}");
    for part in [
        "INFO",
        "sa/orders\"",
        "method=\"GET\"",
        "path=\"/users/2\"",
        "left_out=0",
    ] {
        assert!(lines[0].contains(part), "{part}: {log}");
    }
}

#[tokio::test]
async fn bytes_that_are_not_http_need_a_rule_without_methods_and_paths() {
    let mesh = Mesh::of(FRONT_READS).await;
    let sent = b"\0\0\0\x08\x04\xd2\x16\x2f";
    let answer = caller::raw(mesh.front.address, sent, Duration::from_secs(20)).await;
    assert_eq!(answer.unwrap(), b"");
    // One that is silent is not told what a server says, and may still speak HTTP.
    let mut silent = TcpStream::connect(mesh.callee.address).await.unwrap();
    let connections = mesh.users.connections();
    let heard = tokio::time::timeout(Duration::from_millis(1500), silent.read(&mut [0])).await;
    assert!(heard.is_err(), "{heard:?}");
    assert_eq!(mesh.users.connections(), connections);
    let denied = || async {
        let labels = "reason=\"denied\"";
        mesh.callee
            .metric("jitney_refused_connections_total", labels)
            .await
    };
    assert!((denied().await - 1.0).abs() < 0.1);
    let log = || mesh.callee.log();
    wait::until("the sidecar still runs", || !log().contains("panicked")).await;
}

#[tokio::test]
async fn a_faulty_rule_is_told_by_its_place() {
    let users = TestUpstream::start(answer).await;
    let bad = r#"{rules: [{from: ["shop/front", "front"], methods: [get], paths: [{value: users}]}]}"#;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.yaml");
    std::fs::write(&file, mesh(&users, [1, 2, 3], bad)).unwrap();
    let mut check = std::process::Command::new(jitney_tests::programs::program("jitney-proxy"));
    let output = check.arg("check").arg(&file).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for fault in [
        "spec.authorization.rules[0].from[1]: found \"front\", expected namespace/workload",
        "spec.authorization.rules[0].methods[0]: found \"get\"",
        "spec.authorization.rules[0].paths[0].value: found \"users\"",
    ] {
        assert!(said.contains(fault), "{fault}: {said}");
    }
}
