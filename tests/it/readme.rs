//! The README tells the truth: its policies are valid, and its commands do what it says.

use std::net::SocketAddr;
use std::process::Command;

use jitney_tests::programs::{program, root};
use jitney_tests::{Process, TestProxy, TestUpstream, caller, model};

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// What stands under a heading.
pub(crate) fn section(heading: &str) -> String {
    let readme = readme();
    let (_, after) = readme
        .split_once(&format!("\n## {heading}\n"))
        .expect("a heading");
    after.split("\n## ").next().unwrap().to_owned()
}

/// The fenced blocks of one language in a text, their common indentation removed.
pub(crate) fn blocks(text: &str, language: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), None::<(usize, String)>);
    for line in text.lines() {
        let (indent, text) = (line.len() - line.trim_start().len(), line.trim());
        match &mut open {
            Some(_) if text == "```" => found.extend(open.take().map(|(_, block)| block)),
            Some((indent, block)) => *block += &format!("{}\n", line.get(*indent..).unwrap_or("")),
            None if text == format!("```{language}") => open = Some((indent, String::new())),
            None => {}
        }
    }
    found
}

/// The commands in a text, one a line.
pub(crate) fn commands(text: &str) -> Vec<String> {
    blocks(text, "sh")
        .iter()
        .flat_map(|block| block.lines())
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn its_cargo_commands_are_run_by_ci() {
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    let cargo: Vec<String> = commands(&readme())
        .into_iter()
        .filter(|line| line.starts_with("cargo "))
        .collect();
    assert!(cargo.len() >= 3, "{cargo:?}");
    for command in cargo {
        assert!(
            ci.lines().any(|line| line == command),
            "`{command}` is not a line of .ci/run"
        );
    }
}

#[test]
fn its_policies_are_valid() {
    let policies = blocks(&readme(), "yaml");
    let quickstart = std::fs::read_to_string(root().join("examples/quickstart/policy.yaml")).unwrap();
    assert_eq!(
        policies[0], quickstart,
        "the first policy is that of the quickstart"
    );
    for policy in policies {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, &policy).unwrap();
        let checked = Command::new(program("jitney-proxy"))
            .arg("check")
            .arg(&file)
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{policy}\n{}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_five_minutes_work() {
    let upstream = TestUpstream::start(model::users).await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("users.yaml");
    let section = section("Five minutes to a batch with your own service");
    std::fs::write(&policy, &blocks(&section, "yaml")[0]).unwrap();
    let sidecar = program("jitney-proxy").display().to_string();
    let mut proxy = None::<TestProxy>;
    for line in commands(&section)
        .into_iter()
        .filter(|line| !line.starts_with("cargo "))
    {
        let line = line.replace("users.yaml", &policy.display().to_string());
        if let Some(url) = line.strip_prefix("curl ") {
            let proxy = proxy.as_ref().expect("the sidecar runs before it is asked");
            let (authority, path) = url.trim_start_matches("http://").split_once('/').unwrap();
            let address = if authority.ends_with(":9901") {
                proxy.admin
            } else {
                proxy.address
            };
            let answer = caller::get(address, &format!("/{path}")).await.unwrap();
            assert_eq!(answer.status, 200, "{line}: {}", answer.text());
        } else if let Some(flags) = line.strip_prefix("target/release/jitney-proxy run ") {
            let flags = flags.replace("127.0.0.1:9000", &upstream.address.to_string());
            let flags = flags
                .replace("127.0.0.1:8080", "127.0.0.1:0")
                .replace("127.0.0.1:9901", "127.0.0.1:0");
            let flags = ["run"]
                .into_iter()
                .chain(flags.split(' '))
                .map(str::to_owned)
                .collect();
            proxy = Some(TestProxy::with().line(flags).start().await);
        } else {
            let shell = line.replace("target/release/jitney-proxy", &sidecar);
            let output = Command::new("sh").args(["-c", &shell]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success(),
                "{line}: {said}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(
                !line.contains(" explain ") || said.contains("user-by-id"),
                "{line}: {said}"
            );
        }
    }
    assert_eq!(upstream.seen_at("/users/7").len(), 1);
}

/// The words of a command line after the program and `run`, with any free port in place of fixed ones.
fn flags(line: &str, upstream: &TestUpstream, plane: &str) -> Vec<String> {
    let (_, flags) = line.split_once(" run ").expect("it runs something");
    let flags = flags.replace("127.0.0.1:9000", &upstream.address.to_string());
    let flags = flags.replace("127.0.0.1:15010", plane);
    let flags = flags
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9901", "127.0.0.1:0");
    ["run"]
        .into_iter()
        .chain(flags.split(' '))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_control_plane_works() {
    let upstream = TestUpstream::start(model::users).await;
    let section = section("Many sidecars, one control plane");
    let folder = tempfile::tempdir().unwrap();
    let place = |text: &str| {
        let inside = |name: &str| folder.path().join(name).display().to_string();
        let text = text.replace("files:mesh", &format!("files:{}", inside("mesh")));
        let text = text.replace("jitney-state/roots.pem", &inside("jitney-state/roots.pem"));
        text.replace("users.token", &inside("users.token"))
            .replace("users-snapshot", &inside("users-snapshot"))
    };
    std::fs::create_dir(folder.path().join("mesh")).unwrap();
    std::fs::write(
        folder.path().join("mesh/users.yaml"),
        &blocks(&section, "yaml")[0],
    )
    .unwrap();
    let state = folder.path().join("jitney-state").display().to_string();
    let (mut plane, mut proxy) = (None::<(Process, SocketAddr, SocketAddr)>, None::<TestProxy>);
    for line in commands(&section)
        .into_iter()
        .filter(|line| !line.starts_with("cargo "))
    {
        let line = place(&line);
        if line.contains("jitney-control-plane run ") {
            let mut arguments = flags(&line, &upstream, "");
            let more = [
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--state",
                &state,
            ];
            arguments.extend(more.map(str::to_owned));
            let mut process = Process::spawn("jitney-control-plane", &arguments);
            let (address, admin) = process.listening().await;
            plane = Some((process, address, admin));
        } else if line.contains("jitney-control-plane token ") {
            let program = program("jitney-control-plane").display().to_string();
            let shell = line.replace("target/release/jitney-control-plane", &program);
            let shell = shell.replace("token ", &format!("token --state {state} "));
            assert!(
                Command::new("sh")
                    .args(["-c", &shell])
                    .status()
                    .unwrap()
                    .success(),
                "{shell}"
            );
        } else if line.contains("jitney-proxy run ") {
            let (_, address, _) = plane.as_ref().expect("the control plane runs before");
            let arguments = flags(&line, &upstream, &address.to_string());
            proxy = Some(TestProxy::with().line(arguments).start().await);
        } else {
            let (_, _, admin) = plane.as_ref().expect("the control plane runs before it is asked");
            let path = line
                .strip_prefix("curl http://127.0.0.1:15014")
                .expect("nothing else is asked");
            let status = caller::get(*admin, path).await.unwrap().text();
            assert!(status.contains("Programmed: 1 of 1 sidecar runs"), "{status}");
        }
    }
    let proxy = proxy.expect("a sidecar runs");
    let answer = caller::get(proxy.address, "/users/7").await.unwrap();
    assert_eq!(answer.text(), model::user("7", ""));
}
