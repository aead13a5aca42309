//! Which certificates are alive: signed by whatever replica, and neither expired nor superseded since.
//!
//! They are kept in a journal, to which a signing adds a line or two however many there are; when most
//! lines are about what is no more, it is written anew. Each replica knows by heart what it has read, and
//! reads what was added since. A line is written before its certificate is sent, so that none is alive
//! and unknown, and the one before counts until its owner comes with the new one; what a loss of power takes
//! all the same is noted again when its sidecar comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jitney_api::Workload;
use parking_lot::Mutex;

mod journal;
mod known;

use journal::Journal;
use known::{Entry, Held, Key, Known, Uncounted};

use super::authority::{KeyHash, LIFETIME};
use super::folder::{Folder, FolderError, LOCK_WAIT, Lock, Readable};
use super::peer::Peer;
use super::roots::RootId;

/// Every certificate that is alive.
#[derive(Debug)]
pub struct Alive {
    folder: Folder,
    most: usize,
    /// Held while the file is read or written, which may take as long as the folder's lock.
    journal: Mutex<Journal>,
    /// Locked for no longer than it takes to look something up, or to go through it once.
    known: Mutex<Known>,
}

/// What was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Its key.
    pub key: KeyHash,
    /// Whose it is.
    pub workload: Workload,
    /// What the sidecar calls itself; empty where that is not known.
    pub node: String,
    /// Who signed it.
    pub root: RootId,
    /// Until when it is good.
    pub not_after: SystemTime,
}

/// Those certificates of which more is asked than how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Those {
    /// The ones that these roots have signed.
    Of(BTreeSet<RootId>),
    /// The ones whose sidecars have not said that they trust this root.
    NotTrusting(RootId),
}

/// What is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Living {
    /// How many certificates each root has.
    pub certificates: BTreeMap<RootId, usize>,
    /// How many each workload has of those that were asked for.
    pub workloads: BTreeMap<Workload, usize>,
    /// A few of the sidecars that they are for, by what these call themselves.
    pub nodes: BTreeMap<Workload, BTreeSet<String>>,
    /// How many there may be among them for which there was no room.
    pub uncounted: usize,
    /// When the last one of those expires.
    pub last: Option<SystemTime>,
    /// Until when there may be others, which nobody has noted.
    pub unknown_until: Option<SystemTime>,
    /// What is wrong with the journal, or why it cannot be read.
    pub fault: Option<String>,
}

/// Why it is not known what is alive.
#[derive(Debug, thiserror::Error)]
pub enum AliveError {
    /// The folder does not let us.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The file does not.
    #[error("cannot use {}: {cause}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// Others of this process are at it for too long.
    #[error("what is alive cannot be noted: others wait for {} as well", .0.display())]
    Busy(PathBuf),
}

impl Alive {
    /// What is noted in a state folder. Of a mesh that is to begin, everything will be.
    ///
    /// # Errors
    /// When the journal cannot be made or read, or is none.
    pub fn open(state: &Folder, is_beginning: bool, now: SystemTime) -> Result<Self, AliveError> {
        Self::with_bound(state, MOST_ALIVE, is_beginning, now)
    }

    /// Whether something has been noted in a state folder.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn has_noted(state: &Folder) -> Result<bool, FolderError> {
        let text = state.read(&format!("{FOLDER}/{FILE}"))?;
        Ok(text.is_some_and(|text| text.lines().nth(1).is_some()))
    }

    fn with_bound(
        state: &Folder,
        most: usize,
        is_beginning: bool,
        now: SystemTime,
    ) -> Result<Self, AliveError> {
        // One of its own: a change in the state itself is looked at by whoever waits for other roots.
        let folder = state.inside(FOLDER)?;
        let lock = folder.lock()?;
        if folder.read(FILE)?.is_none() {
            let began = if is_beginning { 0 } else { seconds(now) };
            let empty = Known {
                began,
                ..Known::default()
            };
            lock.write(FILE, &empty.text(), Readable::ByOwner)?;
        }
        let (journal, known) = Journal::open(&folder.path(FILE)).map_err(failed(&folder))?;
        let alive = Self {
            folder,
            most,
            journal: Mutex::new(journal),
            known: Mutex::new(known),
        };
        alive.begin(&lock, now)?;
        Ok(alive)
    }

    /// Reads everything. Whoever holds the lock finds half a line at the end only where one who wrote has
    /// ended, or where the file was cut: of that nobody knows how much is gone.
    fn begin(&self, lock: &Lock, now: SystemTime) -> Result<(), AliveError> {
        let mut journal = self.journal.lock();
        self.catch_up(&mut journal)?;
        let is_torn = journal.is_torn().map_err(failed(&self.folder))?;
        self.known.lock().forget_expired(seconds(now));
        if !is_torn {
            return Ok(());
        }
        let file = self.folder.path(FILE);
        tracing::warn!(file = %file.display(), "the last line is not whole and is left out: certificates may be \
            alive that are not noted");
        self.known.lock().began = seconds(now);
        let text = self.known.lock().text();
        self.write_anew(&mut journal, &text, lock)
    }

    /// Notes that a certificate is about to be handed out. It takes the place of the one that its owner has, and
    /// of the last one that was signed for a sidecar of its name, as soon as it is [`Alive::seen`]: until then the
    /// answer may be lost, and the one before is all that its owner has. Blocks for as long as a line is written,
    /// and somebody else may be at it.
    ///
    /// # Errors
    /// When it cannot be noted, and so is not to be handed out.
    pub fn signed(
        &self,
        signed: &Signed,
        before: Option<&KeyHash>,
        now: SystemTime,
    ) -> Result<(), AliveError> {
        let key = Key::from(&signed.key);
        let before = before.map(Key::from);
        self.change(now, |known| {
            let entry = self.entry(known, key, signed, now);
            let mut replaced = Vec::new();
            if let Entry::Signed(_, held) = &entry {
                replaced = known.replaced_by(key, held, before);
            }
            let replaced = replaced.into_iter().map(|before| Entry::Replaces(key, before));
            [entry].into_iter().chain(replaced).collect()
        })
    }

    /// Notes that a certificate is in use: whatever it takes the place of is needed no more, and it is alive
    /// even if nobody knew, as one of before the journal began. Blocks as [`Alive::signed`] does.
    ///
    /// # Errors
    /// When it cannot be noted.
    pub fn seen(&self, peer: &Peer, now: SystemTime) -> Result<(), AliveError> {
        let signed = Signed {
            key: peer.key,
            workload: peer.id.workload.clone(),
            node: String::new(),
            root: peer.root,
            not_after: peer.not_after,
        };
        let key = Key::from(&signed.key);
        self.change(now, |known| {
            if known.certificates.contains_key(&key) {
                let past = known.all_replaced_by(key).into_iter();
                return past.map(Entry::Superseded).collect();
            }
            let entry = self.entry(known, key, &signed, now);
            // One that was counted is not counted again, whenever it comes.
            let is_counted =
                matches!(&entry, Entry::Uncounted(root, _) if known.uncounted.contains_key(root));
            (!is_counted).then_some(entry).into_iter().collect()
        })
    }

    /// Whether there is nothing to note when a certificate of this key is seen. Does not block.
    pub fn is_settled(&self, key: &KeyHash) -> bool {
        let (known, key) = (self.known.lock(), Key::from(key));
        known.certificates.contains_key(&key) && known.all_replaced_by(key).is_empty()
    }

    /// Notes that the sidecars which have these certificates trust a root. Those that are not noted yet are
    /// left out. Blocks where that is news.
    ///
    /// # Errors
    /// When it cannot be noted.
    pub fn trusted(&self, root: RootId, by: &[KeyHash], now: SystemTime) -> Result<(), AliveError> {
        let news = |known: &Known| -> Vec<Entry> {
            let keys = by.iter().map(Key::from);
            let is_news = |key: &Key| {
                known
                    .certificates
                    .get(key)
                    .is_some_and(|held| held.trusts != Some(root))
            };
            keys.filter(is_news).map(|key| Entry::Trusts(key, root)).collect()
        };
        if news(&self.known.lock()).is_empty() {
            return Ok(());
        }
        self.change(now, |known| news(known))
    }

    /// Takes in what other replicas have noted, so that it is known when their sidecars come here. Blocks
    /// for as long as that is read.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look(&self) -> Result<(), AliveError> {
        self.locked(|journal| self.catch_up(journal))
    }

    /// What is alive, and more of those that are asked for. Blocks for as long as is read what other replicas
    /// have noted.
    pub fn of(&self, those: &Those, now: SystemTime) -> Living {
        let caught_up = self.look();
        let mut living = self.known.lock().living(those, seconds(now));
        if let Err(error) = caught_up {
            living.fault = Some(error.to_string());
        }
        living
    }

    /// Does something while nothing more can be noted, if no certificate of these roots is alive; else says how many
    /// are. Blocks, as [`Alive::signed`] does.
    ///
    /// # Errors
    /// When that is not known.
    pub fn while_none<T>(
        &self,
        roots: &BTreeSet<RootId>,
        now: SystemTime,
        then: impl FnOnce() -> T,
    ) -> Result<Result<T, usize>, AliveError> {
        self.locked(|journal| {
            let _lock = self.folder.lock()?;
            self.catch_up(journal)?;
            let living = self.known.lock().living(&Those::Of(roots.clone()), seconds(now));
            let alive = living.workloads.values().sum::<usize>() + living.uncounted;
            if alive > 0 {
                return Ok(Err(alive));
            }
            Ok(Ok(then()))
        })
    }

    /// Removes what a process that crashed has left half written. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be locked or listed.
    pub fn sweep(&self, now: SystemTime) -> Result<(), FolderError> {
        self.folder.sweep(now)
    }

    /// Forgets what has expired.
    pub fn forget_expired(&self, now: SystemTime) {
        self.known.lock().forget_expired(seconds(now));
    }

    /// What to note of a certificate: at the bound, that there is one more.
    fn entry(&self, known: &mut Known, key: Key, signed: &Signed, now: SystemTime) -> Entry {
        let (root, expires) = (signed.root, seconds(signed.not_after));
        let has_room =
            |known: &Known| known.certificates.len() < self.most || known.certificates.contains_key(&key);
        if !has_room(known) {
            known.forget_expired(seconds(now));
        }
        if has_room(known) {
            let held = Held {
                root,
                expires,
                workload: signed.workload.clone(),
                node: known::node(&signed.node),
                trusts: None,
                replaces: Vec::new(),
            };
            return Entry::Signed(key, held);
        }
        tracing::warn!(
            most = self.most,
            "more certificates are alive than are remembered one by one"
        );
        Entry::Uncounted(root, Uncounted { count: 1, expires })
    }

    /// Adds lines that follow from what is known.
    fn change(
        &self,
        now: SystemTime,
        change: impl FnOnce(&mut Known) -> Vec<Entry>,
    ) -> Result<(), AliveError> {
        self.locked(|journal| {
            let lock = self.folder.lock()?;
            self.catch_up(journal)?;
            let entries = change(&mut self.known.lock());
            if entries.is_empty() {
                return Ok(());
            }
            let mut text = String::new();
            entries.iter().for_each(|entry| entry.write(&mut text));
            journal.add(&text).map_err(failed(&self.folder))?;
            let mut known = self.known.lock();
            entries.into_iter().for_each(|entry| known.note(entry));
            if known.is_mostly_past() {
                known.forget_expired(seconds(now));
                let text = known.compacted(seconds(now));
                drop(known);
                self.write_anew(journal, &text, &lock)?;
            }
            Ok(())
        })
    }

    fn locked<T>(&self, use_it: impl FnOnce(&mut Journal) -> Result<T, AliveError>) -> Result<T, AliveError> {
        let journal = self.journal.try_lock_for(LOCK_WAIT);
        let mut journal = journal.ok_or_else(|| AliveError::Busy(self.folder.path(FILE)))?;
        use_it(&mut journal)
    }

    /// Reads what was added, by whomever.
    fn catch_up(&self, journal: &mut Journal) -> Result<(), AliveError> {
        let path = self.folder.path(FILE);
        let failed = failed(&self.folder);
        let is_same = journal.is_at(&path).map_err(&failed)?;
        if !is_same {
            let (anew, known) = Journal::open(&path).map_err(&failed)?;
            *journal = anew;
            *self.known.lock() = known;
        }
        loop {
            let text = journal.rest().map_err(&failed)?;
            if text.is_empty() {
                return Ok(());
            }
            let mut known = self.known.lock();
            let had_fault = known.fault.is_some();
            text.lines().for_each(|line| known.line(line));
            if let (false, Some(fault)) = (had_fault, &known.fault) {
                tracing::error!(file = %path.display(), fault, "which certificates are alive is not all known");
            }
        }
    }

    fn write_anew(&self, journal: &mut Journal, text: &str, lock: &Lock) -> Result<(), AliveError> {
        lock.write(FILE, text, Readable::ByOwner)?;
        // It is read as if somebody else had written it.
        self.catch_up(journal)
    }
}

impl Known {
    /// What is to be written anew. What a line did not tell is lost then: it counts as not noted.
    fn compacted(&mut self, now: u64) -> String {
        if self.fault.is_some() {
            self.began = now;
        }
        self.text()
    }

    fn living(&self, those: &Those, now: u64) -> Living {
        let mut living = Living::default();
        let mut last = None;
        for held in self.certificates.values().filter(|held| held.expires > now) {
            *living.certificates.entry(held.root).or_default() += 1;
            if those.contain(held) {
                *living.workloads.entry(held.workload.clone()).or_default() += 1;
                living.name(held);
                last = last.max(Some(held.expires));
            }
        }
        for (root, more) in self.uncounted.iter().filter(|(_, more)| more.expires > now) {
            *living.certificates.entry(*root).or_default() += more.count;
            if those.may_be_of(*root) {
                living.uncounted += more.count;
                last = last.max(Some(more.expires));
            }
        }
        living.last = last.map(time);
        let all_known = self.began.saturating_add(LIFETIME.as_secs());
        living.unknown_until = (self.began > 0 && all_known > now).then(|| time(all_known));
        living.fault = self
            .fault
            .as_ref()
            .map(|fault| format!("{FOLDER}/{FILE}: {fault}"));
        living
    }
}

impl Those {
    fn contain(&self, held: &Held) -> bool {
        match self {
            Self::Of(roots) => roots.contains(&held.root),
            Self::NotTrusting(root) => held.trusts != Some(*root) && held.root != *root,
        }
    }

    /// Whether certificates that are not remembered one by one may be among them.
    fn may_be_of(&self, root: RootId) -> bool {
        match self {
            Self::Of(roots) => roots.contains(&root),
            Self::NotTrusting(next) => root != *next,
        }
    }
}

impl Living {
    /// Names a sidecar, if it is one of the first.
    fn name(&mut self, held: &Held) {
        if held.node.is_empty() {
            return;
        }
        let nodes = self.nodes.entry(held.workload.clone()).or_default();
        nodes.insert(held.node.clone());
        if nodes.len() > A_FEW {
            nodes.pop_last();
        }
    }
}

fn failed(folder: &Folder) -> impl Fn(io::Error) -> AliveError + use<> {
    let path = folder.path(FILE);
    move |cause| AliveError::Journal {
        path: path.clone(),
        cause,
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}

const FOLDER: &str = "certificates";
const FILE: &str = "journal";

/// Certificates that are remembered one by one: several for each sidecar that one control plane takes.
const MOST_ALIVE: usize = 100_000;
/// Sidecars of a workload that are named.
const A_FEW: usize = 3;

#[cfg(test)]
mod tests;
