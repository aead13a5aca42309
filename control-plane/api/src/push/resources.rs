//! Documents as the resources that are pushed, and who may read each.

use std::sync::Arc;

use super::config;
use super::feed::Held;
use super::kind::Kind;
use crate::{Backend, BatchPolicy, Documents, Metadata, Placement, Resource, Workload};

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

/// Who may read a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Every sidecar of the mesh, if it asks by name.
    Everyone,
    /// The sidecars of these workloads, and they get it without asking.
    Workloads(Vec<Workload>),
}

/// Every resource of these documents. They have to be free of faults.
pub fn resources(documents: &Documents) -> Vec<Pushed> {
    let backends: Vec<&Backend> = documents
        .documents
        .iter()
        .filter_map(|document| match &document.resource {
            Resource::Backend(backend) => Some(backend),
            Resource::BatchPolicy(_) | Resource::Listener(_) => None,
        })
        .collect();
    let mut pushed = Vec::new();
    for document in &documents.documents {
        match &document.resource {
            Resource::BatchPolicy(policy) => push_policy(&mut pushed, policy, &backends),
            Resource::Backend(backend) => push_backend(&mut pushed, backend),
            // Where a sidecar listens is its own affair.
            Resource::Listener(_) => {}
        }
    }
    pushed
}

fn push_policy(pushed: &mut Vec<Pushed>, policy: &BatchPolicy, backends: &[&Backend]) {
    let name = full_name(&policy.metadata);
    let readers = match policy.spec.placement {
        Placement::Inbound => Readers::Workloads(targets(policy, backends)),
        Placement::Outbound => Readers::Everyone,
    };
    let mut spec = policy.spec.clone();
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

fn push_backend(pushed: &mut Vec<Pushed>, backend: &Backend) {
    let name = full_name(&backend.metadata);
    let mut spec = backend.spec.clone();
    for address in std::mem::take(&mut spec.endpoints) {
        pushed.push(Pushed {
            kind: Kind::Endpoint,
            name: format!("{name}/{address}").into(),
            held: Held::of(&config::Endpoint { address }),
            readers: Readers::Everyone,
        });
    }
    pushed.push(Pushed {
        kind: Kind::Backend,
        name: name.into(),
        held: Held::of(&config::Backend { spec: json(&spec) }),
        readers: Readers::Everyone,
    });
}

/// The workloads that a policy is for: those of the backends that it names, or of the only one.
fn targets(policy: &BatchPolicy, backends: &[&Backend]) -> Vec<Workload> {
    let namespace = namespace(&policy.metadata);
    let named = policy.spec.target_refs.iter().map(|target| target.name.as_str());
    let only = backends.iter().map(|backend| backend.metadata.name.as_str());
    let accounts: Vec<&str> = if policy.spec.target_refs.is_empty() {
        only.collect()
    } else {
        named.collect()
    };
    let workload = |account: &str| Workload {
        namespace: namespace.to_owned(),
        account: account.to_owned(),
    };
    accounts.into_iter().map(workload).collect()
}

/// The name of a document's resource.
fn full_name(metadata: &Metadata) -> String {
    format!("{}/{}", namespace(metadata), metadata.name)
}

fn namespace(metadata: &Metadata) -> &str {
    metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
}

fn json(value: &impl serde::Serialize) -> bytes::Bytes {
    serde_json::to_vec(value)
        .expect("a document's types have text keys and no fallible parts")
        .into()
}

/// The namespace of a document that names none, as in Kubernetes.
pub const DEFAULT_NAMESPACE: &str = "default";
