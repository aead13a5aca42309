//! What is kept of the objects that Kubernetes itself defines.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jitney_api::{Protocol, Workload};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceRow {
    /// Its virtual addresses; none where it is headless.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<PortRow>,
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

/// Whose sidecar a pod has; `None` of one that has ended.
pub(super) fn pod(pod: &Pod) -> Option<Workload> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let account = pod.spec.as_ref()?.service_account_name.as_deref();
    Some(Workload {
        namespace: pod.metadata.namespace.clone()?,
        account: account
            .filter(|name| !name.is_empty())
            .unwrap_or("default")
            .to_owned(),
    })
}

/// `None` of one that only stands for another name.
pub(super) fn service(service: &Service) -> Option<ServiceRow> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let ports = spec.ports.iter().flatten();
    let tcp = ports.filter(|port| is_tcp(port.protocol.as_deref()));
    let row = |port: &k8s_openapi::api::core::v1::ServicePort| {
        Some(PortRow {
            name: port.name.clone().unwrap_or_default(),
            number: u16::try_from(port.port).ok()?,
            protocol: protocol(port.app_protocol.as_deref()),
        })
    };
    Some(ServiceRow {
        addresses,
        ports: tcp.filter_map(row).collect(),
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
