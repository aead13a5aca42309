//! What this sidecar is to do: takes in what was pushed, has it put in force, and only then says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use jitney_api::Workload;
use jitney_api::push::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Locality, Node};
use jitney_api::push::config::{BatchFinding, Finding, Kept, Snapshot};
use jitney_api::push::{Assembly, Change, Delta, Kind, Reversible, Subscriber};
use jitney_core::decline::Grown;
use tokio::time::Instant;

mod asked;
mod batches;
mod delta;
mod refused;
mod restore;
mod tally;

use super::complaints::Complaints;
use super::snapshot::Disk;
use super::trust::Trust;
use super::watch::Watch;
use super::{Force, Settings, Shared};
use crate::listeners::Listeners;
use crate::metrics::Metrics;
use asked::{Asked, Difference};
use delta::{each_bundle, name_of, policies_of, reject};
use refused::Refused;

/// What was pushed, and what became of it.
pub(super) struct Duty {
    subscriber: Subscriber,
    assembly: Assembly,
    /// What is applied, as it was sent.
    held: Reversible<(Kind, String), (String, Bytes)>,
    asked: Asked,
    /// Backends of which something is known, if only that there is none.
    known: Reversible<String, ()>,
    workload: Option<Workload>,
    /// Calls may go to any backend.
    any_backend: bool,
    /// Of which kinds everything has come that comes unasked.
    complete: BTreeSet<Kind>,
    is_in_force: bool,
    /// It was said that there is no policy.
    is_idle: bool,
    /// Something was applied that is not on disk.
    is_unsaved: bool,
    watch: Watch,
    complaints: Complaints,
    refused: Refused,
    /// What could not be in force and is to be asked for again, and when.
    again: BTreeSet<(Kind, String)>,
    retry_at: Option<Instant>,
    force: Box<dyn Force>,
    standing: Shared,
    metrics: Metrics,
}

/// How long what cannot be in force is left alone before it is tried again.
const RETRY: Duration = Duration::from_secs(3);

impl std::fmt::Debug for Duty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Duty")
            .field("workload", &self.workload)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl Duty {
    pub(super) fn new(
        settings: &Settings,
        force: Box<dyn Force>,
        standing: Shared,
        metrics: Metrics,
    ) -> Self {
        let mut subscriber = Subscriber::new(Node {
            id: settings.node.clone(),
            locality: settings.zone.clone().map(|zone| Locality { zone }),
            user_agent_name: "jitney-proxy".into(),
            user_agent_version: env!("CARGO_PKG_VERSION").into(),
            ..Node::default()
        });
        for kind in [
            Kind::TrustBundle,
            Kind::Runtime,
            Kind::Sidecar,
            Kind::Route,
            Kind::Policy,
        ] {
            subscriber.subscribe(kind, "*");
        }
        if settings.any_backend {
            subscriber.subscribe(Kind::Backend, "*");
            subscriber.subscribe(Kind::Endpoint, "*");
        }
        Self {
            subscriber,
            assembly: Assembly::new(settings.limits),
            held: Reversible::default(),
            asked: Asked::new(settings.any_backend),
            known: Reversible::default(),
            workload: None,
            any_backend: settings.any_backend,
            complete: BTreeSet::new(),
            is_in_force: false,
            is_idle: false,
            is_unsaved: false,
            watch: Watch::default(),
            complaints: Complaints::new(force.listeners()),
            refused: Refused::default(),
            again: BTreeSet::new(),
            retry_at: None,
            force,
            standing,
            metrics,
        }
    }

    /// A stream was opened for a workload: what is said next is what is wanted and what is held.
    pub(super) fn open(&mut self, workload: &Workload) {
        self.serve(workload);
        self.refused.clear();
        // Of what has changed since the last stream.
        self.complain();
        self.subscriber.open();
    }

    /// Keeps nothing that is another workload's.
    fn serve(&mut self, workload: &Workload) {
        if let Some(other) = self.workload.as_ref().filter(|other| *other != workload) {
            tracing::warn!(%workload, %other, "what was kept on disk is another workload's, and is dropped");
            self.forget();
        }
        self.workload = Some(workload.clone());
    }

    fn forget(&mut self) {
        self.mark();
        for (kind, name) in self.held.keys().cloned().collect::<Vec<_>>() {
            self.assembly.remove(kind, &name);
            self.subscriber.release(kind, &name);
            self.held.remove(&(kind, name));
        }
        self.known = Reversible::default();
        self.ask();
        self.is_in_force = false;
        self.show();
    }

    /// What is to be said; to be asked until `None`.
    pub(super) fn say(&mut self) -> Option<DeltaDiscoveryRequest> {
        self.subscriber.poll()
    }

    /// Takes in a response and puts it in force.
    pub(super) fn take(&mut self, response: DeltaDiscoveryResponse, trust: &Trust) {
        let Some(mut delta) = self.subscriber.response(response) else {
            return;
        };
        self.mark();
        // Roots are trusted when they come: the next stream may need them.
        if delta.kind == Kind::TrustBundle {
            each_bundle(&mut delta, |bundle| trust.replace(bundle));
        }
        let taken = self.assembly.take(&mut delta);
        if delta.kind == Kind::Backend {
            for change in &delta.changes {
                self.known.set(name_of(change).to_owned(), ());
            }
        }
        self.complete.insert(delta.kind);
        let asked = self.ask() | self.drop_unwanted(&delta);
        let is_due = self.is_in_force || self.is_complete();
        let is_news = taken.changed || asked || !self.is_in_force;
        if is_due
            && is_news
            && let Err(reason) = self.apply()
        {
            self.go_back();
            reject(&mut delta, &reason);
            // It may be the fault of somebody who will not be there for ever.
            let names = delta.changes.iter().map(|change| name_of(change).to_owned());
            self.again.extend(names.map(|name| (delta.kind, name)));
            // What is gone is in force still, and is told again.
            delta
                .changes
                .retain(|change| matches!(change, Change::Set { .. }));
            self.retry_at = Some(Instant::now() + RETRY);
        }
        let (kind, subscriber) = (delta.kind, &self.subscriber);
        delta.changes.retain(|one| subscriber.wants(kind, name_of(one)));
        if taken.changed {
            for policy in policies_of(&delta) {
                let tally = self.tally(&policy);
                self.watch.changed(&policy, tally, Instant::now());
            }
        }
        for name in taken.again {
            self.subscriber.subscribe(Kind::Policy, &name);
        }
        self.hold(&delta);
        for rejection in &delta.rejected {
            let (name, field, reason) = (&rejection.name, &rejection.field, &rejection.reason);
            tracing::warn!(kind = %delta.kind, name, field, reason, "a resource was rejected, its last good version stays");
        }
        self.refused.note(&delta);
        self.complaints.answer(&mut delta, &mut self.subscriber);
        self.metrics
            .process()
            .config_rejected
            .add(delta.rejected.len() as u64);
        self.subscriber.answer(delta);
        self.complain();
        self.say_if_idle();
        self.show();
    }

    /// Told once: nothing is wrong, and nothing is done.
    fn say_if_idle(&mut self) {
        let has_all = self.complete.contains(&Kind::Policy) && self.is_in_force;
        let is_idle = has_all && !self.asked.has(Kind::Policy) && self.assembly.is_idle();
        if let (true, false, Some(workload)) = (is_idle, self.is_idle, &self.workload) {
            tracing::info!("no policy is for {workload}: calls pass through");
        }
        self.is_idle = is_idle;
    }

    /// A change that cannot be in force leaves everything as it is now.
    fn mark(&mut self) {
        self.assembly.mark();
        self.held.mark();
        self.asked.mark();
        self.known.mark();
    }

    fn go_back(&mut self) {
        self.assembly.go_back();
        self.held.go_back();
        self.known.go_back();
        let Difference { more, less } = self.asked.go_back();
        for (kind, name) in less {
            self.subscriber.unsubscribe(kind, &name);
        }
        for (kind, name) in more {
            self.subscriber.subscribe(kind, &name);
        }
        for (key @ (kind, name), _) in self.held.changed() {
            if let Some((version, _)) = self.held.get(key) {
                self.subscriber.hold(*kind, name, version);
            }
        }
    }

    /// Fires when there may be something to complain of.
    pub(super) fn listeners(&self) -> Listeners {
        self.complaints.listeners()
    }

    /// Has the control plane hear which listeners have no address, if that is another thing than it was told.
    pub(super) fn complain(&mut self) {
        self.complaints.ask(&mut self.subscriber);
    }

    /// When to try again what could not be in force.
    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Tries again: what was rejected is to be sent once more.
    pub(super) fn retry(&mut self) {
        self.retry_at = None;
        for (kind, name) in std::mem::take(&mut self.again) {
            self.subscriber.ask_again(kind, &name);
        }
        if !self.is_in_force {
            for (kind, name) in self.asked.names() {
                self.subscriber.subscribe(*kind, name);
            }
        }
        if !self.is_in_force && self.is_complete() && self.apply().is_err() {
            self.retry_at = Some(Instant::now() + RETRY);
        }
    }

    /// When to look next whether calls fail more often than before the last change.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.watch.next()
    }

    /// What is to be reported: that the calls of these policies fail more often since they changed.
    pub(super) fn look(&mut self) -> Vec<Finding> {
        let mut watch = std::mem::take(&mut self.watch);
        watch.retain(|policy| self.version(policy).is_some());
        let found = watch.look(|policy| self.tally(policy), Instant::now());
        self.watch = watch;
        let finding = |(name, grown): (String, Grown)| {
            Some(Finding {
                version: self.version(&name)?.clone(),
                before: grown.before,
                since: grown.since,
                name,
            })
        };
        found.into_iter().filter_map(finding).collect()
    }

    /// How the batches of each policy do that has routes whose batches fail.
    pub(super) fn batches(&self) -> BTreeMap<String, BatchFinding> {
        let policies = self.held.iter().filter(|((kind, _), _)| *kind == Kind::Policy);
        let policies = policies.map(|((_, name), (version, _))| (name.as_str(), version.as_str()));
        batches::findings(policies, &self.metrics.troubles())
    }

    fn version(&self, policy: &str) -> Option<&String> {
        let held = self.held.get(&(Kind::Policy, policy.to_owned()));
        held.map(|(version, _)| version)
    }

    /// Whether all that listeners need has come.
    fn is_complete(&self) -> bool {
        let mut listeners = self.assembly.listeners();
        let is_known = |backend: &String| self.known.contains_key(backend);
        let needed: &[Kind] = match self.any_backend {
            true => &[Kind::Policy, Kind::Backend, Kind::Endpoint],
            false => &[Kind::Policy],
        };
        needed.iter().all(|kind| self.complete.contains(kind))
            && !self.assembly.expects()
            && listeners.all(|one| is_known(&one.backend))
    }

    fn apply(&mut self) -> Result<(), String> {
        let Some(workload) = &self.workload else {
            return Ok(());
        };
        self.force.apply(&self.assembly, workload)?;
        self.is_in_force = true;
        Ok(())
    }

    /// Asks for what listeners need, and no longer for what none needs. True when something was dropped.
    fn ask(&mut self) -> bool {
        let Difference { more, less } = self.asked.follow(&self.assembly, self.workload.as_ref());
        let mut dropped = false;
        for (kind, name) in less {
            self.refused.forget(kind, &name);
            for gone in self.subscriber.unsubscribe(kind, &name) {
                dropped |= self.assembly.remove(kind, &gone).changed;
                self.held.remove(&(kind, gone));
                self.is_unsaved = true;
            }
            if kind == Kind::Backend {
                self.known.remove(&name);
                self.assembly.expect_no_longer(&name);
            }
        }
        for (kind, name) in more {
            self.subscriber.subscribe(kind, &name);
            if let (Kind::Endpoint, Some(backend)) = (kind, name.strip_suffix("/*")) {
                self.assembly.expect(backend);
            }
        }
        dropped
    }

    /// A response can bring what by the same response nothing leads to any more. True when something was dropped.
    fn drop_unwanted(&mut self, delta: &Delta) -> bool {
        let (kind, names) = (delta.kind, delta.changes.iter().map(name_of));
        let unwanted = names.filter(|name| !self.subscriber.wants(kind, name));
        unwanted.fold(false, |dropped, name| {
            self.assembly.remove(kind, name).changed | dropped
        })
    }

    fn hold(&mut self, delta: &Delta) {
        for change in &delta.changes {
            let key = (delta.kind, name_of(change).to_owned());
            match change {
                Change::Set {
                    name,
                    version,
                    content,
                } => {
                    if !delta.rejected.iter().any(|rejection| rejection.name == *name) {
                        self.held.set(key, (version.clone(), content.clone()));
                        self.is_unsaved = true;
                    }
                }
                Change::Gone { .. } => self.is_unsaved |= self.held.remove(&key),
            }
        }
    }

    /// Shows what is another thing than at the mark.
    fn show(&self) {
        let mut standing = self.standing.lock();
        for (key, _) in self.held.changed() {
            match self.held.get(key) {
                Some((version, _)) => standing.resources.insert(key.clone(), version.clone()),
                None => standing.resources.remove(key),
            };
        }
        standing.rejected = self.refused.list();
        standing.from_snapshot = standing.from_snapshot && !self.is_complete();
    }

    /// Whether something that was pushed, or kept on disk, is in force.
    pub(super) const fn is_in_force(&self) -> bool {
        self.is_in_force
    }

    /// Whether what is held differs from what is on disk.
    pub(super) const fn is_unsaved(&self) -> bool {
        self.is_unsaved && self.is_in_force
    }

    /// Writes what is held to disk.
    pub(super) fn save(&mut self, disk: &Disk) {
        let Some(workload) = &self.workload else {
            return;
        };
        let kept = self.held.iter().map(|((kind, name), (version, content))| Kept {
            type_url: kind.type_url().to_owned(),
            name: name.clone(),
            version: version.clone(),
            content: content.clone(),
        });
        let snapshot = Snapshot {
            workload: workload.to_string(),
            resources: kept.collect(),
        };
        // Not tried again before there is something new: a full disk would fill the log, too.
        self.is_unsaved = false;
        if let Err(error) = disk.save(&snapshot) {
            tracing::error!(%error, "the last good set is not on disk");
        }
    }
}

#[cfg(test)]
mod tests;
