//! The programs that are in the images, run by tests on the node.

use std::path::PathBuf;
use std::process::Command;

use crate::kubectl::{fed, succeeded};

/// The path of a program, as it is packed.
pub(crate) fn path(name: &str) -> PathBuf {
    let images = std::env::var_os("CLUSTER_IMAGES").expect("run says where the images are");
    PathBuf::from(images).join("programs").join(name)
}

/// Runs the control plane's program to its end; gives what it prints.
#[track_caller]
pub(crate) fn control_plane(arguments: &[&str], input: &str) -> String {
    succeeded(fed(
        Command::new(path("jitney-control-plane")).args(arguments),
        input,
    ))
}
