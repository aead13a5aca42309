//! The real sidecar as a process of its own, on free ports, ended by its id.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::caller::{self, Answer};
use crate::programs::program;
use crate::wait::PATIENCE;

/// How a sidecar is to be started.
#[derive(Debug, Default)]
pub struct Settings {
    upstreams: Vec<SocketAddr>,
    policy: Option<String>,
    config: Option<String>,
    more: Vec<String>,
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

    /// Starts the sidecar and waits until it is ready.
    ///
    /// # Panics
    /// If it is not ready within [`PATIENCE`]; its log is in the message.
    pub async fn start(self) -> TestProxy {
        let mut proxy = self.spawn();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some((listener, admin)) = addresses(&proxy.log()) {
                (proxy.address, proxy.admin) = (listener, admin);
                if matches!(caller::get(admin, "/ready").await, Ok(answer) if answer.status == 200) {
                    return proxy;
                }
            }
            let ended = proxy.child.try_wait().expect("a child can be asked").is_some();
            assert!(
                !ended && Instant::now() < end,
                "the sidecar did not become ready:\n{}",
                proxy.log()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts the sidecar and waits for nothing: for starts that must fail.
    ///
    /// # Panics
    /// If the program cannot be run at all.
    pub fn spawn(self) -> TestProxy {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let policy = folder.path().join("policy.yaml");
        let mut command = Command::new(program("jitney-proxy"));
        command
            .args(self.line.clone().unwrap_or_else(|| self.arguments(&policy)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the sidecar's program runs");
        let log = Arc::new(Mutex::new(String::new()));
        keep(child.stdout.take().expect("piped"), &log);
        keep(child.stderr.take().expect("piped"), &log);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        TestProxy {
            child,
            address: nowhere,
            admin: nowhere,
            log,
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
        if self.config.is_none() {
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
    child: Child,
    /// Where it takes calls.
    pub address: SocketAddr,
    /// Its admin endpoint.
    pub admin: SocketAddr,
    log: Arc<Mutex<String>>,
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
        self.child.id()
    }

    /// The file that holds its policy or configuration.
    pub fn policy_path(&self) -> &Path {
        &self.policy
    }

    /// Everything it has written to stdout and stderr.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks it to end: SIGTERM, which drains.
    ///
    /// # Panics
    /// If the process is gone already.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.pid()).expect("a process id is an i32");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("the sidecar still runs");
    }

    /// Its exit status.
    ///
    /// # Panics
    /// If it runs on for longer than `within`.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return status;
            }
            assert!(
                Instant::now() < end,
                "the sidecar still runs after {within:?}:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// True while the process runs.
    ///
    /// # Panics
    /// If the system cannot tell.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
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
        let text = self.admin("/metrics").await.text();
        let of_name = text.lines().filter_map(|line| line.strip_prefix(name));
        let samples = of_name.filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels));
        samples
            .map(|rest| {
                rest.split(' ')
                    .next_back()
                    .unwrap_or("")
                    .parse::<f64>()
                    .expect("a sample is a number")
            })
            .sum()
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        // Already gone is fine: nothing is left to end.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Collects what a process writes; the thread ends with the process.
fn keep(stream: impl Read + Send + 'static, log: &Arc<Mutex<String>>) {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            // A String takes every text.
            let _written = writeln!(log, "{line}");
        }
    });
}

/// The bound addresses, from the lines that say `listening`: the one that names `admin`, and the other.
fn addresses(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (mut listener, mut admin) = (None, None);
    for line in log.lines().filter(|line| line.contains("listening")) {
        let at = line.find("127.0.0.1:")?;
        let end = line[at + 10..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(line.len(), |len| at + 10 + len);
        let address = line[at..end].parse().ok()?;
        if line.contains("admin") {
            admin = Some(address);
        } else {
            listener = listener.or(Some(address));
        }
    }
    listener.zip(admin)
}
