//! What a control plane pushed, as a plan; and how that comes into force.

use std::sync::Arc;

use jitney_api::push::{Assembly, Listening};
use jitney_api::{CompiledBackend, CompiledPolicy, Workload};

use super::applier::{Applier, CONTROL_PLANE};
use super::plan::{
    Plan, PlannedBackend, PlannedListener, To, by_flags, effective, forbidden, local_name, redirected,
};
use crate::config::RunArgs;
use crate::control::Force;
use crate::listeners::{Listeners, Place};

/// Puts what a control plane pushed in force.
#[derive(Debug)]
pub(super) struct Pushed(pub(super) Applier);

impl Force for Pushed {
    fn apply(&mut self, pushed: &Assembly, workload: &Workload) -> Result<(), String> {
        let plan = plan(&self.0.args, pushed, workload);
        self.0.apply(plan).map_err(|faults| faults.join("; "))
    }

    fn listeners(&self) -> Listeners {
        self.0.listeners()
    }
}

/// What the flags and the control plane say together.
fn plan(args: &RunArgs, pushed: &Assembly, workload: &Workload) -> Plan {
    let inbound = pushed.inbound();
    let (mut listeners, mut backends) = by_flags(args, Arc::clone(&inbound.policy));
    listeners.extend(redirected(args));
    let mut warnings: Vec<String> = inbound.warnings.iter().map(ToString::to_string).collect();
    for listening in pushed.listeners() {
        let is_own = listening.backend == workload.to_string();
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
            to: To::Backend(Arc::clone(&backend.name)),
            place: Some(Place {
                runtime: listening.runtime.clone(),
                field: format!("{}.spec.address", listening.field()),
            }),
        });
        if !backends.iter().any(|known| known.reach.name == backend.name) {
            backends.push(PlannedBackend::from(backend));
        }
    }
    warnings.dedup();
    let runtime = pushed.runtime();
    let policies = backends.iter().map(|one| (&*one.reach.name, &*one.policy));
    Plan {
        effective: effective(&pushed.documents(), &runtime, policies),
        sources: vec![CONTROL_PLANE.into()],
        log_level: runtime.log_level,
        listeners,
        inbound: Arc::clone(&inbound.policy),
        forbidden: forbidden(args),
        backends,
        warnings,
    }
}

/// Where a listener's calls go, and the policy for them.
fn reached(
    pushed: &Assembly,
    listening: &Listening,
    inbound: Option<&CompiledPolicy>,
) -> Option<(CompiledBackend, CompiledPolicy)> {
    let (destination, outbound) = pushed.outbound(&listening.backend)?;
    let policy = inbound.cloned().unwrap_or(outbound);
    let (name, endpoints) = match &listening.local {
        Some(local) => (local_name(&listening.backend, local), vec![local.clone()]),
        None => (listening.backend.as_str().into(), destination.endpoints),
    };
    let backend = CompiledBackend {
        name,
        endpoints,
        protocol: destination.spec.protocol,
        connect_timeout: destination.spec.connect_timeout.0,
        policy: Arc::clone(&policy.policy),
    };
    Some((backend, policy))
}
