//! The node from below: its processes, and what the kernel does to them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jitney_tests::Process;

use crate::kubectl::succeeded;

/// What has started a node again, which ends with it.
pub(super) struct Node {
    _parts: [Process; 2],
}

/// A process of this cluster: others are not to be seen in here.
struct Running {
    pid: u32,
    /// What it was started as.
    line: Vec<String>,
    /// Its control groups, a line each.
    groups: String,
}

impl Node {
    /// Kills kubelet, the container runtime and all that runs in pods, and then starts the first two as they were.
    pub(super) fn lose_and_start() -> Self {
        let all = processes();
        let is = |process: &&Running, program: &str| process.line[0].ends_with(program);
        let [containerd, kubelet] = ["containerd", "kubelet"].map(|part| {
            let found = all.iter().find(|process| is(process, part));
            let line = &found.unwrap_or_else(|| panic!("no {part} runs")).line;
            let mut command = Command::new("sh");
            // As a service manager has it: kubelet ends while the runtime is not there. The cluster's logs are kept
            // when it fails.
            command
                .args(["-c", "until \"$@\" >>\"$0\" 2>&1; do sleep 0.2; done"])
                .arg(log_of(part))
                .args(line);
            command
        });
        let of_node = all.iter().filter(|process| {
            let is_shim = process.line[0].contains("containerd-shim");
            is_shim || is(process, "kubelet") || is(process, "containerd") || is_of_pod(process)
        });
        let of_node: Vec<u32> = of_node.map(|process| process.pid).collect();
        assert!(of_node.len() > 10, "{} processes", of_node.len());
        kill(&of_node);
        Self {
            _parts: [("containerd", containerd), ("kubelet", kubelet)]
                .map(|(name, part)| Process::run(name, part)),
        }
    }
}

fn log_of(part: &str) -> PathBuf {
    let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG").unwrap());
    let work = kubeconfig.parent().and_then(Path::parent).unwrap();
    work.join("log").join(format!("{part}-again.log"))
}

/// The process of a pod's sidecar.
#[track_caller]
pub(super) fn sidecar_of(uid: &str) -> u32 {
    let mut all = processes().into_iter();
    let sidecar = all.find(|process| {
        process.groups.contains(&format!("pod{uid}")) && process.line[0].ends_with("jitney-proxy")
    });
    sidecar
        .unwrap_or_else(|| panic!("pod {uid} has no sidecar that runs"))
        .pid
}

/// At once, as a machine that stops does it, or the kernel when there is no memory.
pub(super) fn kill(pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let killed = Command::new("kill").arg("-KILL").args(pids).output().unwrap();
    let _said = succeeded(killed);
}

/// Has something else use up the memory of a process's control group, so that the kernel kills that process.
pub(super) fn have_killed_for_memory(pid: u32) {
    fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").unwrap();
    let hog = Command::new("python3")
        .args(["-c", HOG])
        .arg(memory_group(pid).join("cgroup.procs"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // The kernel goes on until there is enough for those who are left.
    assert!(!hog.status.success(), "there was room for all that it wanted");
}

fn memory_group(pid: u32) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let find = |controllers: &str, root: &str| {
        let mut lines = groups.lines();
        let path = lines.find_map(|line| line.split_once(controllers))?.1;
        Some(PathBuf::from(format!("{root}{path}")))
    };
    let first = find(":memory:", "/sys/fs/cgroup/memory");
    first.or_else(|| find("0::", "/sys/fs/cgroup")).unwrap()
}

fn is_of_pod(process: &Running) -> bool {
    process.groups.contains("/kubepods")
}

/// All that run; one that ends meanwhile is left out.
fn processes() -> Vec<Running> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let read = |pid: u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let line: Vec<String> = line.split_terminator('\0').map(str::to_owned).collect();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        (!line.is_empty()).then_some(Running { pid, line, groups })
    };
    pids.filter_map(read).collect()
}

/// Joins a control group, and takes 256 MiB of its memory.
const HOG: &str = "
import os, sys
with open(sys.argv[1], 'w') as group:
    group.write(str(os.getpid()))
kept = [b'x' * (1 << 20) for _ in range(256)]
";
