//! The workspace's programs, built once per test run with the profile of the tests.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package sits in a folder of the workspace")
}

/// The path of the program `name`, built before it is returned; where `JITNEY_PROGRAMS` names a folder, the one there.
///
/// # Panics
/// If the workspace does not build.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| built().unwrap_or_else(build)).join(name)
}

/// A measurement needs the programs of a release, and not the tests' own time to build them.
fn built() -> Option<PathBuf> {
    env::var_os("JITNEY_PROGRAMS").map(PathBuf::from)
}

/// Builds every program: the whole workspace at once, so that features are unified as in a release,
/// and with the running test named, so that they are those of the tests and nothing is built twice.
fn build() -> PathBuf {
    let tests = env::current_exe().expect("a test has a path");
    let folder = tests
        .ancestors()
        .nth(2)
        .expect("tests sit in <target>/<profile>/deps")
        .to_owned();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["build", "--quiet", "--workspace", "--bins", "--test", "it"]);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the workspace's programs do not build");
    folder
}
