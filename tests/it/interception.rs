//! Two hosts on a wire, the kernel's rules on both, a sidecar on each: callers and services that know
//! nothing of all that.

mod hosts;
mod secured;
mod services;

use jitney_tests::programs::program;
use jitney_tests::wait::{PATIENCE, until};
use jitney_tests::{Host, Network, Process, Reply, TestProxy, TestUpstream, caller, model};

use hosts::{Mesh, output, says, told};
use services::Served;

const POLICY: &str = r#"
kind: BatchPolicy
metadata: {name: users}
spec:
  mode: Active
  routes:
  - name: by-id
    match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
    # Whatever comes within that time leaves together: the callers are slow processes.
    batch: {dispatch: Fixed, maxSize: 8, timeout: 300ms}
"#;

async fn callers_notice_nothing(tool: &str) {
    let mesh = Mesh::start(tool).await;
    let users = mesh.network.listen(Host::B, "[::]:8080");
    let upstream = TestUpstream::start_on(users, model::users);
    for to in ["10.77.0.2", "[fd77::2]"] {
        upstream.forget();
        let urls: Vec<String> = (0..8).map(|id| format!("http://{to}:8080/users/{id}")).collect();
        let mut line = vec![
            "--silent",
            "--parallel",
            "--parallel-immediate",
            "--max-time",
            "20",
        ];
        line.extend(urls.iter().map(String::as_str));
        let output = mesh.call("curl", &line).await;
        let said = told(&output);
        for id in 0..8 {
            let direct = model::user(&id.to_string(), "");
            assert!(said.contains(&direct), "{direct} is missing: {said}");
        }
        let batches = upstream.seen_at("/users?ids=");
        assert!(
            !batches.is_empty() && upstream.seen().len() < 8,
            "{:?}",
            upstream.seen()
        );
        // The service is called by its own host, with the name that the caller used.
        assert!(
            batches
                .iter()
                .all(|batch| batch.header("host") == format!("{to}:8080"))
        );
    }
    let metrics = mesh.metrics(Host::B).await;
    says(
        &metrics,
        "jitney_calls_total{backend=\"inbound\",route=\"users/by-id\",class=\"2xx\"} 16",
    );
    let metrics = mesh.metrics(Host::A).await;
    says(
        &metrics,
        "jitney_calls_total{backend=\"passthrough\",route=\"\",class=\"2xx\"} 16",
    );
}

#[tokio::test]
async fn callers_and_services_notice_nothing_with_nftables() {
    callers_notice_nothing("nftables").await;
}

#[tokio::test]
async fn callers_and_services_notice_nothing_with_iptables() {
    callers_notice_nothing("iptables").await;
}

#[tokio::test]
async fn c13_nobody_reaches_the_sidecars_themselves() {
    let mesh = Mesh::start("nftables").await;
    // Straight to the listener for what the kernel hands over: an open proxy would be the end.
    let direct = mesh
        .call("curl", &["-sS", "--max-time", "10", "http://10.77.0.2:15006/"])
        .await;
    assert!(told(&direct).contains("upstream_reset"), "{}", told(&direct));
    let metrics = mesh.metrics(Host::B).await;
    says(
        &metrics,
        "jitney_refused_connections_total{reason=\"not_redirected\"} 1",
    );
    let loops = mesh.network.command(Host::A, "curl");
    let mut loops = loops;
    loops.args(["-sS", "--max-time", "10", "http://127.0.0.1:15001/"]);
    let loops = output(loops).await;
    assert!(!loops.status.success(), "{}", told(&loops));
    let metrics = mesh.metrics(Host::A).await;
    says(
        &metrics,
        "jitney_refused_connections_total{reason=\"not_redirected\"} 1",
    );
}

/// How many connections the calling host's sidecar refused as its own.
async fn refused_as_own(network: &Network) -> u32 {
    let mut curl = network.command(Host::A, "curl");
    curl.args(["-s", "http://127.0.0.1:9901/metrics"]);
    let metrics = told(&output(curl).await);
    let line = "jitney_refused_connections_total{reason=\"own\"} ";
    let refused = metrics.lines().find_map(|one| one.strip_prefix(line));
    refused.expect("it is counted").parse().unwrap()
}

#[tokio::test]
async fn a_sidecar_that_the_rules_do_not_spare_refuses_its_own_connections() {
    let network = Network::new();
    let mut install = network.command(Host::A, program("jitney-proxy"));
    // The sidecar runs as root, as which nothing is spared.
    install.args(["redirect", "install", "--user", "1337"]);
    let installed = output(install).await;
    assert!(installed.status.success(), "{}", told(&installed));
    let mut outbound = network.command(Host::A, program("jitney-proxy"));
    outbound.args([
        "run",
        "--admin",
        "127.0.0.1:9901",
        "--outbound",
        "127.0.0.1:15001",
        "--opaque-ports",
        "8081",
    ]);
    let sidecar = Process::run("the sidecar", outbound);
    until("it listens", || sidecar.log().matches("listening").count() == 2).await;
    let _upstream = TestUpstream::start_on(network.listen(Host::B, "10.77.0.2:8080"), model::users);
    let told_of = |arguments: &[&str]| {
        let mut curl = network.command_of_somebody(Host::A, "curl");
        curl.args(["-sS", "--max-time", "5"]).args(arguments);
        output(curl)
    };
    let call = told_of(&["http://10.77.0.2:8080/users/7"]).await;
    assert!(told(&call).contains("upstream_reset"), "{}", told(&call));
    // A caller who waits for the server to speak; as does, for the sidecar, the sidecar.
    let silent = told_of(&["telnet://10.77.0.2:8080"]).await;
    let refused = refused_as_own(&network).await;
    // A connection that was closed unread is made once or twice more; each is refused by itself.
    assert!((2..8).contains(&refused), "{refused}: {}", told(&silent));
    // Nor are those served whose bytes nobody looks at.
    let _opaque = TestUpstream::start_on(network.listen(Host::B, "10.77.0.2:8081"), model::users);
    let opaque = told_of(&["telnet://10.77.0.2:8081"]).await;
    let more = refused_as_own(&network).await - refused;
    assert!((1..8).contains(&more), "{more}: {}", told(&opaque));
    let log = sidecar.log();
    assert!(log.contains("redirect install --user 0"), "{log}");
    assert_eq!(log.matches("handed back").count(), 1, "{log}");
}

#[tokio::test]
async fn what_the_readme_says_is_so() {
    let section = crate::readme::section("In front of everything");
    let lines = crate::readme::commands(&section);
    let [run, install, check, remove] = &lines[..] else {
        panic!("{lines:?}");
    };
    let network = Network::new();
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    let command = |line: &String| {
        let mut command = network.command(Host::B, program("jitney-proxy"));
        for word in line.split(' ').skip(1) {
            match word {
                // The sidecar runs as root here.
                "1337" => command.arg("0"),
                "policy.yaml" => command.arg(&policy),
                word => command.arg(word),
            };
        }
        command
    };
    let sidecar = Process::run("the sidecar", command(run));
    until("it listens everywhere", || {
        sidecar.log().matches("listening").count() == 4
    })
    .await;
    for line in [install, check] {
        let output = output(command(line)).await;
        assert!(output.status.success(), "{line}: {}", told(&output));
    }
    let upstream = TestUpstream::start_on(network.listen(Host::B, "10.77.0.2:8080"), model::users);
    let mut curl = network.command(Host::A, "curl");
    curl.args(["-sS", "--max-time", "20", "http://10.77.0.2:8080/users/7"]);
    assert_eq!(told(&output(curl).await), model::user("7", ""));
    assert_eq!(upstream.seen().len(), 1);
    let removed = output(command(remove)).await;
    assert_eq!(told(&removed), "removed with nftables\n");
    let unchecked = output(command(check)).await;
    assert_eq!(unchecked.status.code(), Some(1), "{}", told(&unchecked));
}

#[tokio::test]
async fn redis_speaks_through() {
    let mesh = Mesh::start("nftables").await;
    Served::redis(&mesh).await.answers(&mesh).await;
    let metrics = mesh.metrics(Host::B).await;
    says(
        &metrics,
        "jitney_downstream_connections_total{protocol=\"opaque\"} 2",
    );
}

#[tokio::test]
async fn postgresql_speaks_through() {
    let mesh = Mesh::start("nftables").await;
    Served::postgresql(&mesh).await.answers(&mesh).await;
}

#[tokio::test]
async fn mariadb_speaks_through() {
    let mesh = Mesh::start("nftables").await;
    Served::mariadb(&mesh).await.answers(&mesh).await;
}

/// What would be refused as HTTP: no host. It passes where nobody looks.
const HOSTLESS: &str = "GET /hostless HTTP/1.1\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn on_an_opaque_port_nobody_looks_at_what_is_spoken() {
    let mesh = Mesh::start("nftables").await;
    for (port, status) in [("9300", "200"), ("8080", "400")] {
        let upstream = TestUpstream::start_on(mesh.network.listen(Host::B, &format!("[::]:{port}")), |_| {
            Reply::json(200, "{}")
        });
        let script = format!("exec 3<>/dev/tcp/10.77.0.2/{port}; printf '{HOSTLESS}' >&3; head -n 1 <&3");
        let said = told(&mesh.call("bash", &["-c", &script]).await);
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{port}: {said}");
        assert_eq!(upstream.seen().len(), usize::from(status == "200"));
    }
    let metrics = mesh.metrics(Host::B).await;
    says(
        &metrics,
        "jitney_downstream_connections_total{protocol=\"opaque\"} 1",
    );
}

#[tokio::test]
async fn a_backend_of_tcp_is_not_looked_at_either() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let config = |protocol: &str| {
        format!(
            "kind: Backend\nmetadata: {{name: bytes}}\nspec: {{endpoints: ['{}'], protocol: {protocol}}}\n---\n\
             kind: Listener\nmetadata: {{name: in}}\nspec: {{address: '127.0.0.1:0'}}\n",
            upstream.address
        )
    };
    for (protocol, status) in [("TCP", "200"), ("Auto", "400")] {
        let proxy = TestProxy::with().config(config(protocol)).start().await;
        let said = caller::raw(proxy.address, HOSTLESS.as_bytes(), PATIENCE)
            .await
            .unwrap();
        let expected = format!("HTTP/1.1 {status} ");
        assert!(
            said.starts_with(expected.as_bytes()),
            "{protocol}: {}",
            said.escape_ascii()
        );
    }
}
