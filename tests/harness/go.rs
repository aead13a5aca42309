//! Programs of the Go module proxy: other people's clients, servers and conformance suites.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

/// Only one is built at a time: each keeps every core busy.
static BUILDING: Mutex<()> = Mutex::new(());

/// The program of a package, as `path@version`; built once and kept with the user's caches, by its version.
///
/// # Panics
/// If it cannot be built.
pub fn go_program(package: &str) -> PathBuf {
    let (path, version) = package.split_once('@').expect("a package has a version");
    let name = path.rsplit('/').next().unwrap_or(path);
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    // Two packages of one module may end in the same word.
    let folder = path.replace('/', "-") + "-" + version;
    let folder = cache.join("jitney/go").join(folder);
    let program = folder.join(name);
    let _one_at_a_time = BUILDING.lock();
    if !program.is_file() {
        let output = Command::new("go")
            .args(["install", package])
            .env("GOBIN", &folder)
            .env("GOFLAGS", "-mod=mod")
            .output()
            .expect("go is installed");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{package} cannot be built: {complaint}");
    }
    program
}
