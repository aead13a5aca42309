//! Two hosts with a sidecar on each, and what is started there.

use std::process::{Command, Output};
use std::time::Duration;

use jitney_tests::programs::program;
use jitney_tests::wait::{PATIENCE, until};
use jitney_tests::{Host, Network, Process};

use super::POLICY;

/// Both sidecars, with the rules that hand them connections.
pub(super) struct Mesh {
    pub(super) network: Network,
    pub(super) caller: Process,
    pub(super) callee: Process,
    _plane: Option<Process>,
    folder: tempfile::TempDir,
}

impl Mesh {
    /// With a policy for what comes in, and no control plane.
    pub(super) async fn start(tool: &str) -> Self {
        let network = Network::new();
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("users.yaml");
        std::fs::write(&policy, POLICY).unwrap();
        let policy = policy.display().to_string();
        Self::with(network, folder, None, tool, [&[], &["--policy", &policy]]).await
    }

    /// With certificates, and these documents, from a control plane on the callee's host.
    pub(super) async fn secured(documents: &str) -> Self {
        let network = Network::new();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(path("source")).unwrap();
        std::fs::write(path("source/mesh.yaml"), documents).unwrap();
        let (state, roots) = (path("state"), path("state/roots.pem"));
        let mut plane = network.command(Host::B, program("jitney-control-plane"));
        plane.args(["run", "--source", &format!("files:{}", path("source"))]);
        plane.args(["--state", &state, "--listen", PLANE, "--admin", "127.0.0.1:9902"]);
        let plane = Process::run("the control plane", plane);
        until("the control plane listens", || {
            plane.log().contains("admin endpoint listening")
        })
        .await;
        let mut flags = Vec::new();
        for workload in ["shop/front", "shop/users"] {
            let mut token = Command::new(program("jitney-control-plane"));
            token.args(["token", workload, "--state", &state]);
            let file = path(&workload.replace('/', "."));
            std::fs::write(&file, output(token).await.stdout).unwrap();
            let url = format!("https://{PLANE}");
            let words = [
                "--control-plane",
                &url,
                "--token-file",
                &file,
                "--trust-bundle",
                &roots,
            ];
            flags.push(words.map(str::to_owned));
        }
        let [front, users] = [0, 1].map(|n: usize| flags[n].each_ref().map(String::as_str));
        Self::with(network, folder, Some(plane), "nftables", [&front, &users]).await
    }

    /// With these flags for the caller's sidecar and the callee's.
    async fn with(
        network: Network,
        folder: tempfile::TempDir,
        plane: Option<Process>,
        tool: &str,
        flags: [&[&str]; 2],
    ) -> Self {
        for host in [Host::A, Host::B] {
            let mut install = network.command(host, program("jitney-proxy"));
            // The sidecars run as root here, and the callers do not.
            install.args(["redirect", "install", "--user", "0", "--tool", tool]);
            install.args(["--skip-inbound-ports", "15010"]);
            let output = output(install).await;
            assert!(output.status.success(), "{}", told(&output));
        }
        let mut outbound = network.command(Host::A, program("jitney-proxy"));
        outbound.args(["run", "--admin", "127.0.0.1:9901"]).args(flags[0]);
        outbound.args(["--outbound", "127.0.0.1:15001", "[::1]:15001"]);
        let mut inbound = network.command(Host::B, program("jitney-proxy"));
        inbound.args(["run", "--admin", "127.0.0.1:9901"]).args(flags[1]);
        inbound.args(["--inbound", "[::]:15006"]);
        let mesh = Self {
            caller: Process::run("the caller's sidecar", outbound),
            callee: Process::run("the callee's sidecar", inbound),
            network,
            _plane: plane,
            folder,
        };
        for (process, listeners) in [(&mesh.caller, 3), (&mesh.callee, 2)] {
            let listens = || process.log().matches("listening").count() == listeners;
            until("both sidecars listen", listens).await;
        }
        mesh
    }

    /// Changes the control plane's documents, all at once.
    pub(super) fn write(&self, documents: &str) {
        let next = self.folder.path().join("next.yaml");
        std::fs::write(&next, documents).unwrap();
        std::fs::rename(next, self.folder.path().join("source/mesh.yaml")).unwrap();
    }

    /// Waits until a sidecar says that it is ready.
    pub(super) async fn is_ready(&self, host: Host) {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut curl = self.network.command(host, "curl");
            curl.args(["-sf", "http://127.0.0.1:9901/ready"]);
            let asked = output(curl).await;
            if asked.status.success() {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{}", told(&asked));
        }
    }

    /// What somebody on the calling host prints.
    pub(super) async fn call(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = self.network.command_of_somebody(Host::A, program);
        command.args(arguments);
        output(command).await
    }

    /// Lines of the metrics on a host.
    pub(super) async fn metrics(&self, host: Host) -> String {
        let mut command = self.network.command(host, "curl");
        command.args(["-s", "http://127.0.0.1:9901/metrics"]);
        told(&output(command).await)
    }
}

pub(super) async fn output(mut command: Command) -> Output {
    let ended = tokio::task::spawn_blocking(move || command.output());
    let ended = tokio::time::timeout(Duration::from_secs(180), ended).await;
    ended.expect("it ends").unwrap().unwrap()
}

pub(super) fn told(output: &Output) -> String {
    let (said, complained) = (&output.stdout, &output.stderr);
    [said, complained]
        .map(|text| String::from_utf8_lossy(text))
        .concat()
}

#[track_caller]
pub(super) fn says(metrics: &str, line: &str) {
    assert!(
        metrics.lines().any(|one| one == line),
        "{line:?} is missing: {metrics}"
    );
}

/// Where the control plane listens.
const PLANE: &str = "10.77.0.2:15010";
