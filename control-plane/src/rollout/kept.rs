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
use serde::de::DeserializeOwned;
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

/// Those with a file of their own, by name.
pub(super) type Records = BTreeMap<Arc<str>, Record>;

/// What every policy was when this was written.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// Those whose changes went to everyone.
    pub(super) everyone: BTreeMap<Arc<str>, Group>,
    /// The others. Invariant: each has a file, which is written before this is and removed after it.
    pub(super) shared: BTreeSet<Arc<str>>,
}

/// Why something is not kept, or of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The state folder does not let us.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// There are too many policies.
    #[error("{POLICIES} would be {0} bytes, and {MOST_BYTES} is the most")]
    TooLarge(usize),
    /// A file is not as it was written.
    #[error("cannot use {}: {cause}; restore it, or remove it {meaning}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
        /// What its removal does.
        meaning: &'static str,
    },
    /// A file is gone without which a change would go to more sidecars than it is to.
    #[error(
        "{} is missing, which tells what {policy} was before its change; restore it, or remove {} {MEANS_NO_BASELINE}",
        path.display(),
        policies.display()
    )]
    Missing {
        /// Whose it is.
        policy: Arc<str>,
        /// The file.
        path: PathBuf,
        /// The file that says that it was there.
        policies: PathBuf,
    },
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
    /// Workloads, or [`SIDECARS`]; left out where everyone may read it.
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

    /// What an earlier process kept: what every policy was, if that is known, and more of some.
    ///
    /// # Errors
    /// When something of it cannot be read, or is missing: nobody could tell then who is to run what.
    pub(super) fn left(&self) -> Result<(Option<Whole>, Records), KeptError> {
        let mut tries = 1..=READ_TRIES;
        loop {
            let (whole, records) = (self.whole()?, self.records()?);
            let shared = whole.iter().flat_map(|whole| &whole.shared);
            let missing = shared.into_iter().find(|policy| !records.contains_key(*policy));
            // Another replica may have written one and removed the other between the two.
            match (missing, tries.next()) {
                (None, _) => return Ok((whole, records)),
                (Some(_), Some(_)) => {}
                (Some(policy), None) => {
                    return Err(KeptError::Missing {
                        policy: Arc::clone(policy),
                        path: self.baselines.path(&file_of(policy)),
                        policies: self.state.path(POLICIES),
                    });
                }
            }
        }
    }

    fn records(&self) -> Result<Records, KeptError> {
        let mut records = Records::new();
        for name in self.baselines.names()? {
            if let Some(text) = self.baselines.read(&name)? {
                let read = read(&text, BaselineFile::record);
                let unreadable = unreadable(&self.baselines, &name, MEANS_NO_RECORD);
                records.extend([read.map_err(unreadable)?]);
            }
        }
        Ok(records)
    }

    fn whole(&self) -> Result<Option<Whole>, KeptError> {
        let text = self.state.read(POLICIES)?;
        let whole = text.map(|text| read(&text, WholeFile::whole)).transpose();
        whole.map_err(unreadable(&self.state, POLICIES, MEANS_NO_BASELINE))
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
            let name = file_of(policy);
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

    /// What has stopped.
    pub(super) fn stops(&self) -> Result<Stops, KeptError> {
        let Some(text) = self.state.read(STOPS)? else {
            return Ok(Stops::new());
        };
        let stops = |file: BTreeMap<Arc<str>, Stopped>| {
            let stops = file.into_iter();
            stops
                .map(|(policy, stopped)| Some((policy, stopped.stop()?)))
                .collect()
        };
        read(&text, stops).map_err(unreadable(&self.state, STOPS, MEANS_NO_STOP))
    }

    /// Notes that a content has stopped.
    pub(super) fn add_stop(&self, policy: &Arc<str>, content: Version, stop: Stop) -> Result<(), KeptError> {
        self.change_stops(|stops| drop(stops.insert(Arc::clone(policy), (content, stop))))
    }

    /// Forgets that a content has stopped, unless another one has since.
    pub(super) fn remove_stop(&self, policy: &str, content: Version) -> Result<(), KeptError> {
        self.change_stops(|stops| stops.retain(|of, (stopped, _)| **of != *policy || *stopped != content))
    }

    /// Changes what is in the file, not what was read from it some time ago.
    fn change_stops(&self, change: impl FnOnce(&mut Stops)) -> Result<(), KeptError> {
        let lock = self.state.lock()?;
        let before = self.stops()?;
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
        Ok(lock.write(STOPS, &text, Readable::ByOwner)?)
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
            Readers::Sidecars(_) => Some(vec![SIDECARS.to_owned()]),
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
            Some(names) if names == [SIDECARS] => Readers::Sidecars(Arc::default()),
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

/// What a file says that was written here.
fn read<F: DeserializeOwned, T>(text: &str, meant: impl FnOnce(F) -> Option<T>) -> Result<T, String> {
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    let file = serde_json::from_str(text).map_err(|error| error.to_string())?;
    meant(file).ok_or_else(|| "it is not what was written here".to_owned())
}

fn unreadable(
    folder: &Folder,
    name: &str,
    meaning: &'static str,
) -> impl FnOnce(String) -> KeptError + use<> {
    let path = folder.path(name);
    move |cause| KeptError::Unreadable { path, cause, meaning }
}

/// Where it is kept what a policy was.
fn file_of(policy: &str) -> String {
    format!("{}.json", Version::of(policy.as_bytes()))
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

/// What it means to go on without a file, as a way out of an error.
const MEANS_NO_BASELINE: &str =
    "and every sidecar will run the present content of policies of which nothing else is kept";
const MEANS_NO_RECORD: &str =
    "with policies.json beside the folder, and every sidecar will run the present content of its policy";
const MEANS_NO_STOP: &str = "and rollouts that had stopped will go on";

/// Readings until what is missing is taken for missing.
const READ_TRIES: usize = 5;
/// In the place of readers: sidecars that are known once the source has been read.
const SIDECARS: &str = "*";
