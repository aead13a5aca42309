//! Services and sidecars that no document describes: what a source other than files knows of one namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::config;
use super::feed::Held;
use super::kind::Kind;
use super::place::Place;
use super::precedence::PodPorts;
use super::readers::Readers;
use super::resources::{Pushed, json};
use crate::compile::named;
use crate::{
    BackendSpec, BatchPolicy, MeshRoute, Mtls, Protocol, RouteKind, TargetKind, TargetRef, Workload,
};

mod routes;

pub(super) use routes::Claims;
use routes::in_order;

/// What is known of a namespace beside its documents. Each port of a service is a backend of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The namespace.
    pub namespace: String,
    /// Services, by name.
    pub services: BTreeMap<String, Vec<ServicePort>>,
    /// What of services no sidecar serves, by name; nothing of most.
    pub unserved: BTreeMap<String, Unserved>,
    /// Sidecars, by what they call themselves, and whose they are.
    pub sidecars: BTreeMap<Arc<str>, Workload>,
    /// Routes of the Gateway API, by name. A kind that is not in here is not known to the API server.
    pub routes: BTreeMap<RouteKind, BTreeMap<String, MeshRoute>>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where it has none, as the only one may.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// What callers connect to in place of an endpoint.
    pub addresses: Vec<SocketAddr>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Where it is.
    pub endpoints: Vec<ServiceEndpoint>,
}

/// What of a service no sidecar serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unserved {
    /// The name that it stands for, and nothing else.
    pub stands_for: Option<String>,
    /// Ports of other protocols than TCP: name and protocol.
    pub ports: Vec<(String, String)>,
}

/// An address of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceEndpoint {
    /// The address.
    pub address: SocketAddr,
    /// The zone that it is in, if that is known.
    pub zone: Option<Arc<str>>,
    /// The sidecar that answers there, one of [`Catalog::sidecars`]; `None`: nobody of the mesh.
    pub sidecar: Option<Arc<str>>,
    /// Whether calls are to go there. A sidecar knows what it is beside before that.
    pub is_serving: bool,
}

/// A target that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// There is no such service.
    #[error("there is no Service {0:?} in namespace {1}")]
    NoService(String, String),
    /// The service only stands for another name.
    #[error(
        "Service {0:?} is an ExternalName, which only stands for {1:?}, and has no pods: for calls to that name apply a \
         Backend with it, and a policy for that with `placement: Outbound`"
    )]
    ExternalName(String, String),
    /// There is such a port, or there are ports, and not of TCP.
    #[error(
        "Service {0:?} has no port of TCP{by}, only {1}, which sidecars leave alone",
        by = if *.2 { " by that name" } else { "" }
    )]
    NotTcp(String, String, bool),
    /// The service has no such port.
    #[error("Service {0:?} has no port {1:?}, only {2}")]
    NoPort(String, String, String),
    /// There is no such backend.
    #[error("there is no Backend {0:?} in namespace {1}")]
    NoBackend(String, String),
    /// The API server does not know routes of this kind.
    #[error(
        "the API server serves no {0}s of {group}/{version}: the CRDs of the Gateway API are not installed",
        group = RouteKind::GROUP,
        version = RouteKind::VERSION
    )]
    NotServed(RouteKind),
    /// There is no such route.
    #[error("there is no {0} {1:?} in namespace {2}")]
    NoRoute(RouteKind, String, String),
    /// There is one, and it leads nowhere.
    #[error("{0} {1:?} {2}")]
    Route(RouteKind, String, String),
}

/// The short name of a port's backend: the service's where it has one port only.
pub fn backend_name(service: &str, ports: &[ServicePort], port: &ServicePort) -> String {
    match ports {
        [_] => service.to_owned(),
        _ => format!("{service}:{}", port.name),
    }
}

impl Catalog {
    /// What a target stands for. `documents` are the backends that documents describe.
    ///
    /// # Errors
    /// Why there are none.
    pub fn resolve(&self, target: &TargetRef, documents: &BTreeSet<&str>) -> Result<Vec<Place>, Unresolved> {
        let name = || target.name.clone();
        match target.kind {
            TargetKind::HTTPRoute => self.rules(RouteKind::HTTPRoute, target),
            TargetKind::GRPCRoute => self.rules(RouteKind::GRPCRoute, target),
            TargetKind::Backend if documents.contains(&*target.name) => Ok(vec![Place::whole(name())]),
            TargetKind::Backend => Err(Unresolved::NoBackend(name(), self.namespace.clone())),
            TargetKind::Service => {
                let ports = self.services.get(&target.name);
                let ports = ports.ok_or_else(|| Unresolved::NoService(name(), self.namespace.clone()))?;
                self.check_served(target)?;
                self.ports(target, ports)
            }
        }
    }

    /// Why calls of a policy cannot be sent where it names something besides its targets; empty where they can.
    pub fn missing(&self, policy: &BatchPolicy, documents: &BTreeSet<&str>) -> Vec<String> {
        let known: BTreeSet<String> = self.backends().map(|(name, _)| name).collect();
        let is_known = |name: &str| known.contains(name) || documents.contains(name);
        let named = policy.spec.traffic.iter().flat_map(named);
        let missing = named.filter(|(_, name)| !is_known(name));
        let namespace = &self.namespace;
        missing
            .map(|(path, name)| {
                format!("{path}: there is no Service and no Backend {name:?} in namespace {namespace}")
            })
            .collect()
    }

    /// That a target is not only what sidecars do not serve.
    fn check_served(&self, target: &TargetRef) -> Result<(), Unresolved> {
        let Some(unserved) = self.unserved.get(&target.name) else {
            return Ok(());
        };
        if let Some(other) = &unserved.stands_for {
            return Err(Unresolved::ExternalName(target.name.clone(), other.clone()));
        }
        let has_others = self
            .services
            .get(&target.name)
            .is_some_and(|ports| !ports.is_empty());
        let is_meant = |name: &str| match target.section_name.as_deref() {
            Some(section) => section == name,
            None => !has_others,
        };
        let meant = unserved.ports.iter().filter(|(name, _)| is_meant(name));
        let meant: Vec<String> = meant
            .map(|(name, protocol)| format!("{name:?} of {protocol}"))
            .collect();
        match meant.is_empty() {
            true => Ok(()),
            false => {
                let (name, is_named) = (target.name.clone(), target.section_name.is_some());
                Err(Unresolved::NotTcp(name, meant.join(", "), is_named))
            }
        }
    }

    fn ports(&self, target: &TargetRef, ports: &[ServicePort]) -> Result<Vec<Place>, Unresolved> {
        let is_meant = |port: &&ServicePort| {
            let section = target.section_name.as_ref();
            section.is_none_or(|section| port.name == *section)
        };
        let meant = ports.iter().filter(is_meant);
        let names: Vec<Place> = meant
            .map(|port| Place::whole(backend_name(&target.name, ports, port)))
            .collect();
        match &target.section_name {
            Some(section) if names.is_empty() => {
                let known: Vec<String> = ports.iter().map(|port| format!("{:?}", port.name)).collect();
                let known = known.join(", ");
                Err(Unresolved::NoPort(target.name.clone(), section.clone(), known))
            }
            _ => Ok(names),
        }
    }

    /// Each backend, by its short name.
    pub(super) fn backends(&self) -> impl Iterator<Item = (String, &ServicePort)> {
        self.services.iter().flat_map(|(service, ports)| {
            ports
                .iter()
                .map(move |port| (backend_name(service, ports, port), port))
        })
    }

    /// The sidecars that are beside one of these backends.
    pub(super) fn beside<'a>(&'a self, backends: &'a [&str]) -> impl Iterator<Item = &'a Arc<str>> {
        let ports = self
            .backends()
            .filter(|(name, _)| backends.contains(&name.as_str()));
        ports.flat_map(|(_, port)| port.endpoints.iter().filter_map(|one| one.sidecar.as_ref()))
    }

    /// These sidecars, as readers.
    pub(super) fn readers<'a>(&self, sidecars: impl Iterator<Item = &'a Arc<str>>) -> Readers {
        let mut readers = BTreeMap::<Workload, BTreeSet<Arc<str>>>::new();
        for node in sidecars {
            if let Some(workload) = self.sidecars.get(node) {
                readers
                    .entry(workload.clone())
                    .or_default()
                    .insert(Arc::clone(node));
            }
        }
        Readers::Sidecars(Arc::new(readers))
    }

    /// What each sidecar is beside, and whose its ports are; but for calls that belong to others by `claims`.
    pub(super) fn push_sidecars(&self, held: &PodPorts<'_>, claims: &Claims<'_>) -> Vec<Pushed> {
        let mut ports = BTreeMap::<&str, BTreeMap<u16, config::Port>>::new();
        let mut claimed = BTreeMap::<(&str, u16), Vec<_>>::new();
        for (backend, port) in self.backends() {
            for endpoint in &port.endpoints {
                let Some(node) = &endpoint.sidecar else { continue };
                let number = endpoint.address.port();
                let known = ports.entry(node).or_default().entry(number).or_default();
                known.number = number.into();
                known.opaque |= port.protocol == Protocol::TCP;
                known.policies = held.holder(node, number).map(str::to_owned).into_iter().collect();
                if let Some(claims) = claims.get(&backend) {
                    let known = claimed.entry((node, number)).or_default();
                    known.extend(claims.iter().cloned());
                }
            }
        }
        for ((node, number), claims) in claimed {
            if let Some(known) = ports.get_mut(node).and_then(|ports| ports.get_mut(&number)) {
                known.claims = in_order(claims);
            }
        }
        let sidecars = self.sidecars.iter();
        let pushed = sidecars.map(|(node, workload)| {
            let ports = ports.remove(&**node).unwrap_or_default().into_values();
            let only = BTreeMap::from([(workload.clone(), BTreeSet::from([Arc::clone(node)]))]);
            Pushed {
                kind: Kind::Sidecar,
                name: format!("{}/{node}", self.namespace).into(),
                held: Held::of(&config::Sidecar {
                    ports: ports.collect(),
                }),
                readers: Readers::Sidecars(Arc::new(only)),
            }
        });
        pushed.collect()
    }

    /// Every backend and its endpoints. `callers` are the policies that callers' sidecars run, by backend; but
    /// for calls that belong to others by `claims`.
    pub(super) fn push_backends(
        &self,
        callers: &BTreeMap<String, Vec<String>>,
        claims: &Claims<'_>,
        known: &BTreeSet<String>,
    ) -> Vec<Pushed> {
        let mut pushed = Vec::new();
        for (short, port) in self.backends().filter(|(name, _)| !known.contains(name)) {
            let name = format!("{}/{short}", self.namespace);
            let endpoints = port.endpoints.iter().filter(|endpoint| endpoint.is_serving);
            pushed.extend(endpoints.map(|endpoint| self.push_endpoint(&name, endpoint)));
            let spec = BackendSpec {
                endpoints: Vec::new(),
                protocol: port.protocol,
                connect_timeout: crate::backend::connect_timeout(),
                mtls: Mtls::default(),
                workload: None,
            };
            let claims = claims.get(&short).cloned().unwrap_or_default();
            let addresses = port.addresses.iter().map(ToString::to_string);
            pushed.push(Pushed {
                kind: Kind::Backend,
                held: Held::of(&config::Backend {
                    spec: json(&spec),
                    policies: callers.get(&name).cloned().unwrap_or_default(),
                    addresses: addresses.collect(),
                    claims: in_order(claims),
                    is_service: true,
                }),
                name: name.into(),
                readers: Readers::Everyone,
            });
        }
        pushed
    }

    fn push_endpoint(&self, backend: &str, endpoint: &ServiceEndpoint) -> Pushed {
        let sidecar = endpoint.sidecar.as_ref();
        let workload = sidecar.and_then(|node| self.sidecars.get(node));
        let address = endpoint.address.to_string();
        Pushed {
            kind: Kind::Endpoint,
            name: format!("{backend}/{address}").into(),
            held: Held::of(&config::Endpoint {
                workload: workload.map(ToString::to_string).unwrap_or_default(),
                zone: endpoint.zone.as_deref().unwrap_or_default().to_owned(),
                address,
            }),
            readers: Readers::Everyone,
        }
    }
}

#[cfg(test)]
mod tests;
