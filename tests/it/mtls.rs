//! Connections between sidecars: secured, and nobody can tell.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use http::Version;
use jitney_tests::caller::{self, get, raw, request};
use jitney_tests::{
    Caller, Reply, Seen, TestControlPlane, TestProxy, TestUpstream, Wiretap, control_plane, model, wait,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::pushed::free_ports;

pub(crate) const FRONT: &str = "spiffe://cluster.local/ns/shop/sa/front";

/// Fronts call users, whose endpoint is `endpoint`; more may be said of the backend.
pub(crate) fn mesh(users: &str, ports: [u16; 2], endpoint: &str, more: &str) -> String {
    let [inbound, outbound] = ports;
    format!(
        r#"
kind: Backend
metadata: {{name: users, namespace: shop}}
spec: {{endpoints: ["{endpoint}"], {more}}}
---
kind: Listener
metadata: {{name: users-inbound, namespace: shop}}
spec: {{address: "127.0.0.1:{inbound}", backend: users, local: "{users}"}}
---
kind: Listener
metadata: {{name: front-to-users, namespace: shop}}
spec: {{address: "127.0.0.1:{outbound}", backend: users, workload: front}}
"#
    )
}

pub(crate) const STRICT: &str =
    "---\nkind: Runtime\nmetadata: {name: users, namespace: shop}\nspec: {mtls: {mode: Strict}}\n";

const DISABLED: &str =
    "---\nkind: Runtime\nmetadata: {name: users, namespace: shop}\nspec: {mtls: {mode: Disabled}}\n";

pub(crate) async fn start(plane: &TestControlPlane, workload: &str, node: &str) -> TestProxy {
    let settings = plane.sidecar(&format!("shop/{workload}"), node);
    settings.pushed().start().await
}

pub(crate) fn echo(seen: &Seen) -> Reply {
    Reply::json(200, format!("{} {}", seen.target, seen.text()))
}

/// A caller's sidecar, a callee's, and the wire between them.
struct Mesh {
    plane: TestControlPlane,
    callee: TestProxy,
    caller: TestProxy,
    wire: Wiretap,
}

impl Mesh {
    async fn of(service: &str, backend: &str, more: &str) -> Self {
        let ports = free_ports();
        let inbound = std::net::SocketAddr::from(([127, 0, 0, 1], ports[0]));
        let wire = Wiretap::to(inbound).await;
        let documents = mesh(service, ports, &wire.address.to_string(), backend);
        let plane = TestControlPlane::start(&format!("{documents}{more}")).await;
        let callee = start(&plane, "users", "users-1").await;
        let caller = start(&plane, "front", "front-1").await;
        Self {
            plane,
            callee,
            caller,
            wire,
        }
    }
}

#[tokio::test]
async fn calls_between_sidecars_are_secured_and_arrive_as_they_were() {
    let users = TestUpstream::start(echo).await;
    let mesh = Mesh::of(&users.address.to_string(), "workload: users", "").await;
    for mut caller in [
        Caller::h1(mesh.caller.address).await.unwrap(),
        Caller::h2(mesh.caller.address).await.unwrap(),
    ] {
        users.forget();
        let fields = [
            ("x-jitney-client-id", "spiffe://cluster.local/ns/shop/sa/admin"),
            ("x-plain", "a-plain-field"),
        ];
        let call = request("POST", "/plain-target", &fields, "a plain body");
        let answer = caller.call(call).await.unwrap();
        assert_eq!(answer.text(), "/plain-target a plain body");
        let seen = users.seen().pop().unwrap();
        assert_eq!(seen.header("x-jitney-client-id"), FRONT, "who it is was proven");
        assert_eq!(seen.header("x-plain"), "a-plain-field");
        assert_eq!(seen.header("x-jitney-version"), "");
        let expected = match caller {
            Caller::H1(_) => Version::HTTP_11,
            Caller::H2(_) => Version::HTTP_2,
        };
        assert_eq!(seen.version, expected);
    }
    assert!(mesh.wire.count() > 1000);
    for plain in [
        "plain-target",
        "a-plain-field",
        "a plain body",
        "HTTP/1.1",
        "PRI *",
    ] {
        assert!(
            !mesh.wire.has(plain.as_bytes()),
            "{plain} is to be read on the wire"
        );
    }
    let secured = mesh.caller.admin("/backends").await.text();
    assert!(secured.contains(r#""secured": "shop/users""#), "{secured}");
}

#[tokio::test]
async fn nobody_is_who_they_say() {
    let users = TestUpstream::start(echo).await;
    let mesh = Mesh::of(&users.address.to_string(), "workload: users", "").await;
    let inbound = mesh.callee.address;
    let mut caller = Caller::h1(inbound).await.unwrap();
    let fields = [("x-jitney-client-id", FRONT), ("x-jitney-version", "HTTP/1.0")];
    let answer = caller.call(request("GET", "/bare", &fields, "")).await.unwrap();
    assert_eq!(
        answer.status, 200,
        "bare calls are let in where nothing else is said"
    );
    let seen = users.seen().pop().unwrap();
    assert!(!seen.headers.contains_key("x-jitney-client-id"), "{seen:?}");
}

#[tokio::test]
async fn a_strict_port_takes_secured_calls_and_no_others() {
    let users = TestUpstream::start(echo).await;
    let mesh = Mesh::of(&users.address.to_string(), "mtls: Strict", STRICT).await;
    assert_eq!(get(mesh.caller.address, "/in").await.unwrap().status, 200);
    let bare = get(mesh.callee.address, "/bare").await;
    assert!(bare.is_err(), "{bare:?}");
    // One that is silent is not let wait for a server's greeting, either.
    let mut silent = TcpStream::connect(mesh.callee.address).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    let refused = "reason=\"not_secured\"";
    let count = mesh
        .callee
        .metric("jitney_refused_connections_total", refused)
        .await;
    assert!((count - 2.0).abs() < 0.1, "{count}");
    assert_eq!(users.seen().len(), 1);
    let told = "refused: the caller shows no certificate caller=\"unauthenticated\" peer=127.0.0.1:";
    wait::until("the log says so", || mesh.callee.log().contains(told)).await;
}

#[tokio::test]
async fn somebody_else_at_the_endpoint_gets_nothing() {
    let users = TestUpstream::start(echo).await;
    let mesh = Mesh::of(&users.address.to_string(), "workload: orders", "").await;
    let answer = get(mesh.caller.address, "/secret").await.unwrap();
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(users.seen().len(), 0);
    let expected = "found spiffe://cluster.local/ns/shop/sa/users, expected a sidecar of shop/orders";
    wait::until("the log says who it was", || mesh.caller.log().contains(expected)).await;
}

#[tokio::test]
async fn bytes_that_are_not_http_are_secured_too_and_either_side_may_speak_first() {
    for greets in [true, false] {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = service.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            let mut served = Vec::new();
            // One that asks who speaks first may come and go.
            loop {
                let (mut stream, _) = service.accept().await.unwrap();
                if greets {
                    stream.write_all(b"a plain greeting\n").await.unwrap();
                }
                stream.read_to_end(&mut served).await.unwrap();
                if !served.is_empty() {
                    stream.write_all(b"a plain goodbye\n").await.unwrap();
                    return served;
                }
            }
        });
        let mesh = Mesh::of(&address, "workload: users", "").await;
        let mut client = TcpStream::connect(mesh.caller.address).await.unwrap();
        if greets {
            let mut greeting = [0; 17];
            client.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"a plain greeting\n");
        }
        client.write_all(b"\0\0\0\x08some plain bytes").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "a plain goodbye\n", "the other half stayed open");
        assert_eq!(serving.await.unwrap(), b"\0\0\0\x08some plain bytes");
        assert!(!mesh.wire.has(b"plain"), "it is to be read on the wire");
    }
}

#[tokio::test]
async fn callers_of_two_workloads_share_no_batch() {
    let users = TestUpstream::start(model::users).await;
    let ports: [u16; 3] = free_ports();
    let [inbound, outbound, other] = ports;
    let more = format!(
        r#"---
kind: Listener
metadata: {{name: orders-to-users, namespace: shop}}
spec: {{address: "127.0.0.1:{other}", backend: users, workload: orders}}
---
kind: BatchPolicy
metadata: {{name: users, namespace: shop}}
spec:
  targetRefs: [{{kind: Backend, name: users}}]
  routes:
  - name: by-id
    match: {{method: GET, path: {{type: Template, value: "/users/{{id}}"}}}}
    codec: {{keyedGet: {{batchPath: "/users?ids={{id}}", key: /id}}}}
    batch: {{maxSize: 4, dispatch: Fixed, timeout: 1s}}
"#
    );
    let service = users.address.to_string();
    let endpoint = format!("127.0.0.1:{inbound}");
    let documents = mesh(&service, [inbound, outbound], &endpoint, "");
    let plane = TestControlPlane::start(&format!("{documents}{more}")).await;
    let _callee = start(&plane, "users", "users-1").await;
    let front = start(&plane, "front", "front-1").await;
    let orders = start(&plane, "orders", "orders-1").await;
    let mut calls = JoinSet::new();
    for id in 0..8_u16 {
        let address = if id % 2 == 0 {
            front.address
        } else {
            orders.address
        };
        calls.spawn(async move { (id, get(address, &format!("/users/{id}")).await) });
    }
    for (id, answer) in calls.join_all().await {
        assert_eq!(answer.unwrap().text(), model::user(&id.to_string(), ""));
    }
    let batches = users.seen_at("/users?ids=");
    assert_eq!(batches.len(), 2, "{batches:?}");
    for batch in batches {
        let ids = batch.target.trim_start_matches("/users?ids=").split(',');
        let mut odd: Vec<bool> = ids.map(|id| id.parse::<u16>().unwrap() % 2 == 1).collect();
        odd.dedup();
        let name = if odd == [true] { "orders" } else { "front" };
        assert_eq!(odd.len(), 1, "{}", batch.target);
        let expected = format!("spiffe://cluster.local/ns/shop/sa/{name}");
        assert_eq!(batch.header("x-jitney-client-id"), expected);
    }
}

#[tokio::test]
async fn a_workload_has_one_budget_whatever_credentials_its_calls_carry() {
    let users = TestUpstream::start(echo).await;
    let limit = r#"---
kind: BatchPolicy
metadata: {name: users, namespace: shop}
spec:
  targetRefs: [{kind: Backend, name: users}]
  traffic: {rateLimit: {requestsPerSecond: 0.01, per: identity}}
"#;
    let mesh = Mesh::of(&users.address.to_string(), "workload: users", limit).await;
    let mut statuses = Vec::new();
    for n in 0..5 {
        let call = request("GET", "/x", &[("authorization", &n.to_string())], "");
        statuses.push(caller::call(mesh.caller.address, call).await.unwrap().status);
    }
    assert_eq!(statuses, [200, 429, 429, 429, 429]);
    // Who has proven nothing has a budget of its own, at the same address.
    assert_eq!(get(mesh.callee.address, "/x").await.unwrap().status, 200);
}

#[tokio::test]
async fn without_a_certificate_calls_are_bare_where_that_is_allowed() {
    let users = TestUpstream::start(echo).await;
    for (backend, status) in [("workload: users", 200), ("mtls: Strict", 502)] {
        let mut mesh = Mesh::of(&users.address.to_string(), backend, "").await;
        assert_eq!(get(mesh.caller.address, "/before").await.unwrap().status, 200);
        assert!(!mesh.wire.has(b"/before"));
        let snapshot = mesh.plane.folder().join("snapshots/users-1");
        wait::until("it is on disk", || control_plane::is_kept(&snapshot)).await;
        mesh.plane.kill();
        drop(mesh.callee);
        // What others may have read is no key any more: whoever starts without a control plane has none then.
        let key = snapshot.join("identity.pem");
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        mesh.callee = start(&mesh.plane, "users", "users-1").await;
        let told = "reason=\"others than its owner have access to the file, whose mode is 644";
        assert!(mesh.callee.log().contains(told), "{}", mesh.callee.log());
        let answer = get(mesh.caller.address, "/after").await.unwrap();
        assert_eq!(answer.status, status, "{backend}: {}", answer.text());
        assert_eq!(mesh.wire.has(b"/after"), status == 200);
        if status == 200 {
            let is_told = || mesh.caller.log().contains("are not secured");
            wait::until("the log says so", is_told).await;
        }
    }
}

#[tokio::test]
async fn who_secures_nothing_is_called_bare_where_that_is_allowed() {
    let users = TestUpstream::start(echo).await;
    let service = users.address.to_string();
    for (backend, status) in [("workload: users", 200), ("mtls: Strict", 502)] {
        users.forget();
        let mesh = Mesh::of(&service, backend, DISABLED).await;
        are_bare(&mesh.caller, &mesh.wire, status).await;
        // A service without a sidecar, at an address where there is to be one.
        let wire = Wiretap::to(users.address).await;
        let documents = self::mesh(&service, free_ports(), &wire.address.to_string(), backend);
        let plane = TestControlPlane::start(&documents).await;
        are_bare(&start(&plane, "front", "front-1").await, &wire, status).await;
        assert_eq!(
            users.seen().len(),
            if status == 200 { 36 } else { 0 },
            "{backend}"
        );
    }
}

/// Calls arrive so if they are served, and else not at all.
async fn are_bare(caller: &TestProxy, wire: &Wiretap, status: u16) {
    // At first of many at once, which wait for one connection.
    let mut calling = JoinSet::new();
    for _ in 0..16 {
        calling.spawn(get(caller.address, "/at-once"));
    }
    for answer in calling.join_all().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    for mut calling in [
        Caller::h1(caller.address).await.unwrap(),
        Caller::h2(caller.address).await.unwrap(),
    ] {
        let call = request("POST", "/plain-target", &[], "a plain body");
        let answer = calling.call(call).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    assert_eq!(wire.has(b"a plain body"), status == 200);
}

#[tokio::test]
async fn a_reset_is_no_clean_end_behind_two_sidecars() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = service.local_addr().unwrap().to_string();
    let mesh = Mesh::of(&address, "workload: users, protocol: TCP", "").await;
    let mut client = TcpStream::connect(mesh.caller.address).await.unwrap();
    client.write_all(b"\0some bytes").await.unwrap();
    let (mut stream, _) = service.accept().await.unwrap();
    stream.read_exact(&mut [0; 11]).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    let ended = client.read(&mut [0; 64]).await.unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_came_before_a_reply_broke_off_arrives() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = service.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = service.accept().await.unwrap();
            let read = stream.read(&mut [0; 1024]).await.unwrap();
            assert!(read > 0);
            let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nas far as this";
            stream.write_all(cut).await.unwrap();
        }
    });
    let mesh = Mesh::of(&address, "workload: users", "").await;
    for caller in [mesh.callee.address, mesh.caller.address] {
        for _ in 0..20 {
            let call = b"GET / HTTP/1.1\r\nhost: users\r\n\r\n";
            let answer = raw(caller, call, wait::PATIENCE).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.ends_with("\r\n\r\nas far as this"), "{answer}");
        }
    }
}

/// Echoes bytes, and those of calls that switch to them.
pub(crate) async fn echoing() -> String {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = service.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = service.accept().await.unwrap();
            tokio::spawn(async move {
                let mut read = [0; 1024];
                loop {
                    let length = stream.read(&mut read).await?;
                    let reply = match &read[..length] {
                        [] => return Ok::<_, std::io::Error>(()),
                        [b'G', b'E', b'T', ..] => SWITCHED,
                        bytes => bytes,
                    };
                    stream.write_all(reply).await?;
                }
            });
        }
    });
    address
}

pub(crate) const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
pub(crate) const SWITCHING: &[u8] =
    b"GET / HTTP/1.1\r\nhost: users\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

/// A connection on which something was said both ways.
pub(crate) async fn talking(address: std::net::SocketAddr, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first).await.unwrap();
    let heard = stream.read(&mut [0; 1024]).await.unwrap();
    assert!(heard > 0);
    stream
}

#[tokio::test]
async fn bytes_that_are_passed_on_end_when_the_rules_let_them_in_no_more() {
    let ports = free_ports();
    let [inbound, outbound] = ports.map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port)));
    let documents = mesh(&echoing().await, ports, &inbound.to_string(), "workload: users");
    let plane = TestControlPlane::start(&documents).await;
    let _callee = start(&plane, "users", "users-1").await;
    let _caller = start(&plane, "front", "front-1").await;
    let bytes: &[u8] = b"\0\0\0\x08some bytes";
    let mut connections = Vec::new();
    for address in [inbound, outbound] {
        for first in [bytes, SWITCHING] {
            connections.push(talking(address, first).await);
        }
    }
    let secured = connections.split_off(2);
    plane.write(&format!("{documents}{STRICT}"));
    for mut bare in connections {
        assert_eq!(bare.read(&mut [0; 64]).await.unwrap_or(0), 0, "it is strict now");
    }
    let mut left = Vec::new();
    for mut stream in secured {
        stream.write_all(b"\0still here").await.unwrap();
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 11);
        left.push(stream);
    }
    let nobody = STRICT.replace("{mtls", "{authorization: {rules: []}, mtls");
    plane.write(&format!("{documents}{nobody}"));
    for mut stream in left {
        assert_eq!(
            stream.read(&mut [0; 64]).await.unwrap_or(0),
            0,
            "nobody may call now"
        );
    }
}

#[tokio::test]
async fn c11_a_handshake_that_is_never_finished_ends_and_harms_nobody() {
    let users = TestUpstream::start(echo).await;
    let mesh = Mesh::of(&users.address.to_string(), "mtls: Strict", STRICT).await;
    assert_eq!(get(mesh.caller.address, "/first").await.unwrap().status, 200);
    // A caller's hello comes first, as one record.
    let crossed = mesh.wire.crossed();
    let length = 5 + usize::from(u16::from_be_bytes([crossed[3], crossed[4]]));
    let mut ends = JoinSet::new();
    for sent in [3, length / 2, length] {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(mesh.callee.address).await.unwrap();
            stream.write_all(&crossed[..sent]).await.unwrap();
            ends.spawn(async move {
                let mut answer = Vec::new();
                let answered = stream.read_to_end(&mut answer);
                tokio::time::timeout(wait::PATIENCE, answered).await.is_ok()
            });
        }
    }
    assert_eq!(get(mesh.caller.address, "/beside").await.unwrap().status, 200);
    assert!(ends.join_all().await.iter().all(|ended| *ended));
    assert_eq!(get(mesh.caller.address, "/after").await.unwrap().status, 200);
}
