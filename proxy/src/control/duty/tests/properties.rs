//! Whatever comes in whatever order, and whether it can be in force or not: what follows from what is held is
//! what it would be if it were made anew.

use jitney_api::push::ads::{Any, Resource};
use jitney_api::push::{Version, config};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;

type Key = (Kind, String);

#[derive(Clone, Debug)]
enum Step {
    /// A response with these resources, and with these gone.
    Take(Kind, Vec<(usize, u8)>, Vec<usize>),
    /// From now on nothing can be in force, or everything.
    Break(bool),
    Retry,
    /// The next stream, perhaps as another workload's.
    Reconnect(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = [
        Kind::Runtime,
        Kind::Backend,
        Kind::Endpoint,
        Kind::Route,
        Kind::Policy,
    ];
    let kind = prop::sample::select(kinds.to_vec());
    let sets = prop::collection::vec((0..BACKENDS.len(), any::<u8>()), 0..4);
    let gone = prop::collection::vec(0..BACKENDS.len(), 0..2);
    prop_oneof![
        20 => (kind, sets, gone).prop_map(|(kind, sets, gone)| Step::Take(kind, sets, gone)),
        2 => any::<bool>().prop_map(Step::Break),
        1 => Just(Step::Retry),
        1 => any::<bool>().prop_map(Step::Reconnect),
    ]
}

fn name(kind: Kind, number: usize) -> String {
    match kind {
        Kind::Runtime => ["shop/users", "shop/all"][number % 2].to_owned(),
        Kind::Endpoint => format!("{}/10.0.0.{number}:80", BACKENDS[number]),
        Kind::Route => format!("{}/0", POLICIES[number % POLICIES.len()]),
        Kind::Policy => POLICIES[number % POLICIES.len()].to_owned(),
        Kind::Backend | Kind::TrustBundle | Kind::Sidecar => BACKENDS[number].to_owned(),
    }
}

/// One of 256 contents, of which few are good for nothing.
fn content(kind: Kind, number: usize, variant: u8) -> Vec<u8> {
    let bits = usize::from(variant);
    let backend = |of: usize| BACKENDS[of % BACKENDS.len()];
    if variant == 0 {
        return NO_MESSAGE.to_vec();
    }
    let json = |value: Value| value.to_string().into_bytes();
    match kind {
        Kind::Runtime => {
            let listener = |of: usize| {
                let backend = backend(of).trim_start_matches("shop/");
                let local = of.is_multiple_of(3).then_some("127.0.0.1:9");
                let spec = json!({"address": "127.0.0.1:0", "backend": backend, "local": local});
                json(json!({"metadata": {"name": backend, "namespace": "shop"}, "spec": spec}))
            };
            let listeners = (0..BACKENDS.len()).filter(|of| bits >> of & 1 == 1);
            let spec = (bits & 64 == 64).then(|| json(json!({"maxSize": 1 + bits % 4})));
            config::Runtime {
                spec: spec.unwrap_or_default().into(),
                listeners: listeners.map(|of| listener(of).into()).collect(),
            }
            .encode_to_vec()
        }
        Kind::Endpoint => config::Endpoint {
            address: format!("10.0.0.{number}:80"),
            zone: (bits % 4).to_string(),
            ..config::Endpoint::default()
        }
        .encode_to_vec(),
        Kind::Route => {
            let route = json!({"codec": {"jsonRpc": {}}, "batch": {"maxSize": bits % 80}});
            let spec = json(route).into();
            config::Route { spec }.encode_to_vec()
        }
        Kind::Policy => {
            let placement = ["Inbound", "Outbound"][bits % 2];
            let mirror = json!({"backendRef": {"name": backend(bits / 2).trim_start_matches("shop/")}});
            let traffic = (bits & 16 == 16).then(|| json!({"requestMirror": mirror}));
            let routes = (bits & 32 == 32).then(|| format!("{}/0", name(Kind::Policy, number)));
            let spec = json!({"placement": placement, "traffic": traffic.unwrap_or_else(|| json!({}))});
            config::Policy {
                spec: json(spec).into(),
                routes: routes.into_iter().collect(),
            }
            .encode_to_vec()
        }
        Kind::Backend | Kind::TrustBundle | Kind::Sidecar => {
            let policies = POLICIES.iter().enumerate().filter(|(of, _)| bits >> of & 1 == 1);
            let claim = config::Claim {
                calls: json(json!({"path": {"type": "PathPrefix", "value": format!("/{}", bits % 2)}}))
                    .into(),
                policy: POLICIES[bits / 2 % POLICIES.len()].to_owned(),
            };
            config::Backend {
                claims: (bits & 128 == 128).then_some(claim).into_iter().collect(),
                spec: json(json!({"connectTimeout": "1s"})).into(),
                policies: policies.map(|(_, name)| (*name).to_owned()).collect(),
                addresses: Vec::new(),
                is_service: false,
            }
            .encode_to_vec()
        }
    }
}

/// All of it, put together anew.
fn assembled(held: &BTreeMap<Key, Bytes>) -> Assembly {
    let mut assembly = Assembly::new(limits());
    for kind in Kind::ALL {
        let of_kind = held.iter().filter(|((of, _), _)| *of == kind);
        let changes = of_kind.map(|((_, name), content)| Change::Set {
            name: name.clone(),
            version: version(content),
            content: content.clone(),
        });
        let mut delta = Delta::remembered(kind, changes.collect());
        assembly.take(&mut delta);
        assert_eq!(delta.rejected, [], "all of it was good");
    }
    assembly
}

fn version(content: &[u8]) -> String {
    Version::of(content).to_string()
}

/// What is to be asked for, with everything looked at.
fn wanted(assembly: &Assembly, workload: &Workload, any_backend: bool) -> BTreeSet<Key> {
    let mut wanted = BTreeSet::new();
    for listener in assembly.listeners() {
        let needs = assembly.wanted(&listener.backend).into_iter();
        wanted.extend(needs.filter(|(kind, _)| listener.local.is_none() || *kind != Kind::Endpoint));
    }
    let backends = assembly.listeners().map(|listener| listener.backend.as_str());
    let more = assembly.led_to(workload, backends);
    wanted.extend(more.iter().flat_map(|backend| assembly.wanted(backend)));
    if any_backend {
        let needs = assembly.backends().flat_map(|one| assembly.wanted(one));
        wanted.extend(needs.filter(|(kind, _)| matches!(kind, Kind::Policy | Kind::Route)));
    }
    wanted
}

/// A sidecar, and what it is to hold, kept apart.
struct Pair {
    duty: Duty,
    world: Arc<Mutex<World>>,
    trust: Trust,
    workload: Workload,
    held: BTreeMap<Key, Bytes>,
    known: BTreeSet<String>,
    /// The revision that was looked at last, and what there was beside endpoints.
    last: (u64, String),
    folder: tempfile::TempDir,
}

impl Pair {
    fn new(any_backend: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut duty, world, trust) = sidecar(folder.path(), any_backend);
        duty.open(&users());
        Self {
            duty,
            world,
            trust,
            workload: users(),
            held: BTreeMap::new(),
            known: BTreeSet::new(),
            last: (u64::MAX, String::new()),
            folder,
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Take(kind, sets, gone) => self.take(*kind, sets, gone),
            Step::Break(is_broken) => self.world.lock().broken = is_broken.then_some("no more files"),
            Step::Retry => self.duty.retry(),
            Step::Reconnect(is_other) => {
                let mut workload = users();
                if *is_other {
                    workload.account = "others".to_owned();
                }
                if workload != self.workload {
                    self.held.clear();
                    self.known.clear();
                }
                self.duty.open(&workload);
                self.workload = workload;
            }
        }
        while self.duty.say().is_some() {}
    }

    fn take(&mut self, kind: Kind, sets: &[(usize, u8)], gone: &[usize]) {
        let set = |(number, variant): &(usize, u8)| {
            let content = Bytes::from(content(kind, *number, *variant));
            (name(kind, *number), content)
        };
        let sets: BTreeMap<String, Bytes> = sets.iter().map(set).collect();
        let gone: BTreeSet<String> = gone.iter().map(|number| name(kind, *number)).collect();
        // A route goes after the policies that have it.
        let is_gone = |name: &String| kind != Kind::Route && !sets.contains_key(name);
        let gone: Vec<String> = gone.into_iter().filter(is_gone).collect();
        let resource = |(name, content): (&String, &Bytes)| Resource {
            version: version(content),
            resource: Some(Any {
                type_url: kind.type_url().to_owned(),
                value: content.clone(),
            }),
            name: name.clone(),
        };
        let response = DeltaDiscoveryResponse {
            resources: sets.iter().map(resource).collect(),
            removed_resources: gone.clone(),
            type_url: kind.type_url().to_owned(),
            ..DeltaDiscoveryResponse::default()
        };
        let asked: BTreeSet<Key> = self.duty.asked.names().cloned().collect();
        let refused = self.world.lock().refused;
        self.duty.take(response, &self.trust);
        if self.world.lock().refused > refused {
            return;
        }
        let sets = sets
            .into_iter()
            .filter(|(name, _)| self.covers(&asked, kind, name));
        let sets: Vec<(String, Bytes)> = sets.collect();
        if kind == Kind::Backend {
            let names = sets.iter().map(|(name, _)| name).chain(&gone);
            self.known.extend(names.cloned());
        }
        for name in gone {
            self.held.remove(&(kind, name));
        }
        let rejected = |name: &String| {
            let shown = self.duty.standing.lock();
            shown
                .rejected
                .iter()
                .any(|one| one.kind == kind.as_str() && one.name == *name)
        };
        // What is rejected is not shown when by the same response nothing leads to it.
        let good = sets
            .into_iter()
            .filter(|(name, content)| **content != *NO_MESSAGE && !rejected(name));
        self.held
            .extend(good.map(|(name, content)| ((kind, name), content)));
        self.drop_unwanted(&asked);
    }

    /// Whether a resource of this name is taken in.
    fn covers(&self, asked: &BTreeSet<Key>, kind: Kind, name: &str) -> bool {
        let is_unasked = !matches!(kind, Kind::Backend | Kind::Endpoint) || self.duty.any_backend;
        let below = name.rsplit_once('/').map(|(backend, _)| format!("{backend}/*"));
        let mut names = asked.iter().filter(|(of, _)| *of == kind);
        is_unasked || names.any(|(_, asked)| asked == name || Some(asked) == below.as_ref())
    }

    fn drop_unwanted(&mut self, before: &BTreeSet<Key>) {
        let now = wanted(&assembled(&self.held), &self.workload, self.duty.any_backend);
        for (_, backend) in before.difference(&now).filter(|(kind, _)| *kind == Kind::Backend) {
            self.known.remove(backend);
        }
        let mut held = std::mem::take(&mut self.held);
        held.retain(|(kind, name), _| self.covers(&now, *kind, name));
        self.held = held;
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let (duty, workload) = (&self.duty, &self.workload);
        let held = duty.held.iter().map(|(key, (_, content))| (key, content));
        prop_assert!(
            held.eq(&self.held),
            "{:?}, expected {:?}",
            duty.held.keys(),
            self.held.keys()
        );
        let anew = assembled(&self.held);
        let wanted = wanted(&anew, workload, duty.any_backend);
        prop_assert!(
            duty.asked.names().eq(&wanted),
            "{:?}, expected {wanted:?}",
            duty.asked
        );
        prop_assert!(duty.known.keys().eq(&self.known));
        for (kind, name) in self.held.keys() {
            prop_assert!(duty.subscriber.held(*kind, name).is_some(), "{kind} {name}");
        }
        for rejected in duty.refused.list() {
            let mut asked = wanted.iter().filter(|(kind, _)| kind.as_str() == rejected.kind);
            let is_asked = asked.any(|(_, name)| *name == rejected.name);
            let is_unasked = rejected.kind != Kind::Backend.as_str();
            prop_assert!(is_asked || is_unasked || duty.any_backend, "{rejected:?}");
        }
        let shown = duty.standing.lock().resources.clone();
        let versions = self
            .held
            .iter()
            .map(|(key, content)| (key.clone(), version(content)));
        prop_assert_eq!(shown, versions.collect());

        let told = |assembly: &Assembly| {
            let listeners: Vec<_> = assembly.listeners().cloned().collect();
            let inbound = assembly.inbound(workload).policy.generation;
            let documents = assembly.documents().documents.len();
            (listeners, inbound, documents, assembly.is_idle())
        };
        prop_assert_eq!(told(&duty.assembly), told(&anew));
        let outbound = |assembly: &Assembly, backend| {
            let (to, compiled) = assembly.outbound(backend)?;
            Some((to, compiled.policy.generation))
        };
        for backend in BACKENDS {
            let found = outbound(&duty.assembly, backend);
            // What has not come is not known.
            if found.is_some() || !duty.assembly.expects() {
                prop_assert_eq!(found, outbound(&anew, backend));
            }
        }
        let policies = BACKENDS.map(|backend| {
            outbound(&duty.assembly, backend).map(|(to, generation)| (to.spec, to.addresses, generation))
        });
        let present = (
            duty.assembly.revision(),
            format!("{:?} {policies:?}", told(&duty.assembly)),
        );
        prop_assert!(
            self.last.0 != present.0 || self.last == present,
            "{:?}, now {present:?}",
            self.last
        );
        self.last = present;
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_follows_from_what_is_held_is_as_if_made_anew(
        any_backend in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().start_paused(true).enable_time().build();
        let _paused = runtime.as_ref().unwrap().enter();
        let mut pair = Pair::new(any_backend);
        for step in &steps {
            pair.run(step);
            pair.check()?;
        }
        drop(pair.folder);
    }
}

/// Policies lead from one backend to the next, and the response that brings the next ends the way to it.
#[test]
fn what_a_response_brings_and_leads_to_no_more_is_not_kept() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let _paused = runtime.as_ref().unwrap().enter();
    for of_c in [0, 1] {
        let mut pair = Pair::new(false);
        for step in [
            Step::Reconnect(true),
            Step::Take(Kind::Route, vec![(3, 1)], vec![]),
            Step::Take(Kind::Policy, vec![(3, 177), (0, 90)], vec![]),
            Step::Take(Kind::Backend, vec![(0, 40)], vec![]),
            Step::Take(Kind::Backend, vec![(0, 32), (3, of_c)], vec![]),
        ] {
            pair.run(&step);
            pair.check().unwrap();
        }
        let asked: Vec<_> = pair
            .duty
            .asked
            .names()
            .filter(|(kind, _)| *kind == Kind::Backend)
            .collect();
        assert_eq!(asked, [&(Kind::Backend, "shop/users".to_owned())]);
    }
}

const NO_MESSAGE: &[u8] = b"no message";
const BACKENDS: [&str; 5] = ["shop/users", "shop/a", "shop/b", "shop/c", "shop/d"];
const POLICIES: [&str; 4] = ["shop/p", "shop/q", "shop/r", "shop/s"];
