//! What was measured, for people.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::requests::Audit;
use super::world::Size;
use super::{Change, Phase};

/// What was measured.
pub(super) struct Table<'a> {
    pub(super) size: Size,
    /// Until all sidecars had what is theirs.
    pub(super) connected: Duration,
    pub(super) phases: &'a [Phase],
    pub(super) audit: &'a Audit,
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Size {
            namespaces, services, ..
        } = self.size;
        let (sidecars, connected) = (self.size.sidecars(), self.connected.as_secs_f64());
        let policies = namespaces * services;
        writeln!(
            f,
            "\n{sidecars} sidecars, {policies} Services and as many policies in {namespaces} namespaces; all connected \
             after {connected:.1} s\n"
        )?;
        self.times(f)?;
        self.usage(f)?;
        self.requests(f)
    }
}

impl Table<'_> {
    fn times(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "From the start of kubectl until sidecars have applied a change, right before they say so, in ms:\n\n\
             | change | times | sidecars | kubectl alone, p50 | first sidecar, p50 | all, p50 | all, p99 | worst |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|"
        )?;
        for phase in self.phases.iter().filter(|phase| !phase.changes.is_empty()) {
            let of = |part: fn(&Change) -> Duration, share| percentile(&phase.changes, part, share);
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                phase.name,
                phase.changes.len(),
                phase.concerned,
                of(|change| change.made, 50),
                of(|change| change.first, 50),
                of(|change| change.last, 50),
                of(|change| change.last, 99),
                of(|change| change.last, 100),
            )?;
        }
        writeln!(f)
    }

    fn usage(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| phase | lasted, s | control plane: resident, MiB | at most | CPU, s | % of a core | API server: requests \
             of all | CPU, s | % of a core |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
        )?;
        for phase in self.phases {
            let ((before, served_before), (after, served)) = (phase.before, phase.after);
            let lasted = phase.lasted.as_secs_f64();
            let own = after.processor.saturating_sub(before.processor).as_secs_f64();
            let api = served.processor - served_before.processor;
            writeln!(
                f,
                "| {} | {lasted:.1} | {} | {} | {own:.2} | {:.1} | {} | {api:.2} | {:.1} |",
                phase.name,
                after.resident >> 20,
                after.most_resident >> 20,
                100.0 * own / lasted,
                served.requests - served_before.requests,
                100.0 * api / lasted,
            )?;
        }
        writeln!(f)
    }

    fn requests(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.phases.iter().map(|phase| phase.name).collect();
        writeln!(
            f,
            "Requests of the control plane ({}):\n\n| request | {} |\n|---|{}",
            self.audit.agents.iter().cloned().collect::<Vec<_>>().join(", "),
            names.join(" | "),
            "---:|".repeat(names.len())
        )?;
        let asked = self.phases.iter().flat_map(|phase| phase.requests.0.keys());
        for key in asked.collect::<BTreeSet<_>>() {
            let count = |phase: &Phase| phase.requests.0.get(key).copied().unwrap_or_default().to_string();
            let counts: Vec<String> = self.phases.iter().map(count).collect();
            writeln!(f, "| {} {} | {} |", key.0, key.1, counts.join(" | "))?;
        }
        let watches: Vec<String> = self
            .audit
            .watches
            .iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        writeln!(f, "\nWatches that are open: {}\n", watches.join(", "))
    }
}

/// Milliseconds.
fn percentile(changes: &[Change], part: fn(&Change) -> Duration, share: usize) -> u128 {
    let mut times: Vec<Duration> = changes.iter().map(part).collect();
    times.sort_unstable();
    times[(times.len() - 1) * share / 100].as_millis()
}
