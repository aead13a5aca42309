//! One sidecar takes the place of another on the same sockets, under load: no call is lost.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jitney_tests::caller::{self, request};
use jitney_tests::proxy::Settings;
use jitney_tests::wait::{PATIENCE, until};
use jitney_tests::{Caller, Reply, TestControlPlane, TestProxy, TestUpstream};
use tokio::task::JoinSet;

use crate::mtls::{STRICT, mesh, start};
use crate::pushed::free_ports;

/// A sidecar that takes over at `path`, and is relieved there; always with the same line.
pub(crate) fn sidecar(upstream: &TestUpstream, path: &Path) -> Settings {
    let path = path.display().to_string();
    TestProxy::with()
        .upstream(upstream.address)
        .arg("--hand-over")
        .arg(path)
}

/// Callers of three kinds who call without a pause, and count.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    callers: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            calls: Arc::default(),
            callers: JoinSet::new(),
        };
        for n in 0..12 {
            let (stop, calls) = (Arc::clone(&load.stop), Arc::clone(&load.calls));
            load.callers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match n % 3 {
                        // A connection for each call,
                        0 => assert_eq!(caller::get(address, "/").await.unwrap().status, 200),
                        // one for many, until its end is announced,
                        1 => keep_calling(address, &stop, &calls).await,
                        // and one of streams.
                        _ => stream(address, &stop, &calls).await,
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load
    }

    /// Waits for so many more calls.
    pub(crate) async fn more(&self, count: usize) {
        let wanted = self.calls.load(Ordering::Relaxed) + count;
        until("more calls are served", || {
            self.calls.load(Ordering::Relaxed) >= wanted
        })
        .await;
    }

    pub(crate) async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.expect("no call of this caller was lost");
        }
    }
}

async fn keep_calling(address: SocketAddr, stop: &AtomicBool, calls: &AtomicUsize) {
    let mut caller = Caller::h1(address).await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let answer = caller.call(request("GET", "/", &[], "")).await.unwrap();
        assert_eq!(answer.status, 200);
        calls.fetch_add(1, Ordering::Relaxed);
        if answer.header("connection") == "close" {
            return;
        }
    }
}

async fn stream(address: SocketAddr, stop: &AtomicBool, calls: &AtomicUsize) {
    let Caller::H2(mut sender) = Caller::h2(address).await.unwrap() else {
        unreachable!("asked for HTTP/2")
    };
    // Not ready: it was told to go away, and what it had sent was answered.
    while !stop.load(Ordering::Relaxed) && sender.ready().await.is_ok() {
        let call = request("GET", "http://service.test/", &[], "");
        match sender.try_send_request(call).await {
            Ok(answer) => assert_eq!(answer.status(), 200),
            // It met the GOAWAY before it left. The library says so in one of two ways; in both the server has not
            // read it, so it may be sent again (RFC 9113 section 6.8).
            Err(mut error) => {
                let is_unsent = error.take_message().is_some();
                let error = format!("{:?}", error.into_error());
                assert!(
                    is_unsent || error.contains("GoAway(b\"\", NO_ERROR, Remote)"),
                    "{error}"
                );
                return;
            }
        }
        calls.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_while_one_process_takes_the_place_of_another() {
    let upstream = TestUpstream::start_unrecorded(|_| Reply::json(200, "{}")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hand-over");
    let mut serving = sidecar(&upstream, &path).start().await;
    let load = Load::start(serving.address);
    for _ in 0..3 {
        load.more(500).await;
        until("it offers its sockets", || path.exists()).await;
        // Port 0 leads to the ports of the one before: the sockets are the same.
        let next = sidecar(&upstream, &path).start().await;
        assert_eq!((next.address, next.admin), (serving.address, serving.admin));
        let ended = serving.ended(PATIENCE).await;
        assert!(ended.success(), "{}", serving.log());
        serving = next;
        load.more(500).await;
    }
    load.stop().await;
    assert!(serving.metric("jitney_calls_total", "").await > 0.0);
}

#[tokio::test]
async fn a_process_that_cannot_start_relieves_nobody() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hand-over");
    let mut serving = sidecar(&upstream, &path).start().await;
    until("it offers its sockets", || path.exists()).await;
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let mut next = sidecar(&upstream, &path).arg("--inbound").arg(taken).spawn();
    assert!(!next.ended(PATIENCE).await.success(), "{}", next.log());
    until("it is noticed", || serving.log().contains("not handed over")).await;
    assert_eq!(caller::get(serving.address, "/").await.unwrap().status, 200);
    // And whoever comes then is given them.
    let next = sidecar(&upstream, &path).start().await;
    assert_eq!(next.address, serving.address);
    assert!(serving.ended(PATIENCE).await.success());
    assert_eq!(caller::get(next.address, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn nothing_is_taken_from_another_user() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    // Everybody may write where the path is.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let path = folder.path().join("hand-over");
    let listen = "import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
                  s.bind(sys.argv[1])\ns.listen()\ns.accept()[0].recv(1)";
    let mut stranger = Command::new("python3")
        .args(["-c", listen])
        .arg(&path)
        .uid(65534)
        .spawn()
        .unwrap();
    until("a stranger listens", || {
        std::os::unix::net::UnixStream::connect(&path).is_err_and(|error| {
            error.kind() != std::io::ErrorKind::NotFound
                && error.kind() != std::io::ErrorKind::ConnectionRefused
        })
    })
    .await;
    let mut next = sidecar(&upstream, &path).spawn();
    assert!(!next.ended(PATIENCE).await.success());
    let told = "the other process runs as user 65534, and this one as 0";
    // What it said is read by another thread.
    until("it says why", || next.log().contains(told)).await;
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn what_an_ended_process_left_at_the_path_is_replaced() {
    let upstream = TestUpstream::start(|_| Reply::json(200, "{}")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hand-over");
    let mut first = sidecar(&upstream, &path).start().await;
    until("it offers its sockets", || path.exists()).await;
    first.terminate();
    assert!(first.ended(PATIENCE).await.success());
    let second = sidecar(&upstream, &path).start().await;
    assert_eq!(caller::get(second.address, "/").await.unwrap().status, 200);
}

/// A callee that everything is pushed to, and that takes secured calls only; and the sidecar of a caller.
pub(crate) struct Mesh {
    pub(crate) plane: TestControlPlane,
    pub(crate) callee: Settings,
    pub(crate) serving: TestProxy,
    pub(crate) caller: TestProxy,
    _users: TestUpstream,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        let users = TestUpstream::start_unrecorded(|_| Reply::json(200, "{}")).await;
        let ports = free_ports();
        let documents = mesh(
            &users.address.to_string(),
            ports,
            &format!("127.0.0.1:{}", ports[0]),
            "mtls: Strict",
        );
        let plane = TestControlPlane::start(&format!("{documents}{STRICT}")).await;
        let path = plane.folder().join("hand-over");
        let callee = plane.sidecar("shop/users", "users-1").pushed();
        let callee = callee.arg("--hand-over").arg(path.display().to_string());
        let serving = callee.clone().start().await;
        until("it offers its sockets", || path.exists()).await;
        Self {
            caller: start(&plane, "front", "front-1").await,
            serving,
            callee,
            plane,
            _users: users,
        }
    }

    /// Forgets on disk what was pushed to the callee.
    pub(crate) fn forget(&self) {
        std::fs::remove_dir_all(self.plane.folder().join("snapshots/users-1")).unwrap();
    }

    pub(crate) async fn is_identified(&self, proxy: &TestProxy) {
        let config = proxy.admin("/config").await.text();
        assert!(
            config.contains("spiffe://cluster.local/ns/shop/sa/users"),
            "{config}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_process_is_the_same_to_other_sidecars_although_the_control_plane_is_away() {
    let mut mesh = Mesh::start().await;
    mesh.plane.kill();
    let load = Load::start(mesh.caller.address);
    load.more(200).await;
    // Its token is used up: what it shows to others it has from the process before it.
    let next = mesh.callee.clone().start().await;
    let ended = mesh.serving.ended(PATIENCE).await;
    assert!(ended.success(), "{}", mesh.serving.log());
    load.more(200).await;
    load.stop().await;
    mesh.is_identified(&next).await;
    assert!(caller::get(next.address, "/bare").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_before_serves_until_the_next_was_told_what_to_do() {
    let mut mesh = Mesh::start().await;
    mesh.forget();
    let load = Load::start(mesh.caller.address);
    load.more(200).await;
    let next = mesh.callee.clone().start().await;
    assert!(
        mesh.serving.ended(PATIENCE).await.success(),
        "{}",
        mesh.serving.log()
    );
    load.more(200).await;
    load.stop().await;
    mesh.is_identified(&next).await;
}

#[tokio::test]
async fn a_process_that_is_not_told_what_to_do_relieves_nobody() {
    let mut mesh = Mesh::start().await;
    mesh.forget();
    mesh.plane.kill();
    let mut next = mesh.callee.clone().spawn();
    // Nobody but the one that serves answers for it meanwhile.
    while next.runs() {
        assert_eq!(mesh.serving.admin("/ready").await.status, 200, "{}", next.log());
    }
    assert!(!next.ended(PATIENCE).await.success(), "{}", next.log());
    assert!(
        next.log().contains("the process before this one serves on"),
        "{}",
        next.log()
    );
    assert!(mesh.serving.runs());
    assert_eq!(caller::get(mesh.caller.address, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn whoever_has_nobody_before_it_waits_for_the_control_plane_as_long_as_it_takes() {
    let mut plane = TestControlPlane::start("").await;
    let path = plane.folder().join("hand-over");
    let sidecar = plane.sidecar("shop/users", "users-1").pushed();
    plane.kill();
    let mut waiting = sidecar.arg("--hand-over").arg(path.display().to_string()).spawn();
    // It has made up its mind by then.
    until("it offers its sockets", || path.exists()).await;
    assert!(waiting.runs(), "{}", waiting.log());
    plane.restart().await;
    waiting.ready().await;
}
