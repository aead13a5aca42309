//! A program of the workspace as a process of its own, ended by its id.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::caller;
use crate::programs::program;
use crate::wait::PATIENCE;

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts a program of the workspace.
    ///
    /// # Panics
    /// If it cannot be run at all.
    pub fn spawn(name: &'static str, arguments: &[String]) -> Self {
        let mut command = Command::new(program(name));
        command.args(arguments);
        Self::run(name, command)
    }

    /// Starts a command.
    ///
    /// # Panics
    /// If it cannot be run at all.
    pub fn run(name: &'static str, mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("a program of a test runs");
        let log = Arc::new(Mutex::new(String::new()));
        keep(child.stdout.take().expect("piped"), &log);
        keep(child.stderr.take().expect("piped"), &log);
        Self { name, child, log }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written to stdout and stderr.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks it to end: SIGTERM.
    ///
    /// # Panics
    /// If the process is gone already.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends it without a word: SIGKILL. Returns when it is gone.
    ///
    /// # Panics
    /// If the process is gone already.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _status = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id is an i32");
        kill(Pid::from_raw(pid), signal).expect("the process still runs");
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
            let (name, log) = (self.name, self.log());
            assert!(Instant::now() < end, "{name} still runs after {within:?}:\n{log}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// True while it runs.
    ///
    /// # Panics
    /// If the system cannot tell.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits until the admin endpoint says that it is ready; gives the addresses that it listens on: the
    /// first one that is none of the admin endpoint, if it has said so, and that of the admin endpoint.
    ///
    /// # Panics
    /// If that is not within [`PATIENCE`]; its log is in the message.
    pub async fn ready(&mut self) -> (Option<SocketAddr>, SocketAddr) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let (listener, Some(admin)) = addresses(&self.log())
                && matches!(caller::get(admin, "/ready").await, Ok(answer) if answer.status == 200)
            {
                return (listener, admin);
            }
            let is_hopeful = self.runs() && Instant::now() < end;
            assert!(is_hopeful, "{} did not become ready:\n{}", self.name, self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Process {
    /// Waits until the admin endpoint answers, whatever it says; gives its address.
    ///
    /// # Panics
    /// As [`Process::ready`].
    pub async fn answering(&self) -> SocketAddr {
        crate::wait::until("its admin endpoint answers", || {
            addresses(&self.log()).1.is_some()
        })
        .await;
        addresses(&self.log()).1.expect("it has said so")
    }

    /// As [`Process::ready`], of a program that listens on more than its admin endpoint.
    ///
    /// # Panics
    /// As [`Process::ready`].
    pub async fn listening(&mut self) -> (SocketAddr, SocketAddr) {
        let (listener, admin) = self.ready().await;
        // Its log may be later than its answers.
        crate::wait::until("it says where it listens", || addresses(&self.log()).0.is_some()).await;
        let listener = listener.or_else(|| addresses(&self.log()).0);
        (listener.expect("it has said so"), admin)
    }
}

impl Drop for Process {
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
fn addresses(log: &str) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let (mut listener, mut admin) = (None, None);
    for line in log.lines().filter(|line| line.contains("listening")) {
        let Some(at) = line.find("127.0.0.1:") else {
            continue;
        };
        let end = line[at + 10..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(line.len(), |len| at + 10 + len);
        let address = line[at..end].parse().ok();
        if line.contains("admin") {
            admin = address;
        } else {
            listener = listener.or(address);
        }
    }
    (listener, admin)
}
