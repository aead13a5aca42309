//! What is in the cluster: nodes that are nowhere, Services with pods behind them, and a policy for each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use jitney_tests::fleet::Member;
use serde_json::{Value, json};

use super::until;
use crate::kubectl::{apply, create, get, kubectl, token_of_pod};

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Namespaces, in each of which is the same.
    pub(super) namespaces: usize,
    /// Services of each, with an account and a policy each.
    pub(super) services: usize,
    /// Pods of each of those.
    pub(super) pods: usize,
    /// Changes of each sort.
    pub(super) changes: usize,
    /// How long it is watched while nothing changes.
    pub(super) idle: Option<Duration>,
}

/// A Service, its account, its pods and its policy, which all have its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Whether its policy is run by its callers' sidecars, and not by those of its pods.
    pub(super) is_for_callers: bool,
}

/// Addresses of each backend, with the zone and the workload of each.
pub(super) type Addresses = BTreeMap<String, BTreeSet<(String, String, String)>>;

impl Size {
    /// What fits a test: a run of every part.
    pub(super) const SMALL: Self = Self {
        namespaces: 2,
        services: 10,
        pods: 5,
        changes: 3,
        idle: None,
    };

    /// What is measured: 1,000 pods behind 200 Services, with 200 policies.
    pub(super) const FULL: Self = Self {
        namespaces: 10,
        services: 20,
        pods: 5,
        changes: 30,
        idle: Some(Duration::from_secs(30)),
    };

    /// As `CLUSTER_SCALE` says it.
    pub(super) fn wanted() -> Self {
        match std::env::var("CLUSTER_SCALE").as_deref() {
            Err(_) | Ok("small") => Self::SMALL,
            Ok("full") => Self::FULL,
            Ok(other) => panic!("CLUSTER_SCALE: found {other:?}, expected small or full"),
        }
    }

    pub(super) const fn sidecars(&self) -> usize {
        self.namespaces * self.services * self.pods
    }

    /// All Services; the first of each namespace has its policy run by callers.
    pub(super) fn services(&self) -> Vec<Service> {
        let all = (0..self.namespaces).flat_map(|namespace| (0..self.services).map(move |n| (namespace, n)));
        let service = |(namespace, number)| Service {
            namespace: format!("mesh-{namespace}"),
            name: format!("s{number}"),
            is_for_callers: number == 0,
        };
        all.map(service).collect()
    }

    /// Makes all of it, and returns when the pods are ready and their addresses known.
    pub(super) async fn make(&self) {
        create(&(0..NODES).map(node).collect::<Vec<_>>());
        // Several at once, as one waits for each answer.
        std::thread::scope(|scope| {
            for first in 0..AT_ONCE {
                let own = (first..self.namespaces).step_by(AT_ONCE);
                scope.spawn(move || {
                    own.for_each(|namespace| self.make_namespace(&format!("mesh-{namespace}")))
                });
            }
        });
        let all = self.sidecars();
        until("all pods are behind their Services", || {
            addresses().values().map(BTreeSet::len).sum::<usize>() == all
        })
        .await;
    }

    fn make_namespace(&self, name: &str) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let mut objects = vec![namespace];
        let services = self.services().into_iter();
        let own: Vec<Service> = services.filter(|service| service.namespace == name).collect();
        objects.extend(own.iter().map(Service::account));
        objects.extend(own.iter().map(Service::object));
        let pods = |service| (0..self.pods).map(move |number| Service::pod(service, &number.to_string()));
        objects.extend(own.iter().flat_map(pods));
        objects.extend(own.iter().map(|service| service.policy(FIRST_SIZE)));
        create(&objects);
    }

    /// A sidecar for each pod, with a token of that.
    pub(super) fn members(&self, folder: &Path) -> Vec<Member> {
        let services = self.services();
        let pods = services.iter().flat_map(|service| {
            (0..self.pods).map(move |number| (service, format!("{}-{number}", service.name)))
        });
        let pods: Vec<(&Service, String)> = pods.collect();
        let token = |service: &Service, pod: &str| folder.join(format!("{}-{pod}.token", service.namespace));
        std::thread::scope(|scope| {
            for first in 0..AT_ONCE {
                let own = pods.iter().skip(first).step_by(AT_ONCE);
                scope.spawn(move || {
                    for (service, pod) in own {
                        let made = token_of_pod(&service.namespace, &service.name, pod);
                        std::fs::write(token(service, pod), made).unwrap();
                    }
                });
            }
        });
        let members = pods.iter().map(|(service, pod)| Member {
            node: pod.clone(),
            token: token(service, pod),
        });
        members.collect()
    }
}

impl Service {
    /// As sidecars know it.
    pub(super) fn backend(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn account(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": self.metadata(&self.name)})
    }

    fn object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(&self.name),
            "spec": {
                "selector": {"app": self.name},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            },
        })
    }

    /// One of its pods. No scheduler looks for its node.
    pub(super) fn pod(&self, suffix: &str) -> Value {
        let name = format!("{}-{suffix}", self.name);
        let node = name.bytes().map(usize::from).sum::<usize>() % NODES;
        let mut metadata = self.metadata(&name);
        metadata["labels"] = json!({"app": self.name, "jitney.dev/injected": "true"});
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "nodeName": format!("nowhere-{node}"),
                "serviceAccountName": self.name,
                "containers": [{"name": "nothing", "image": "nothing"}],
            },
        })
    }

    /// Its policy, which is known by the most items of a batch.
    pub(super) fn policy(&self, max_size: usize) -> Value {
        let name = &self.name;
        json!({
            "apiVersion": "jitney.dev/v1alpha1",
            "kind": "BatchPolicy",
            "metadata": self.metadata(name),
            "spec": {
                "targetRefs": [{"kind": "Service", "name": name}],
                "placement": if self.is_for_callers { "Outbound" } else { "Inbound" },
                "routes": [{
                    "name": "by-id",
                    "match": {"method": "GET", "path": {"type": "Template", "value": format!("/{name}/{{id}}")}},
                    "codec": {"keyedGet": {"batchPath": format!("/{name}?ids={{id}}"), "key": "/id"}},
                    "batch": {"maxSize": max_size},
                }],
            },
        })
    }

    pub(super) fn add_pod(&self, suffix: &str) {
        apply(&self.pod(suffix));
    }

    pub(super) fn remove_pod(&self, suffix: &str) {
        let pod = format!("pod/{}-{suffix}", self.name);
        kubectl(&["delete", "--wait=false", "--namespace", &self.namespace, &pod]);
    }

    fn metadata(&self, name: &str) -> Value {
        json!({"name": name, "namespace": self.namespace})
    }
}

/// What the API server knows of the pods of these Services.
pub(super) fn addresses() -> Addresses {
    let slices = get(&["endpointslices", "--all-namespaces"]);
    let mut addresses = Addresses::new();
    for slice in slices["items"].as_array().unwrap() {
        let namespace = slice["metadata"]["namespace"].as_str().unwrap();
        let name = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str();
        let (Some(name), true) = (name, namespace.starts_with("mesh-")) else {
            continue;
        };
        let service = format!("{namespace}/{name}");
        let own = addresses.entry(service.clone()).or_default();
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let (ip, zone) = (endpoint["addresses"][0].as_str(), endpoint["zone"].as_str());
            if endpoint["conditions"]["ready"] == true {
                own.insert((
                    format!("{}:8080", ip.unwrap()),
                    zone.unwrap_or_default().to_owned(),
                    service.clone(),
                ));
            }
        }
    }
    addresses
}

/// A node of one of three zones, with addresses of its own for its pods.
fn node(number: usize) -> Value {
    let (name, zone) = (format!("nowhere-{number}"), ["a", "b", "c"][number % 3]);
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": zone,
        }},
        "spec": {"podCIDR": format!("10.244.{number}.0/24"), "podCIDRs": [format!("10.244.{number}.0/24")]},
    })
}

/// The most items of a batch before any change.
pub(super) const FIRST_SIZE: usize = 8;
const NODES: usize = 20;
/// Commands that run side by side.
const AT_ONCE: usize = 4;
