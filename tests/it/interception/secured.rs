//! Strict mTLS between two hosts: clients and services as they are, and nothing but TLS on the wire.

use jitney_tests::wait::until;
use jitney_tests::{Host, Process, Reply, Seen, TestUpstream, model};

use super::hosts::{Mesh, output, says, told};
use super::services::Served;

/// What else is there, beside what the README shows.
const MORE: &str = r#"---
kind: Backend
metadata: {name: redis, namespace: shop}
spec: {endpoints: ["10.77.0.2:6379"], mtls: Strict, workload: users}
---
kind: Backend
metadata: {name: postgresql, namespace: shop}
spec: {endpoints: ["10.77.0.2:5432"], mtls: Strict, workload: users}
---
kind: Backend
metadata: {name: mariadb, namespace: shop}
spec: {endpoints: ["10.77.0.2:3306"], mtls: Strict, workload: users}
---
kind: BatchPolicy
metadata: {name: users, namespace: shop}
spec:
  targetRefs: [{kind: Backend, name: users}]
  mode: Active
  routes:
  - name: by-id
    match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
    batch: {dispatch: Fixed, maxSize: 8, timeout: 300ms}
"#;

fn documents() -> String {
    let section = crate::readme::section("Who calls, and who may");
    crate::readme::blocks(&section, "yaml")[0].clone() + MORE
}

/// What crosses the wire, as the kernel sees it there.
struct Capture {
    process: Process,
    file: tempfile::NamedTempFile,
}

impl Capture {
    async fn start(mesh: &Mesh) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut python = mesh.network.command(Host::B, "python3");
        python.args(["-c", CAPTURE]).arg(file.path());
        let process = Process::run("the capture", python);
        until("it captures", || process.log().contains("capturing")).await;
        Self { process, file }
    }

    /// Everything so far.
    fn frames(self) -> Vec<u8> {
        drop(self.process);
        std::fs::read(self.file.path()).unwrap()
    }
}

const CAPTURE: &str = "
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(('wire', 0))
print('capturing', file=sys.stderr, flush=True)
with open(sys.argv[1], 'wb', buffering=0) as kept:
    while True:
        kept.write(wire.recv(65536))
";

/// A page whose script calls six times at once, as a browser does at most over HTTP/1.1; and what it asks for.
const PAGE: &str = "<!doctype html><body>loading<script>
const calls = [0, 1, 2, 3, 4, 5].map(id => fetch(`/users/${id}`).then(reply => reply.text()))
Promise.all(calls).then(replies => { document.body.textContent = replies.join(' ') })
</script>";

fn page_or_users(seen: &Seen) -> Reply {
    if seen.target == "/users/of/a/page" {
        return Reply::json(200, PAGE).header("content-type", "text/html");
    }
    model::users(seen)
}

/// A real browser shows what its page asked for.
async fn browse(mesh: &Mesh) {
    let script = "HOME=$(mktemp -d) exec chromium-headless-shell --no-sandbox --disable-gpu --disable-dev-shm-usage \
        --virtual-time-budget=20000 --dump-dom http://10.77.0.2:8080/users/of/a/page";
    let shown = told(&mesh.call("sh", &["-c", script]).await);
    for id in 0..6 {
        let direct = model::user(&id.to_string(), "");
        assert!(shown.contains(&direct), "{direct} is missing: {shown}");
    }
}

#[tokio::test]
async fn everything_works_unchanged_and_the_wire_shows_tls_only() {
    let mesh = Mesh::secured(&documents()).await;
    let users = mesh.network.listen(Host::B, "[::]:8080");
    let users = TestUpstream::start_on(users, page_or_users);
    let databases = [
        Served::redis(&mesh).await,
        Served::postgresql(&mesh).await,
        Served::mariadb(&mesh).await,
    ];
    mesh.is_ready(Host::A).await;
    mesh.is_ready(Host::B).await;
    let capture = Capture::start(&mesh).await;
    for (to, version) in [
        ("10.77.0.2", "--http1.1"),
        ("[fd77::2]", "--http2-prior-knowledge"),
    ] {
        users.forget();
        let urls: Vec<String> = (0..8).map(|id| format!("http://{to}:8080/users/{id}")).collect();
        let line = "--silent --parallel --parallel-immediate --max-time 20";
        let mut line: Vec<&str> = line.split(' ').chain([version]).collect();
        line.extend(urls.iter().map(String::as_str));
        let said = told(&mesh.call("curl", &line).await);
        for id in 0..8 {
            let direct = model::user(&id.to_string(), "");
            assert!(said.contains(&direct), "{direct} is missing: {said}");
        }
        let batches = users.seen_at("/users?ids=");
        assert!(
            !batches.is_empty() && users.seen().len() < 8,
            "{:?}",
            users.seen()
        );
        let front = "spiffe://cluster.local/ns/shop/sa/front";
        assert!(
            batches
                .iter()
                .all(|one| one.header("x-jitney-client-id") == front)
        );
    }
    let post = "-sS --max-time 20 -d {} http://10.77.0.2:8080/users/1";
    let post: Vec<&str> = post.split(' ').collect();
    assert_eq!(told(&mesh.call("curl", &post).await), "jitney: denied\n");
    users.forget();
    browse(&mesh).await;
    assert!(!users.seen_at("/users?ids=").is_empty(), "{:?}", users.seen());
    for database in &databases {
        database.answers(&mesh).await;
    }
    let frames = capture.frames();
    assert!(frames.len() > 10_000, "{} bytes", frames.len());
    let is_on_the_wire = |text: &str| frames.windows(text.len()).any(|window| window == text.as_bytes());
    // ALPN stands in the hello.
    assert!(is_on_the_wire("jitney-h2"));
    for plain in [
        "/users",
        "HTTP/1.1",
        "PRI *",
        "shared taxi",
        "jitney\0database",
        "select",
        "MariaDB",
    ] {
        assert!(!is_on_the_wire(plain), "{plain:?} is to be read on the wire");
    }
}

#[tokio::test]
async fn a_caller_without_a_sidecar_gets_nothing() {
    let mesh = Mesh::secured(&documents()).await;
    let users = mesh.network.listen(Host::B, "[::]:8080");
    let users = TestUpstream::start_on(users, model::users);
    mesh.is_ready(Host::B).await;
    // Root's connections are spared by the rules, and leave as they are.
    let mut curl = mesh.network.command(Host::A, "curl");
    curl.args(["-sS", "--max-time", "10", "http://10.77.0.2:8080/users/7"]);
    let bare = output(curl).await;
    assert!(!bare.status.success(), "{}", told(&bare));
    let metrics = mesh.metrics(Host::B).await;
    says(
        &metrics,
        "jitney_refused_connections_total{reason=\"not_secured\"} 1",
    );
    assert_eq!(users.seen().len(), 0);
}

/// Calls over one connection until it is told something else than 200.
const KEEP_CALLING: &str = "
import http.client
connection = http.client.HTTPConnection('10.77.0.2', 8080, timeout=20)
for _ in range(100000):
    connection.request('GET', '/users/7')
    reply = connection.getresponse()
    reply.read()
    if reply.status != 200:
        print(reply.status)
        break
";

#[tokio::test]
async fn a_bare_connection_is_served_no_longer_once_its_port_is_strict() {
    let strict = documents();
    let before = strict.replace("mtls: {mode: Strict,", "mtls: {mode: Permissive,");
    assert_ne!(before, strict);
    // Whoever it is may read.
    let [before, strict] = [before, strict].map(|text| text.replace("from: [shop/front], ", ""));
    let mesh = Mesh::secured(&before).await;
    let users = mesh.network.listen(Host::B, "[::]:8080");
    let users = TestUpstream::start_on(users, model::users);
    mesh.is_ready(Host::B).await;
    let mut calling = mesh.network.command(Host::A, "python3");
    calling.args(["-c", KEEP_CALLING]);
    let calling = tokio::spawn(output(calling));
    until("calls are served", || !users.seen().is_empty()).await;
    mesh.write(&strict);
    assert_eq!(told(&calling.await.unwrap()), "403\n");
}

/// Those of a primary and its replica, or of a StatefulSet's members.
#[tokio::test]
async fn whoever_names_an_endpoint_gets_no_other() {
    const STORE: &str = r#"---
kind: Backend
metadata: {name: store, namespace: shop}
spec: {endpoints: ["10.77.0.2:7001", "10.77.0.2:7002"], mtls: Strict, workload: users}
"#;
    let mesh = Mesh::secured(&(documents() + STORE)).await;
    let ports = [7001, 7002];
    let _members = ports.map(|port| {
        let listener = mesh.network.listen(Host::B, &format!("[::]:{port}"));
        TestUpstream::start_on(listener, move |_| Reply::json(200, port.to_string()))
    });
    mesh.is_ready(Host::A).await;
    mesh.is_ready(Host::B).await;
    for port in ports {
        let url = format!("http://10.77.0.2:{port}/users/[1-12]");
        // A connection each: one that goes on is not led elsewhere anyway.
        let line = ["-sS", "--max-time", "20", "-H", "connection: close", &*url];
        let said = told(&mesh.call("curl", &line).await);
        assert_eq!(said, port.to_string().repeat(12));
    }
    let metrics = mesh.metrics(Host::A).await;
    says(
        &metrics,
        "jitney_calls_total{backend=\"shop/store\",route=\"\",class=\"2xx\"} 24",
    );
}
