//! What has to outlive a control plane of its rollouts, in the state folder: what the sidecars run that
//! take no part in a stage, a file for each policy with a share, and one file with all other policies, which
//! may have a share when the next process finds them; and one of what has stopped.
//!
//! The last is small and is watched by other replicas; the others are read at the start only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jitney_api::Workload;
use jitney_api::push::{Held, Kind, Pushed, Readers, Version};
use serde::{Deserialize, Serialize};

use super::course::{Group, Record};
use crate::identity::{Folder, FolderError, Readable};
use crate::store::Stop;

/// The files.
#[derive(Debug)]
pub(super) struct Kept {
    state: Folder,
    baselines: Folder,
}

/// Content and stop, by policy.
pub(super) type Stops = BTreeMap<Arc<str>, (Version, Stop)>;

/// What every policy was when this was written.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// Those whose changes went to everyone.
    pub(super) everyone: BTreeMap<Arc<str>, Group>,
    /// The others, which have a file each.
    pub(super) shared: BTreeSet<Arc<str>>,
}

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{POLICIES} would be {0} bytes, and {MOST_BYTES} is the most")]
    TooLarge(usize),
}

#[derive(Serialize, Deserialize)]
struct WholeFile {
    everyone: Vec<BaselineFile>,
    shared: BTreeSet<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
struct BaselineFile {
    policy: String,
    staged: Option<Staged>,
    resources: Vec<Resource>,
}

#[derive(Serialize, Deserialize)]
struct Staged {
    content: String,
    /// Seconds since 1970.
    since: u64,
}

#[derive(Serialize, Deserialize)]
struct Resource {
    r#type: String,
    name: String,
    /// Workloads; left out where everyone may read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    readers: Option<Vec<String>>,
    /// The message, in base64.
    content: String,
}

#[derive(Serialize, Deserialize)]
struct Stopped {
    content: String,
    reason: String,
    /// Seconds since 1970.
    at: u64,
}

impl Kept {
    pub(super) fn open(state: &Folder) -> Result<Self, FolderError> {
        Ok(Self {
            state: state.clone(),
            baselines: state.inside(BASELINES)?,
        })
    }

    /// The file of stops.
    pub(super) fn stops_file(&self) -> PathBuf {
        self.state.path(STOPS)
    }

    /// What is kept, by policy. What cannot be read is left out: it is as if it had never been written.
    pub(super) fn records(&self) -> Result<BTreeMap<Arc<str>, Record>, FolderError> {
        let mut records = BTreeMap::new();
        for name in self.baselines.names()? {
            let Some(text) = self.baselines.read(&name)? else {
                continue;
            };
            let file: Option<BaselineFile> = serde_json::from_str(&text).ok();
            match file.and_then(|file| file.record()) {
                Some((policy, record)) => drop(records.insert(policy, record)),
                None => {
                    let file = self.baselines.path(&name);
                    tracing::error!(file = %file.display(), "what is kept of a rollout cannot be read, and is left out");
                }
            }
        }
        Ok(records)
    }

    /// What every policy was; `None` when that is not known.
    pub(super) fn whole(&self) -> Result<Option<Whole>, FolderError> {
        let Some(text) = self.state.read(POLICIES)? else {
            return Ok(None);
        };
        let file: Option<WholeFile> = serde_json::from_str(&text).ok();
        let whole = file.and_then(WholeFile::whole);
        if whole.is_none() {
            let file = self.state.path(POLICIES);
            tracing::error!(file = %file.display(), "what every policy was cannot be read, and is left out");
        }
        Ok(whole)
    }

    /// Keeps what every policy is, in one file: most of them never have a share, and one of them that gets
    /// one while nobody runs is to have a baseline still.
    pub(super) fn keep_whole(&self, whole: &Whole) -> Result<(), KeptError> {
        let everyone = whole.everyone.iter();
        let text = json(&WholeFile {
            everyone: everyone
                .map(|(policy, group)| BaselineFile::of(policy, group, None))
                .collect(),
            shared: whole.shared.clone(),
        });
        if text.len() > MOST_BYTES {
            return Err(KeptError::TooLarge(text.len()));
        }
        Ok(self.state.lock()?.write(POLICIES, &text, Readable::ByOwner)?)
    }

    /// Keeps what there is to keep of policies, and tells of each, in their order, what became of it.
    pub(super) fn keep(&self, records: &[(&Arc<str>, Option<Record>)]) -> Vec<Result<(), String>> {
        if records.is_empty() {
            return Vec::new();
        }
        // Taken once: whoever waits for it in vain must not do so for each of a thousand policies.
        let lock = match self.baselines.lock() {
            Ok(lock) => lock,
            Err(error) => return vec![Err(error.to_string()); records.len()],
        };
        let keep = |(policy, record): &(&Arc<str>, Option<Record>)| {
            let name = format!("{}.json", Version::of(policy.as_bytes()));
            let kept = match record {
                Some(record) => {
                    let text = json(&BaselineFile::of(policy, &record.baseline, record.staged));
                    lock.write(&name, &text, Readable::ByOwner)
                }
                None => self.baselines.remove(&name),
            };
            kept.map_err(|error| error.to_string())
        };
        records.iter().map(keep).collect()
    }

    /// Removes what was not written to its end.
    pub(super) fn sweep(&self, now: SystemTime) -> Result<(), FolderError> {
        self.baselines.sweep(now)
    }

    /// What has stopped; nothing when that cannot be read.
    pub(super) fn stops(&self) -> Stops {
        let text = self.state.read(STOPS).unwrap_or_else(|error| {
            tracing::error!(%error, "which rollouts have stopped is not known");
            None
        });
        let text = text.unwrap_or_else(|| "{}".to_owned());
        let stops: BTreeMap<Arc<str>, Stopped> = serde_json::from_str(&text).unwrap_or_else(|error| {
            tracing::error!(%error, file = STOPS, "which rollouts have stopped cannot be read");
            BTreeMap::new()
        });
        let known = stops
            .into_iter()
            .filter_map(|(policy, stopped)| Some((policy, stopped.stop()?)));
        known.collect()
    }

    /// Notes that a content has stopped.
    pub(super) fn add_stop(
        &self,
        policy: &Arc<str>,
        content: Version,
        stop: Stop,
    ) -> Result<(), FolderError> {
        self.change_stops(|stops| drop(stops.insert(Arc::clone(policy), (content, stop))))
    }

    /// Forgets that a content has stopped, unless another one has since.
    pub(super) fn remove_stop(&self, policy: &str, content: Version) -> Result<(), FolderError> {
        self.change_stops(|stops| stops.retain(|of, (stopped, _)| **of != *policy || *stopped != content))
    }

    /// Changes what is in the file, not what was read from it some time ago.
    fn change_stops(&self, change: impl FnOnce(&mut Stops)) -> Result<(), FolderError> {
        let lock = self.state.lock()?;
        let before = self.stops();
        let mut stops = before.clone();
        change(&mut stops);
        if stops == before {
            return Ok(());
        }
        let stops = stops.into_iter().map(|(policy, (content, stop))| {
            let stopped = Stopped {
                content: content.to_string(),
                at: seconds(stop.at),
                reason: stop.reason,
            };
            (policy, stopped)
        });
        let text = json(&stops.collect::<BTreeMap<_, _>>());
        lock.write(STOPS, &text, Readable::ByOwner)
    }
}

impl Whole {
    /// Tells it from every other.
    pub(super) fn version(&self) -> Version {
        let everyone = self.everyone.iter();
        let everyone = everyone.map(|(policy, group)| format!("{policy} {}\n", group.version));
        let shared = self.shared.iter().map(|policy| format!("{policy}\n"));
        Version::of(everyone.chain(shared).collect::<String>().as_bytes())
    }

    /// Whether there was a policy of this name.
    pub(super) fn has(&self, policy: &str) -> bool {
        self.everyone.contains_key(policy) || self.shared.contains(policy)
    }
}

impl WholeFile {
    fn whole(self) -> Option<Whole> {
        let everyone = self.everyone.into_iter();
        let everyone = everyone.map(|file| file.record().map(|(policy, record)| (policy, record.baseline)));
        Some(Whole {
            everyone: everyone.collect::<Option<_>>()?,
            shared: self.shared,
        })
    }
}

impl BaselineFile {
    fn of(policy: &str, baseline: &Group, staged: Option<(Version, SystemTime)>) -> Self {
        let staged = staged.map(|(content, since)| Staged {
            content: content.to_string(),
            since: seconds(since),
        });
        Self {
            policy: policy.to_owned(),
            staged,
            resources: baseline.resources.iter().map(Resource::of).collect(),
        }
    }

    fn record(self) -> Option<(Arc<str>, Record)> {
        let resources = self.resources.into_iter().map(Resource::pushed);
        let staged = match self.staged {
            Some(staged) => Some((staged.content.parse().ok()?, time(staged.since))),
            None => None,
        };
        let record = Record {
            baseline: Group::new(resources.collect::<Option<_>>()?),
            staged,
        };
        Some((self.policy.into(), record))
    }
}

impl Resource {
    fn of(pushed: &Pushed) -> Self {
        let readers = match &pushed.readers {
            Readers::Everyone => None,
            Readers::Workloads(workloads) => Some(workloads.iter().map(ToString::to_string).collect()),
        };
        Self {
            r#type: pushed.kind.as_str().to_owned(),
            name: pushed.name.to_string(),
            readers,
            content: STANDARD.encode(&pushed.held.content),
        }
    }

    fn pushed(self) -> Option<Pushed> {
        let content = STANDARD.decode(self.content).ok()?;
        let readers = match self.readers {
            None => Readers::Everyone,
            Some(names) => {
                Readers::Workloads(names.iter().map(|name| workload(name)).collect::<Option<_>>()?)
            }
        };
        Some(Pushed {
            kind: Kind::ALL.into_iter().find(|kind| kind.as_str() == self.r#type)?,
            name: self.name.into(),
            held: Held::from(content.as_slice()),
            readers,
        })
    }
}

impl Stopped {
    fn stop(self) -> Option<(Version, Stop)> {
        let stop = Stop {
            at: time(self.at),
            reason: self.reason,
        };
        Some((self.content.parse().ok()?, stop))
    }
}

fn workload(name: &str) -> Option<Workload> {
    let (namespace, account) = name.rsplit_once('/')?;
    Some(Workload {
        namespace: namespace.to_owned(),
        account: account.to_owned(),
    })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("texts and numbers under text keys are JSON")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}

const BASELINES: &str = "rollouts";
const POLICIES: &str = "policies.json";
/// Written anew with each change of a policy, so that it must not be large: some 20,000 policies.
const MOST_BYTES: usize = 32 << 20;
const STOPS: &str = "rollouts-stopped.json";
