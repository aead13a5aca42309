//! What is known of a cluster, by namespace, and which namespaces have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use jitney_api::push::{
    Catalog, Kind, Resources, ServiceEndpoint, ServicePort, Unserved, known_workloads, resources_of,
};
use jitney_api::{Diagnostic, Document, Documents, MeshRoute, RouteKind, Severity, Workload};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DynamicObject;

use super::custom::Custom;
use super::objects::{self, EndpointRow, EndpointState, PodRow, PortRow, ServiceRow, SliceRow};
use super::routes;
use super::table::{Event, Scope, Table};

/// The kinds of Jitney's own objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kinds {
    /// `BatchPolicy`.
    BatchPolicies,
    /// `Backend`.
    Backends,
    /// `Runtime`.
    Runtimes,
}

impl Kinds {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BatchPolicies, Self::Backends, Self::Runtimes];

    /// Those on which a control plane tells what became of them.
    pub const WITH_STATUS: [Self; 2] = [Self::BatchPolicies, Self::Runtimes];

    /// The kind of one of them.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::BatchPolicies => "BatchPolicy",
            Self::Backends => "Backend",
            Self::Runtimes => "Runtime",
        }
    }

    /// As it stands in paths.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::BatchPolicies => "batchpolicies",
            Self::Backends => "backends",
            Self::Runtimes => "runtimes",
        }
    }
}

/// What a watch tells of one kind.
#[derive(Debug)]
pub(super) enum Told {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
    Pod(Box<Event<Pod>>),
    Custom(Kinds, Box<Event<DynamicObject>>),
    Route(RouteKind, Box<Event<DynamicObject>>),
    /// The API server does not know routes of this kind.
    Unserved(RouteKind),
}

impl Told {
    /// The kind, as it stands in paths.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "services",
            Self::Slice(_) => "endpointslices",
            Self::Pod(_) => "pods",
            Self::Custom(kinds, _) => kinds.plural(),
            Self::Route(kind, _) | Self::Unserved(kind) => kind.plural(),
        }
    }

    /// Whether it is no more than that routes are looked for, as again and again where there are none.
    fn is_a_look(&self) -> bool {
        matches!(self, Self::Route(_, event) if matches!(**event, Event::Init))
    }
}

/// Generations of objects, by kind and full name.
pub(super) type Generations = BTreeMap<(Kinds, String), i64>;

/// What is known of a cluster.
#[derive(Debug)]
pub struct Index {
    scopes: Vec<Scope>,
    services: Table<ServiceRow>,
    slices: Table<SliceRow>,
    pods: Table<PodRow>,
    custom: [Table<Custom>; 3],
    routes: [Table<MeshRoute>; 2],
    /// Where the API server knows no routes of these kinds.
    unserved: BTreeSet<(RouteKind, Scope)>,
    changed: BTreeSet<String>,
    /// Another number whenever something has changed.
    revision: u64,
    /// Generations of policies and Runtimes that are pushed.
    in_force: Generations,
}

impl Index {
    /// Nothing yet; each kind is watched in these scopes.
    pub(super) fn new(scopes: Vec<Scope>) -> Self {
        Self {
            scopes,
            services: Table::default(),
            slices: Table::default(),
            pods: Table::default(),
            custom: Default::default(),
            routes: Default::default(),
            unserved: BTreeSet::new(),
            changed: BTreeSet::new(),
            revision: 0,
            in_force: BTreeMap::new(),
        }
    }

    /// Takes in what a watch tells. True when something has changed.
    pub(super) fn take(&mut self, scope: &Scope, told: Told) -> bool {
        self.revision += u64::from(!told.is_a_look());
        let changed = &mut self.changed;
        match told {
            Told::Service(event) => {
                let row = |service: &Service, _: Option<&ServiceRow>| objects::service(service);
                self.services.take(scope, *event, row, PartialEq::eq, changed)
            }
            Told::Slice(event) => {
                let row = |slice: &EndpointSlice, _: Option<&SliceRow>| objects::slice(slice);
                self.slices.take(scope, *event, row, PartialEq::eq, changed)
            }
            Told::Pod(event) => {
                let row = |pod: &Pod, _: Option<&PodRow>| objects::pod(pod);
                self.pods.take(scope, *event, row, PartialEq::eq, changed)
            }
            Told::Custom(kinds, event) => {
                let row = |object: &DynamicObject, before: Option<&Custom>| {
                    Some(Custom::read(kinds.kind(), object, before))
                };
                self.custom[kinds as usize].take(scope, *event, row, Custom::is_same, changed)
            }
            Told::Route(kind, event) => {
                let is_listed = matches!(*event, Event::InitDone);
                let row = |object: &DynamicObject, _: Option<&MeshRoute>| Some(routes::row(kind, object));
                let routes = &mut self.routes[kind as usize];
                let is_news = routes.take(scope, *event, row, PartialEq::eq, changed);
                if is_listed && self.unserved.remove(&(kind, scope.clone())) {
                    // Until now they were as good as not there.
                    changed.extend(routes.all().map(|(namespace, ..)| namespace.to_owned()));
                }
                is_news
            }
            Told::Unserved(kind) => {
                let is_first = self.unserved.insert((kind, scope.clone()));
                self.routes[kind as usize].forget(scope, changed) || is_first
            }
        }
    }

    /// Whether every kind was listed once.
    pub fn is_synced(&self) -> bool {
        let scopes = &self.scopes;
        let own = self.services.is_synced(scopes) && self.slices.is_synced(scopes);
        let custom = self.custom.iter().all(|table| table.is_synced(scopes));
        own && custom && self.pods.is_synced(scopes) && RouteKind::ALL.iter().all(|kind| self.knows(*kind))
    }

    /// Whether it is known which routes of a kind there are.
    fn knows(&self, kind: RouteKind) -> bool {
        let routes = &self.routes[kind as usize];
        let is_known = |scope: &Scope| {
            self.unserved.contains(&(kind, scope.clone())) || routes.is_synced(std::slice::from_ref(scope))
        };
        self.scopes.iter().all(is_known)
    }

    /// The namespaces that may push something else than when this was asked last.
    pub fn changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// Another number whenever something was told.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The generations of a namespace's policies and Runtimes that are good.
    pub(super) fn good_generations(&self, namespace: &str) -> Generations {
        let of = |kinds: Kinds| {
            let objects = self.custom[kinds as usize].of(namespace);
            objects.filter_map(move |(name, custom)| {
                Some(((kinds, format!("{namespace}/{name}")), custom.good_generation?))
            })
        };
        of(Kinds::BatchPolicies).chain(of(Kinds::Runtimes)).collect()
    }

    /// The generations of all policies and Runtimes that are good, by what is pushed of them.
    pub fn generations(&self) -> BTreeMap<(Kind, String), u64> {
        let of = |kinds: Kinds, kind: Kind| {
            let objects = self.all(kinds);
            objects.filter_map(move |(namespace, name, custom)| {
                let generation = u64::try_from(custom.good_generation?).ok()?;
                Some(((kind, format!("{namespace}/{name}")), generation))
            })
        };
        let policies = of(Kinds::BatchPolicies, Kind::Policy);
        policies.chain(of(Kinds::Runtimes, Kind::Runtime)).collect()
    }

    /// These are the generations of a namespace's objects that are pushed now.
    pub(super) fn note_pushed(&mut self, namespace: &str, generations: Generations) {
        let prefix = format!("{namespace}/");
        self.in_force.retain(|(_, name), _| !name.starts_with(&prefix));
        self.in_force.extend(generations);
        self.revision += 1;
    }

    /// The generation of a policy or a Runtime that is pushed, by its full name.
    pub fn in_force(&self, kinds: Kinds, name: &str) -> Option<i64> {
        self.in_force.get(&(kinds, name.to_owned())).copied()
    }

    /// Every object of one of Jitney's kinds in a namespace, by name.
    pub fn objects(&self, kinds: Kinds, namespace: &str) -> impl Iterator<Item = (&str, &Custom)> {
        self.custom[kinds as usize].of(namespace)
    }

    /// Every object of one of Jitney's kinds: namespace, name and what is known of it.
    pub fn all(&self, kinds: Kinds) -> impl Iterator<Item = (&str, &str, &Custom)> {
        self.custom[kinds as usize].all()
    }

    /// The good documents of a namespace.
    pub fn documents(&self, namespace: &str) -> Documents {
        let objects = Kinds::ALL
            .into_iter()
            .flat_map(|kinds| self.objects(kinds, namespace));
        let good = objects.filter_map(|(_, custom)| custom.good.clone());
        good.collect::<Vec<Document>>().into_iter().collect()
    }

    /// What a namespace pushes.
    pub fn resources(&self, namespace: &str) -> Resources {
        resources_of(&self.documents(namespace), &self.catalog(namespace))
    }

    /// The workloads of a namespace: those of its sidecars, and those that its documents know.
    pub fn workloads(&self, namespace: &str) -> BTreeSet<Workload> {
        let mut workloads = known_workloads(&self.documents(namespace));
        workloads.extend(self.pods.of(namespace).map(|(_, pod)| pod.workload.clone()));
        workloads
    }

    /// The workloads whose pods have sidecars.
    pub fn of_pods(&self) -> BTreeSet<Workload> {
        self.pods.all().map(|(.., pod)| pod.workload.clone()).collect()
    }

    /// What Services of a namespace say that sidecars do not keep, a warning each; nothing where no pod has one.
    pub fn unkept(&self, namespace: &str) -> Vec<Diagnostic> {
        if self.pods.of(namespace).next().is_none() {
            return Vec::new();
        }
        let services = self.services.of(namespace);
        let warnings = services.flat_map(|(name, service)| {
            let file: Arc<str> = format!("Service {namespace}/{name}").into();
            service.unkept.iter().map(move |(field, value)| Diagnostic {
                severity: Severity::Warning,
                field: (*field).to_owned(),
                ..Diagnostic::of_file(
                    &file,
                    format!("found {value}: sidecars do not keep it, and lead their callers to any endpoint"),
                )
            })
        });
        warnings.collect()
    }

    /// The namespaces in which a pod has a sidecar.
    pub fn namespaces(&self) -> BTreeSet<&str> {
        self.pods.all().map(|(namespace, ..)| namespace).collect()
    }

    /// Whether there is nothing in a namespace that is watched.
    pub fn is_empty(&self, namespace: &str) -> bool {
        let mut custom = self.custom.iter();
        let mut routes = self.routes.iter();
        self.services.of(namespace).next().is_none()
            && self.slices.of(namespace).next().is_none()
            && self.pods.of(namespace).next().is_none()
            && custom.all(|table| table.of(namespace).next().is_none())
            && routes.all(|table| table.of(namespace).next().is_none())
    }

    /// The services and sidecars of a namespace.
    pub fn catalog(&self, namespace: &str) -> Catalog {
        let pods: BTreeMap<&str, &PodRow> = self.pods.of(namespace).collect();
        let sidecars = pods
            .iter()
            .map(|(name, pod)| (Arc::from(*name), pod.workload.clone()));
        let mut slices = BTreeMap::<&str, Vec<&SliceRow>>::new();
        for (_, slice) in self.slices.of(namespace) {
            slices.entry(&slice.service).or_default().push(slice);
        }
        let services = self.services.of(namespace).map(|(name, service)| {
            let slices = slices.get(name).map_or(&[][..], Vec::as_slice);
            let ports = service.ports.iter();
            let ports = ports.map(|port| service_port(service, port, slices, &pods));
            (name.to_owned(), ports.collect())
        });
        let unserved = self.services.of(namespace);
        let unserved = unserved.filter(|(_, service)| service.unserved != Unserved::default());
        let unserved = unserved.map(|(name, service)| (name.to_owned(), service.unserved.clone()));
        Catalog {
            namespace: namespace.to_owned(),
            services: services.collect(),
            unserved: unserved.collect(),
            sidecars: sidecars.collect(),
            routes: self.routes(namespace),
        }
    }

    /// The routes of a namespace, of the kinds that the API server knows.
    fn routes(&self, namespace: &str) -> BTreeMap<RouteKind, BTreeMap<String, MeshRoute>> {
        let of = |kind: RouteKind| {
            let table = &self.routes[kind as usize];
            let rows = table
                .of(namespace)
                .map(|(name, route)| (name.to_owned(), route.clone()));
            table.is_listed(namespace).then(|| (kind, rows.collect()))
        };
        RouteKind::ALL.into_iter().filter_map(of).collect()
    }
}

fn service_port(
    service: &ServiceRow,
    port: &PortRow,
    slices: &[&SliceRow],
    pods: &BTreeMap<&str, &PodRow>,
) -> ServicePort {
    let rows = || {
        slices.iter().flat_map(|slice| {
            let number = slice.ports.iter().find(|(name, _)| *name == port.name);
            let number = number.map(|(_, number)| *number);
            let endpoints = slice.endpoints.iter();
            endpoints.filter_map(move |endpoint| Some((endpoint, number?)))
        })
    };
    let is_ready = |(endpoint, _): (&EndpointRow, u16)| endpoint.state == EndpointState::Ready;
    // Where all go away, those that still answer are better than none: as kube-proxy does it.
    let least = match rows().any(is_ready) {
        true => EndpointState::Ready,
        false => EndpointState::Leaving,
    };
    // Past its sidecar a pod is as one without.
    let is_served = |pod: &Arc<str>, number| pods.get(&**pod).is_some_and(|pod| pod.serves(number));
    let endpoints = rows().map(|(endpoint, number)| {
        let pod = endpoint.pod.as_ref();
        ServiceEndpoint {
            address: SocketAddr::new(endpoint.address, number),
            zone: endpoint.zone.clone(),
            sidecar: pod.filter(|pod| is_served(pod, number)).cloned(),
            is_serving: endpoint.state == least,
        }
    });
    // One that moves from a slice to another is in both for a moment.
    let endpoints: BTreeMap<SocketAddr, ServiceEndpoint> =
        endpoints.map(|endpoint| (endpoint.address, endpoint)).collect();
    ServicePort {
        name: port.name.clone(),
        number: port.number,
        addresses: service.addresses_of(port),
        protocol: port.protocol,
        endpoints: endpoints.into_values().collect(),
    }
}

#[cfg(test)]
mod tests;
