//! How far each policy has come: one look at each sidecar, however many policies there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jitney_api::Workload;
use jitney_api::push::{Kind, Nack};
use tokio::time::Instant;

use super::{Failing, Sidecar, Sidecars};
use crate::store::{Entry, Recipient, Rollout, Sight, Snapshot, Stage};

/// How far everything has come.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Every policy, by name.
    pub policies: BTreeMap<Arc<str>, Progress>,
    /// Every Runtime, by name.
    pub runtimes: BTreeMap<Arc<str>, Progress>,
    /// How many sidecars there are, by how they stand.
    pub sidecars: Totals,
    /// The same by workload.
    pub workloads: BTreeMap<Workload, Totals>,
}

/// Sidecars by how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Those that run every policy and Runtime that they are to run, in its present version, and reject nothing.
    pub acked: usize,
    /// Those that cannot run one of them, or anything else that they were sent.
    pub rejected: usize,
    /// Those that have not said yet.
    pub stale: usize,
}

/// How far a policy, or a Runtime, has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The generation in which the policy or one of its routes changed last.
    pub generation: u64,
    /// How it spreads, where its changes do not go to everyone at once.
    pub rollout: Option<Rollout>,
    /// Sidecars that are to run it: its present content or, beside a stage, the one before.
    pub selected: usize,
    /// Of those, the ones that are to run what is staged.
    pub staged: usize,
    /// Sidecars that are to run nothing of it as long as it is staged.
    pub without: usize,
    /// Those that run what they are to, with all its routes.
    pub acked: usize,
    /// Those that cannot.
    pub rejected: usize,
    /// Those that have not said yet.
    pub stale: usize,
    /// What was said last by one that cannot.
    pub last_rejection: Option<Rejection>,
    /// Routes whose batches fail in sidecars that run it.
    pub failing: BTreeMap<String, Failing>,
    parts: Parts,
    baseline_parts: Parts,
}

/// What a policy consists of: itself and its routes.
type Parts = Arc<[(Kind, Arc<str>)]>;

/// How far a policy's present content may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// To every sidecar.
    Complete,
    /// To a share of them.
    Staged,
    /// To none.
    Stopped,
}

impl Spread {
    /// That of a policy.
    pub fn of(progress: &Progress) -> Self {
        match progress.stage() {
            None => Self::Complete,
            Some(stage) if stage.stop.is_some() => Self::Stopped,
            Some(_) => Self::Staged,
        }
    }

    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Staged => "Staged",
            Self::Stopped => "Stopped",
        }
    }
}

/// A policy's part that a sidecar cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Who cannot.
    pub by: Recipient,
    /// The part's type.
    pub kind: Kind,
    /// What it said.
    pub nack: Nack,
    at: Instant,
}

/// How a sidecar stands to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It runs it.
    Acked,
    /// It has not said.
    Stale,
    /// It cannot.
    Rejected,
}

impl Totals {
    /// All of them.
    pub const fn connected(&self) -> usize {
        self.acked + self.rejected + self.stale
    }

    const fn count(&mut self, standing: Standing) {
        match standing {
            Standing::Acked => self.acked += 1,
            Standing::Stale => self.stale += 1,
            Standing::Rejected => self.rejected += 1,
        }
    }
}

impl Progress {
    fn of(snapshot: &Snapshot, policy: &str) -> Self {
        let (group, baseline) = (snapshot.group(policy), snapshot.baseline(policy));
        let changed = group.iter().map(|(_, _, entry)| entry.generation);
        let names = |group: &[Part<'_>]| {
            let names = group.iter();
            names.map(|(kind, name, _)| (*kind, Arc::clone(name))).collect()
        };
        Self {
            generation: changed.max().unwrap_or_default(),
            rollout: snapshot.rollout(policy).cloned(),
            parts: names(&group),
            baseline_parts: names(&baseline),
            ..Self::default()
        }
    }

    fn of_runtime(name: &Arc<str>, entry: &Entry) -> Self {
        Self {
            generation: entry.generation,
            parts: [(Kind::Runtime, Arc::clone(name))].into(),
            ..Self::default()
        }
    }

    /// What is staged of it.
    pub fn stage(&self) -> Option<&Stage> {
        self.rollout.as_ref()?.stage.as_ref()
    }

    /// What a person wants to know, in a sentence.
    pub fn text(&self) -> String {
        let mut text = match self.stage() {
            None => self.programmed(),
            Some(stage) => match &stage.stop {
                None => self.staged(),
                Some(stop) => format!("Stopped: {}; {}", stop.reason, self.went_back()),
            },
        };
        if self.stale > 0 {
            let verb = if self.stale == 1 { "has" } else { "have" };
            text.push_str(&format!("; {} {verb} not answered yet", self.stale));
        }
        if let (1.., Some(last)) = (self.rejected, &self.last_rejection) {
            text.push_str(&format!("; {} rejected it: {}", self.rejected, last.text()));
        }
        for (route, failing) in &self.failing {
            text.push_str(&format!("; {}", failing.text(route)));
        }
        text
    }

    fn programmed(&self) -> String {
        let generation = self.generation;
        if self.selected == 0 {
            return format!("Programmed: no connected sidecar is to run generation {generation}");
        }
        format!("Programmed: {} generation {generation}", self.running())
    }

    fn staged(&self) -> String {
        let (takes, generation) = (many(self.staged, self.selected + self.without), self.generation);
        let percent = self.rollout.as_ref().map_or(100, |rollout| rollout.percent);
        let others = if self.baseline_parts.is_empty() {
            "run none, as before"
        } else {
            "keep what was before"
        };
        let Self { acked, selected, .. } = self;
        format!(
            "Staged: {takes} take generation {generation} ({percent} %), the others {others}; {acked} of {selected} \
             have acknowledged"
        )
    }

    fn went_back(&self) -> String {
        if self.baseline_parts.is_empty() {
            return "none runs it, as before".to_owned();
        }
        format!("{} what was before", self.running())
    }

    /// So many run what they are to run.
    fn running(&self) -> String {
        if self.acked == 0 {
            return "no sidecar runs".to_owned();
        }
        let verb = if self.acked == 1 { "runs" } else { "run" };
        format!("{} {verb}", many(self.acked, self.selected))
    }

    fn note(&mut self, policy: &str, sidecar: &Sidecar, sight: Sight<'_>) -> Standing {
        let takes = sight.takes(policy);
        self.staged += usize::from(takes == Some(true));
        if let Some(version) = sidecar.runs(Kind::Policy, policy) {
            for (route, reason) in sidecar.batches.of(policy, version) {
                // Only of routes that there are: names come from the network.
                if sight.entry(Kind::Route, &format!("{policy}/{route}")).is_some() {
                    let failing = self.failing.entry(route.clone()).or_default();
                    failing.note(&sidecar.recipient, reason);
                }
            }
        }
        let parts = if takes == Some(false) {
            Arc::clone(&self.baseline_parts)
        } else {
            Arc::clone(&self.parts)
        };
        self.note_parts(&parts, sidecar, sight)
    }

    /// A sidecar that is to run these.
    fn note_parts(&mut self, parts: &[(Kind, Arc<str>)], sidecar: &Sidecar, sight: Sight<'_>) -> Standing {
        self.selected += 1;
        let mut parts = parts.iter();
        let rejection = |(kind, name): &(Kind, Arc<str>)| sidecar.rejection(*kind, name, sight);
        if let Some(rejection) = parts.clone().find_map(rejection) {
            self.rejected += 1;
            if self
                .last_rejection
                .as_ref()
                .is_none_or(|last| last.at <= rejection.at)
            {
                self.last_rejection = Some(rejection);
            }
            return Standing::Rejected;
        }
        if parts.all(|(kind, name)| sidecar.is_current(*kind, name, sight)) {
            self.acked += 1;
            return Standing::Acked;
        }
        self.stale += 1;
        Standing::Stale
    }
}

type Part<'a> = (Kind, &'a Arc<str>, &'a Entry);

/// So many of so many sidecars.
fn many(count: usize, of: usize) -> String {
    let noun = if of == 1 { "sidecar" } else { "sidecars" };
    format!("{count} of {of} {noun}")
}

impl Rejection {
    /// Who, where and why.
    pub fn text(&self) -> String {
        let Nack {
            name, field, reason, ..
        } = &self.nack;
        let field = if field.is_empty() {
            String::new()
        } else {
            format!("{field}: ")
        };
        format!("{}: {} {name}: {field}{reason}", self.by, self.kind)
    }
}

impl Sidecar {
    fn is_current(&self, kind: Kind, name: &str, sight: Sight<'_>) -> bool {
        let present = sight.entry(kind, name).map(|entry| entry.held.version);
        let is_known = !self.under_way[kind as usize].contains(name);
        is_known && present.is_some() && self.runs(kind, name) == present
    }

    /// What it said to the present version, if it cannot run that.
    fn rejection(&self, kind: Kind, name: &Arc<str>, sight: Sight<'_>) -> Option<Rejection> {
        let rejected = self.rejected.get(&(kind, Arc::clone(name)))?;
        let present = sight.entry(kind, name).map(|entry| entry.held.version);
        (rejected.nack.version == present).then(|| Rejection {
            by: self.recipient.clone(),
            kind,
            nack: rejected.nack.clone(),
            at: rejected.at,
        })
    }

    /// Whether it runs all that it is to run of a policy.
    pub fn runs_policy(&self, policy: &str, snapshot: &Snapshot) -> bool {
        let sight = snapshot.to(&self.recipient);
        let group = if sight.takes(policy) == Some(false) {
            snapshot.baseline(policy)
        } else {
            snapshot.group(policy)
        };
        let mut parts = group.into_iter();
        parts.all(|(kind, name, _)| self.is_current(kind, name, sight))
    }

    /// Policies that are for it, if only when they are staged no more: those of its workload, and others
    /// that it has asked for. What it merely says that it holds, and may not read, is none of them.
    pub(crate) fn policies(&self, snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
        let sight = snapshot.to(&self.recipient);
        let own = snapshot.own_of(&self.recipient.workload, Kind::Policy);
        let runs = self.runs[Kind::Policy as usize].keys();
        let rejected = self.rejected.keys().filter(|(kind, _)| *kind == Kind::Policy);
        let asked = runs.chain(rejected.map(|(_, name)| name));
        let asked = asked.filter(|name| sight.entry(Kind::Policy, name).is_some());
        own.chain(asked).cloned().collect()
    }
}

impl Sidecars {
    /// How far everything has come. Takes time in proportion to the sidecars, not to these times the
    /// policies.
    pub fn overview(&self, snapshot: &Snapshot) -> Overview {
        let mut overview = Overview::default();
        for (name, _) in snapshot.all(Kind::Policy) {
            overview
                .policies
                .insert(Arc::clone(name), Progress::of(snapshot, name));
        }
        for (name, entry) in snapshot.all(Kind::Runtime) {
            let progress = Progress::of_runtime(name, entry);
            overview.runtimes.insert(Arc::clone(name), progress);
        }
        self.each(|sidecar| overview.note(sidecar, snapshot));
        overview
    }

    /// How far one policy has come.
    pub fn progress(&self, snapshot: &Snapshot, policy: &str) -> Progress {
        self.overview(snapshot)
            .policies
            .remove(policy)
            .unwrap_or_default()
    }
}

impl Overview {
    fn note(&mut self, sidecar: &Sidecar, snapshot: &Snapshot) {
        let sight = snapshot.to(&sidecar.recipient);
        let mut worst = Standing::Acked;
        for policy in sidecar.policies(snapshot) {
            let Some(progress) = self.policies.get_mut(&policy) else {
                continue;
            };
            if sight.entry(Kind::Policy, &policy).is_some() {
                worst = worst.max(progress.note(&policy, sidecar, sight));
            } else {
                progress.without += 1;
            }
        }
        for name in snapshot.own_of(&sidecar.recipient.workload, Kind::Runtime) {
            if let Some(progress) = self.runtimes.get_mut(name) {
                let parts = Arc::clone(&progress.parts);
                worst = worst.max(progress.note_parts(&parts, sidecar, sight));
            }
        }
        let mut rejected = sidecar.rejected.keys();
        if rejected.any(|(kind, name)| sidecar.rejection(*kind, name, sight).is_some()) {
            worst = Standing::Rejected;
        }
        self.sidecars.count(worst);
        let of_workload = self.workloads.entry(sidecar.recipient.workload.clone());
        of_workload.or_default().count(worst);
    }
}
