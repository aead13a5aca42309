//! The charts through `helm`.

use std::process::{Command, Output};

use jitney_tests::programs::root;

use crate::kubectl::succeeded;

/// Where a chart is.
pub(crate) fn chart(name: &str) -> String {
    root().join("charts").join(name).display().to_string()
}

/// Runs `helm` to its end.
pub(crate) fn try_helm(arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args(["90", "helm"])
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs `helm`; gives what it prints.
#[track_caller]
pub(crate) fn helm(arguments: &[&str]) -> String {
    succeeded(try_helm(arguments))
}

/// What `helm` says of what it does not do.
#[track_caller]
pub(crate) fn refused(arguments: &[&str]) -> String {
    let output = try_helm(arguments);
    assert!(!output.status.success(), "{arguments:?} was taken");
    String::from_utf8(output.stderr).unwrap()
}
