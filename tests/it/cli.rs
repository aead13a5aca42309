//! The command line of the real program: what it prints, and how it ends.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use jitney_tests::programs::program;
use jitney_tests::{Reply, TestProxy, TestUpstream, caller};

const GOOD: &str = r#"
kind: BatchPolicy
metadata: {name: users}
spec:
  mode: Active
  routes:
  - name: by-id
    match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
  - name: predict
    match: {method: POST, path: {type: PathPrefix, value: /v1/models}}
    codec: {preset: kserve-v1}
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program in this folder to its end.
    fn run(&self, line: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(program("jitney-proxy"))
            .args(line)
            .envs(variables.iter().copied())
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn check(&self, line: &[&str], code: i32, out: &[&str], err: &[&str]) {
        let output = self.run(line, &[]);
        let [said, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        let all = format!("{line:?}\n--- out\n{said}--- err\n{complained}");
        assert_eq!(output.status.code(), Some(code), "{all}");
        for part in out {
            assert!(said.contains(part), "{part:?} is missing: {all}");
        }
        for part in err {
            assert!(complained.contains(part), "{part:?} is missing: {all}");
        }
    }
}

#[test]
fn check_names_every_fault_by_line_and_column() {
    let bad = GOOD
        .replace("keyedGet", "keydGet")
        .replace("method: POST", "method: POST, colour: red");
    let folder = Folder::new(&[
        ("good.yaml", GOOD),
        ("bad.yaml", &bad),
        ("broken.yaml", "a: [1,\nb: }\n"),
    ]);
    folder.check(&["check", "good.yaml"], 0, &["1 document", "no faults"], &[]);
    folder.check(
        &["check", "bad.yaml"],
        1,
        &[],
        &["bad.yaml:9:13: ", "bad.yaml:11:", "keydGet", "keyedGet", "colour"],
    );
    folder.check(&["check", "good.yaml", "bad.yaml"], 1, &[], &["bad.yaml:9:13: "]);
    folder.check(&["check", "broken.yaml"], 1, &[], &["broken.yaml:1:4: "]);
    folder.check(
        &["check", "."],
        1,
        &[],
        &["./bad.yaml:9:13: ", "./broken.yaml:1:4: "],
    );
    folder.check(
        &["check", "missing.yaml"],
        1,
        &[],
        &["missing.yaml", "no such file"],
    );
}

#[tokio::test]
async fn explain_asks_a_sidecar_that_runs() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let proxy = TestProxy::start(upstream.address, GOOD).await;
    let folder = Folder::new(&[]);
    let admin = proxy.admin.to_string();
    let explain = |admin: &str, more: &[&str], code, out: &[&str], err: &[&str]| {
        let line = [&["explain", "--admin", admin], more].concat();
        folder.check(&line, code, out, err);
    };
    let call = ["POST", "/v1/models/m:predict", "-d", r#"{"instances": [1, 2]}"#];
    let told = ["backend: ", "route: users/predict", "items: 2"];
    explain(&admin, &call, 0, &told, &[]);
    let other = [&["--backend", "other"], &call[..]].concat();
    explain(
        &admin,
        &other,
        1,
        &[],
        &["--admin", "status 404: no such backend"],
    );
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    explain(
        &nobody.to_string(),
        &call,
        1,
        &[],
        &[&format!("--admin {nobody}: "), "refused"],
    );
    assert_eq!(upstream.seen().len(), 0, "explaining asks nobody else");
}

#[test]
fn explain_names_route_codec_and_key_or_the_reason() {
    let folder = Folder::new(&[("p.yaml", GOOD), ("body.json", r#"{"instances": [1, 2]}"#)]);
    let explain = |line: &[&str], out: &[&str]| {
        let line = [&["explain", "--policy", "p.yaml"], line].concat();
        folder.check(&line, 0, out, &[]);
    };
    explain(
        &[
            "GET",
            "http://users.shop/users/7?full=1",
            "-H",
            "authorization: Bearer t0p",
        ],
        &[
            "route: users/by-id",
            "codec: keyedGet",
            "key:",
            "host: users.shop",
            "shared: /users?ids={}",
            "authorization: ***",
        ],
    );
    explain(
        &["GET", "/users/7", "-H", "range: bytes=0-1"],
        &["route: users/by-id", "bypass: conditional"],
    );
    explain(&["GET", "/elsewhere"], &["bypass: no route matches"]);
    explain(
        &["POST", "/v1/models/m:predict", "-d", r#"{"instances": [1, 2]}"#],
        &["codec: jsonArray", "items: 2"],
    );
    explain(
        &["POST", "/v1/models/m:predict", "-d", "@body.json"],
        &["items: 2"],
    );
    explain(
        &["POST", "/v1/models/m:predict", "-d", "nonsense"],
        &["bypass: unparsable"],
    );
    folder.check(
        &["explain", "--policy", "none.yaml", "GET", "/"],
        1,
        &[],
        &["none.yaml"],
    );
}

#[test]
fn usage_errors_end_with_two() {
    let folder = Folder::new(&[]);
    folder.check(&["run"], 2, &[], &["--upstream"]);
    folder.check(
        &["run", "--listen", "127.0.0.1:0", "--upstream", "nonsense"],
        2,
        &[],
        &["nonsense"],
    );
    folder.check(&["fly"], 2, &[], &["fly"]);
    folder.check(&["--version"], 0, &["jitney-proxy 0."], &[]);
    folder.check(
        &["run", "--help"],
        0,
        &["JITNEY_LISTEN", "JITNEY_POLICY", "--drain-time"],
        &[],
    );
}

#[test]
fn faulty_start_ends_with_one_and_says_where() {
    let folder = Folder::new(&[
        ("bad.yaml", &GOOD.replace("keyedGet", "keydGet")),
        ("none.yaml", "kind: Backend\n"),
    ]);
    let flags = ["run", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    folder.check(
        &[&flags[..], &["--policy", "bad.yaml"]].concat(),
        1,
        &[],
        &["bad.yaml:9:13: "],
    );
    folder.check(
        &[&flags[..], &["--policy", "missing.yaml"]].concat(),
        1,
        &[],
        &["missing.yaml"],
    );
    folder.check(&["run", "--config", "none.yaml"], 1, &[], &["none.yaml:1:1: "]);
}

#[test]
fn address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = Folder::new(&[]);
    folder.check(
        &["run", "--listen", &address, "--upstream", "127.0.0.1:1"],
        1,
        &[],
        &[&address, "in use"],
    );
    let line = [
        "run",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "127.0.0.1:1",
        "--admin",
        &address,
    ];
    folder.check(&line, 1, &[], &[&address, "in use"]);
}

#[test]
fn sidecar_that_would_send_calls_to_its_own_admin_endpoint_does_not_start() {
    let folder = Folder::new(&[]);
    let line = [
        "run",
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        "127.0.0.1:19901",
        "--admin",
        "127.0.0.1:19901",
    ];
    folder.check(
        &line,
        1,
        &[],
        &["127.0.0.1:19901 is this sidecar's own admin endpoint"],
    );
}

#[test]
fn variables_stand_in_for_flags() {
    let folder = Folder::new(&[("bad.yaml", &GOOD.replace("keyedGet", "keydGet"))]);
    let variables = [
        ("JITNEY_LISTEN", "127.0.0.1:0,127.0.0.1:0"),
        ("JITNEY_UPSTREAM", "127.0.0.1:1,127.0.0.1:2"),
        ("JITNEY_POLICY", "bad.yaml"),
    ];
    let output = folder.run(&["run"], &variables);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.yaml:9:13: "));
    drop(folder.at("bad.yaml"));
}

#[tokio::test]
async fn logs_can_be_json() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let settings = TestProxy::with()
        .upstream(upstream.address)
        .arg("--access-log")
        .arg("--log-format")
        .arg("json");
    let proxy = settings.start().await;
    assert_eq!(
        caller::get(proxy.address, "/a?token=t0p").await.unwrap().status,
        200
    );
    jitney_tests::wait::until("the line is there", || proxy.log().contains("\"access\"")).await;
    for line in proxy.log().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            value["timestamp"].is_string() && value["level"].is_string(),
            "{line}"
        );
        assert!(!line.contains("t0p"), "{line}");
        if value["target"] == "access" {
            assert_eq!(
                (&value["path"], &value["host"]),
                (&"/a".into(), &"service.test".into()),
                "{line}"
            );
        }
    }
}

#[tokio::test]
async fn idle_sidecar_ends_at_once_when_told_to() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let mut proxy = TestProxy::with().upstream(upstream.address).start().await;
    // An idle connection must not hold it up.
    let mut idle = caller::Caller::h1(proxy.address).await.unwrap();
    let answer = idle.call(caller::request("GET", "/", &[], "")).await.unwrap();
    assert_eq!(answer.status, 200);
    let idle_h2 = caller::Caller::h2(proxy.address).await.unwrap();
    proxy.terminate();
    assert_eq!(
        proxy.ended(Duration::from_secs(5)).await.code(),
        Some(0),
        "{}",
        proxy.log()
    );
    drop((idle, idle_h2));
}

#[tokio::test]
async fn drain_that_takes_too_long_is_cut_off() {
    let upstream =
        TestUpstream::start(|_| Reply::json(200, "{}").ending(jitney_tests::upstream::Ending::Never)).await;
    let settings = TestProxy::with()
        .upstream(upstream.address)
        .arg("--drain-time")
        .arg("300ms");
    let mut proxy = settings.start().await;
    let address = proxy.address;
    let stuck = tokio::spawn(async move { caller::get(address, "/").await.map(|answer| answer.status) });
    jitney_tests::wait::until("the call is upstream", || upstream.connections() > 0).await;
    proxy.terminate();
    assert_eq!(proxy.ended(Duration::from_secs(5)).await.code(), Some(0));
    assert!(proxy.log().contains("drain time is over"), "{}", proxy.log());
    drop(stuck.await);
}

#[test]
fn complaints_say_what_was_expected() {
    let folder = Folder::new(&[("p.yaml", GOOD), ("empty.yaml", "# nothing yet\n")]);
    folder.check(
        &["check", "empty.yaml"],
        0,
        &[],
        &["empty.yaml", "holds no document"],
    );
    folder.check(
        &["explain", "--policy", "p.yaml", "POST", "/rpc", "-d", "@nofile"],
        1,
        &[],
        &["--data @nofile"],
    );
    let run = ["run", "--listen", "localhost:8080", "--upstream", "127.0.0.1:9"];
    folder.check(
        &run,
        2,
        &[],
        &["localhost:8080", "expected ip:port, such as 127.0.0.1:8080"],
    );
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_logged_once_and_so_is_its_return() {
    // An address of its own, so that no other test takes the port meanwhile.
    let listener = std::net::TcpListener::bind("127.0.77.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let proxy = TestProxy::with().upstream(address).start().await;
    for _ in 0..3 {
        assert_eq!(caller::get(proxy.address, "/").await.unwrap().status, 502);
    }
    let told = || proxy.log().matches("an endpoint cannot be reached").count();
    jitney_tests::wait::until("it is logged", || told() > 0).await;
    assert_eq!(told(), 1);
    assert!(proxy.log().contains(&address.to_string()), "{}", proxy.log());
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // A reply that comes before its request would be taken for a fault.
        let mut request = [0; 1024];
        assert!(
            tokio::io::AsyncReadExt::read(&mut stream, &mut request)
                .await
                .unwrap()
                > 0
        );
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, reply)
            .await
            .unwrap();
        stream
    });
    assert_eq!(caller::get(proxy.address, "/").await.unwrap().status, 200);
    let back = || proxy.log().contains("an endpoint can be reached again");
    jitney_tests::wait::until("its return is logged", back).await;
    drop(served.await.unwrap());
}

/// What is piped into `kubectl`; that an API server takes it is shown on a real one.
#[test]
fn definitions_are_printed_as_yaml_documents() {
    let output = Command::new(program("jitney-control-plane"))
        .arg("crds")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let printed = String::from_utf8(output.stdout).unwrap();
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&printed).unwrap();
    let expected = jitney_api::custom_resource_definitions();
    assert_eq!(expected.len(), 3);
    assert!(
        documents
            .iter()
            .eq(expected.iter().map(|(_, definition)| definition))
    );
}
