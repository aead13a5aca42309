//! The README tells the truth: its policies are valid, and its commands do what it says.

use std::process::Command;

use jitney_tests::programs::{program, root};
use jitney_tests::{TestProxy, TestUpstream, caller, model};

/// The README's fenced blocks of one language, their common indentation removed.
fn blocks(language: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (mut found, mut open) = (Vec::new(), None::<(usize, String)>);
    for line in readme.lines() {
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

/// The README's commands, one a line.
fn commands() -> Vec<String> {
    blocks("sh")
        .iter()
        .flat_map(|block| block.lines())
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn its_cargo_commands_are_run_by_ci() {
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    let cargo: Vec<String> = commands()
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
    let policies = blocks("yaml");
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
    std::fs::write(&policy, &blocks("yaml")[0]).unwrap();
    let sidecar = program("jitney-proxy").display().to_string();
    let mut proxy = None::<TestProxy>;
    for line in commands().into_iter().filter(|line| !line.starts_with("cargo ")) {
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
