//! What control planes that share a state tell each other: how the sidecars of each stand to the roots.
//!
//! Each has a small file of its own in the state, which it writes when something has changed, and now and
//! then to say that it is there. One that says nothing any more is left out, and named.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::identity::{Alive, AliveError, Folder, FolderError, Readable, RootId, RootState, Trust};
use crate::status::{NameHash, Sidecars, Trusting};

/// This one's file, and those of the others.
#[derive(Debug)]
pub struct Replicas {
    folder: Folder,
    name: String,
    sidecars: Arc<Sidecars>,
    trust: Arc<Trust>,
    told: Mutex<Told>,
    /// What the others have said last, by file, and since when that is known here: their clocks are not ours.
    heard: Mutex<HashMap<String, (Word, Instant)>>,
    /// Whether any of them was there at the last look that succeeded.
    has_others: AtomicBool,
}

/// What this one has written.
#[derive(Debug, Default)]
struct Told {
    last: Option<Word>,
    /// What that was found at: a look at thousands of sidecars is not for nothing.
    seen: Option<(u64, Vec<RootId>)>,
    has_left: bool,
    /// When the last one was written.
    at: Option<Instant>,
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Word {
    /// Seconds since the epoch, by its own clock: another number each time, and no more than that to others.
    at: u64,
    /// The roots that it has told its sidecars of.
    roots: Vec<RootId>,
    sidecars: Trusting,
}

/// What the others say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Of those that are there. Each sidecar is counted once: here, or by who said so last.
    pub sidecars: Vec<Trusting>,
    /// The roots that each of these knew when it said so.
    pub roots: Vec<Vec<RootId>>,
    /// Those that have gone without a word and with sidecars that have not come back elsewhere, in a few words each.
    pub silent: Vec<String>,
    /// Files that say nothing, with what is wrong.
    pub faults: Vec<String>,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
struct NoWord {
    path: PathBuf,
    #[source]
    cause: serde_json::Error,
}

impl Others {
    /// How many have said nothing since they know of a root: what they said of their sidecars is too old.
    pub fn unaware_of(&self, root: RootId) -> usize {
        self.roots.iter().filter(|known| !known.contains(&root)).count()
    }
}

impl Replicas {
    /// One more, which says so at once.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn open(
        state: &Folder,
        sidecars: &Arc<Sidecars>,
        trust: &Arc<Trust>,
        now: SystemTime,
    ) -> Result<Self, FolderError> {
        let replicas = Self {
            folder: state.inside(FOLDER)?,
            name: format!("{}.json", Folder::unused_name()),
            sidecars: Arc::clone(sidecars),
            trust: Arc::clone(trust),
            told: Mutex::default(),
            heard: Mutex::default(),
            has_others: AtomicBool::default(),
        };
        replicas.tell(now)?;
        Ok(replicas)
    }

    /// What this one calls itself: made up when it started.
    pub fn name(&self) -> &str {
        self.name.trim_end_matches(".json")
    }

    /// How the sidecars of this one stand to the roots now.
    pub fn own(&self) -> Trusting {
        self.sidecars.trusting(&self.trust)
    }

    /// Writes that down where it has changed, and else now and then. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn tell(&self, now: SystemTime) -> Result<(), FolderError> {
        let mut told = self.told.lock();
        let roots = self.trust.roots();
        // Before the look, so that what changes meanwhile is looked at the next time.
        let roots: Vec<RootId> = roots.all().iter().map(|root| root.id).collect();
        let seen = Some((self.sidecars.revision(), roots.clone()));
        let same = told.last.as_ref().filter(|_| told.seen == seen);
        let sidecars = same.map_or_else(|| self.own(), |last| last.sidecars.clone());
        let word = Word {
            at: seconds(now),
            roots,
            sidecars,
        };
        let is_known = told.last.as_ref().is_some_and(|before| {
            let is_same = (&before.roots, &before.sidecars) == (&word.roots, &word.sidecars);
            is_same && word.at.abs_diff(before.at) < AGAIN.as_secs()
        });
        if told.has_left {
            return Ok(());
        }
        if is_known {
            told.seen = seen;
            return Ok(());
        }
        let text = serde_json::to_string(&word).expect("numbers and texts under text keys are JSON");
        self.folder.lock()?.write(&self.name, &text, Readable::ByOwner)?;
        told.last = Some(word);
        told.seen = seen;
        told.at = Some(Instant::now());
        Ok(())
    }

    /// Has noted which certificates' sidecars, connected here, trust the next root: that one is safe once nobody
    /// has a certificate and has not been seen with the root, wherever and whenever that was. Blocks.
    ///
    /// # Errors
    /// When it cannot be noted.
    pub fn note_trust(&self, alive: &Alive, now: SystemTime) -> Result<(), AliveError> {
        let roots = self.trust.roots();
        let Some(next) = roots.in_state(RootState::Next) else {
            return Ok(());
        };
        let keys = self.sidecars.that_trust(next.id, &self.trust);
        alive.trusted(next.id, &keys, now)
    }

    /// What the others have written. One is silent when it has said nothing new since it was first asked here, so
    /// that this is to be asked now and then. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn others(&self, now: Instant) -> Result<Others, FolderError> {
        let (mut others, mut heard) = (Others::default(), Vec::new());
        let names = self.folder.names()?;
        self.heard.lock().retain(|name, _| names.contains(name));
        for name in names.iter().filter(|name| **name != self.name) {
            // It may have left meanwhile.
            let Some(text) = self.folder.read(name)? else {
                continue;
            };
            match self.word(name, &text) {
                Ok(word) => heard.push((self.heard_at(name, &word, now), name, word)),
                Err(error) => {
                    let told = format!("{error}; remove it if that replica is no more");
                    others.faults.push(told);
                }
            }
        }
        // The last one to speak of a sidecar knows best where it is: who has died does not speak.
        heard.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
        let mut elsewhere: HashSet<NameHash> = HashSet::new();
        if !heard.is_empty() {
            elsewhere.extend(self.own().names());
        }
        for (at, name, mut word) in heard {
            let names: Vec<NameHash> = word.sidecars.names().collect();
            word.sidecars = word.sidecars.without(&elsewhere);
            elsewhere.extend(names);
            self.note(&mut others, name, word, now.saturating_duration_since(at));
        }
        let has_others = !others.sidecars.is_empty();
        self.has_others.store(has_others, Ordering::Release);
        Ok(others)
    }

    /// Whether others were there to the last, and hear nothing of this one for so long that they do not count on
    /// it: its sidecars are better off with them.
    pub fn is_unheard(&self, now: Instant) -> bool {
        let last = self.told.lock().at;
        let is_mute = last.is_some_and(|last| now.saturating_duration_since(last) > SILENT);
        is_mute && self.has_others.load(Ordering::Acquire)
    }

    /// Says that this one goes away.
    pub fn leave(&self) {
        let mut told = self.told.lock();
        told.has_left = true;
        if let Err(error) = self.folder.remove(&self.name) {
            tracing::warn!(%error, "other replicas are not told that this one goes away");
        }
    }

    /// Removes what a replica that crashed has left half written. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be locked or listed.
    pub fn sweep(&self, now: SystemTime) -> Result<(), FolderError> {
        self.folder.sweep(now)
    }

    fn word(&self, name: &str, text: &str) -> Result<Word, NoWord> {
        serde_json::from_str(text).map_err(|cause| NoWord {
            path: self.folder.path(name),
            cause,
        })
    }

    /// When it was first asked here whether it has said this.
    fn heard_at(&self, name: &str, word: &Word, now: Instant) -> Instant {
        let mut heard = self.heard.lock();
        let last = heard
            .entry(name.to_owned())
            .or_insert_with(|| (word.clone(), now));
        if last.0 != *word {
            *last = (word.clone(), now);
        }
        last.1
    }

    fn note(&self, others: &mut Others, name: &str, word: Word, silent: Duration) {
        if silent <= SILENT {
            others.sidecars.push(word.sidecars);
            others.roots.push(word.roots);
        } else if silent <= GONE {
            let count = word.sidecars.connected;
            let name = name.trim_end_matches(".json");
            let whose = match count {
                // What it signed is noted where all is.
                0 => return,
                1 => "a sidecar that has".to_owned(),
                _ => format!("{count} sidecars that have"),
            };
            let told = format!(
                "replica {name}, with {whose} not come back elsewhere, has been silent for {} s",
                silent.as_secs()
            );
            others.silent.push(told);
        } else if let Err(error) = self.folder.remove(name) {
            tracing::debug!(%error, "what a replica left behind stays");
        }
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const FOLDER: &str = "replicas";

/// How often it is looked whether there is something to tell.
pub const TELL_EVERY: Duration = Duration::from_secs(2);
/// How often it is told that there is nothing new.
const AGAIN: Duration = Duration::from_secs(10);
/// When a replica is not counted on any more.
pub const SILENT: Duration = Duration::from_secs(30);
/// When nobody needs to know of it any more: its sidecars are elsewhere by now.
const GONE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
