//! At which addresses sidecars answer, and whose, so far as documents tell.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::resources::{named, namespace};
use crate::{Backend, Documents, Listener, Mtls, Resource};

/// Where sidecars answer for the workload that they are of.
#[derive(Debug, Default)]
pub(super) struct Sidecars(BTreeMap<(String, String, SocketAddr), String>);

impl Sidecars {
    pub(super) fn of(documents: &Documents) -> Self {
        let listeners = documents
            .documents
            .iter()
            .filter_map(|document| match &document.resource {
                Resource::Listener(listener) => Some(named(listener, documents)),
                Resource::Backend(_) | Resource::BatchPolicy(_) | Resource::Runtime(_) => None,
            });
        let mut sidecars = Self::default();
        for (listener, workload) in listeners {
            let spec = &listener.spec;
            let namespace = namespace(&listener.metadata);
            let (Ok(address), Some(backend)) = (spec.address.parse(), &spec.backend) else {
                continue;
            };
            let serves_itself = spec.local.is_some() || workload == *backend;
            if serves_itself && asked(documents, &listener, &workload, address) != Mtls::Disabled {
                let place = (namespace.to_owned(), backend.clone(), address);
                sidecars.0.insert(place, workload);
            }
        }
        sidecars
    }

    /// Whose sidecar answers at an endpoint of a backend, where connections to it are to be secured.
    pub(super) fn at(&self, backend: &Backend, endpoint: &str) -> Option<String> {
        let namespace = namespace(&backend.metadata);
        let name = &backend.metadata.name;
        let known = || {
            let place = (namespace.to_owned(), name.clone(), endpoint.parse().ok()?);
            self.0.get(&place)
        };
        let workload = match (backend.spec.mtls, &backend.spec.workload) {
            (Mtls::Disabled, _) => return None,
            (_, Some(workload)) => workload,
            (Mtls::Permissive, None) => known()?,
            (Mtls::Strict, None) => known().unwrap_or(name),
        };
        Some(format!("{namespace}/{workload}"))
    }
}

/// What a listener asks of its callers.
fn asked(documents: &Documents, listener: &Listener, workload: &str, address: SocketAddr) -> Mtls {
    let runtimes = documents
        .documents
        .iter()
        .filter_map(|document| match &document.resource {
            Resource::Runtime(runtime) => Some(runtime),
            Resource::Backend(_) | Resource::BatchPolicy(_) | Resource::Listener(_) => None,
        });
    let mut of_workload = runtimes.filter(|runtime| {
        runtime.metadata.name == workload && namespace(&runtime.metadata) == namespace(&listener.metadata)
    });
    let general = || {
        of_workload
            .next()
            .map(|runtime| runtime.spec.mtls_on(address.port()))
    };
    listener.spec.mtls.or_else(general).unwrap_or_default()
}
