//! What a process takes of the machine, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// What a process has taken so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Bytes in memory now.
    pub resident: u64,
    /// Bytes in memory when they were most.
    pub most_resident: u64,
    /// Time that its threads have run.
    pub processor: Duration,
}

impl Usage {
    /// Of a process that runs.
    ///
    /// # Errors
    /// When there is none, or the kernel tells it otherwise than Linux does.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let status = read("status")?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.trim_matches([':', ' ', '\t']).strip_suffix(" kB"));
            let number = number.with_context(|| format!("status has no {name} in kB"))?;
            Ok(number.trim().parse::<u64>()? << 10)
        };
        let stat = read("stat")?;
        let (_, fields) = stat.rsplit_once(')').context("stat has a name")?;
        // The 14th and 15th field of proc_pid_stat(5), of which the first two are the number and the name.
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<u64, _>>()?;
        Ok(Self {
            resident: bytes("VmRSS")?,
            most_resident: bytes("VmHWM")?,
            // 100 a second on every architecture that this runs on.
            processor: Duration::from_millis(10 * ticks),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_finds_itself() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident > 1 << 20, "{usage:?}");
        assert!(usage.most_resident >= usage.resident, "{usage:?}");
        Usage::of(u32::MAX).unwrap_err();
    }
}
