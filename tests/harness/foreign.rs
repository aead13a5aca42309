//! Other people's programs: clients, servers and conformance suites, built or installed once and kept with
//! the user's caches, by their versions.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One at a time: each keeps every core busy.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The program of a Go package, as `path@version`.
///
/// # Panics
/// If it cannot be built.
pub fn go_program(package: &str) -> PathBuf {
    let (path, _) = package.split_once('@').expect("a package has a version");
    let name = path.rsplit('/').next().unwrap_or(path);
    let folder = cache().join("go").join(package.replace('/', "-"));
    let program = folder.join(name);
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if !program.is_file() {
        let mut install = Command::new("go");
        install.args(["install", package]);
        succeed(install.env("GOBIN", &folder).env("GOFLAGS", "-mod=mod"));
    }
    program
}

/// A Python that has a package, as `name==version`.
///
/// # Panics
/// If it cannot be installed.
pub fn python_with(package: &str) -> PathBuf {
    let folder = cache().join("python").join(package.replace("==", "-"));
    let (python, done) = (folder.join("bin/python"), folder.join("installed"));
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if !done.is_file() {
        succeed(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&folder),
        );
        succeed(Command::new(&python).args(["-m", "pip", "install", "--quiet", package]));
        std::fs::write(done, package).expect("the cache is writable");
    }
    python
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("the toolchain is installed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {complaint}");
}

fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache.unwrap_or_else(home).join("jitney")
}
