//! What the control plane has asked of the API server, by the server's audit log; and what all have, by its
//! metrics, which do not say who it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use serde_json::Value;

use crate::kubectl::kubectl;

/// The audit log, as far as it was read.
pub(super) struct Audit {
    path: PathBuf,
    read: u64,
    /// Watches that are open, by what is watched.
    pub(super) watches: BTreeMap<String, i64>,
    /// What has asked, as it says itself.
    pub(super) agents: BTreeSet<String>,
}

/// Requests that were answered, by verb and resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests(pub(super) BTreeMap<(String, String), usize>);

/// What the API server has done for everybody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    /// Requests.
    pub(super) requests: f64,
    /// Seconds that its threads have run.
    pub(super) processor: f64,
}

impl Audit {
    /// From its beginning.
    pub(super) fn open() -> Self {
        let path = std::env::var_os("CLUSTER_AUDIT").expect("the cluster of this tier says where it is");
        Self {
            path: path.into(),
            read: 0,
            watches: BTreeMap::new(),
            agents: BTreeSet::new(),
        }
    }

    /// What was asked since this was read last.
    pub(super) fn next(&mut self) -> Requests {
        let mut file = File::open(&self.path).unwrap();
        file.seek(SeekFrom::Start(self.read)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        let mut requests = Requests::default();
        for line in text[..whole].lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let verb = event["verb"].as_str().unwrap().to_owned();
            let what = resource(&event);
            self.agents.extend(event["userAgent"].as_str().map(str::to_owned));
            let is_over = event["stage"] != "ResponseStarted";
            if verb == "watch" {
                *self.watches.entry(what.clone()).or_default() += if is_over { -1 } else { 1 };
            }
            // A watch is a request when it is opened, and any other one when it is answered.
            if is_over != (verb == "watch") {
                *requests.0.entry((verb, what)).or_default() += 1;
            }
        }
        requests
    }
}

impl Requests {
    /// Requests of a verb.
    pub(super) fn of(&self, verb: &str) -> usize {
        let own = self.0.iter().filter(|((of, _), _)| of == verb);
        own.map(|(_, count)| count).sum()
    }

    /// Statuses that were written.
    pub(super) fn statuses(&self) -> usize {
        let key = ("patch".to_owned(), "batchpolicies/status".to_owned());
        self.0.get(&key).copied().unwrap_or_default()
    }
}

/// What an event of the audit log is about.
fn resource(event: &Value) -> String {
    let object = &event["objectRef"];
    let part = |name: &str| object[name].as_str();
    match (part("resource"), part("subresource")) {
        (Some(resource), Some(subresource)) => format!("{resource}/{subresource}"),
        (Some(resource), None) => resource.to_owned(),
        (None, _) => event["requestURI"].as_str().unwrap_or_default().to_owned(),
    }
}

impl Served {
    /// So far.
    pub(super) fn now() -> Self {
        let metrics = kubectl(&["get", "--raw", "/metrics"]);
        let sum = |name: &str| {
            let samples = metrics.lines().filter(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            let values = samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
            values.sum::<f64>()
        };
        Self {
            requests: sum("apiserver_request_total"),
            processor: sum("process_cpu_seconds_total"),
        }
    }
}
