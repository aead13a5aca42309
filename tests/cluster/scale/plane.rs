//! The control plane as its chart has it: with the rights of its account.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use jitney_tests::Process;
use jitney_tests::usage::Usage;

use crate::helm::{chart, helm};
use crate::kubectl::config_of;
use crate::programs::path;

/// A control plane on this side of the API server, whose pod nobody runs. It ends when this is dropped.
pub(super) struct Plane {
    process: Process,
    pub(super) address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Plane {
    pub(super) async fn start() -> Self {
        let values = "injection.mode=None,replicas=1,podDisruptionBudget.enabled=false";
        let _notes = helm(&[
            "install",
            "jitney",
            &chart("jitney"),
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--set",
            values,
        ]);
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config_of(SYSTEM, "jitney-control-plane").to_string()).unwrap();
        let any = "127.0.0.1:0";
        let mut program = Command::new(path("jitney-control-plane"));
        program
            .args(["run", "--source", "kubernetes", "--owner", "jitney-control-plane"])
            .args(["--listen", any, "--admin", any, "--state"])
            .arg(folder.path().join("state"))
            .env("KUBECONFIG", kubeconfig)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        let mut process = Process::run("jitney-control-plane", program);
        let (address, _admin) = process.listening().await;
        Self {
            process,
            address,
            folder,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The file with the roots.
    pub(super) fn roots(&self) -> PathBuf {
        self.folder.path().join("state/roots.pem")
    }

    pub(super) fn usage(&self) -> Usage {
        Usage::of(self.process.pid()).unwrap()
    }

    pub(super) fn log(&self) -> String {
        self.process.log()
    }
}

/// Where the chart is.
const SYSTEM: &str = "jitney-system";
