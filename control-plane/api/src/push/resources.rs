//! Documents as the resources that are pushed, and who may read each.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::catalog::Catalog;
use super::config;
use super::feed::Held;
use super::kind::Kind;
use super::place::Place;
use super::precedence::{Conflict, PodPorts, Precedence};
use super::readers::Readers;
use super::sidecars::Sidecars;
use crate::{
    Backend, BackendEndpoint, BatchPolicy, Documents, Listener, Metadata, Placement, Resource, Rollout,
    Runtime, Workload,
};

/// A resource that is to be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its type.
    pub kind: Kind,
    /// Its name: the parts joined by `/`, the namespace first.
    pub name: Arc<str>,
    /// Its version and encoding.
    pub held: Held,
    /// Who may read it.
    pub readers: Readers,
}

/// What documents push, and which of their policies are not in force everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Every resource.
    pub pushed: Vec<Pushed>,
    /// Targets that a policy is for and another one has.
    pub conflicts: Vec<Conflict>,
    /// Of policies whose changes go to a share of the sidecars first: percent, by the policy's name.
    pub shares: BTreeMap<Arc<str>, u32>,
}

/// Every resource of these documents. They have to be free of faults.
pub fn resources(documents: &Documents) -> Resources {
    pushed_of(documents, None)
}

/// Every resource of a namespace: of what is known of it, and of its documents, which have to be free of
/// faults.
pub fn resources_of(documents: &Documents, catalog: &Catalog) -> Resources {
    pushed_of(documents, Some(catalog))
}

fn pushed_of(documents: &Documents, catalog: Option<&Catalog>) -> Resources {
    let (mut backends, mut policies, mut runtimes) = (Vec::new(), Vec::new(), Runtimes::default());
    let sidecars = Sidecars::of(documents);
    for document in &documents.documents {
        match &document.resource {
            Resource::Backend(backend) => backends.push(backend),
            Resource::BatchPolicy(policy) => policies.push(policy),
            Resource::Listener(listener) => runtimes.listen(listener, documents),
            Resource::Runtime(runtime) => runtimes.run(runtime),
        }
    }
    let precedence = Precedence::of(documents, catalog);
    let mut conflicts = precedence.conflicts();
    let pod_ports = catalog.map(|catalog| precedence.pod_ports(catalog));
    let mut pushed = Vec::new();
    let callers = callers(&policies, &precedence);
    for backend in &backends {
        let policies = callers.get(&full_name(&backend.metadata));
        push_backend(
            &mut pushed,
            backend,
            policies.cloned().unwrap_or_default(),
            &sidecars,
        );
    }
    for policy in &policies {
        let held = precedence.held_by(&full_name(&policy.metadata));
        let beside = catalog.zip(pod_ports.as_ref());
        push_policy(&mut pushed, policy, readers(policy, &held, beside));
    }
    pushed.extend(runtimes.pushed());
    if let Some((catalog, pod_ports)) = catalog.zip(pod_ports) {
        let known = backends.iter().map(|backend| backend.metadata.name.clone());
        let [inbound, outbound] =
            [Placement::Inbound, Placement::Outbound].map(|side| precedence.claims(catalog, side));
        pushed.extend(catalog.push_backends(&callers, &outbound, &known.collect()));
        pushed.extend(catalog.push_sidecars(&pod_ports, &inbound));
        conflicts.extend(pod_ports.conflicts);
    }
    Resources {
        pushed,
        conflicts,
        shares: shares(&policies),
    }
}

/// Who runs a policy that has these.
fn readers(policy: &BatchPolicy, places: &[&Place], beside: Option<(&Catalog, &PodPorts<'_>)>) -> Readers {
    let held: Vec<&str> = places.iter().map(|place| place.backend.as_str()).collect();
    match (policy.spec.placement, beside) {
        (Placement::Inbound, Some((catalog, pod_ports))) => {
            // A rule's calls are known from others, so that whoever has the rule has them at every service.
            let rules = places.iter().filter(|place| place.rule.is_some());
            let rules: Vec<&str> = rules.map(|place| place.backend.as_str()).collect();
            let name = full_name(&policy.metadata);
            catalog.readers(pod_ports.sidecars(&name).chain(catalog.beside(&rules)))
        }
        (Placement::Inbound, None) => Readers::Workloads(workloads(&policy.metadata, &held)),
        // What has no target is in force nowhere.
        (Placement::Outbound, _) if held.is_empty() => Readers::Workloads(Vec::new()),
        (Placement::Outbound, _) => Readers::Everyone,
    }
}

fn shares(policies: &[&BatchPolicy]) -> BTreeMap<Arc<str>, u32> {
    let share = |policy: &&BatchPolicy| (full_name(&policy.metadata).into(), policy.spec.rollout.percent);
    let all = policies.iter().map(share);
    all.filter(|(_, percent)| *percent < 100).collect()
}

/// The policies that the sidecars of a backend's callers run, by its full name.
fn callers(policies: &[&BatchPolicy], precedence: &Precedence<'_>) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<_, Vec<String>>::new();
    let placed = policies
        .iter()
        .filter(|policy| policy.spec.placement == Placement::Outbound);
    for policy in placed {
        let name = full_name(&policy.metadata);
        let held = precedence.held_by(&name).into_iter();
        for place in held.filter(|place| place.rule.is_none()) {
            let backend = format!("{}/{}", namespace(&policy.metadata), place.backend);
            found.entry(backend).or_default().push(name.clone());
        }
    }
    found
}

/// What each workload's sidecars do beside running policies.
#[derive(Debug, Default)]
struct Runtimes(BTreeMap<Workload, config::Runtime>);

impl Runtimes {
    fn of(&mut self, metadata: &Metadata, account: &str) -> &mut config::Runtime {
        let workload = Workload {
            namespace: namespace(metadata).to_owned(),
            account: account.to_owned(),
        };
        self.0.entry(workload).or_default()
    }

    fn listen(&mut self, listener: &Listener, documents: &Documents) {
        let (named, workload) = named(listener, documents);
        let runtime = self.of(&listener.metadata, &workload);
        runtime.listeners.push(json(&named));
    }

    fn run(&mut self, runtime: &Runtime) {
        self.of(&runtime.metadata, &runtime.metadata.name).spec = json(&runtime.spec);
    }

    fn pushed(self) -> impl Iterator<Item = Pushed> {
        self.0.into_iter().map(|(workload, message)| Pushed {
            kind: Kind::Runtime,
            name: workload.to_string().into(),
            held: Held::of(&message),
            readers: Readers::Workloads(vec![workload]),
        })
    }
}

/// A listener with the name of its backend, and its workload's.
pub(super) fn named(listener: &Listener, documents: &Documents) -> (Listener, String) {
    let mut named = listener.clone();
    if named.spec.backend.is_none() {
        named.spec.backend = only_backend(documents);
    }
    let backend = named.spec.backend.clone().unwrap_or_default();
    let workload = named.spec.workload.clone().unwrap_or(backend);
    (named, workload)
}

/// The backend of a listener that names none.
fn only_backend(documents: &Documents) -> Option<String> {
    let mut backends = documents
        .documents
        .iter()
        .filter_map(|document| match &document.resource {
            Resource::Backend(backend) => Some(backend.metadata.name.clone()),
            Resource::BatchPolicy(_) | Resource::Listener(_) | Resource::Runtime(_) => None,
        });
    backends.next()
}

fn push_policy(pushed: &mut Vec<Pushed>, policy: &BatchPolicy, readers: Readers) {
    let name = full_name(&policy.metadata);
    let mut spec = policy.spec.clone();
    // Who is to run it is no part of what is run: whoever has it is sent nothing when that changes.
    spec.rollout = Rollout::default();
    let mut routes = Vec::with_capacity(spec.routes.len());
    for (index, rule) in std::mem::take(&mut spec.routes).into_iter().enumerate() {
        let rule_name = rule.name.clone().unwrap_or_else(|| index.to_string());
        let route = format!("{name}/{rule_name}");
        pushed.push(Pushed {
            kind: Kind::Route,
            name: route.as_str().into(),
            held: Held::of(&config::Route { spec: json(&rule) }),
            readers: readers.clone(),
        });
        routes.push(route);
    }
    let message = config::Policy {
        spec: json(&spec),
        routes,
    };
    pushed.push(Pushed {
        kind: Kind::Policy,
        name: name.into(),
        held: Held::of(&message),
        readers,
    });
}

fn push_backend(pushed: &mut Vec<Pushed>, backend: &Backend, policies: Vec<String>, sidecars: &Sidecars) {
    let name = full_name(&backend.metadata);
    let mut spec = backend.spec.clone();
    for BackendEndpoint { address, zone } in std::mem::take(&mut spec.endpoints) {
        pushed.push(Pushed {
            kind: Kind::Endpoint,
            name: format!("{name}/{address}").into(),
            held: Held::of(&config::Endpoint {
                workload: sidecars.at(backend, &address).unwrap_or_default(),
                address,
                zone: zone.unwrap_or_default(),
            }),
            readers: Readers::Everyone,
        });
    }
    pushed.push(Pushed {
        kind: Kind::Backend,
        name: name.into(),
        held: Held::of(&config::Backend {
            spec: json(&spec),
            policies,
            addresses: Vec::new(),
            claims: Vec::new(),
            is_service: false,
        }),
        readers: Readers::Everyone,
    });
}

/// The workloads that serve these backends.
fn workloads(metadata: &Metadata, backends: &[&str]) -> Vec<Workload> {
    let serving = |account: &&str| Workload {
        namespace: namespace(metadata).to_owned(),
        account: (*account).to_owned(),
    };
    backends.iter().map(serving).collect()
}

/// The name of a document's resource.
pub(super) fn full_name(metadata: &Metadata) -> String {
    format!("{}/{}", namespace(metadata), metadata.name)
}

pub(super) fn namespace(metadata: &Metadata) -> &str {
    metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
}

pub(super) fn json(value: &impl serde::Serialize) -> bytes::Bytes {
    serde_json::to_vec(value)
        .expect("a document's types have text keys and no fallible parts")
        .into()
}

/// The namespace of a document that names none, as in Kubernetes.
pub const DEFAULT_NAMESPACE: &str = "default";
