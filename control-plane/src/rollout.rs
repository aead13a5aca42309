//! Rollouts: a change of a policy goes to a share of the sidecars first, to more of them when its author
//! says so, and back from all of them when it does harm.
//!
//! A policy and its routes are one thing here, its content. Until every sidecar is to run the present
//! content, that is staged, and the one before it is the baseline, which all others keep. A stage ends
//! when the percentage comes to 100, when the content is the baseline's again, or when the policy is no
//! more. It stops by itself, and everyone gets the baseline, when a sidecar rejects what it was sent for
//! the stage, or finds that calls fail more often since; then only another content begins another stage.
//!
//! Only what a policy says is staged. Which of several policies has a target is decided for all sidecars at
//! once, and so is that a policy is no more.
//!
//! What every policy is, baselines and stops are kept in the state folder, for the next process and for other
//! replicas. What a policy that is new was before is nothing. Where part of that cannot be read or is missing,
//! a process does not start: it would push what nobody wants there. Where all of it is lost, nobody can know
//! what a policy was that a process finds at its start: everyone is to run the present content; or nobody, if
//! that has stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use jitney_api::push::{Kind, Nack, Resources, Version};
use parking_lot::Mutex;
use tokio::time::Instant;

mod course;
mod kept;
mod unkept;

use course::{Course, Group, Past, Record};
pub use kept::KeptError;
use kept::{Kept, Records, Stops, Whole};
use unkept::{Item, Unkept};

use crate::identity::{Folder, FolderError};
use crate::status::brief;
use crate::store::{Rollout, Sight, Stop, Store};

/// Decides what becomes of changes, and has it put in the store.
#[derive(Debug)]
pub struct Rollouts {
    store: Arc<Store>,
    kept: Kept,
    /// Held until what was decided is in the store, so that no decision undoes another one.
    courses: Mutex<Courses>,
    /// Stages that are about to be stopped: of thousands who ask for the same, only the first has it done.
    stopping: Mutex<BTreeSet<(Arc<str>, Version)>>,
    /// What is not on disk and should be.
    unkept: Unkept,
}

#[derive(Debug)]
struct Courses {
    present: BTreeMap<Arc<str>, Course>,
    /// What an earlier process left; `None` once the source has been read.
    left: Option<Left>,
    /// What is on disk of every policy; `None` when there is nothing.
    whole: Option<Version>,
    /// Policies with a file that they need no more.
    outgrown: BTreeSet<Arc<str>>,
    /// Policies with a share of which nobody knows what they were, by the content that all are to run.
    unknown: BTreeMap<Arc<str>, Version>,
}

/// What an earlier process left.
#[derive(Debug)]
struct Left {
    records: Records,
    whole: Option<Whole>,
}

impl Rollouts {
    /// Goes on where an earlier process, or another replica, is.
    ///
    /// # Errors
    /// When the folder, or what is kept there, cannot be read, or part of it is missing.
    pub fn open(state: &Folder, store: &Arc<Store>) -> Result<Self, KeptError> {
        let kept = Kept::open(state)?;
        let (whole, records) = kept.left()?;
        // Read again when it is needed; whoever starts is to know now that it can be.
        kept.stops()?;
        let left = Left { records, whole };
        let courses = Courses {
            present: BTreeMap::new(),
            whole: left.whole.as_ref().map(Whole::version),
            left: Some(left),
            outgrown: BTreeSet::new(),
            unknown: BTreeMap::new(),
        };
        Ok(Self {
            store: Arc::clone(store),
            kept,
            courses: Mutex::new(courses),
            stopping: Mutex::default(),
            unkept: Unkept::default(),
        })
    }

    /// The file that tells what has stopped.
    pub fn file(&self) -> PathBuf {
        self.kept.stops_file()
    }

    /// Removes what a process that crashed has left half written, an hour ago or more. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be locked or listed.
    pub fn sweep(&self, now: SystemTime) -> Result<(), FolderError> {
        self.kept.sweep(now)
    }

    /// Puts what the source holds, which changed at `changed`, in the store. False when that is the same
    /// as before.
    pub fn replace(&self, resources: Resources, changed: Instant) -> bool {
        let mut courses = self.courses.lock();
        let noted = if courses.may_be_stopped() {
            self.stops()
        } else {
            Stops::new()
        };
        let next = courses.with(&resources, &noted);
        let unknown = courses.unknown_of(&next, &resources);
        for (policy, course) in &next {
            course.tell(policy, courses.present.get(policy), courses.left_staged(policy));
        }
        // On disk first: what a process is to know at its start would else be lost with this one.
        self.keep(&courses, &next);
        if courses.left.is_some() {
            self.forget_stops(&noted, &next);
        }
        *courses = Courses {
            outgrown: courses.outgrown_by(&next),
            present: next,
            left: None,
            whole: courses.whole,
            unknown,
        };
        if courses.whole.is_none() {
            // A restart that found nothing would give the next change to everyone.
            self.keep_whole(&mut courses);
        }
        let is_news = self
            .store
            .replace_source(resources.pushed, courses.rollouts(), changed);
        // What is pushed waits for no disk where it need not: a restart that finds an older set here takes
        // a smaller step, and not a wrong one.
        self.keep_whole(&mut courses);
        is_news
    }

    /// The generation of the set in the store.
    pub fn generation(&self) -> u64 {
        self.store.snapshot().generation()
    }

    /// Tries again to keep what could not be kept.
    pub fn keep_again(&self) {
        let items = self.unkept.items();
        if items.is_empty() {
            return;
        }
        let mut courses = self.courses.lock();
        for item in items {
            let of = |policy: &Arc<str>| courses.present.get(policy);
            match &item {
                // The last, for it says which of the others have a file.
                Item::Whole => {}
                Item::Baseline(policy) if courses.outgrown.contains(policy) => {}
                Item::Baseline(policy) => {
                    self.keep_records(&[(policy, of(policy).and_then(Course::record))]);
                }
                Item::Stop(policy) => {
                    let kept = of(policy)
                        .and_then(Course::stopped)
                        .map_or(Ok(()), |(content, stop)| {
                            self.kept.add_stop(policy, content, stop)
                        });
                    self.unkept.note(item, kept);
                }
                Item::NoStop(policy, content) => {
                    let kept = self.kept.remove_stop(policy, *content);
                    self.unkept.note(item, kept);
                }
            }
        }
        self.keep_whole(&mut courses);
    }

    /// What could not be kept for a restart, a line each.
    pub fn faults(&self) -> Vec<String> {
        self.unkept.texts()
    }

    /// What is odd, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let courses = self.courses.lock();
        let warning = |policy: &Arc<str>| {
            format!(
                "{policy}: nothing is kept of what it was before this process started: every sidecar is to run its \
                 present content, and not a share"
            )
        };
        courses.unknown.keys().map(warning).collect()
    }

    /// Has on disk what every policy is, unless that is there, and then no files that it stands for.
    fn keep_whole(&self, courses: &mut Courses) {
        let has_file = |policy: &Arc<str>| !self.unkept.has(&Item::Baseline(Arc::clone(policy)));
        let whole = courses.to_whole(has_file);
        let version = whole.version();
        if courses.whole != Some(version) || self.unkept.has(&Item::Whole) {
            let kept = self.kept.keep_whole(&whole);
            courses.whole = kept.is_ok().then_some(version).or(courses.whole);
            self.unkept.note(Item::Whole, kept);
        }
        if self.unkept.has(&Item::Whole) {
            // What is on disk still says that they have a file: it is to say what everyone runs.
            let present = courses.outgrown.iter();
            let present =
                present.filter_map(|policy| Some((policy, Some(courses.present.get(policy)?.to_record()))));
            self.keep_records(&present.collect::<Vec<_>>());
        } else {
            let outgrown = std::mem::take(&mut courses.outgrown);
            self.keep_records(&outgrown.iter().map(|policy| (policy, None)).collect::<Vec<_>>());
        }
    }

    /// What has stopped, as far as that can be read.
    fn stops(&self) -> Stops {
        self.kept.stops().unwrap_or_else(|error| {
            tracing::error!(%error, "what another replica may have stopped is not known");
            Stops::new()
        })
    }

    /// Takes over what another replica has stopped.
    pub fn reload(&self) {
        let mut courses = self.courses.lock();
        let mut is_news = false;
        for (policy, (content, stop)) in self.stops() {
            let course = courses.present.get_mut(&policy);
            if course.is_some_and(|course| course.stop(content, &stop)) {
                tracing::warn!(%policy, reason = stop.reason, "another replica has stopped a rollout");
                is_news = true;
            }
        }
        if is_news {
            self.store.spread(courses.rollouts(), Instant::now());
        }
    }

    /// A sidecar has rejected resources of a type. Where one of them came to it with a stage, that stops.
    pub fn rejected(self: &Arc<Self>, sight: &Sight<'_>, kind: Kind, rejected: &[Nack]) {
        for nack in rejected {
            let of = kind.policy_of(&nack.name);
            let staged = of.filter(|_| sight.is_staged(kind, &nack.name, nack.version));
            if let Some(policy) = staged {
                let Nack { field, reason, .. } = brief(nack);
                let field = if field.is_empty() {
                    field
                } else {
                    format!("{field}: ")
                };
                self.stop(
                    sight,
                    policy,
                    &format!("rejected {kind} {}: {field}{reason}", nack.name),
                );
            }
        }
    }

    /// Stops what a sidecar takes of a policy's staged change, for what the sidecar did or saw. Done
    /// beside the caller, who has other things to do than to wait for a disk.
    pub fn stop(self: &Arc<Self>, sight: &Sight<'_>, policy: &str, what: &str) {
        let Some(stage) = sight.staged(policy) else {
            return;
        };
        if !self.stopping.lock().insert(stage.clone()) {
            return;
        }
        let stop = Stop {
            reason: format!("{} {what}", sight.recipient()),
            at: SystemTime::now(),
        };
        let to = Arc::clone(self);
        drop(tokio::task::spawn_blocking(move || {
            to.stop_now(&stage.0, stage.1, stop);
            to.stopping.lock().remove(&stage);
        }));
    }

    fn stop_now(&self, policy: &Arc<str>, content: Version, stop: Stop) {
        let mut courses = self.courses.lock();
        let course = courses.present.get_mut(policy);
        // What is staged by now may be another content.
        if !course.is_some_and(|course| course.stop(content, &stop)) {
            return;
        }
        tracing::warn!(%policy, reason = stop.reason, "a rollout has stopped: every sidecar is to run what was before");
        // Sidecars first: they are harmed now.
        self.store.spread(courses.rollouts(), Instant::now());
        let kept = self.kept.add_stop(policy, content, stop);
        self.unkept.note(Item::Stop(Arc::clone(policy)), kept);
    }

    /// What was changed while no control plane ran has stopped no more.
    fn forget_stops(&self, noted: &Stops, next: &BTreeMap<Arc<str>, Course>) {
        for (policy, (content, _)) in noted {
            let stopped = next.get(policy).and_then(Course::stopped);
            if stopped.is_none_or(|(stopped, _)| stopped != *content) {
                self.forget_stop(policy, *content);
            }
        }
    }

    /// Has on disk what is to outlive this process.
    fn keep(&self, before: &Courses, next: &BTreeMap<Arc<str>, Course>) {
        let names: BTreeSet<&Arc<str>> = before.names().chain(next.keys()).collect();
        let records = names.iter().map(|policy| {
            let record = next.get(*policy).and_then(Course::record);
            (*policy, record)
        });
        // A file that is needed no more goes when it is on disk what stands for it.
        let is_due = |(policy, record): &(&Arc<str>, Option<Record>)| {
            record.is_some()
                && (*record != before.record(policy) || self.unkept.has(&Item::Baseline(Arc::clone(policy))))
        };
        self.keep_records(&records.filter(is_due).collect::<Vec<_>>());
        for policy in names {
            let was = before.present.get(policy).and_then(Course::stopped);
            let is = next.get(policy).and_then(Course::stopped);
            if let Some((content, _)) = was.filter(|_| is.is_none()) {
                self.forget_stop(policy, content);
            }
        }
    }

    fn keep_records(&self, records: &[(&Arc<str>, Option<Record>)]) {
        for ((policy, _), kept) in records.iter().zip(self.kept.keep(records)) {
            self.unkept.note(Item::Baseline(Arc::clone(policy)), kept);
        }
    }

    fn forget_stop(&self, policy: &Arc<str>, content: Version) {
        let kept = self.kept.remove_stop(policy, content);
        self.unkept.note(Item::NoStop(Arc::clone(policy), content), kept);
    }
}

impl Courses {
    /// Whether somebody else may have stopped something.
    fn may_be_stopped(&self) -> bool {
        self.left.is_some() || self.present.values().any(Course::is_running)
    }

    /// The courses of what the source says now.
    fn with(&self, resources: &Resources, noted: &Stops) -> BTreeMap<Arc<str>, Course> {
        let now = SystemTime::now();
        let groups = Group::all(&resources.pushed).into_iter();
        let course = |(policy, group): (Arc<str>, Group)| {
            let percent = resources.shares.get(&policy).copied().unwrap_or(100);
            let before = self.present.get(&policy);
            let stopped = before.and_then(Course::stopped);
            let stopped = stopped.as_ref().or_else(|| noted.get(&policy));
            let past = self.past(&policy);
            let course = Course::new(group, percent, past, stopped, now);
            (policy, course)
        };
        groups.map(course).collect()
    }

    fn past(&self, policy: &str) -> Past {
        match (self.present.get(policy), &self.left) {
            (Some(course), _) => course.past(),
            (None, None) => Past::New,
            (None, Some(left)) => left.past(policy),
        }
    }

    /// Policies whose share means nothing, for nobody knows what the others were to run.
    fn unknown_of(
        &self,
        next: &BTreeMap<Arc<str>, Course>,
        resources: &Resources,
    ) -> BTreeMap<Arc<str>, Version> {
        let shares = resources.shares.keys();
        let courses = shares.filter_map(|policy| next.get_key_value(policy));
        let unknown = courses.filter(|(policy, course)| {
            let was = self.unknown.get(*policy) == Some(&course.present());
            let is = course.stopped().is_none() && self.past(policy) == Past::Unknown;
            if is {
                tracing::warn!(%policy, "nothing is kept of what was before: every sidecar is to run the present content");
            }
            was || is
        });
        unknown
            .map(|(policy, course)| (Arc::clone(policy), course.present()))
            .collect()
    }

    fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let left = self.left.iter().flat_map(|left| left.records.keys());
        self.present.keys().chain(left)
    }

    /// What is on disk of a policy, in a file of its own.
    fn record(&self, policy: &str) -> Option<Record> {
        let left = self.left.as_ref().and_then(|left| left.records.get(policy));
        left.cloned()
            .or_else(|| self.present.get(policy).and_then(Course::record))
    }

    /// The change of a policy that an earlier process had staged.
    fn left_staged(&self, policy: &str) -> Option<Version> {
        let record = self.left.as_ref()?.records.get(policy)?;
        record.staged.map(|(content, _)| content)
    }

    /// Policies whose file nobody needs when these are the courses.
    fn outgrown_by(&self, next: &BTreeMap<Arc<str>, Course>) -> BTreeSet<Arc<str>> {
        let is_needed = |policy: &Arc<str>| next.get(policy).and_then(Course::record).is_some();
        let had_file = self.names().filter(|policy| self.record(policy).is_some());
        let outgrown = had_file.chain(&self.outgrown).filter(|policy| !is_needed(policy));
        outgrown.cloned().collect()
    }

    fn to_whole(&self, has_file: impl Fn(&Arc<str>) -> bool) -> Whole {
        let mut whole = Whole::default();
        for (policy, course) in &self.present {
            let name = Arc::clone(policy);
            if course.record().is_some() && has_file(policy) {
                whole.shared.insert(name);
            } else {
                // Also of a stage that could not be kept: where it began is known then.
                whole.everyone.insert(name, course.baseline().clone());
            }
        }
        whole
    }

    fn rollouts(&self) -> BTreeMap<Arc<str>, Rollout> {
        let rollouts = self.present.iter();
        rollouts
            .filter_map(|(policy, course)| Some((Arc::clone(policy), course.rollout()?)))
            .collect()
    }
}

impl Left {
    fn past(&self, policy: &str) -> Past {
        let of_everyone = || self.whole.as_ref()?.everyone.get(policy).cloned();
        let whole = || {
            let baseline = of_everyone()?;
            let staged = None;
            Some(Record { baseline, staged })
        };
        match self.records.get(policy).cloned().or_else(whole) {
            Some(record) => Past::Known(record),
            // Whoever kept everything knew it if there was one.
            None if self.whole.as_ref().is_some_and(|whole| !whole.has(policy)) => Past::New,
            None => Past::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
