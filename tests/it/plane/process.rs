//! A control plane as a process, with a state and a folder of files of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, SystemTime};

use jitney_api::Workload;
use jitney_control_plane::identity::{Folder, Tokens};
use jitney_tests::programs::program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// Two services with a policy each.
pub(crate) const SHOP: &str = r#"
kind: Backend
metadata: {name: users, namespace: shop}
spec: {endpoints: ["10.0.0.1:80"]}
---
kind: Backend
metadata: {name: orders, namespace: shop}
spec: {endpoints: ["10.0.0.2:80"]}
---
kind: BatchPolicy
metadata: {name: users, namespace: shop}
spec:
  targetRefs: [{kind: Backend, name: users}]
  routes:
  - name: by-id
    match: {method: GET, path: {type: Template, value: "/users/{id}"}}
    codec: {keyedGet: {batchPath: "/users?ids={id}", key: /id}}
    batch: {maxSize: 8}
---
kind: BatchPolicy
metadata: {name: orders, namespace: shop}
spec:
  targetRefs: [{kind: Backend, name: orders}]
  routes:
  - name: by-id
    match: {method: GET, path: {type: Template, value: "/orders/{id}"}}
    codec: {keyedGet: {batchPath: "/orders?ids={id}", key: /id}}
"#;

/// A running control plane; killed when this is dropped.
pub(crate) struct Plane {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) folder: Place,
    child: Child,
}

/// Where it keeps everything.
pub(crate) struct Place {
    outer: TempDir,
}

/// An answer of the admin endpoint.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("files")).unwrap();
        let place = Self { outer };
        place.write(SHOP);
        place
    }

    pub(crate) fn write(&self, text: &str) {
        // By rename, so that nobody reads half of it.
        let beside = self.outer.path().join("beside.yaml");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.files().join("shop.yaml")).unwrap();
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.outer.path().join("files")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.outer.path().join("state")
    }

    pub(crate) fn roots(&self) -> String {
        fs::read_to_string(self.state().join("roots.pem")).unwrap()
    }

    /// Tokens as this control plane makes them, for whatever mesh and time.
    pub(crate) fn tokens(&self, trust_domain: &str) -> Tokens {
        Tokens::open(&Folder::open(&self.state()).unwrap(), trust_domain).unwrap()
    }

    pub(crate) fn token(&self, account: &str) -> String {
        let hour = Duration::from_secs(3600);
        self.tokens(TRUST_DOMAIN)
            .mint(&workload(account), hour, SystemTime::now())
    }
}

impl Plane {
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_in(Place::new(), flags)
    }

    pub(crate) fn start_in(folder: Place, flags: &[&str]) -> Self {
        let (child, address, admin) = spawn(&folder.files(), &folder.state(), flags);
        Self {
            address,
            admin,
            folder,
            child,
        }
    }

    /// Another replica with the same state and files.
    pub(crate) fn replica(&self) -> Replica {
        let (child, address, admin) = spawn(&self.folder.files(), &self.folder.state(), &[]);
        Replica {
            address,
            admin,
            child,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        ask(self.admin, "GET", path, "")
    }

    pub(crate) fn post(&self, path: &str) -> Answer {
        ask(self.admin, "POST", path, "")
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").body).unwrap()
    }

    /// Waits until `/status` is as it should be.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(self.admin, what, is)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// Ends it, and gives back what it leaves behind.
    pub(crate) fn end(mut self, with: Signal) -> (ExitStatus, Place) {
        self.signal(with);
        let status = self.child.wait().unwrap();
        let folder = std::mem::replace(
            &mut self.folder,
            Place {
                outer: tempfile::tempdir().unwrap(),
            },
        );
        (status, folder)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Another control plane of the same mesh; killed when this is dropped.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
}

impl Drop for Replica {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn workload(account: &str) -> Workload {
    Workload {
        namespace: "shop".into(),
        account: account.into(),
    }
}

/// Runs the program to its end.
pub(crate) fn ended(arguments: &[&str]) -> Output {
    Command::new(program("jitney-control-plane"))
        .args(arguments)
        .output()
        .unwrap()
}

fn spawn(files: &Path, state: &Path, flags: &[&str]) -> (Child, SocketAddr, SocketAddr) {
    let mut child = Command::new(program("jitney-control-plane"))
        .arg("run")
        .args(["--source", &format!("files:{}", files.display())])
        .args(["--state", &state.display().to_string()])
        .args(["--trust-domain", TRUST_DOMAIN])
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(flags)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let (mut address, mut admin, mut seen) = (None, None, String::new());
    while address.is_none() || admin.is_none() {
        let begin = seen.len();
        assert!(log.read_line(&mut seen).unwrap() > 0, "it has ended: {seen}");
        let line = &seen[begin..];
        let Some((text, found)) = line.split_once(" address=") else {
            continue;
        };
        let found: SocketAddr = found.trim().parse().unwrap();
        if text.ends_with("admin endpoint listening") {
            admin = Some(found);
        } else if text.ends_with("listening") {
            address = Some(found);
        }
    }
    // The rest is read, so that it can be written.
    std::thread::spawn(move || drop(log.read_to_string(&mut seen)));
    (child, address.unwrap(), admin.unwrap())
}

pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head[9..12].parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

#[track_caller]
pub(crate) fn until(admin: SocketAddr, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let begin = SystemTime::now();
    loop {
        let status = serde_json::from_str(&ask(admin, "GET", "/status", "").body).unwrap();
        if is(&status) {
            return status;
        }
        assert!(
            begin.elapsed().unwrap() < PATIENCE,
            "not within {PATIENCE:?}: {what}: {status:#}"
        );
        std::thread::yield_now();
    }
}

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
