//! Names: listeners find their backends, policies their targets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{
    Check, Compiled, CompiledBackend, CompiledListener, Endpoint, Faults, Joined, Located, PolicyUnit,
    detour, effective,
};
use crate::diagnostic::nearest;
use crate::identity::is_segment;
use crate::node::Path;
use crate::{Backend, Document, Documents, Listener, Resource, RouteKind, TargetKind, TargetRef};

/// Checks that each document has a name, and one of its own among those of its kind.
pub(super) fn check_names(documents: &Documents, faults: &Faults) {
    let mut seen = HashMap::new();
    let path = Path::default().keys("metadata.name");
    for document in &documents.documents {
        let check = Check { document, faults };
        let metadata = document.resource.metadata();
        if !is_name(&metadata.name) {
            let expected =
                "expected lower-case letters, digits, '-' and '.', with a letter or digit at both ends";
            check.fault(&path, format!("found {:?}, {expected}", metadata.name));
        }
        let kind = document.resource.kind();
        let key = (kind, metadata.namespace.as_deref(), metadata.name.as_str());
        if let Some(first) = seen.insert(key, document) {
            let place = first.fault(&path, "");
            let message = format!("found a second {kind} of the name {:?}", metadata.name);
            let first = format!(
                "the first one is at {}:{}:{}",
                place.file, place.line, place.column
            );
            check.fault(&path, format!("{message}; {first}"));
        }
    }
}

fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= 253 && bytes.iter().copied().all(inner) && end(bytes.first()) && end(bytes.last())
}

/// Listeners and backends, each backend with the policies that are for it.
pub(super) fn resolve(
    documents: &Documents,
    policies: &[PolicyUnit<'_>],
    joined: Joined,
    faults: &Faults,
) -> Compiled {
    let mut compiled = Compiled::default();
    let backends = of_kind(documents, |resource| match resource {
        Resource::Backend(backend) => Some(backend),
        Resource::BatchPolicy(_) | Resource::Listener(_) | Resource::Runtime(_) => None,
    });
    let names = backends
        .iter()
        .map(|(_, backend)| backend.metadata.name.as_str())
        .collect::<Vec<_>>();
    let known: Vec<detour::Known<'_>> = backends
        .iter()
        .map(|(_, backend)| (backend.metadata.name.as_str(), backend.spec.protocol))
        .collect();
    for unit in policies {
        let check = Check {
            document: unit.document,
            faults,
        };
        let refs = &unit.policy.spec.target_refs;
        check_targets(&check, refs, &names);
        if let Some(traffic) = &unit.policy.spec.traffic {
            let targets = known.iter().filter(|(name, _)| is_for(refs, name, &names));
            let targets: Vec<_> = targets.copied().collect();
            detour::check_named(&check, traffic, &known, &targets);
        }
    }
    for (document, backend) in &backends {
        let name = backend.metadata.name.as_str();
        let chosen = policies
            .iter()
            .filter(|unit| is_for(&unit.policy.spec.target_refs, name, &names));
        let mut policy = effective(&chosen.collect::<Vec<_>>(), joined, faults);
        policy.traffic.detours = policy.traffic.detours.beside(name);
        compiled.backends.push(CompiledBackend {
            name: name.into(),
            endpoints: endpoints(&Check { document, faults }, backend),
            protocol: backend.spec.protocol,
            connect_timeout: backend.spec.connect_timeout.0,
            policy: Arc::new(policy),
            mtls: backend.spec.mtls,
        });
    }
    let listeners = of_kind(documents, |resource| match resource {
        Resource::Listener(listener) => Some(listener),
        Resource::BatchPolicy(_) | Resource::Backend(_) | Resource::Runtime(_) => None,
    });
    for (document, spec) in listeners {
        let known = listener(&Check { document, faults }, spec, &names, &compiled.listeners);
        compiled.listeners.extend(known);
    }
    compiled
}

fn of_kind<'a, T>(
    documents: &'a Documents,
    pick: fn(&'a Resource) -> Option<&'a T>,
) -> Vec<(&'a Document, &'a T)> {
    let picked = documents
        .documents
        .iter()
        .map(|document| (document, pick(&document.resource)));
    picked
        .filter_map(|(document, value)| value.map(|value| (document, value)))
        .collect()
}

/// Without targets a policy is for the only backend there is.
fn is_for(targets: &[TargetRef], name: &str, names: &[&str]) -> bool {
    if targets.is_empty() {
        names.len() == 1
    } else {
        targets.iter().any(|target| target.name == name)
    }
}

fn check_targets(check: &Check<'_>, targets: &[TargetRef], names: &[&str]) {
    let path = Path::default().keys("spec.targetRefs");
    if targets.is_empty() && names.len() != 1 && check.faults.complete {
        let found = if names.is_empty() {
            "no Backend".to_owned()
        } else {
            format!("several Backends ({})", names.join(", "))
        };
        check.fault(
            &path,
            format!("found no target and {found} in these files, expected the name of a Backend"),
        );
    }
    if targets.len() > MAX_TARGETS {
        check.fault(
            &path,
            format!("found {} targets, expected at most {MAX_TARGETS}", targets.len()),
        );
    }
    check_kinds(check, targets);
    for (index, target) in targets.iter().enumerate() {
        let path = path.index(index);
        let (kind, group) = match target.kind {
            TargetKind::Service => ("Service", ""),
            TargetKind::HTTPRoute => ("HTTPRoute", "gateway.networking.k8s.io"),
            TargetKind::GRPCRoute => ("GRPCRoute", "gateway.networking.k8s.io"),
            TargetKind::Backend => ("Backend", "jitney.dev"),
        };
        if let Some(found) = target.group.as_deref().filter(|found| *found != group) {
            check.fault(
                &path.key("group"),
                format!("found {found:?}, expected {group:?} for kind: {kind}"),
            );
        }
        if targets[..index].contains(target) {
            check.fault(
                &path,
                format!("found {:?} a second time, expected it once", target.name),
            );
        }
        if RouteKind::of(target.kind).is_none() {
            unknown_backend(check, &path.key("name"), &target.name, names);
        }
    }
}

/// Tells of targets whose traffic a policy cannot treat: what becomes of it is decided for a whole backend.
pub(super) fn check_traffic(check: &Check<'_>, targets: &[TargetRef]) {
    let mut kinds = targets.iter().filter_map(|target| RouteKind::of(target.kind));
    if let Some(kind) = kinds.next() {
        let expected = "expected them in a policy for the Service: they hold for all of its calls";
        let article = if kind == RouteKind::HTTPRoute { "an" } else { "a" };
        let message = format!("found settings and a target that is {article} {kind}, {expected}");
        check.fault(&Path::default().keys("spec.traffic"), message);
    }
}

/// Tells of targets that files cannot hold.
pub(super) fn check_kinds(check: &Check<'_>, targets: &[TargetRef]) {
    let path = Path::default().keys("spec.targetRefs");
    for (index, target) in targets.iter().enumerate() {
        if let Some(kind) = RouteKind::of(target.kind) {
            let expected = "expected Service or Backend: routes of the Gateway API are known to a control plane in \
                            Kubernetes alone";
            check.fault(
                &path.index(index).key("kind"),
                format!("found {kind}, {expected}"),
            );
        }
    }
}

/// Tells of a name that no Backend has.
pub(super) fn unknown_backend(check: &Check<'_>, path: &Path, name: &str, names: &[&str]) {
    if names.contains(&name) || !check.faults.complete {
        return;
    }
    let meant = nearest(name, names.iter().copied()).map(|near| format!(" (did you mean {near}?)"));
    check.fault(
        path,
        format!(
            "backend {name:?} is not defined in these files{}",
            meant.unwrap_or_default()
        ),
    );
}

fn endpoints(check: &Check<'_>, backend: &Backend) -> Vec<Located> {
    let path = Path::default().keys("spec.endpoints");
    let count = backend.spec.endpoints.len();
    if !(1..=MAX_ENDPOINTS).contains(&count) {
        check.fault(
            &path,
            format!("found {count} endpoints, expected 1 to {MAX_ENDPOINTS}"),
        );
    }
    if backend.spec.connect_timeout.0.is_zero() {
        check.fault(
            &Path::default().keys("spec.connectTimeout"),
            "found 0s, expected more",
        );
    }
    if let Some(workload) = backend.spec.workload.as_deref().filter(|name| !is_segment(name)) {
        check.fault(
            &Path::default().keys("spec.workload"),
            format!("found {workload:?}, expected a name that can be in a SPIFFE ID, such as users"),
        );
    }
    let mut endpoints: Vec<Located> = Vec::new();
    for (index, written) in backend.spec.endpoints.iter().enumerate() {
        let (path, text) = (path.index(index), &written.address);
        if written.zone.as_deref() == Some("") {
            check.fault(&path.key("zone"), "found \"\", expected a zone's name");
        }
        if let Some(endpoint) = check.ok(&path, text, text.parse::<Endpoint>()) {
            if endpoints.iter().any(|known| known.endpoint == endpoint) {
                check.fault(&path, format!("found {text:?} a second time, expected it once"));
            }
            endpoints.push(Located {
                endpoint,
                zone: written.zone.as_deref().map(Into::into),
            });
        }
    }
    endpoints
}

fn listener<'a>(
    check: &Check<'_>,
    listener: &'a Listener,
    names: &[&'a str],
    others: &[CompiledListener],
) -> Option<CompiledListener> {
    let path = Path::default().key("spec");
    let backend = backend_of(check, &path.key("backend"), listener, names);
    let workload = listener.spec.workload.as_deref().or(backend).unwrap_or_default();
    let text = &listener.spec.address;
    let address = text.parse::<SocketAddr>().ok();
    let taken = |address: SocketAddr| {
        let same = |other: &CompiledListener| other.address == address && *other.workload == *workload;
        address.port() != 0 && others.iter().any(same)
    };
    match address {
        None => {
            let expected = "expected ip:port, such as 127.0.0.1:8080 or [::]:8080";
            check.fault(&path.key("address"), format!("found {text:?}, {expected}"));
        }
        Some(address) if taken(address) => {
            check.fault(
                &path.key("address"),
                format!("found {text:?} a second time, expected it once"),
            );
        }
        Some(_) => {}
    }
    let local = listener.spec.local.as_deref();
    let local = local.map(|local| check.ok(&path.key("local"), local, local.parse::<Endpoint>()));
    Some(CompiledListener {
        name: listener.metadata.name.as_str().into(),
        address: address?,
        backend: backend?.into(),
        local: local.flatten(),
        workload: workload.into(),
        mtls: listener.spec.mtls,
        headers: listener.spec.headers.clone(),
    })
}

/// The backend that a listener names, or the only one there is.
fn backend_of<'a>(
    check: &Check<'_>,
    at: &Path,
    listener: &'a Listener,
    names: &[&'a str],
) -> Option<&'a str> {
    match (listener.spec.backend.as_deref(), names) {
        (Some(name), _) => {
            unknown_backend(check, at, name, names);
            Some(name)
        }
        (None, [only]) => Some(only),
        (None, _) => {
            if check.faults.complete {
                let known = if names.is_empty() {
                    "none is defined".to_owned()
                } else {
                    names.join(", ")
                };
                check.fault(
                    at,
                    format!("found nothing, expected the name of a Backend: {known}"),
                );
            }
            None
        }
    }
}

const MAX_TARGETS: usize = 16;

const MAX_ENDPOINTS: usize = 1000;
