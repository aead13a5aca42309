//! A network of its own: what a test does to it stays there, and nothing of it leaves the machine.

use std::ffi::OsStr;
use std::process::Command;

/// A command that runs in a network namespace of its own, as its root. What it starts there ends with it.
///
/// Without root, the user namespace that comes with it grants what is needed.
pub fn in_namespace(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.arg("--").arg(program);
    command
}
