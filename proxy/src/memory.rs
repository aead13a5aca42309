//! What the control group of this process uses of its memory, read once a second, and how short of it that
//! leaves the sidecar. What pressure means, the core decides.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use jitney_core::pressure::{Pressure, Usage};

use crate::metrics::{Metrics, resident_bytes};

/// How short of memory the process is; none before it is watched. And what bodies take of it that have begun to
/// come and are not whole. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    pressure: AtomicU8,
    gathered: AtomicUsize,
}

/// What one body takes of the memory for all of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Gathering {
    memory: Memory,
    bytes: usize,
}

impl Gathering {
    /// Takes so many bytes more; false if all bodies together have as much as they may, or more.
    pub(crate) fn add(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let before = self.memory.0.gathered.fetch_add(bytes, Ordering::Relaxed);
        before + bytes <= GATHERED_MAX
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.0.gathered.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Memory {
    /// For one body that is read whole.
    pub(crate) fn gather(&self) -> Gathering {
        Gathering {
            memory: self.clone(),
            bytes: 0,
        }
    }

    /// As of the last reading.
    pub fn pressure(&self) -> Pressure {
        match self.0.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Some,
            _ => Pressure::Full,
        }
    }

    /// Reads once a second from now on, below where the groups are mounted. Must be called within a tokio
    /// runtime, with which it ends.
    pub fn watch(&self, mount: PathBuf, metrics: Metrics) {
        let known = self.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            loop {
                ticks.tick().await;
                let mount = mount.clone();
                // The kernel adds up a large group while it is read.
                let usage = tokio::task::spawn_blocking(move || read(&mount, &groups(), own()));
                known.learn(usage.await.ok().flatten(), &metrics);
            }
        });
    }

    fn learn(&self, usage: Option<Usage>, metrics: &Metrics) {
        let before = self.pressure();
        let now = before.next(usage);
        self.0.pressure.store(now as u8, Ordering::Relaxed);
        metrics.process().memory_pressure.set(now as i64);
        if now > before {
            tracing::warn!(pressure = ?now, ?usage, "memory is short: less is queued, and calls are shed when it is full");
        } else if now < before {
            tracing::info!(pressure = ?now, "memory is less short");
        }
    }
}

/// This process's resident memory, in bytes.
fn own() -> u64 {
    u64::try_from(resident_bytes()).unwrap_or(0)
}

/// `/proc/self/cgroup`; empty where there is none.
fn groups() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// The group, of this process's and those around it, that has the least left. `None` without a limit.
fn read(mount: &Path, groups: &str, own: u64) -> Option<Usage> {
    let in_v2 = group(groups, |controllers| controllers.is_empty());
    let in_v1 = group(groups, |controllers| {
        controllers.split(',').any(|one| one == "memory")
    });
    let v2 = around(mount, in_v2).filter_map(|place| usage(&place, &V2, own));
    let own_mount = mount.join("memory");
    let v1 = around(&own_mount, in_v1).filter_map(|place| usage(&place, &V1, own));
    v2.chain(v1)
        .min_by_key(|usage| usage.limit.saturating_sub(usage.used))
}

/// The path of the group whose controllers are meant: each line is `number:controllers:path`.
fn group(groups: &str, is_meant: impl Fn(&str) -> bool) -> &str {
    let mut lines = groups
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'));
    lines
        .find(|(controllers, _)| is_meant(controllers))
        .map_or("", |(_, path)| path)
}

/// The folders of a group and of those around it. Within a container, whose mount begins at its own group,
/// only the mount itself may be there.
fn around(mount: &Path, group: &str) -> impl Iterator<Item = PathBuf> {
    let mut place = Some(Path::new(group.trim_start_matches('/')));
    std::iter::from_fn(move || {
        let here = place?;
        place = here.parent();
        Some(here)
    })
    .take(DEPTH)
    .map(|group| mount.join(group))
    .collect::<Vec<_>>()
    .into_iter()
}

/// The names of a version's files.
struct Names {
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`: file pages that the kernel takes back first.
    idle: &'static str,
}

fn usage(place: &Path, names: &Names, own: u64) -> Option<Usage> {
    let number = |name: &str| fs::read_to_string(place.join(name)).ok()?.trim().parse().ok();
    // `max` is none in version 2, and something near 2^63 in version 1.
    let limit = number(names.limit).filter(|limit| *limit < NO_LIMIT)?;
    let used: u64 = number(names.used)?;
    let stat = fs::read_to_string(place.join("memory.stat")).unwrap_or_default();
    let idle = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == names.idle)
        .and_then(|(_, bytes)| bytes.parse().ok())
        .unwrap_or(0);
    Some(Usage {
        used: used.saturating_sub(idle),
        limit,
        own,
    })
}

const V2: Names = Names {
    limit: "memory.max",
    used: "memory.current",
    idle: "inactive_file",
};
const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    idle: "total_inactive_file",
};
/// The most that bodies may take that are waited for: enough for hundreds of ordinary ones, and little beside the
/// memory that a sidecar usually has. Beyond it their calls are not gathered, but pass through as they come.
const GATHERED_MAX: usize = 32 << 20;
/// Often enough to come before the kernel ends the process.
const EVERY: Duration = Duration::from_secs(1);
const NO_LIMIT: u64 = 1 << 60;
/// Groups within groups that are looked at.
const DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn write(place: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(place).unwrap();
        for (name, text) in files {
            fs::write(place.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_counts_in_either_version() {
        let mount = tempfile::tempdir().unwrap();
        let mount = mount.path();
        let all = "4:cpu,memory:/a/b\n0::/pod/c\n";
        assert_eq!(read(mount, all, 1), None, "no group at all");
        let v2 = |limit| {
            [
                ("memory.max", limit),
                ("memory.current", "900\n"),
                ("memory.stat", "anon 5\ninactive_file 100\n"),
            ]
        };
        write(&mount.join("pod/c"), &v2("max\n"));
        assert_eq!(read(mount, all, 1), None, "no limit");
        write(&mount.join("pod"), &v2("1000\n"));
        let expected = Usage {
            used: 800,
            limit: 1000,
            own: 1,
        };
        assert_eq!(read(mount, all, 1), Some(expected), "that of the group around it");
        // Within a container version 1 shows another path than there is: its mount is its own group.
        write(
            &mount.join("memory"),
            &[
                ("memory.limit_in_bytes", "500\n"),
                ("memory.usage_in_bytes", "490\n"),
                ("memory.stat", "inactive_file 7\ntotal_inactive_file 40\n"),
            ],
        );
        let expected = Usage {
            used: 450,
            limit: 500,
            own: 1,
        };
        assert_eq!(read(mount, all, 1), Some(expected));
        write(
            &mount.join("memory"),
            &[("memory.limit_in_bytes", "9223372036854771712\n")],
        );
        assert_eq!(read(mount, "", 1), None);
    }
}
