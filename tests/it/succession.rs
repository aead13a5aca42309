//! Which process takes the place of another, as who, and when: never before it can serve as that one does.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use jitney_tests::caller;
use jitney_tests::proxy::Settings;
use jitney_tests::wait::{PATIENCE, until};
use jitney_tests::{Reply, TestProxy, TestUpstream, control_plane};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::hand_over::{Load, Mesh, sidecar};

impl Mesh {
    fn path(&self) -> PathBuf {
        self.plane.folder().join("hand-over")
    }

    /// What takes the callee's place as a sidecar of `workload` with a name of its own, and a token that is not used.
    fn heir(&self, workload: &str, node: &str) -> Settings {
        let settings = self.plane.sidecar(workload, node).pushed();
        settings.arg("--hand-over").arg(self.path().display().to_string())
    }

    /// Has a sidecar of this name begin with what was pushed to the callee.
    async fn tell(&self, node: &str) {
        let snapshots = self.plane.folder().join("snapshots");
        let [from, to] = ["users-1", node].map(|node| snapshots.join(node));
        until("it is on disk", || control_plane::is_kept(&from)).await;
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_is_kept_under_another_name() {
    let mut mesh = Mesh::start().await;
    let heir = mesh.heir("shop/users", "users-2");
    mesh.tell("users-2").await;
    mesh.plane.kill();
    let load = Load::start(mesh.caller.address);
    load.more(200).await;
    let next = heir.start().await;
    let ended = mesh.serving.ended(PATIENCE).await;
    assert!(ended.success(), "{}", mesh.serving.log());
    load.more(200).await;
    load.stop().await;
    mesh.is_identified(&next).await;
}

#[tokio::test]
async fn who_has_no_name_goes_on_by_that_of_the_process_before() {
    let mut mesh = Mesh::start().await;
    let folder = |name: &str| mesh.plane.folder().join(name).display().to_string();
    let heir = TestProxy::with()
        .pushed()
        .arg("--control-plane")
        .arg(format!("https://{}", mesh.plane.address))
        .arg("--token-file")
        .arg(folder("none"))
        .arg("--trust-bundle")
        .arg(folder("state/roots.pem"))
        .arg("--hand-over")
        .arg(folder("hand-over"));
    let next = heir.start().await;
    assert!(mesh.serving.ended(PATIENCE).await.success());
    let config = next.admin("/config").await.text();
    assert!(config.contains(r#""node": "users-1""#), "{config}");
}

#[tokio::test]
async fn a_token_that_is_not_heeded_is_told_of() {
    let mut mesh = Mesh::start().await;
    let next = mesh.heir("shop/orders", "users-1").start().await;
    assert!(mesh.serving.ended(PATIENCE).await.success());
    mesh.is_identified(&next).await;
    let told = "is for shop/orders, and the process before this one is \
                spiffe://cluster.local/ns/shop/sa/users: this one goes on as shop/users";
    assert!(next.log().contains(told), "{}", next.log());
}

#[tokio::test]
async fn who_has_to_secure_calls_and_cannot_relieves_nobody() {
    let mut mesh = Mesh::start().await;
    let heir = mesh.heir("shop/users", "users-2");
    mesh.tell("users-2").await;
    mesh.plane.kill();
    mesh.serving.kill();
    // Nobody knows this one, so it has nothing to show.
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let mut before = sidecar(&upstream, &mesh.path()).start().await;
    let next = heir.spawn();
    until("it waits", || next.log().contains("there is no certificate yet")).await;
    assert_eq!(caller::get(before.address, "/").await.unwrap().status, 200);
    mesh.plane.restart().await;
    assert!(before.ended(PATIENCE).await.success(), "{}", before.log());
    assert_eq!(caller::get(mesh.caller.address, "/").await.unwrap().status, 200);
}

/// Whether a process offers its sockets there. They are for connections of another type.
fn is_offered(path: &Path) -> bool {
    let connecting = std::os::unix::net::UnixStream::connect(path);
    connecting.is_err_and(|error| !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused))
}

#[tokio::test]
async fn who_waits_for_a_process_that_is_killed_goes_on_alone() {
    let mut mesh = Mesh::start().await;
    mesh.forget();
    mesh.plane.kill();
    let mut next = mesh.callee.clone().spawn();
    until("it waits", || next.log().contains("taking over")).await;
    mesh.serving.kill();
    until("it offers its sockets", || is_offered(&mesh.path())).await;
    next.answering().await;
    assert_eq!(next.admin("/ready").await.status, 503);
    assert_eq!(next.admin, mesh.serving.admin);
    mesh.is_identified(&next).await;
    // What it does not know yet how to serve waits in the queue that it was given.
    let mut waiting = TcpStream::connect(mesh.serving.address).await.unwrap();
    mesh.plane.restart().await;
    next.ready().await;
    assert_eq!(waiting.read(&mut [0]).await.unwrap_or(0), 0, "it is strict");
    assert_eq!(caller::get(mesh.caller.address, "/").await.unwrap().status, 200);
}

/// Connects where a process offers its sockets, and says nothing.
fn silent(path: &Path) -> Child {
    let connect = "import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
                   s.connect(sys.argv[1])\nprint('connected', flush=True)\nsys.stdin.read()";
    let mut child = Command::new("python3")
        .args(["-c", connect])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 9];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    child
}

#[tokio::test]
async fn who_says_nothing_holds_up_nobody_and_who_comes_second_asks_again() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hand-over");
    let mut serving = sidecar(&upstream, &path).start().await;
    until("it offers its sockets", || is_offered(&path)).await;
    let mut silent = silent(&path);
    // Both are in its queue by the time that it has given up.
    let mut heirs = [(); 2].map(|()| sidecar(&upstream, &path).spawn());
    until("it gives up", || serving.log().contains("said nothing within 1s")).await;
    assert!(serving.ended(PATIENCE).await.success(), "{}", serving.log());
    let is_relieved = |heir: &mut TestProxy| !heir.runs();
    until("one takes the place of the other", || {
        heirs.iter_mut().any(is_relieved)
    })
    .await;
    let [mut first, mut last] = heirs;
    if first.runs() {
        std::mem::swap(&mut first, &mut last);
    }
    assert!(first.ended(PATIENCE).await.success(), "{}", first.log());
    last.ready().await;
    assert_eq!(last.address, serving.address);
    assert_eq!(caller::get(last.address, "/").await.unwrap().status, 200);
    silent.kill().unwrap();
    silent.wait().unwrap();
}

#[tokio::test]
async fn what_is_no_socket_is_left_where_it_is() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    fs::write(&path, "precious").unwrap();
    let mut proxy = sidecar(&upstream, &path).spawn();
    assert!(!proxy.ended(PATIENCE).await.success());
    let told = format!(
        "--hand-over {}: found a file, expected a socket or nothing",
        path.display()
    );
    assert!(proxy.log().contains(&told), "{}", proxy.log());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}
