//! The programs that are in the images, run by tests on the node.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The path of a program, as it is packed.
pub(crate) fn path(name: &str) -> PathBuf {
    let images = std::env::var_os("CLUSTER_IMAGES").expect("run says where the images are");
    PathBuf::from(images).join("programs").join(name)
}

/// Runs the control plane's program to its end; gives what it prints.
#[track_caller]
pub(crate) fn control_plane(arguments: &[&str], input: &str) -> String {
    let mut program = Command::new(path("jitney-control-plane"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = program.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = program.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}
