//! What every sidecar runs while a policy changes, spreads, stops and the control plane restarts: against
//! a model, with the real state of both ends of each stream.

use std::fs;
use std::path::Path;

use jitney_api::Workload;
use jitney_api::push::ads::Node;
use jitney_api::push::{Change, Feed, Held, Pushed, Readers, Subscriber};
use tempfile::TempDir;

use super::*;
use crate::store::{Recipient, Snapshot, place};

const POLICY: &str = "shop/users";

fn workload() -> Workload {
    Workload {
        namespace: "shop".into(),
        account: "users".into(),
    }
}

/// A policy for the sidecars of the workload, which get it unasked.
fn inbound() -> Readers {
    Readers::Workloads(vec![workload()])
}

/// The policy's content of a number, as resources: two that differ in a route only, and more.
fn content(number: usize, readers: &Readers) -> Vec<Pushed> {
    let one = |kind, name: &str, text: String| Pushed {
        kind,
        name: name.into(),
        held: Held::from(text.as_bytes()),
        readers: readers.clone(),
    };
    let mut pushed = vec![
        one(Kind::Policy, POLICY, format!("policy {}", number / 2)),
        one(Kind::Route, "shop/users/by-id", format!("route {number}")),
    ];
    if number >= 2 {
        pushed.push(one(Kind::Route, "shop/users/more", "another".into()));
    }
    pushed
}

/// What the source says: a policy that is always the same, and the one that is looked at.
fn resources(number: Option<usize>, percent: u32, readers: &Readers) -> Resources {
    let mut pushed = number.map_or_else(Vec::new, |number| content(number, readers));
    for (kind, name) in [(Kind::Policy, "shop/users2"), (Kind::Route, "shop/users2/by-id")] {
        pushed.push(Pushed {
            kind,
            name: name.into(),
            held: Held::from(b"always".as_slice()),
            readers: inbound(),
        });
    }
    let share = (POLICY.into(), percent);
    Resources {
        pushed,
        shares: (number.is_some() && percent < 100)
            .then_some(share)
            .into_iter()
            .collect(),
        ..Resources::default()
    }
}

/// A sidecar and its stream.
struct Sidecar {
    recipient: Recipient,
    subscriber: Subscriber,
    feed: Feed,
    snapshot: Arc<Snapshot>,
    runs: BTreeMap<(Kind, String), Version>,
    /// Resources and removals that it was sent since somebody looked.
    sent: usize,
}

impl Sidecar {
    fn new(node: &str, store: &Store) -> Self {
        let mut subscriber = Subscriber::new(Node::default());
        // As a sidecar does whose workload also calls what the policy is for.
        for name in ["*", POLICY] {
            subscriber.subscribe(Kind::Policy, name);
        }
        for name in ["*", "shop/users/*"] {
            subscriber.subscribe(Kind::Route, name);
        }
        subscriber.open();
        Self {
            recipient: Recipient {
                workload: workload(),
                node: node.to_owned(),
            },
            subscriber,
            feed: Feed::new(),
            snapshot: store.snapshot(),
            runs: BTreeMap::new(),
            sent: 0,
        }
    }

    /// Opens another stream, to another process perhaps.
    fn reconnect(&mut self, store: &Store) {
        self.subscriber.open();
        (self.feed, self.snapshot) = (Feed::new(), store.snapshot());
    }

    /// Takes in everything.
    fn settle(&mut self, store: &Store) {
        let before = std::mem::replace(&mut self.snapshot, store.snapshot()).generation();
        let sight = self.snapshot.to(&self.recipient);
        match self.snapshot.since(before) {
            Some(changes) => changes.for_each(|(kind, name)| self.feed.changed(*kind, name)),
            None => self.feed.look_again(&sight),
        }
        loop {
            while let Some(request) = self.subscriber.poll() {
                self.feed.request(&request, &sight).unwrap();
            }
            let Some(response) = self.feed.poll(&sight) else {
                return;
            };
            let delta = self.subscriber.response(response).unwrap();
            for change in &delta.changes {
                match change {
                    Change::Set { name, version, .. } => {
                        let key = (delta.kind, name.clone());
                        self.runs.insert(key, version.parse().unwrap());
                        self.sent += 1;
                    }
                    // That there is none is told to who asks for it by name, too.
                    Change::Gone { name } => {
                        let was = self.runs.remove(&(delta.kind, name.clone()));
                        self.sent += usize::from(was.is_some());
                    }
                }
            }
            self.subscriber.answer(delta);
        }
    }
}

/// A control plane with its state, and sidecars.
struct Mesh {
    state: TempDir,
    store: Arc<Store>,
    rollouts: Arc<Rollouts>,
    sidecars: Vec<Sidecar>,
    readers: Readers,
}

impl Mesh {
    fn start(number: Option<usize>, percent: u32) -> Self {
        Self::of(number, percent, inbound())
    }

    fn of(number: Option<usize>, percent: u32, readers: Readers) -> Self {
        let state = tempfile::tempdir().unwrap();
        let (store, rollouts) = open(&state);
        rollouts.replace(resources(number, percent, &readers), Instant::now());
        let names = (0..12).map(|n| format!("users-{n}"));
        let sidecars = names.chain([String::new()]);
        Self {
            sidecars: sidecars.map(|node| Sidecar::new(&node, &store)).collect(),
            state,
            store,
            rollouts,
            readers,
        }
    }

    fn write(&self, number: Option<usize>, percent: u32) {
        let resources = resources(number, percent, &self.readers);
        self.rollouts.replace(resources, Instant::now());
    }

    /// Another process takes over, and finds this in the source.
    fn restart(&mut self, number: Option<usize>, percent: u32) {
        (self.store, self.rollouts) = open(&self.state);
        self.write(number, percent);
        let store = &self.store;
        self.sidecars.iter_mut().for_each(|one| one.reconnect(store));
    }

    /// What every policy was that has a file of its own is gone.
    fn lose_baselines(&self) {
        fs::remove_dir_all(self.state.path().join("rollouts")).unwrap();
    }

    fn stop(&self) {
        if let Some(stage) = self.stage() {
            let stop = Stop {
                reason: "users-1 rejected it".into(),
                at: SystemTime::UNIX_EPOCH,
            };
            self.rollouts.stop_now(&POLICY.into(), stage, stop);
        }
    }

    fn stage(&self) -> Option<Version> {
        let snapshot = self.store.snapshot();
        let stage = snapshot.rollout(POLICY)?.stage.clone()?;
        Some(stage.content)
    }

    /// How many were sent something since the last time, after all have taken in everything.
    fn settle(&mut self) -> usize {
        let mut sent = 0;
        for sidecar in &mut self.sidecars {
            sidecar.sent = 0;
            sidecar.settle(&self.store);
            sent += usize::from(sidecar.sent > 0);
        }
        sent
    }

    /// How many run each content of these.
    fn run<const N: usize>(&self, numbers: [Option<usize>; N]) -> [usize; N] {
        numbers.map(|number| {
            let expected = runs(number);
            self.sidecars.iter().filter(|one| one.runs == expected).count()
        })
    }
}

fn open(state: &TempDir) -> (Arc<Store>, Arc<Rollouts>) {
    let store = Arc::new(Store::default());
    let folder = Folder::open(state.path()).unwrap();
    let rollouts = Rollouts::open(&folder, &store).unwrap();
    (store, Arc::new(rollouts))
}

/// Why nobody can go on with this state.
#[track_caller]
fn refused(state: &Path) -> String {
    let folder = Folder::open(state).unwrap();
    Rollouts::open(&folder, &Arc::default()).unwrap_err().to_string()
}

fn runs(number: Option<usize>) -> BTreeMap<(Kind, String), Version> {
    let pushed = resources(number, 100, &inbound()).pushed.into_iter();
    pushed
        .map(|one| ((one.kind, one.name.to_string()), one.held.version))
        .collect()
}

/// How many of the sidecars of [`Mesh`] take part at a percentage.
fn share(percent: u32) -> usize {
    let names = (0..12).map(|n| format!("users-{n}"));
    let takes = |node: &String| {
        let (workload, node) = (workload(), node.clone());
        place(POLICY, &Recipient { workload, node }) < percent
    };
    names.chain([String::new()]).filter(takes).count()
}

/// What is to happen, by the rules and nothing else.
#[derive(Clone, Copy, Debug)]
struct Model {
    present: Option<usize>,
    baseline: Option<usize>,
    percent: u32,
    stopped: bool,
}

impl Model {
    fn write(&mut self, number: Option<usize>, percent: u32) {
        self.stopped &= number == self.present;
        (self.present, self.percent) = (number, percent);
        if number == self.baseline || number.is_none() || percent == 100 && !self.stopped {
            (self.baseline, self.stopped) = (number, false);
        }
    }

    fn stop(&mut self) {
        self.stopped |= self.present != self.baseline;
    }

    fn runs(&self, sidecar: &Sidecar) -> BTreeMap<(Kind, String), Version> {
        let takes = !self.stopped && place(POLICY, &sidecar.recipient) < self.percent;
        runs(if takes { self.present } else { self.baseline })
    }
}

/// One step at random, taken by both; what it was.
fn step(random: &mut impl FnMut(usize) -> usize, mesh: &mut Mesh, model: &mut Model) -> String {
    let percent = [1, 30, 50, 90, 100][random(5)];
    let number = Some(random(4)).filter(|_| random(8) > 0);
    match random(8) {
        0..=1 => {
            model.stop();
            mesh.stop();
            "stop".into()
        }
        2 => {
            // What every policy was is known to the next process.
            model.write(model.present, model.percent);
            mesh.restart(model.present, model.percent);
            "restart".into()
        }
        3 => {
            model.write(number, percent);
            mesh.restart(number, percent);
            format!("restart with {number:?} at {percent}")
        }
        4..=5 => {
            model.write(model.present, percent);
            mesh.write(model.present, percent);
            format!("to {percent}")
        }
        _ => {
            model.write(number, percent);
            mesh.write(number, percent);
            format!("{number:?} at {percent}")
        }
    }
}

#[test]
fn every_sidecar_runs_what_it_is_to_run_and_is_sent_nothing_else() {
    for seed in 1..=20_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // xorshift64*
        let mut random = |below: usize| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
        };
        // A policy for the callee's sidecars, and one for its callers'.
        let readers = if seed % 2 == 0 {
            inbound()
        } else {
            Readers::Everyone
        };
        let mut mesh = Mesh::of(Some(0), 100, readers);
        let mut model = Model {
            present: Some(0),
            baseline: Some(0),
            percent: 100,
            stopped: false,
        };
        mesh.settle();
        let mut steps = Vec::new();
        for _ in 0..40 {
            let before: Vec<_> = mesh.sidecars.iter().map(|one| one.runs.clone()).collect();
            steps.push(step(&mut random, &mut mesh, &mut model));
            mesh.settle();
            for (sidecar, before) in mesh.sidecars.iter().zip(before) {
                let told = || format!("seed {seed}, {:?}: {steps:#?}\n{model:?}", sidecar.recipient);
                let expected = model.runs(sidecar);
                assert_eq!(sidecar.runs, expected, "{}", told());
                let is_new = |(key, version): &(_, _)| before.get(*key) != Some(*version);
                let news = expected.iter().filter(is_new).count();
                let gone = before.keys().filter(|key| !expected.contains_key(*key)).count();
                assert_eq!(sidecar.sent, news + gone, "{}", told());
            }
        }
    }
}

#[test]
fn a_share_takes_a_change_and_the_others_hear_of_it_when_it_grows() {
    let mut mesh = Mesh::start(Some(0), 30);
    assert_eq!(mesh.settle(), 13, "all are new");
    mesh.write(Some(2), 30);
    assert_eq!(mesh.settle(), share(30));
    assert_eq!(mesh.run([Some(0), Some(2)]), [13 - share(30), share(30)]);
    mesh.write(Some(2), 60);
    assert_eq!(mesh.settle(), share(60) - share(30));
    mesh.write(Some(2), 100);
    assert_eq!(mesh.settle(), 13 - share(60));
    assert_eq!(mesh.stage(), None);
    mesh.write(Some(2), 30);
    assert_eq!(mesh.settle(), 0, "a smaller share of what all run already");
    assert!(share(30) > 0 && share(60) > share(30) && share(60) < 13);
}

#[test]
fn what_has_stopped_stays_so_until_it_is_changed() {
    let mut mesh = Mesh::start(Some(0), 50);
    mesh.write(Some(1), 50);
    mesh.settle();
    mesh.stop();
    assert_eq!(mesh.settle(), share(50));
    for percent in [90, 100] {
        mesh.write(Some(1), percent);
        assert_eq!(mesh.settle(), 0);
        mesh.restart(Some(1), percent);
        assert_eq!(mesh.settle(), 0);
    }
    assert_eq!(mesh.run([Some(0)]), [13]);
    let stop = mesh.store.snapshot().rollout(POLICY).unwrap().stage.clone();
    assert_eq!(stop.unwrap().stop.unwrap().reason, "users-1 rejected it");
    mesh.write(Some(3), 50);
    assert_eq!(mesh.settle(), share(50), "another generation");
    mesh.write(Some(1), 50);
    assert_eq!(mesh.settle(), share(50), "and this is another one, too");
    mesh.write(Some(0), 50);
    assert_eq!(mesh.settle(), share(50));
    assert_eq!(mesh.run([Some(0)]), [13]);
}

#[test]
fn a_policy_that_is_new_goes_to_the_share_alone_and_one_that_goes_is_gone() {
    let mut mesh = Mesh::start(None, 100);
    mesh.settle();
    mesh.write(Some(0), 50);
    assert_eq!(mesh.settle(), share(50));
    assert_eq!(mesh.run([None, Some(0)]), [13 - share(50), share(50)]);
    mesh.restart(Some(0), 50);
    assert_eq!(mesh.settle(), 0, "that there was none is known, too");
    mesh.write(None, 100);
    assert_eq!(mesh.settle(), share(50));
    let kept = Folder::open(&mesh.state.path().join("rollouts")).unwrap();
    assert!(
        kept.names().unwrap().is_empty(),
        "nothing is kept of what is no more"
    );
}

#[test]
fn a_policy_that_gets_a_share_while_nobody_runs_has_a_baseline() {
    let mut mesh = Mesh::start(Some(0), 100);
    mesh.settle();
    mesh.restart(Some(1), 30);
    assert_eq!(mesh.settle(), share(30));
    assert_eq!(mesh.run([Some(0), Some(1)]), [13 - share(30), share(30)]);
    assert_eq!(mesh.rollouts.warnings(), [""; 0]);
    // The share is gone while nobody runs, and comes back so.
    mesh.restart(Some(1), 100);
    mesh.settle();
    mesh.restart(Some(2), 50);
    assert_eq!(mesh.settle(), share(50));
    assert_eq!(mesh.run([Some(1), Some(2)]), [13 - share(50), share(50)]);
    // One that was not there, and was known not to be, goes to its share alone.
    mesh.restart(None, 100);
    mesh.settle();
    mesh.restart(Some(3), 50);
    mesh.settle();
    assert_eq!(mesh.run([None, Some(3)]), [13 - share(50), share(50)]);
}

#[test]
fn what_is_lost_with_the_state_is_told_until_it_matters_no_more() {
    let mut mesh = Mesh::start(Some(0), 100);
    mesh.settle();
    fs::remove_file(mesh.state.path().join("policies.json")).unwrap();
    mesh.restart(Some(1), 30);
    assert_eq!(mesh.settle(), 13);
    let warnings = mesh.rollouts.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("shop/users: nothing is kept of what it was"),
        "{warnings:?}"
    );
    mesh.write(Some(1), 40);
    assert_eq!(mesh.rollouts.warnings(), warnings, "the same content");
    mesh.write(Some(2), 40);
    assert_eq!(mesh.settle(), share(40));
    assert_eq!(mesh.rollouts.warnings(), [""; 0]);
}

#[test]
fn what_cannot_be_kept_is_told_and_tried_again() {
    let mesh = Mesh::start(Some(0), 100);
    let rollouts = mesh.state.path().join("rollouts");
    // Nothing can be put into a folder that is a file.
    fs::remove_dir(&rollouts).unwrap();
    fs::write(&rollouts, "").unwrap();
    let whole = mesh.state.path().join("policies.json");
    fs::remove_file(&whole).unwrap();
    fs::create_dir(&whole).unwrap();
    mesh.write(Some(1), 100);
    mesh.write(Some(2), 30);
    mesh.rollouts.keep_again();
    let faults = mesh.rollouts.faults();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("what every policy is: cannot write") && faults[1].contains(POLICY));
    fs::remove_file(&rollouts).unwrap();
    fs::create_dir(&rollouts).unwrap();
    fs::remove_dir(&whole).unwrap();
    mesh.rollouts.keep_again();
    assert_eq!(mesh.rollouts.faults(), [""; 0]);
    let mut kept = fs::read_dir(&rollouts).unwrap().map(|file| file.unwrap().path());
    assert!(kept.any(|path| path.extension().is_some_and(|extension| extension == "json")));
    assert!(whole.is_file());
}

#[test]
fn where_nothing_is_kept_everyone_is_to_run_what_there_is() {
    let mut mesh = Mesh::start(Some(0), 50);
    mesh.write(Some(1), 50);
    mesh.settle();
    mesh.lose_baselines();
    fs::remove_file(mesh.state.path().join("policies.json")).unwrap();
    mesh.restart(Some(1), 50);
    assert_eq!(mesh.settle(), 13 - share(50));
    assert_eq!(mesh.stage(), None);
    assert_eq!(mesh.rollouts.warnings().len(), 1);
    mesh.restart(Some(2), 50);
    assert_eq!(mesh.settle(), share(50), "it is kept from then on");
}

#[test]
fn nobody_starts_with_half_of_what_was_kept() {
    let mesh = Mesh::start(Some(0), 50);
    mesh.write(Some(1), 50);
    mesh.stop();
    let state = mesh.state.path();
    let baselines = Folder::open(&state.join("rollouts")).unwrap();
    let baseline = format!("rollouts/{}", baselines.names().unwrap()[0]);
    for file in [&*baseline, "policies.json", "rollouts-stopped.json"] {
        let path = state.join(file);
        let good = fs::read_to_string(&path).unwrap();
        let halves = [(""), &good[..good.len() / 2], "{\"policy\": 1}", "\0\0"];
        for text in halves {
            fs::write(&path, text).unwrap();
            let told = refused(state);
            let expected = format!("cannot use {}: ", path.display());
            assert!(told.starts_with(&expected), "{told}");
            assert!(told.contains("restore it, or remove it"), "{told}");
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                text,
                "nothing is lost by trying"
            );
        }
        fs::write(&path, good).unwrap();
        drop(open(&mesh.state));
    }
}

#[test]
fn a_change_that_was_staged_goes_to_nobody_else_when_what_was_before_is_gone() {
    let mut mesh = Mesh::start(Some(0), 50);
    mesh.write(Some(1), 50);
    mesh.lose_baselines();
    let told = refused(mesh.state.path());
    assert!(
        told.contains("is missing, which tells what shop/users was"),
        "{told}"
    );
    // The way out that it names.
    fs::remove_file(mesh.state.path().join("policies.json")).unwrap();
    mesh.restart(Some(1), 50);
    assert_eq!(mesh.stage(), None);
}

#[test]
fn what_could_not_be_kept_leaves_a_state_to_start_with() {
    for is_whole_full in [false, true] {
        for (from, to) in [(100, 50), (50, 100)] {
            let mut mesh = Mesh::start(Some(0), from);
            mesh.write(Some(1), from);
            let full = mesh.state.path().join(if is_whole_full {
                "policies.json"
            } else {
                "rollouts"
            });
            let before = mesh.state.path().join("before");
            // Nothing can be put in the place of a folder, nor into a file.
            fs::rename(&full, &before).unwrap();
            if is_whole_full {
                fs::create_dir(&full).unwrap();
            } else {
                fs::write(&full, "").unwrap();
            }
            mesh.write(Some(2), to);
            let unkept = mesh.rollouts.faults();
            if is_whole_full {
                fs::remove_dir(&full).unwrap();
            } else {
                fs::remove_file(&full).unwrap();
            }
            fs::rename(&before, &full).unwrap();
            mesh.restart(Some(2), to);
            let case = format!("{is_whole_full} {from} {to} {unkept:?}");
            mesh.settle();
            let others = if to == 100 {
                [0, 13]
            } else {
                [13 - share(50), share(50)]
            };
            assert_eq!(mesh.run([Some(1), Some(2)]), others, "{case}");
            drop(open(&mesh.state));
        }
    }
}

#[test]
fn what_has_stopped_comes_back_for_nobody_when_what_was_before_is_lost() {
    let mut mesh = Mesh::start(Some(0), 50);
    mesh.write(Some(1), 50);
    mesh.settle();
    mesh.stop();
    mesh.settle();
    mesh.lose_baselines();
    fs::remove_file(mesh.state.path().join("policies.json")).unwrap();
    for _ in 0..2 {
        mesh.restart(Some(1), 100);
        mesh.settle();
        assert_eq!(mesh.run([Some(1), None]), [0, 13], "calls pass through");
        let stage = mesh.store.snapshot().rollout(POLICY).unwrap().stage.clone();
        assert!(stage.unwrap().stop.is_some());
    }
    mesh.write(Some(2), 100);
    mesh.settle();
    assert_eq!(mesh.run([Some(2)]), [13]);
}

#[test]
fn replicas_stop_together() {
    let mut mesh = Mesh::start(Some(0), 50);
    mesh.write(Some(1), 50);
    mesh.settle();
    let (store, rollouts) = open(&mesh.state);
    rollouts.replace(resources(Some(1), 50, &inbound()), Instant::now());
    assert!(rollouts.file().starts_with(mesh.state.path()));
    mesh.stop();
    let generation = store.snapshot().generation();
    rollouts.reload();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.generation(), generation + 1);
    let stage = snapshot.rollout(POLICY).unwrap().stage.as_ref().unwrap();
    assert_eq!(stage.stop.as_ref().unwrap().reason, "users-1 rejected it");
    rollouts.reload();
    assert_eq!(store.snapshot().generation(), generation + 1);
    for sidecar in &mut mesh.sidecars {
        sidecar.reconnect(&store);
        sidecar.settle(&store);
        assert_eq!(sidecar.runs, runs(Some(0)));
    }
    // One that begins later, while the policy is to go to all.
    mesh.restart(Some(1), 100);
    assert_eq!(mesh.settle(), 0);
    mesh.write(Some(1), 50);
    mesh.write(Some(0), 50);
    let stops = fs::read_to_string(mesh.rollouts.file()).unwrap();
    assert_eq!(stops, "{}", "a stop is forgotten with its content");
}

#[test]
fn what_goes_to_everyone_has_no_file_of_its_own() {
    let mesh = Mesh::start(Some(0), 100);
    mesh.write(Some(1), 100);
    let files = || {
        let folder = Folder::open(&mesh.state.path().join("rollouts")).unwrap();
        folder.names().unwrap().len()
    };
    assert_eq!(files(), 0);
    mesh.write(Some(2), 10);
    assert_eq!(files(), 1);
    mesh.write(Some(3), 20);
    assert_eq!(files(), 1);
    mesh.write(Some(3), 100);
    assert_eq!(files(), 0);
}

#[test]
fn a_rejection_of_what_is_no_part_of_the_stage_stops_nothing() {
    let mesh = Mesh::start(Some(2), 50);
    mesh.write(Some(3), 50);
    let snapshot = mesh.store.snapshot();
    let version = |pushed: &Pushed| Some(pushed.held.version);
    let (before, after) = (content(2, &inbound()), content(3, &inbound()));
    for sidecar in &mesh.sidecars {
        let sight = snapshot.to(&sidecar.recipient);
        let takes = place(POLICY, &sidecar.recipient) < 50;
        for (resource, of_takers) in [
            (&before[0], false),
            (&before[1], false),
            (&after[1], true),
            (&after[2], false),
        ] {
            let found = sight.is_staged(resource.kind, &resource.name, version(resource));
            assert_eq!(found, takes && of_takers, "{} {resource:?}", sidecar.recipient);
        }
        assert!(!sight.is_staged(Kind::Policy, "shop/users2", version(&before[0])));
        assert!(!sight.is_staged(Kind::Route, "shop/users/by-id", None));
    }
}

/// The sidecars of the first pods of the workload.
fn of_pods(count: usize) -> Readers {
    let nodes = (0..count).map(|n| Arc::from(format!("users-{n}")));
    Readers::Sidecars(Arc::new([(workload(), nodes.collect())].into()))
}

#[test]
fn pods_come_and_go_while_a_change_spreads() {
    let mut mesh = Mesh::of(Some(0), 50, of_pods(6));
    mesh.write(Some(1), 50);
    let stage = mesh.stage();
    assert!(stage.is_some());
    mesh.settle();
    let [before, after, none] = mesh.run([Some(0), Some(1), None]);
    assert_eq!((before + after, none), (6, 7));

    mesh.readers = of_pods(12);
    mesh.write(Some(1), 50);
    assert_eq!(mesh.stage(), stage, "it is the same change");
    mesh.settle();
    let all = mesh.run([Some(0), Some(1), None]);
    assert!(
        all[0] > 0 && all[1] > 0,
        "those that came are on either side: {all:?}"
    );
    assert_eq!((all[0] + all[1], all[2]), (12, 1));

    mesh.restart(Some(1), 50);
    assert_eq!(mesh.stage(), stage, "and for the next process, too");
    mesh.settle();
    assert_eq!(mesh.run([Some(0), Some(1), None]), all);
    mesh.readers = of_pods(3);
    mesh.write(Some(0), 50);
    assert_eq!(mesh.stage(), None, "it was taken back");
    mesh.settle();
    assert_eq!(mesh.run([Some(0), Some(1), None]), [3, 0, 10]);
}
