//! What a control plane pushed, as a plan; and how that comes into force.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jitney_api::push::{Assembly, Destination, InboundPort, Listening, Reached};
use jitney_api::{CompiledPolicy, Mtls, Workload};
use jitney_core::policy::Policy;

use super::applier::{Applier, CONTROL_PLANE};
use super::plan::{
    Plan, PlannedBackend, PlannedListener, PlannedPort, To, address, by_flags, effective, forbidden,
    local_name, redirected, speaks,
};
use crate::config::RunArgs;
use crate::control::Force;
use crate::families;
use crate::listeners::{Listeners, Place};
use crate::send::{Address, Peer, Reach, Target};

/// Puts what a control plane pushed in force.
#[derive(Debug)]
pub(super) struct Pushed {
    applier: Applier,
    /// The revision of what is in force and noted.
    noted: Option<u64>,
}

impl Pushed {
    pub(super) const fn new(applier: Applier) -> Self {
        Self { applier, noted: None }
    }
}

impl Force for Pushed {
    fn apply(&mut self, pushed: &Assembly, workload: &Workload) -> Result<(), String> {
        let mut plan = plan(&self.applier.args, pushed, workload);
        // Endpoints come and go without a change of policy.
        if self.noted != Some(pushed.revision()) {
            let policies = plan.backends.iter().map(|one| (&*one.reach.name, &*one.policy));
            plan.effective = Some(effective(&pushed.documents(), &pushed.runtime(), policies));
        }
        self.applier.apply(plan).map_err(|faults| faults.join("; "))?;
        self.noted = Some(pushed.revision());
        Ok(())
    }

    fn listeners(&self) -> Listeners {
        self.applier.listeners()
    }
}

/// What the flags and the control plane say together, but for how it is shown.
fn plan(args: &RunArgs, pushed: &Assembly, workload: &Workload) -> Plan {
    let inbound = pushed.inbound(workload);
    let runtime = pushed.runtime();
    let asked = runtime.mtls.clone().unwrap_or_default();
    let by_port: Vec<_> = pushed.inbound_by_port(workload).collect();
    let (mut listeners, mut backends) = by_flags(args, by_listen(args, &inbound, &by_port), &asked);
    listeners.extend(redirected(args));
    let mut warnings: Vec<String> = inbound.warnings.iter().map(ToString::to_string).collect();
    let told = by_port.iter().flat_map(|port| &port.compiled.warnings);
    warnings.extend(told.map(ToString::to_string));
    for listening in pushed.listeners() {
        let is_own = listening.backend == workload.to_string();
        let is_inbound = is_own || listening.local.is_some();
        let Some((backend, policy)) = reached(pushed, listening, is_own.then_some(&inbound)) else {
            // It is not there yet, or has gone: to listen would be to promise something.
            tracing::info!(
                listener = listening.name,
                backend = listening.backend,
                "nothing is known of a listener's backend"
            );
            continue;
        };
        warnings.extend(policy.warnings.iter().map(ToString::to_string));
        listeners.push(PlannedListener {
            name: listening.name.as_str().into(),
            address: listening.address,
            to: To::Backend(Arc::clone(&backend.reach.name)),
            mtls: match listening.mtls {
                Some(mtls) => Some(mtls),
                None => is_inbound.then(|| asked.on(listening.address.port())),
            },
            is_inbound,
            received: Arc::new(listening.headers.clone().into()),
            place: Some(Place {
                runtime: listening.runtime.clone(),
                field: format!("{}.spec.address", listening.field()),
            }),
        });
        if !backends
            .iter()
            .any(|known| known.reach.name == backend.reach.name)
        {
            backends.push(backend);
        }
    }
    warnings.extend(add_named(pushed, workload, &mut backends));
    if !args.outbound.is_empty() {
        warnings.extend(add_others(pushed, &mut backends));
    }
    if !by_port.is_empty() {
        leave_bare(&mut backends, &by_port, &families::own());
    }
    warnings.dedup();
    Plan {
        effective: None,
        sources: vec![CONTROL_PLANE.into()],
        log_level: runtime.log_level,
        listeners,
        inbound: Arc::clone(&inbound.policy),
        inbound_ports: by_port.iter().map(planned_port).collect(),
        // What comes in is for the workload, whose policy that is.
        is_by_backend: false,
        mtls: asked,
        access: pushed.access().cloned(),
        forbidden: forbidden(args),
        opaque_ports: args.opaque_ports.clone(),
        backends,
        warnings,
    }
}

/// What is run for the calls to `--listen`, all of which go to one upstream: what a Service leads to is known by its
/// port, and it is the first of them that one does lead to.
fn by_listen(args: &RunArgs, inbound: &CompiledPolicy, by_port: &[InboundPort]) -> Arc<Policy> {
    let of = |address: &SocketAddr| by_port.iter().find(|port| port.number == address.port());
    let port = args.listen.iter().find_map(of);
    Arc::clone(port.map_or(&inbound.policy, |port| &port.compiled.policy))
}

/// A service may call itself by the name that others call it. A connection within a pod is not handed over, so that no sidecar
/// answers there but the service itself.
fn leave_bare(backends: &mut [PlannedBackend], beside: &[InboundPort], own: &HashSet<IpAddr>) {
    let is_beside = |port: u16| beside.iter().any(|one| one.number == port);
    for target in backends.iter_mut().flat_map(|backend| &mut backend.endpoints) {
        if let Address::Socket(address) = &target.address
            && own.contains(&address.ip())
            && is_beside(address.port())
        {
            target.peer = None;
        }
    }
}

/// Adds what policies name and no listener does. Gives warnings.
fn add_named(pushed: &Assembly, workload: &Workload, backends: &mut Vec<PlannedBackend>) -> Vec<String> {
    let mut warnings = Vec::new();
    let from = pushed.listeners().map(|listening| listening.backend.as_str());
    for name in pushed.led_to(workload, from) {
        let is_known = backends.iter().any(|known| *known.reach.name == *name);
        match pushed.outbound(&name) {
            Some((destination, policy)) if !is_known => {
                warnings.extend(policy.warnings.iter().map(ToString::to_string));
                let targets = targets(&destination);
                backends.push(planned(name.into(), targets, &destination, &policy));
            }
            Some(_) => {}
            None => tracing::info!(
                backend = name,
                "nothing is known of a backend that a policy names"
            ),
        }
    }
    warnings
}

/// Adds what no listener names, and connections may go to that the kernel hands over. Gives warnings.
fn add_others(pushed: &Assembly, backends: &mut Vec<PlannedBackend>) -> Vec<String> {
    let mut warnings = Vec::new();
    let known: HashSet<Arc<str>> = backends
        .iter()
        .map(|known| Arc::clone(&known.reach.name))
        .collect();
    for name in pushed.backends().filter(|name| !known.contains(*name)) {
        let Some((destination, policy)) = pushed.outbound(name) else {
            continue;
        };
        warnings.extend(policy.warnings.iter().map(ToString::to_string));
        let targets = targets(&destination);
        let is_name = |target: &&Target| {
            let is_strict = target.peer.as_ref().is_some_and(|peer| peer.is_strict);
            is_strict && matches!(target.address, Address::Name(_))
        };
        warnings.extend(targets.iter().filter(is_name).map(|target| {
            format!(
                "backend {name}: connections that the kernel hands over are not secured by its endpoint {}: \
                 expected an address",
                target.address
            )
        }));
        backends.push(planned(name.into(), targets, &destination, &policy));
    }
    warnings
}

/// Where a listener's calls go, and the policy for them.
fn reached(
    pushed: &Assembly,
    listening: &Listening,
    inbound: Option<&CompiledPolicy>,
) -> Option<(PlannedBackend, CompiledPolicy)> {
    let (destination, outbound) = pushed.outbound(&listening.backend)?;
    let policy = inbound.cloned().unwrap_or(outbound);
    let (name, endpoints) = match &listening.local {
        Some(local) => (local_name(&listening.backend, local), vec![address(local).into()]),
        None => (listening.backend.as_str().into(), targets(&destination)),
    };
    let backend = planned(name, endpoints, &destination, &policy);
    Some((backend, policy))
}

fn planned_port(port: &InboundPort) -> PlannedPort {
    PlannedPort {
        number: port.number,
        is_opaque: port.is_opaque,
        policy: Arc::clone(&port.compiled.policy),
    }
}

fn planned(
    name: Arc<str>,
    endpoints: Vec<Target>,
    destination: &Destination,
    policy: &CompiledPolicy,
) -> PlannedBackend {
    PlannedBackend {
        reach: Reach {
            name,
            speaks: speaks(destination.spec.protocol),
            connect_timeout: destination.spec.connect_timeout.0,
        },
        endpoints,
        addresses: destination.addresses.clone(),
        is_service: destination.is_service,
        policy: Arc::clone(&policy.policy),
    }
}

fn targets(destination: &Destination) -> Vec<Target> {
    let is_strict = destination.spec.mtls == Mtls::Strict;
    let endpoints = destination.endpoints.iter();
    endpoints.map(|one| target(one, is_strict)).collect()
}

fn target(reached: &Reached, is_strict: bool) -> Target {
    let peer = reached.workload.clone();
    Target {
        address: address(&reached.endpoint),
        peer: peer.map(|workload| Peer { workload, is_strict }),
        zone: reached.zone.clone(),
    }
}

#[cfg(test)]
mod tests;
