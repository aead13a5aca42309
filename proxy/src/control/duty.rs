//! What this sidecar is to do: takes in what was pushed, has it put in force, and only then says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use jitney_api::Workload;
use jitney_api::push::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Locality, Node};
use jitney_api::push::config::{BatchFinding, Finding, Kept, Snapshot};
use jitney_api::push::{Assembly, Change, Delta, Kind, Subscriber};
use jitney_core::decline::Grown;
use tokio::time::Instant;

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
use delta::{each_bundle, name_of, policies_of, reject, set_names};
use refused::Refused;

/// What was pushed, and what became of it.
pub(super) struct Duty {
    subscriber: Subscriber,
    assembly: Assembly,
    /// What is applied, as it was sent.
    held: BTreeMap<(Kind, String), (String, Bytes)>,
    /// What is asked for by name, beside what comes unasked.
    asked: BTreeSet<(Kind, String)>,
    /// Backends of which something is known, if only that there is none.
    known: BTreeSet<String>,
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

/// See [`Duty::go_back`].
struct Holding {
    assembly: Assembly,
    held: BTreeMap<(Kind, String), (String, Bytes)>,
    asked: BTreeSet<(Kind, String)>,
    known: BTreeSet<String>,
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
            held: BTreeMap::new(),
            asked: BTreeSet::new(),
            known: BTreeSet::new(),
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
        for (kind, name) in std::mem::take(&mut self.held).into_keys() {
            self.assembly.remove(kind, &name);
            self.subscriber.release(kind, &name);
        }
        self.known.clear();
        self.ask();
        self.is_in_force = false;
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
        let before = self.holding();
        // Roots are trusted when they come: the next stream may need them.
        if delta.kind == Kind::TrustBundle {
            each_bundle(&mut delta, |bundle| trust.replace(bundle));
        }
        let taken = self.assembly.take(&mut delta);
        if delta.kind == Kind::Backend {
            self.known
                .extend(delta.changes.iter().map(|change| name_of(change).to_owned()));
        }
        self.complete.insert(delta.kind);
        let asked = self.ask();
        let is_due = self.is_in_force || self.is_complete();
        let is_news = taken.changed || asked || !self.is_in_force;
        if is_due
            && is_news
            && let Err(reason) = self.apply()
        {
            self.go_back(before);
            reject(&mut delta, &reason);
            // It may be the fault of somebody who will not be there for ever.
            self.again
                .extend(set_names(&delta).map(|name| (delta.kind, name)));
            self.retry_at = Some(Instant::now() + RETRY);
        }
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
        let is_asking = self.asked.iter().any(|(kind, _)| *kind == Kind::Policy);
        let has_all = self.complete.contains(&Kind::Policy) && self.is_in_force && !is_asking;
        let is_idle = has_all && self.assembly.documents().documents.is_empty();
        if let (true, false, Some(workload)) = (is_idle, self.is_idle, &self.workload) {
            tracing::info!("no policy is for {workload}: calls pass through");
        }
        self.is_idle = is_idle;
    }

    /// What a change that cannot be in force must leave as it was.
    fn holding(&self) -> Holding {
        Holding {
            assembly: self.assembly.clone(),
            held: self.held.clone(),
            asked: self.asked.clone(),
            known: self.known.clone(),
        }
    }

    fn go_back(&mut self, before: Holding) {
        for (kind, name) in self.asked.difference(&before.asked) {
            self.subscriber.unsubscribe(*kind, name);
        }
        for (kind, name) in before.asked.difference(&self.asked) {
            self.subscriber.subscribe(*kind, name);
        }
        for ((kind, name), (version, _)) in &before.held {
            self.subscriber.hold(*kind, name, version);
        }
        self.assembly = before.assembly;
        self.held = before.held;
        self.asked = before.asked;
        self.known = before.known;
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
        let mut again = std::mem::take(&mut self.again);
        if !self.is_in_force {
            again.extend(self.asked.iter().cloned());
        }
        for (kind, name) in again {
            self.subscriber.subscribe(kind, &name);
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
        let is_known = |backend: &String| self.known.contains(backend);
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
        let mut wanted = BTreeSet::new();
        for listener in self.assembly.listeners() {
            let needs = self.assembly.wanted(&listener.backend).into_iter();
            // Its own addresses are where its callers find it.
            let is_local = listener.local.is_some();
            wanted.extend(needs.filter(|(kind, _)| !is_local || *kind != Kind::Endpoint));
        }
        if let Some(workload) = &self.workload {
            let backends = self
                .assembly
                .listeners()
                .map(|listener| listener.backend.as_str());
            let more = self.assembly.led_to(workload, backends);
            wanted.extend(more.iter().flat_map(|backend| self.assembly.wanted(backend)));
        }
        if self.any_backend {
            let needs = self.assembly.backends().flat_map(|one| self.assembly.wanted(one));
            wanted.extend(needs.filter(|(kind, _)| matches!(kind, Kind::Policy | Kind::Route)));
        }
        let mut dropped = false;
        for (kind, name) in self.asked.difference(&wanted) {
            self.refused.forget(*kind, name);
            for gone in self.subscriber.unsubscribe(*kind, name) {
                dropped |= self.assembly.remove(*kind, &gone).changed;
                self.held.remove(&(*kind, gone));
                self.is_unsaved = true;
            }
            if *kind == Kind::Backend {
                self.known.remove(name);
                self.assembly.expect_no_longer(name);
            }
        }
        for (kind, name) in wanted.difference(&self.asked) {
            self.subscriber.subscribe(*kind, name);
            if let (Kind::Endpoint, Some(backend)) = (kind, name.strip_suffix("/*")) {
                self.assembly.expect(backend);
            }
        }
        self.asked = wanted;
        dropped
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
                        self.held.insert(key, (version.clone(), content.clone()));
                        self.is_unsaved = true;
                    }
                }
                Change::Gone { .. } => self.is_unsaved |= self.held.remove(&key).is_some(),
            }
        }
    }

    fn show(&self) {
        let resources = self.held.iter();
        let resources =
            resources.map(|((kind, name), (version, _))| (kind.as_str(), name.clone(), version.clone()));
        let mut standing = self.standing.lock();
        standing.resources = resources.collect();
        standing.rejected = self.refused.list();
        standing.from_snapshot &= !self.is_complete();
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
