//! A network of its own: what a test does to it stays there, and nothing of it leaves the machine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

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

/// Two hosts on one wire, each a network namespace; they end when this is dropped and what was started on
/// them has ended. Host a has 10.77.0.1 and fd77::1, host b 10.77.0.2 and fd77::2.
#[derive(Debug)]
pub struct Network {
    /// Holds the namespaces.
    holder: Child,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The one that calls.
    A,
    /// The one that is called.
    B,
}

/// A user who is not root: whose connections are redirected.
const SOMEBODY: &str = "65534";

impl Network {
    /// Two new hosts.
    ///
    /// # Panics
    /// Unless the test runs as root, which alone may be several users in one namespace.
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "networks of their own need root, here and in CI"
        );
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--"])
            .args(["sh", "-c", TWO_HOSTS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there");
        let mut said = String::new();
        let stdout = holder.stdout.take().expect("piped");
        BufReader::new(stdout)
            .read_line(&mut said)
            .expect("it says a line");
        assert_eq!(said, "ready\n", "the hosts cannot be made");
        Self { holder }
    }

    /// A command on a host, as root.
    pub fn command(&self, host: Host, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--target", &self.holder.id().to_string(), "--"])
            .args(["ip", "netns", "exec", host.name()])
            .arg(program);
        command
    }

    /// A command on a host as somebody whose connections are redirected.
    pub fn command_of_somebody(&self, host: Host, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(host, "setpriv");
        command
            .args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups", "--"])
            .arg(program);
        command
    }

    /// A socket that listens on a host.
    ///
    /// # Panics
    /// If the address cannot be bound.
    pub fn listen(&self, host: Host, address: &str) -> TcpListener {
        let path = format!("/proc/{}/root/run/netns/{}", self.holder.id(), host.name());
        let namespace = File::open(path).expect("the namespace is there");
        let bind = || {
            // Of this thread only, which ends here.
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("a network can be entered");
            TcpListener::bind(address).expect("a free port")
        };
        thread::scope(|scope| scope.spawn(bind).join().expect("it binds"))
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.holder.stdin.take());
        let _status = self.holder.wait();
    }
}

const TWO_HOSTS: &str = "set -e
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip netns add a
ip netns add b
ip link add wire netns a type veth peer name wire netns b
for host in a b; do
  test $host = a && n=1 || n=2
  ip -n $host link set lo up
  ip -n $host link set wire up
  ip -n $host addr add 10.77.0.$n/24 dev wire
  ip -n $host addr add fd77::$n/64 dev wire nodad
done
echo ready
cat > /dev/null";
