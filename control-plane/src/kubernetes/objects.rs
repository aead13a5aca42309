//! What is kept of the objects that Kubernetes itself defines.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jitney_api::push::Unserved;
use jitney_api::{Ports, Protocol, Workload};
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::inject::{PROXY, REDIRECT};

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceRow {
    /// Its virtual addresses; none where it is headless.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<PortRow>,
    /// What of it no sidecar serves.
    pub(super) unserved: Unserved,
    /// What it says of whom callers are led to, that sidecars do not keep: field and value.
    pub(super) unkept: Vec<(&'static str, &'static str)>,
}

/// A pod with a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodRow {
    /// Whose it is.
    pub(super) workload: Workload,
    /// Ports that are reached past the sidecar.
    skipped: Ports,
    /// The only port that it serves, where the kernel hands it nothing.
    listens: Option<u16>,
    /// Whether nobody hands it connections where it does not listen itself.
    is_past: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortRow {
    /// Empty where it has none.
    pub(super) name: String,
    pub(super) number: u16,
    pub(super) protocol: Protocol,
}

/// Addresses behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceRow {
    pub(super) service: String,
    /// Numbers of ports, by the names that they have in the Service.
    pub(super) ports: Vec<(String, u16)>,
    pub(super) endpoints: Vec<EndpointRow>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointRow {
    pub(super) address: IpAddr,
    pub(super) zone: Option<Arc<str>>,
    /// The pod that has the address.
    pub(super) pod: Option<Arc<str>>,
    pub(super) state: EndpointState,
}

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointState {
    /// Calls are to go there.
    Ready,
    /// It goes away, and still answers.
    Leaving,
    /// No call is to go there.
    NotReady,
}

/// `None` of one that has ended.
pub(super) fn pod(pod: &Pod) -> Option<PodRow> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let account = spec.service_account_name.as_deref();
    // What it was made with: annotations may be another's by now.
    let skipped = flag(&spec.init_containers, REDIRECT, "--skip-inbound-ports");
    let listens = flag(&spec.init_containers, PROXY, "--listen");
    let listens = listens.and_then(|address| address.parse::<SocketAddr>().ok());
    Some(PodRow {
        workload: Workload {
            namespace: pod.metadata.namespace.clone()?,
            account: account
                .filter(|name| !name.is_empty())
                .unwrap_or("default")
                .to_owned(),
        },
        skipped: skipped.and_then(|ports| ports.parse().ok()).unwrap_or_default(),
        listens: listens.map(|address| address.port()),
        is_past: has(&spec.init_containers, PROXY) && !has(&spec.init_containers, REDIRECT),
    })
}

impl PodRow {
    /// Whether calls to a port of the pod come to its sidecar.
    pub(super) fn serves(&self, port: u16) -> bool {
        match self.listens {
            Some(own) => own == port,
            None => !self.is_past && !self.skipped.contains(port),
        }
    }
}

fn has(containers: &Option<Vec<Container>>, name: &str) -> bool {
    containers.iter().flatten().any(|one| one.name == name)
}

/// What a flag says among a container's arguments, in the next one or behind a `=`.
fn flag<'p>(containers: &'p Option<Vec<Container>>, name: &str, flag: &str) -> Option<&'p str> {
    let mut named = containers.iter().flatten().filter(|one| one.name == name);
    let mut args = named.next()?.args.iter().flatten();
    while let Some(word) = args.next() {
        match word.strip_prefix(flag) {
            Some("") => return args.next().map(String::as_str),
            Some(rest) if rest.starts_with('=') => return rest.get(1..),
            Some(_) | None => {}
        }
    }
    None
}

/// A Service: one that only stands for another name has neither addresses nor ports.
pub(super) fn service(service: &Service) -> Option<ServiceRow> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.clone().unwrap_or_default();
        return Some(ServiceRow {
            unserved: Unserved {
                stands_for: Some(name),
                ..Unserved::default()
            },
            ..ServiceRow::default()
        });
    }
    let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let ports = spec.ports.iter().flatten();
    let (tcp, others): (Vec<_>, Vec<_>) = ports.partition(|port| is_tcp(port.protocol.as_deref()));
    let row = |port: &k8s_openapi::api::core::v1::ServicePort| {
        Some(PortRow {
            name: port.name.clone().unwrap_or_default(),
            number: u16::try_from(port.port).ok()?,
            protocol: protocol(port.app_protocol.as_deref()),
        })
    };
    let other = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = port.protocol.clone().unwrap_or_default();
        (port.name.clone().unwrap_or_default(), protocol)
    };
    let says = |field: &Option<String>, word: &str| field.as_deref() == Some(word);
    let unkept = [
        (
            says(&spec.internal_traffic_policy, "Local"),
            ("spec.internalTrafficPolicy", "Local"),
        ),
        (
            says(&spec.session_affinity, "ClientIP"),
            ("spec.sessionAffinity", "ClientIP"),
        ),
    ];
    let unkept = unkept.into_iter().filter(|(is_so, _)| *is_so);
    Some(ServiceRow {
        addresses,
        unkept: unkept.map(|(_, what)| what).collect(),
        ports: tcp.into_iter().filter_map(row).collect(),
        unserved: Unserved {
            stands_for: None,
            ports: others.into_iter().map(other).collect(),
        },
    })
}

/// `None` of one that is for no Service, or holds names.
pub(super) fn slice(slice: &EndpointSlice) -> Option<SliceRow> {
    let labels = slice.metadata.labels.as_ref()?;
    let ports = slice.ports.iter().flatten();
    let ports = ports.filter(|port| is_tcp(port.protocol.as_deref()));
    let row = |port: &k8s_openapi::api::discovery::v1::EndpointPort| {
        let number = u16::try_from(port.port?).ok()?;
        Some((port.name.clone().unwrap_or_default(), number))
    };
    Some(SliceRow {
        service: labels.get(SERVICE_NAME)?.clone(),
        ports: ports.filter_map(row).collect(),
        endpoints: slice.endpoints.iter().filter_map(endpoint).collect(),
    })
}

fn endpoint(endpoint: &Endpoint) -> Option<EndpointRow> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    // What is not said is so: discovery/v1.
    let state = match (conditions.ready, conditions.serving, conditions.terminating) {
        (None | Some(true), ..) => EndpointState::Ready,
        (Some(false), Some(true), Some(true)) => EndpointState::Leaving,
        (Some(false), ..) => EndpointState::NotReady,
    };
    let target = endpoint.target_ref.as_ref();
    let pod = target.filter(|target| target.kind.as_deref() == Some("Pod"));
    Some(EndpointRow {
        // All addresses of one are those of the same pod: only the first is to be used.
        address: endpoint.addresses.first()?.parse().ok()?,
        zone: endpoint.zone.as_deref().map(Into::into),
        pod: pod.and_then(|target| target.name.as_deref()).map(Into::into),
        state,
    })
}

impl ServiceRow {
    pub(super) fn addresses_of(&self, port: &PortRow) -> Vec<SocketAddr> {
        let addresses = self.addresses.iter();
        addresses
            .map(|address| SocketAddr::new(*address, port.number))
            .collect()
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// What `appProtocol` says. What it leaves open is seen in the first bytes.
fn protocol(application: Option<&str>) -> Protocol {
    match application {
        Some("kubernetes.io/h2c") => Protocol::HTTP2,
        Some("kubernetes.io/ws") => Protocol::HTTP1,
        Some("tcp") => Protocol::TCP,
        _ => Protocol::Auto,
    }
}

/// The label that says whose addresses a slice holds.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
