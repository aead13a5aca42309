//! What the kernel says about this process.

use std::fs;

/// A reading of `/proc/self`; zero where the kernel does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: i64,
    pub(super) open_files: i64,
    pub(super) threads: i64,
}

impl Usage {
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            cpu_seconds: fs::read_to_string("/proc/self/stat").map_or(0.0, |stat| cpu_seconds(&stat)),
            resident_bytes: field(&status, "VmRSS:") * 1024,
            // The listing itself holds one.
            open_files: fs::read_dir("/proc/self/fd")
                .map_or(0, |files| i64::try_from(files.count()).unwrap_or(i64::MAX) - 1),
            threads: field(&status, "Threads:"),
        }
    }
}

/// Resident memory alone, which is read more often than the rest.
pub(super) fn resident_bytes() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&status, "VmRSS:") * 1024
}

/// Fields 14 and 15 of `/proc/self/stat`, in ticks of 10 ms (`USER_HZ`, fixed on Linux).
///
/// The second field is the program's name in brackets and may hold anything, brackets included.
fn cpu_seconds(stat: &str) -> f64 {
    let Some((_, after_name)) = stat.rsplit_once(')') else {
        return 0.0;
    };
    let ticks: u32 = after_name
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u32>().ok())
        .fold(0, u32::saturating_add);
    f64::from(ticks) / 100.0
}

fn field(status: &str, name: &str) -> i64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) ) S 1 1 1 0 -1 4194560 500 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        assert!((cpu_seconds(stat) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn reading_of_this_process_is_plausible() {
        let usage = Usage::read();
        assert!(usage.resident_bytes > 100_000, "{usage:?}");
        assert!(usage.open_files >= 3, "{usage:?}");
        assert!(usage.threads >= 1, "{usage:?}");
    }
}
