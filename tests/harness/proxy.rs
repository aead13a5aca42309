//! The real sidecar as a process of its own, on free ports, ended by its id.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;

use crate::caller::{self, Answer};
use crate::process::Process;

/// How a sidecar is to be started.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    upstreams: Vec<SocketAddr>,
    policy: Option<String>,
    config: Option<String>,
    more: Vec<String>,
    is_pushed: bool,
    line: Option<Vec<String>>,
}

impl Settings {
    /// One more upstream address.
    #[must_use]
    pub fn upstream(mut self, address: SocketAddr) -> Self {
        self.upstreams.push(address);
        self
    }

    /// The policy's text.
    #[must_use]
    pub fn policy(mut self, text: impl Into<String>) -> Self {
        self.policy = Some(text.into());
        self
    }

    /// Listener, Backend and BatchPolicy documents in place of flags.
    #[must_use]
    pub fn config(mut self, text: impl Into<String>) -> Self {
        self.config = Some(text.into());
        self
    }

    /// Listeners come from a control plane.
    #[must_use]
    pub const fn pushed(mut self) -> Self {
        self.is_pushed = true;
        self
    }

    /// One more command-line argument.
    #[must_use]
    pub fn arg(mut self, text: impl Into<String>) -> Self {
        self.more.push(text.into());
        self
    }

    /// The whole command line, in place of all other settings.
    #[must_use]
    pub fn line(mut self, arguments: Vec<String>) -> Self {
        self.line = Some(arguments);
        self
    }

    /// Starts the sidecar and waits until it is ready and has said where it listens.
    ///
    /// # Panics
    /// If it is not ready within [`PATIENCE`](crate::wait::PATIENCE); its log is in the message.
    pub async fn start(self) -> TestProxy {
        let mut proxy = self.spawn();
        (proxy.address, proxy.admin) = proxy.process.listening().await;
        proxy
    }

    /// Starts the sidecar and waits for nothing: for starts that must fail.
    ///
    /// # Panics
    /// If the program cannot be run at all.
    pub fn spawn(self) -> TestProxy {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let policy = folder.path().join("policy.yaml");
        let arguments = self.line.clone().unwrap_or_else(|| self.arguments(&policy));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        TestProxy {
            process: Process::spawn("jitney-proxy", &arguments),
            address: nowhere,
            admin: nowhere,
            policy,
            _folder: folder,
        }
    }

    /// The flags that say what the settings do; texts are written to `file`.
    fn arguments(&self, file: &Path) -> Vec<String> {
        let mut flags = vec!["run".to_owned(), "--admin".to_owned(), "127.0.0.1:0".to_owned()];
        if let Some(text) = self.config.as_ref().or(self.policy.as_ref()) {
            std::fs::write(file, text).expect("the folder is writable");
            let flag = if self.config.is_some() {
                "--config"
            } else {
                "--policy"
            };
            flags.extend([flag.to_owned(), file.display().to_string()]);
        }
        if self.config.is_none() && !self.is_pushed {
            flags.extend(["--listen".to_owned(), "127.0.0.1:0".to_owned()]);
        }
        flags.extend(
            self.upstreams
                .iter()
                .flat_map(|upstream| ["--upstream".to_owned(), upstream.to_string()]),
        );
        flags.extend(self.more.iter().cloned());
        flags
    }
}

/// A running sidecar. Dropping it ends the process.
#[derive(Debug)]
pub struct TestProxy {
    process: Process,
    /// Where it takes calls.
    pub address: SocketAddr,
    /// Its admin endpoint.
    pub admin: SocketAddr,
    policy: PathBuf,
    _folder: TempDir,
}

impl TestProxy {
    /// A sidecar with other than the usual settings.
    pub fn with() -> Settings {
        Settings::default()
    }

    /// A sidecar before one upstream, with one policy.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn start(upstream: SocketAddr, policy: &str) -> Self {
        Self::with().upstream(upstream).policy(policy).start().await
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The file that holds its policy or configuration.
    pub fn policy_path(&self) -> &Path {
        &self.policy
    }

    /// Everything it has written to stdout and stderr.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Asks it to end: SIGTERM, which drains.
    ///
    /// # Panics
    /// If the process is gone already.
    pub fn terminate(&self) {
        self.process.terminate();
    }

    /// Ends it without a word.
    ///
    /// # Panics
    /// If the process is gone already.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Its exit status.
    ///
    /// # Panics
    /// If it runs on for longer than `within`.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        self.process.ended(within).await
    }

    /// True while the process runs.
    ///
    /// # Panics
    /// If the system cannot tell.
    pub fn runs(&mut self) -> bool {
        self.process.runs()
    }

    /// Waits until its admin endpoint answers, after a start that waited for nothing.
    ///
    /// # Panics
    /// If that is not within [`PATIENCE`](crate::wait::PATIENCE).
    pub async fn answering(&mut self) {
        self.admin = self.process.answering().await;
    }

    /// Waits until it is ready, after a start that waited for nothing.
    ///
    /// # Panics
    /// If that is not within [`PATIENCE`](crate::wait::PATIENCE).
    pub async fn ready(&mut self) {
        let (listener, admin) = self.process.ready().await;
        self.address = listener.unwrap_or(self.address);
        self.admin = admin;
    }

    /// GET on the admin endpoint.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn admin(&self, path: &str) -> Answer {
        caller::get(self.admin, path)
            .await
            .expect("the admin endpoint answers")
    }

    /// The sum of the samples of one metric whose label set contains `labels`.
    ///
    /// # Panics
    /// If the admin endpoint does not answer or a sample is not a number.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        caller::metric(self.admin, name, labels).await
    }
}
