//! The control plane as a program beside an API server, which it asks as the account of its chart: what becomes of
//! it without a right that it has there, and of pods without it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use jitney_tests::wait;
use tokio::sync::Mutex;

use crate::kubectl::config_of;
use crate::programs::path;

mod away;
mod issuer;
mod named;
mod outdated;
mod rights;
mod routes;
mod told;

/// One test at a time: a control plane writes into all namespaces.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A control plane that runs until this is dropped.
struct Plane {
    child: Child,
    folder: tempfile::TempDir,
}

impl Plane {
    /// Starts one as `account` of `namespace`, which is its own.
    fn start(namespace: &str, account: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config_of(namespace, account).to_string()).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let any = "127.0.0.1:0";
        let child = Command::new(path("jitney-control-plane"))
            .args(["run", "--source", "kubernetes", "--owner", "jitney-control-plane"])
            .args(["--listen", any, "--admin", any, "--webhook", any])
            .args(["--control-plane-namespace", namespace])
            .args(more)
            .arg("--state")
            .arg(folder.path().join("state"))
            .env("KUBECONFIG", kubeconfig)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// What it has said.
    fn said(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap()
    }

    /// Where it listens, in whose words.
    async fn address(&self, what: &str) -> String {
        let words = format!("{what} address=");
        let said = || self.said().split_once(&words).map(|(_, rest)| rest.to_owned());
        wait::until("it listens", || said().is_some()).await;
        let rest = said().unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
