//! Other people's conformance suites against the real sidecar.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use jitney_tests::wait::until;
use jitney_tests::{Process, Reply, TestControlPlane, TestProxy, TestUpstream, go_program, python_with};

use crate::pushed::free_ports;

/// The newest version of h2spec that the module proxy can serve.
const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";
const INTEROP_CLIENT: &str = "google.golang.org/grpc/interop/client@v1.76.0";
const INTEROP_SERVER: &str = "google.golang.org/grpc/interop/server@v1.76.0";

/// A WebSocket client and server that pass the Autobahn suite.
const WEBSOCKETS: &str = "websockets==17.4";

/// What the sidecar does otherwise on purpose: a listener that detects its protocol takes a wrong preface
/// for HTTP/1, and refuses it in those words.
const OTHERWISE: &str = "2: Sends invalid connection preface";

/// Every case of the client that its own server passes without a sidecar, but for those that ask for
/// credentials of a cloud.
const INTEROP: [&str; 15] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
];

async fn run(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments);
    let ended = tokio::task::spawn_blocking(move || command.output());
    let ended = tokio::time::timeout(Duration::from_secs(120), ended).await;
    ended.expect("it ends").unwrap().unwrap()
}

/// A program of others, which may have to be installed first.
async fn installed(
    install: impl FnOnce(&'static str) -> PathBuf + Send + 'static,
    package: &'static str,
) -> PathBuf {
    let installed = tokio::task::spawn_blocking(move || install(package));
    installed.await.expect("it is installed")
}

#[tokio::test]
async fn http2_passes_h2spec_strict() {
    let h2spec = installed(go_program, H2SPEC).await;
    let upstream = TestUpstream::start_unrecorded(|seen| {
        let has_body = seen.method != "HEAD";
        Reply::json(200, if has_body { r#"{"hello": "world"}"# } else { "" })
    });
    let upstream = upstream.await;
    let proxy = TestProxy::start(upstream.address, "").await;
    let port = proxy.address.port().to_string();
    let arguments = [
        "--strict",
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--timeout",
        "5",
    ];
    let output = run(&h2spec, &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once('×'))
        .map(|(_, case)| case.trim())
        .filter(|case| *case != OTHERWISE)
        .collect();
    assert!(failed.is_empty(), "{failed:?}\n{said}");
    let passed = said
        .lines()
        .find(|line| line.contains("tests, "))
        .unwrap_or_default();
    assert_eq!(passed, "146 tests, 145 passed, 0 skipped, 1 failed", "{said}");
}

/// An address that was free a moment ago, for a program that does not say where it listens.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Two sidecars with strict mTLS between them, in front of a service.
struct Secured {
    _plane: TestControlPlane,
    _callee: TestProxy,
    caller: TestProxy,
}

impl Secured {
    async fn of(service: SocketAddr, protocol: &str) -> Self {
        let [inbound, outbound] = free_ports();
        let documents = format!(
            r#"
kind: Backend
metadata: {{name: service}}
spec: {{endpoints: ["127.0.0.1:{inbound}"], protocol: {protocol}, mtls: Strict}}
---
kind: Listener
metadata: {{name: inbound}}
spec: {{address: "127.0.0.1:{inbound}", local: "{service}", mtls: Strict}}
---
kind: Listener
metadata: {{name: outbound}}
spec: {{address: "127.0.0.1:{outbound}", workload: caller}}
"#
        );
        let plane = TestControlPlane::start(&documents).await;
        let start = |workload: &str| {
            let settings = plane.sidecar(&format!("default/{workload}"), workload);
            settings.pushed().start()
        };
        Self {
            _callee: start("service").await,
            caller: start("caller").await,
            _plane: plane,
        }
    }
}

#[tokio::test]
async fn grpc_interop_passes_through_two_sidecars() {
    let (client, server) = (
        installed(go_program, INTEROP_CLIENT).await,
        installed(go_program, INTEROP_SERVER).await,
    );
    let address = free();
    let mut command = Command::new(server);
    command.args(["--port", &address.port().to_string()]);
    let _server = Process::run("the interop server", command);
    until("the server listens", || {
        std::net::TcpStream::connect(address).is_ok()
    })
    .await;
    let mesh = Secured::of(address, "HTTP2").await;
    let port = mesh.caller.address.port().to_string();
    for case in INTEROP {
        let arguments = [
            "--server_host",
            "127.0.0.1",
            "--server_port",
            &port,
            "--test_case",
            case,
        ];
        let output = run(&client, &arguments).await;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{case}: {complaint}");
    }
}

#[tokio::test]
async fn websockets_echo_through_two_sidecars() {
    let python = installed(python_with, WEBSOCKETS).await;
    let script = jitney_tests::programs::root().join("tests/it/websocket.py");
    let script = script.to_str().unwrap();
    let mut command = Command::new(&python);
    command.args([script, "serve", "0"]);
    let server = Process::run("the echo server", command);
    until("the echo server serves", || server.log().contains("serving ")).await;
    let log = server.log();
    let port = log.lines().find_map(|line| line.strip_prefix("serving "));
    let port: u16 = port.unwrap().parse().unwrap();
    let mesh = Secured::of(SocketAddr::from(([127, 0, 0, 1], port)), "Auto").await;
    let port = mesh.caller.address.port().to_string();
    let output = run(&python, &[script, "call", &port]).await;
    let [said, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    let cases = [
        "sizes",
        "pings",
        "reserved",
        "fragments",
        "utf8",
        "closes",
        "compression",
        "many",
    ];
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        cases,
        "{complained}\n{}",
        server.log()
    );
}
