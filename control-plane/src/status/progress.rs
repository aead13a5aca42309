//! How far each policy has come: one look at each sidecar, however many policies there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jitney_api::Workload;
use jitney_api::push::{Kind, Nack, Version};
use tokio::time::Instant;

use super::{Sidecar, Sidecars};
use crate::identity::RootId;
use crate::store::{Sight, Snapshot};

/// How far everything has come.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Every policy, by name.
    pub policies: BTreeMap<Arc<str>, Progress>,
    /// How many sidecars there are, by how they stand.
    pub sidecars: Totals,
    /// The same by workload.
    pub workloads: BTreeMap<Workload, Totals>,
    /// How many certificates of connected sidecars each root signed.
    pub certificates: BTreeMap<RootId, usize>,
    /// How many sidecars have applied each version of the trust bundle; `None`: none at all.
    pub bundles: BTreeMap<Option<Version>, usize>,
}

/// Sidecars by how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Those that run every policy that they are to run, in its present version.
    pub acked: usize,
    /// Those that cannot run one of them.
    pub rejected: usize,
    /// Those that have not said yet.
    pub stale: usize,
}

/// How far a policy has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The generation in which the policy or one of its routes changed last.
    pub generation: u64,
    /// Sidecars that are to run it.
    pub selected: usize,
    /// Those that run it in its present version, with all its routes.
    pub acked: usize,
    /// Those that cannot.
    pub rejected: usize,
    /// Those that have not said yet.
    pub stale: usize,
    /// What was said last by one that cannot.
    pub last_rejection: Option<Rejection>,
    /// Names of its routes.
    routes: Vec<Arc<str>>,
}

/// A policy's part that a sidecar cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What the sidecar calls itself.
    pub node: String,
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
        let routes = snapshot.below(Kind::Route, &format!("{policy}/"));
        let parts = routes.iter().map(|(_, entry)| entry.generation);
        let own = snapshot.entry(Kind::Policy, policy).map(|entry| entry.generation);
        Self {
            generation: parts.chain(own).max().unwrap_or_default(),
            routes: routes.iter().map(|(name, _)| Arc::clone(name)).collect(),
            ..Self::default()
        }
    }

    /// What a person wants to know, in a sentence.
    pub fn text(&self) -> String {
        let Self {
            generation,
            selected,
            acked,
            rejected,
            stale,
            ..
        } = self;
        if *selected == 0 {
            return format!("Programmed: no connected sidecar is to run generation {generation}");
        }
        let noun = if *selected == 1 { "sidecar" } else { "sidecars" };
        let verb = if *acked == 1 { "runs" } else { "run" };
        let mut text = format!("Programmed: {acked} of {selected} {noun} {verb} generation {generation}");
        if *stale > 0 {
            let verb = if *stale == 1 { "has" } else { "have" };
            text.push_str(&format!("; {stale} {verb} not answered yet"));
        }
        if let (1.., Some(last)) = (*rejected, &self.last_rejection) {
            text.push_str(&format!("; {rejected} rejected it: {}", last.text()));
        }
        text
    }

    fn note(&mut self, policy: &Arc<str>, sidecar: &Sidecar, sight: Sight<'_>) -> Standing {
        self.selected += 1;
        let parts = || {
            let routes = self.routes.iter().map(|route| (Kind::Route, route));
            std::iter::once((Kind::Policy, policy)).chain(routes)
        };
        if let Some(rejection) = parts().find_map(|(kind, name)| sidecar.rejection(kind, name, sight)) {
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
        if parts().all(|(kind, name)| sidecar.is_current(kind, name, sight)) {
            self.acked += 1;
            return Standing::Acked;
        }
        self.stale += 1;
        Standing::Stale
    }
}

impl Rejection {
    /// Who, where and why.
    pub fn text(&self) -> String {
        let Nack {
            name, field, reason, ..
        } = &self.nack;
        let node = if self.node.is_empty() {
            "a sidecar"
        } else {
            &self.node
        };
        let field = if field.is_empty() {
            String::new()
        } else {
            format!("{field}: ")
        };
        format!("{node}: {} {name}: {field}{reason}", self.kind)
    }
}

impl Sidecar {
    fn is_current(&self, kind: Kind, name: &str, sight: Sight<'_>) -> bool {
        let present = sight.entry(kind, name).map(|entry| entry.held.version);
        present.is_some() && self.runs(kind, name) == present
    }

    /// What it said to the present version, if it cannot run that.
    fn rejection(&self, kind: Kind, name: &Arc<str>, sight: Sight<'_>) -> Option<Rejection> {
        let rejected = self.rejected.get(&(kind, Arc::clone(name)))?;
        let present = sight.entry(kind, name).map(|entry| entry.held.version);
        (rejected.nack.version == present).then(|| Rejection {
            node: self.node.clone(),
            kind,
            nack: rejected.nack.clone(),
            at: rejected.at,
        })
    }

    /// Policies that it is to run: those of its workload, and others that it has asked for. What it
    /// merely says that it holds, and may not read, is none of them.
    fn policies(&self, snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
        let sight = snapshot.to(&self.workload);
        let own = snapshot.own_of(&self.workload, Kind::Policy);
        let runs = self.runs[Kind::Policy as usize].keys();
        let rejected = self.rejected.keys().filter(|(kind, _)| *kind == Kind::Policy);
        let all = own.chain(runs).chain(rejected.map(|(_, name)| name));
        all.filter(|name| sight.entry(Kind::Policy, name).is_some())
            .cloned()
            .collect()
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
        let sight = snapshot.to(&sidecar.workload);
        let mut worst = Standing::Acked;
        for policy in sidecar.policies(snapshot) {
            if let Some(progress) = self.policies.get_mut(&policy) {
                worst = worst.max(progress.note(&policy, sidecar, sight));
            }
        }
        self.sidecars.count(worst);
        let of_workload = self.workloads.entry(sidecar.workload.clone());
        of_workload.or_default().count(worst);
        if let Some(root) = sidecar.root {
            *self.certificates.entry(root).or_default() += 1;
        }
        // A control plane has one trust domain, and so one bundle.
        let bundle = sidecar.runs[Kind::TrustBundle as usize].values().next().copied();
        *self.bundles.entry(bundle).or_default() += 1;
    }
}
