//! The real control plane as a process of its own, with a folder of documents and a state of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::caller;
use crate::process::Process;
use crate::programs::program;
use crate::proxy::{Settings, TestProxy};
use crate::wait::PATIENCE;

/// A running control plane. Dropping it ends the process.
#[derive(Debug)]
pub struct TestControlPlane {
    process: Process,
    /// Where sidecars connect.
    pub address: SocketAddr,
    /// Its admin endpoint.
    pub admin: SocketAddr,
    folder: Arc<TempDir>,
    /// More of its arguments.
    flags: Vec<String>,
}

impl TestControlPlane {
    /// A control plane of these documents.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn start(documents: &str) -> Self {
        Self::start_with(documents, |_| Vec::new()).await
    }

    /// The same with more arguments, which follow from its folder.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn start_with(documents: &str, flags: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let source = folder.path().join("source");
        fs::create_dir(&source).expect("the folder is writable");
        fs::write(source.join("mesh.yaml"), documents).expect("the folder is writable");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let flags = flags(folder.path());
        Self::run(folder, flags, nowhere, nowhere).await
    }

    /// Another control plane with the same documents and state.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn replica(&self) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::run(Arc::clone(&self.folder), self.flags.clone(), nowhere, nowhere).await
    }

    /// Ends it without a word.
    ///
    /// # Panics
    /// If it is gone already.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Has it end as it does when it is asked to. Returns when it is gone.
    ///
    /// # Panics
    /// If it is gone already, or does not end within [`PATIENCE`].
    pub async fn end(&mut self) {
        self.process.terminate();
        self.process.ended(PATIENCE).await;
    }

    /// Starts it again after [`TestControlPlane::kill`], at the same addresses.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn restart(&mut self) {
        let flags = self.flags.clone();
        self.restart_with(flags).await;
    }

    /// Starts it again with other arguments.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn restart_with(&mut self, flags: Vec<String>) {
        *self = Self::run(Arc::clone(&self.folder), flags, self.address, self.admin).await;
    }

    async fn run(folder: Arc<TempDir>, flags: Vec<String>, listen: SocketAddr, admin: SocketAddr) -> Self {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let arguments = [
            "run".to_owned(),
            "--source".into(),
            format!("files:{}", path("source")),
            "--state".into(),
            path("state"),
            "--listen".into(),
            listen.to_string(),
            "--admin".into(),
            admin.to_string(),
        ];
        let arguments = [&arguments[..], &flags].concat();
        let mut process = Process::spawn("jitney-control-plane", &arguments);
        let (address, admin) = process.listening().await;
        Self {
            address,
            process,
            admin,
            folder,
            flags,
        }
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A folder that lives as long as this, its replicas and its successors.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Changes its documents, all at once.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn write(&self, documents: &str) {
        let partial = self.folder().join("next.yaml");
        fs::write(&partial, documents).expect("the folder is writable");
        fs::rename(partial, self.folder().join("source/mesh.yaml")).expect("the folder is writable");
    }

    /// Runs the program with other arguments, on the state of this one.
    ///
    /// # Panics
    /// If the program cannot be run.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let state = self.folder().join("state");
        Command::new(program("jitney-control-plane"))
            .args(arguments)
            .arg("--state")
            .arg(state)
            .output()
            .expect("the control plane's program runs")
    }

    /// A file with a new token for a workload.
    ///
    /// # Panics
    /// If there is no token.
    pub fn token(&self, workload: &str, name: &str) -> PathBuf {
        let output = self.command(&["token", workload]);
        assert!(output.status.success(), "{output:?}");
        // A token is good for one sidecar only, so each has a file of its own.
        let n = (0..).find(|n| !self.folder().join(format!("{name}.{n}.token")).exists());
        let file = self.folder().join(format!("{name}.{}.token", n.unwrap_or(0)));
        fs::write(&file, output.stdout).expect("the folder is writable");
        file
    }

    /// A sidecar of a workload, with a new token. It has a name and a snapshot of its own.
    pub fn sidecar(&self, workload: &str, node: &str) -> Settings {
        let url = format!("https://{}", self.address);
        let token = self.token(workload, node);
        let roots = self.folder().join("state/roots.pem");
        let snapshot = self.folder().join("snapshots").join(node);
        let path = |path: &Path| path.display().to_string();
        TestProxy::with()
            .arg("--control-plane")
            .arg(url)
            .arg("--token-file")
            .arg(path(&token))
            .arg("--trust-bundle")
            .arg(path(&roots))
            .arg("--snapshot")
            .arg(path(&snapshot))
            .arg("--node")
            .arg(node)
    }

    /// What a page of the admin endpoint says.
    ///
    /// # Panics
    /// If it is no JSON.
    pub async fn page(&self, path: &str) -> Value {
        let answer = caller::get(self.admin, path).await;
        let text = answer.expect("the admin endpoint answers").text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// What `/status` says of a policy.
    ///
    /// # Panics
    /// If it says nothing of it.
    pub async fn policy(&self, name: &str) -> Value {
        let status = self.page("/status").await;
        let policies = status["policies"].as_array().expect("a list").iter();
        let found = policies.rev().find(|policy| policy["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {status:#}")).clone()
    }

    /// Waits until `/status` says of a policy what it is to say.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`].
    pub async fn until_policy(&self, name: &str, fact: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let policy = self.policy(name).await;
            if fact(&policy) {
                return policy;
            }
            assert!(Instant::now() < end, "{policy:#}\n{}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The sum of the samples of one metric whose label set contains `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        caller::metric(self.admin, name, labels).await
    }
}

/// Whether a folder holds a snapshot: not one that is being written, whose name begins with a dot.
pub fn is_kept(folder: &Path) -> bool {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names
        .into_iter()
        .any(|name| name.ends_with(".snapshot") && !name.starts_with('.'))
}
