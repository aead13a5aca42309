//! Every example runs to its end, is gathered, and verifies its own replies; each says in its
//! README how to run it.

use std::process::Command;

use jitney_tests::programs::{program, root};

/// Runs an example and gives what it printed.
#[track_caller]
fn run(name: &str, pages: usize) -> String {
    let mut command = Command::new(program(name));
    let output = command
        .args(["--pages", &pages.to_string(), "--renderers", "4"])
        .output()
        .unwrap();
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{name} ended with {}:\n{said}\n{complained}",
        output.status
    );
    let calls = pages * 20;
    assert!(
        said.contains(&format!("verified: {calls} of {calls} replies")),
        "{said}"
    );
    said.into_owned()
}

/// Has the inference example install the model server, which it does once.
fn installed() -> Result<(), String> {
    let output = Command::new(program("inference"))
        .arg("--install")
        .output()
        .map_err(|error| error.to_string())?;
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(why) }
}

/// The mean batch size, which is in this column, in the row of an example's table that begins with `name`.
fn mean_batch(said: &str, name: &str, column: usize) -> f64 {
    let row = said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    row.split_whitespace().nth(column).unwrap().parse().unwrap()
}

#[test]
fn quickstart_gathers_and_verifies() {
    let said = run("quickstart", 40);
    assert!(mean_batch(&said, "through Jitney", 2) > 1.2, "{said}");
    assert!(said.contains("admin    http://127.0.0.1:"), "{said}");
}

#[test]
fn n_plus_one_gathers_and_verifies() {
    let said = run("n_plus_one", 40);
    assert!(mean_batch(&said, "through Jitney", 2) > 1.2, "{said}");
}

#[test]
fn json_rpc_gathers_and_verifies() {
    let said = run("json_rpc", 40);
    assert!(mean_batch(&said, "through Jitney", 2) > 1.2, "{said}");
}

#[test]
fn inference_gathers_and_verifies() {
    // The one test that needs more than Rust: Python, and on its first run a package registry.
    if let Err(why) = installed() {
        assert!(std::env::var_os("CI").is_none(), "CI must not skip this: {why}");
        println!("skipped: {why}");
        return;
    }
    let said = run("inference", 10);
    assert!(mean_batch(&said, "through Jitney", 2) > 1.2, "{said}");
}

#[test]
fn mesh_takes_edits_live_and_survives_its_control_plane() {
    let mut command = Command::new(program("mesh"));
    let output = command
        .args(["--pages", "40", "--renderers", "4", "--seconds", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    let verified = said.lines().find(|line| line.starts_with("verified: "));
    assert!(verified.unwrap().ends_with("; 0 failed calls"), "{said}");
    for edit in ["users.yaml: maxSize 64 → 4", "orders.yaml: mode Active → Shadow"] {
        assert!(said.contains(edit), "{said}");
    }
    assert!(said.contains("0 resources were sent again"), "{said}");
    assert!(mean_batch(&said, "through the mesh", 3) > 1.2, "{said}");
    let shadow = mean_batch(&said, "orders.yaml: mode Active → Shadow", 4);
    assert!(shadow < 1.2, "{said}");
}

#[test]
fn each_example_says_how_to_run_it() {
    for name in ["quickstart", "n_plus_one", "json_rpc", "inference", "mesh"] {
        let readme = std::fs::read_to_string(root().join("examples").join(name).join("README.md")).unwrap();
        assert!(
            readme.contains(&format!("cargo run --release --bin {name}\n")),
            "{name}"
        );
    }
}
