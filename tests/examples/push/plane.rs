//! The control plane, as a process, and the files that it reads.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use jitney_api::Workload;
use jitney_control_plane::config::Cli;
use jitney_control_plane::identity::{Folder, Tokens};
use jitney_tests::usage::Usage;
use tokio::time::Instant;

use crate::Change;

/// A control plane, ended when dropped.
pub(crate) struct Plane {
    child: Child,
    pub(crate) address: String,
    pub(crate) folder: tempfile::TempDir,
    tokens: Tokens,
    /// How often each thing was changed.
    changes: Mutex<[usize; 2]>,
}

/// The argument that turns this program into the control plane.
pub(crate) const ROLE: &str = "control-plane";

/// Becomes the control plane: the same code as its program.
pub(crate) fn serve(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let carried_out = Cli::parse_from(arguments).command.carry_out();
    carried_out.map(drop).map_err(anyhow::Error::msg)
}

impl Plane {
    pub(crate) fn start(sidecars: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (source, state) = (folder.path().join("mesh.yaml"), folder.path().join("state"));
        fs::write(&source, mesh([0, 0]))?;
        let tokens = Tokens::open(&Folder::open(&state)?, DOMAIN)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args([ROLE, "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--trust-domain", DOMAIN, "--log-level", "info"])
            // How fast they may come is not what is measured.
            .args(["--max-streams-per-second", "100000"])
            // All are of one workload, which cannot have all places.
            .args(["--max-sidecars", &(sidecars + sidecars / 8 + 100).to_string()])
            .arg("--source")
            .arg(format!("files:{}", source.display()))
            .arg("--state")
            .arg(&state)
            .stderr(Stdio::piped())
            .spawn()?;
        let address = listening(&mut child)?;
        Ok(Self {
            child,
            address,
            folder,
            tokens,
            changes: Mutex::default(),
        })
    }

    /// A file with a token for the workload that all sidecars are of.
    pub(crate) fn token(&self, number: usize) -> anyhow::Result<std::path::PathBuf> {
        let workload = Workload {
            namespace: "shop".into(),
            account: "users".into(),
        };
        let token = self
            .tokens
            .mint(&workload, Duration::from_secs(3600), SystemTime::now());
        let file = self.folder.path().join(format!("{number}.token"));
        fs::write(&file, token)?;
        Ok(file)
    }

    /// How often each thing will have been changed when this one is once more.
    pub(crate) fn next(&self, change: Change) -> [usize; 2] {
        let mut changes = self.changes.lock().expect("nobody panicked with it");
        changes[change as usize] += 1;
        *changes
    }

    /// Changes a file so that each thing has been changed so often; gives the time at which it was changed.
    pub(crate) fn change(&self, changes: [usize; 2]) -> anyhow::Result<Instant> {
        let partial = self.folder.path().join("partial");
        fs::write(&partial, mesh(changes))?;
        let since = Instant::now();
        fs::rename(partial, self.folder.path().join("mesh.yaml"))?;
        Ok(since)
    }

    /// What it has taken so far.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.child.id())
    }

    /// Percent of a core that it takes while nothing changes.
    pub(crate) fn idle_cpu(&self, time: Duration) -> anyhow::Result<f64> {
        let before = self.usage()?.processor;
        std::thread::park_timeout(time);
        let took = self.usage()?.processor.saturating_sub(before);
        Ok(100.0 * took.as_secs_f64() / time.as_secs_f64())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Already gone is fine.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Where the control plane listens, from its log; the rest of the log is read and dropped.
fn listening(child: &mut Child) -> anyhow::Result<String> {
    let log = BufReader::new(child.stderr.take().context("piped")?);
    let mut lines = log.lines();
    for line in lines.by_ref() {
        let line = line?;
        let Some((_, address)) = line
            .split_once("listening address=")
            .filter(|_| !line.contains("admin"))
        else {
            ensure!(!line.contains("cannot"), "{line}");
            continue;
        };
        let address = address.to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        return Ok(address);
    }
    anyhow::bail!("the control plane ended before it listened")
}

/// The documents of a shop, in which the two numbers change a policy and an endpoint.
fn mesh([policy, endpoint]: [usize; 2]) -> String {
    let (size, host) = (policy + 1, endpoint + 1);
    format!(
        r#"
kind: Backend
metadata: {{name: users, namespace: shop}}
spec: {{endpoints: ["10.0.0.1:80"]}}
---
kind: Backend
metadata: {{name: orders, namespace: shop}}
spec: {{endpoints: ["10.0.1.{host}:80", "10.0.2.1:80", "10.0.2.2:80"]}}
---
kind: Listener
metadata: {{name: to-orders, namespace: shop}}
spec: {{address: "127.0.0.1:1", backend: orders, workload: users}}
---
kind: BatchPolicy
metadata: {{name: users, namespace: shop}}
spec:
  targetRefs: [{{kind: Backend, name: users}}]
  routes:
  - name: by-id
    match: {{method: GET, path: {{type: Template, value: "/users/{{id}}"}}}}
    codec: {{keyedGet: {{batchPath: "/users?ids={{id}}", key: /id}}}}
    batch: {{maxSize: {size}}}
"#
    )
}

const DOMAIN: &str = "bench.example";
