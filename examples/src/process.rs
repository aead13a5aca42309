//! Every role is a process of its own, so that the figures are honest: this program starts itself
//! again as the service or as the sidecar, reads the addresses they listen on, and ends them.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{self, Child, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use jitney_control_plane::config as plane;
use jitney_proxy::config::{Cli, Command};

/// The argument that turns an example into the sidecar. What follows are the sidecar's own.
pub const SIDECAR: &str = "sidecar";

/// The argument that turns an example into the control plane. What follows are the control plane's own.
pub const CONTROL_PLANE: &str = "control-plane";

/// How long a process may take to listen; Python's imports are the slow ones.
const START: Duration = Duration::from_secs(60);

/// A started process, ended when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    name: String,
}

impl Process {
    /// Starts this very program again, in another role.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn role<I: IntoIterator<Item: AsRef<OsStr>>>(name: &str, arguments: I) -> anyhow::Result<Self> {
        let mut command = process::Command::new(std::env::current_exe()?);
        command.arg(name).args(arguments);
        Self::start(name, command)
    }

    /// Starts a command whose lines on stdout and stderr are to be read.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, mut command: process::Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        // Bounded: lines that nobody reads any more are dropped by `forward`.
        let (sender, lines) = sync_channel(1024);
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|s| Box::new(s) as _),
            child.stderr.take().map(|s| Box::new(s) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _full_or_gone = sender.try_send(line);
                }
            });
        }
        Ok(Self {
            child,
            lines,
            name: name.to_owned(),
        })
    }

    /// The next address that the process says it is listening on, with the line that says so.
    ///
    /// # Errors
    /// When the process ends or stays silent; what it said is in the message.
    pub fn listening(&self) -> anyhow::Result<(SocketAddr, String)> {
        let mut said = String::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(START) else {
                bail!("{} did not say where it is listening:\n{said}", self.name);
            };
            if let Some(address) = address(&line).filter(|_| line.contains("listening")) {
                return Ok((address, line));
            }
            said.push_str(&line);
            said.push('\n');
        }
    }

    /// What the process has said since it was listened to last.
    pub fn said(&self) -> String {
        self.lines.try_iter().map(|line| line + "\n").collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is fine: nothing is left to end.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The loopback address that a line names.
fn address(line: &str) -> Option<SocketAddr> {
    let text = &line[line.find(LOOPBACK)?..];
    let port = &text[LOOPBACK.len()..];
    let digits = port.find(|c: char| !c.is_ascii_digit()).unwrap_or(port.len());
    text[..LOOPBACK.len() + digits].parse().ok()
}

const LOOPBACK: &str = "127.0.0.1:";

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    _process: Process,
    /// Where callers send their calls now.
    pub address: SocketAddr,
    /// Its admin endpoint.
    pub admin: SocketAddr,
}

/// Starts the sidecar before `upstream` with the policy of a file.
///
/// # Errors
/// When it does not start; what it said is in the message.
pub fn sidecar(upstream: SocketAddr, policy: &Path) -> anyhow::Result<Sidecar> {
    let upstream = upstream.to_string();
    let fixed = [
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--upstream",
        &upstream,
        "--policy",
    ];
    let process = Process::role(SIDECAR, fixed.iter().map(OsStr::new).chain([policy.as_os_str()]))?;
    let (mut address, mut admin) = (None, None);
    while address.is_none() || admin.is_none() {
        let (found, line) = process.listening()?;
        *(if line.contains("admin") {
            &mut admin
        } else {
            &mut address
        }) = Some(found);
    }
    let (address, admin) = address.zip(admin).context("both addresses were seen")?;
    Ok(Sidecar {
        _process: process,
        address,
        admin,
    })
}

/// Ends this process when its parent is gone: then nobody holds the other end of stdin.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let _bytes = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        process::exit(0);
    });
}

/// Turns this process into the sidecar: the same code as the program `jitney-proxy`.
///
/// # Errors
/// When the sidecar cannot start.
pub fn be_sidecar(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let command_line = ["jitney-proxy".into()].into_iter().chain(arguments);
    match Cli::parse_from(command_line).command {
        Command::Run(arguments) => {
            end_with_parent();
            Ok(jitney_proxy::run::run(*arguments)?)
        }
        other @ (Command::Check(_) | Command::Explain(_) | Command::Redirect(_)) => {
            bail!("the sidecar's role is to run, not {other:?}")
        }
    }
}

/// Turns this process into the control plane: the same code as the program `jitney-control-plane`.
///
/// # Errors
/// When the control plane cannot do what it is asked for.
pub fn be_control_plane(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let command_line = ["jitney-control-plane".into()].into_iter().chain(arguments);
    let command = plane::Cli::parse_from(command_line).command;
    if matches!(command, plane::Command::Run(_)) {
        end_with_parent();
    }
    command.carry_out().map_err(anyhow::Error::msg)
}

/// What this very program prints in another role, in which it ends by itself.
///
/// # Errors
/// When it cannot be started, or fails.
pub fn output<I: IntoIterator<Item: AsRef<OsStr>>>(name: &str, arguments: I) -> anyhow::Result<String> {
    let mut command = process::Command::new(std::env::current_exe()?);
    let done = command.arg(name).args(arguments).output()?;
    if !done.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8(done.stdout)?)
}

/// The sidecar's own allocator, so that it costs here what it costs in production.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
