//! What a sidecar is to do, put together again from what was pushed.
//!
//! Each resource is tried when it comes: what cannot run is rejected by its own name and field, and the
//! last good version stays in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use jitney_core::access::Access;
use jitney_core::policy::Policy;

use super::config::Cause;
use super::kind::Kind;
use super::reversible::Reversible;
use super::subscriber::{Change, Delta};
use crate::{CompiledPolicy, Diagnostic, Documents, RuntimeSpec, Workload};

mod claims;
mod destinations;
mod duties;
mod policies;
mod ports;

pub use claims::Claim;
pub use destinations::{Destination, Reached};
pub use duties::Listening;
pub use policies::InboundPort;

use destinations::Destinations;
use duties::Duties;
use policies::Policies;

/// What a sidecar holds, each resource in its last good version. It can go back to where it was marked.
#[derive(Debug, Default)]
pub struct Assembly {
    policies: Policies,
    destinations: Destinations,
    duties: Duties,
    /// Backends whose endpoints were asked for and have not come.
    expected: Reversible<String, ()>,
    /// Of each backend what is run for calls to it, once somebody has asked: most of what is pushed is of no
    /// backend's policies, or of one.
    outbound: BTreeMap<String, OnceLock<CompiledPolicy>>,
    revision: u64,
}

/// What this sidecar can do, whatever a policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnLimits {
    /// Bytes that may wait under one key.
    pub max_queue_bytes: usize,
    /// Items in one batch.
    pub max_size: usize,
}

/// What a response leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// There is something new to run.
    pub changed: bool,
    /// Policies that were rejected and may be good now: they are to be subscribed to again, so that
    /// they are sent, and what they are becomes known, again.
    pub again: Vec<String>,
}

/// Why a resource cannot run.
struct Fault {
    field: String,
    reason: String,
    /// It would, if this route had come.
    missing: Option<String>,
    /// It would in a sidecar with other bounds.
    is_beyond: bool,
}

impl Fault {
    const fn cause(&self) -> Cause {
        match (&self.missing, self.is_beyond) {
            (Some(_), _) => Cause::Missing,
            (None, true) => Cause::Limit,
            (None, false) => Cause::Content,
        }
    }
}

impl Assembly {
    /// Nothing yet, for a sidecar with these limits.
    pub fn new(limits: OwnLimits) -> Self {
        Self {
            policies: Policies::new(limits),
            ..Self::default()
        }
    }

    /// From now on, what it holds now is what it held before.
    pub fn mark(&mut self) {
        self.policies.mark();
        self.destinations.mark();
        self.duties.mark();
        self.expected.mark();
    }

    /// Holds what it held at the mark. What has changed since then is told still, the other way round.
    pub fn go_back(&mut self) {
        self.policies.go_back();
        self.destinations.go_back();
        self.duties.go_back();
        self.expected.go_back();
        self.compile_all_again();
    }

    /// Another number whenever something else than endpoints may be another thing.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes in a response; what cannot run is rejected in it. Trust bundles change nothing here.
    pub fn take(&mut self, delta: &mut Delta) -> Taken {
        let mut taken = Taken::default();
        if delta.kind == Kind::Endpoint {
            taken.changed = self.expects();
            self.expect_nothing();
        }
        for change in delta.changes.clone() {
            match change {
                Change::Set {
                    name,
                    version,
                    content,
                } => match self.set(delta.kind, &name, content) {
                    Ok(one) => taken.add(one),
                    Err(fault) => delta.reject(&name, &version, fault.cause(), &fault.field, &fault.reason),
                },
                Change::Gone { name } => taken.add(self.remove(delta.kind, &name)),
            }
        }
        taken
    }

    fn set(&mut self, kind: Kind, name: &str, content: bytes::Bytes) -> Result<Taken, Fault> {
        let taken = match kind {
            Kind::Policy => self.policies.set(name, content),
            Kind::Route => self.policies.set_route(name, content),
            Kind::Backend => self.destinations.set(name, content),
            Kind::Endpoint => self.destinations.set_endpoint(name, content),
            Kind::Runtime => self.duties.set(name, content),
            Kind::Sidecar => self.policies.set_beside(name, content),
            Kind::TrustBundle => Ok(Taken::default()),
        };
        self.compile_again(kind, name);
        taken
    }

    /// Drops a resource, as when it is no longer subscribed to.
    pub fn remove(&mut self, kind: Kind, name: &str) -> Taken {
        let taken = match kind {
            Kind::Policy => self.policies.remove(name),
            Kind::Route => self.policies.remove_route(name),
            Kind::Backend => self.destinations.remove(name),
            Kind::Endpoint => self.destinations.remove_endpoint(name),
            Kind::Runtime => self.duties.remove(name),
            Kind::Sidecar => self.policies.remove_beside(name),
            Kind::TrustBundle => Taken::default(),
        };
        self.compile_again(kind, name);
        taken
    }

    /// What is run for calls to some backends may be another thing.
    fn compile_again(&mut self, kind: Kind, name: &str) {
        let backends: Vec<String> = match kind {
            Kind::TrustBundle | Kind::Endpoint => return,
            // Its caps are on all of them.
            Kind::Runtime => return self.compile_all_again(),
            Kind::Backend if self.destinations.is_known(name) => vec![name.to_owned()],
            Kind::Backend => {
                self.outbound.remove(name);
                Vec::new()
            }
            Kind::Sidecar => Vec::new(),
            Kind::Policy => self.destinations.callers(name).map(str::to_owned).collect(),
            Kind::Route => {
                let policies = self.policies.with(name);
                let backends = policies.flat_map(|policy| self.destinations.callers(policy));
                backends.map(str::to_owned).collect()
            }
        };
        self.revision += 1;
        self.outbound
            .extend(backends.into_iter().map(|backend| (backend, OnceLock::new())));
    }

    fn compile_all_again(&mut self) {
        self.revision += 1;
        let backends = self.destinations.names();
        self.outbound = backends
            .map(|backend| (backend.to_owned(), OnceLock::new()))
            .collect();
    }

    /// What is run for the calls that come to this workload, but for those that come to
    /// [other ports](Self::inbound_by_port).
    pub fn inbound(&self, workload: &Workload) -> CompiledPolicy {
        self.capped(self.policies.inbound().policy.clone(), &workload.to_string())
    }

    /// What is run for the calls that come to these ports.
    pub fn inbound_by_port(&self, workload: &Workload) -> impl Iterator<Item = InboundPort> {
        let own = workload.to_string();
        let ports = self.policies.inbound().by_port.iter();
        ports.map(move |port| InboundPort {
            compiled: self.capped(port.compiled.clone(), &own),
            ..port.clone()
        })
    }

    /// Endpoints of this backend were asked for: nothing is known of it until they are answered.
    pub fn expect(&mut self, backend: &str) {
        self.revision += u64::from(self.expected.set(backend.to_owned(), ()));
    }

    /// No listener needs this backend any more.
    pub fn expect_no_longer(&mut self, backend: &str) {
        self.revision += u64::from(self.expected.remove(backend));
    }

    /// Whether there is a backend whose endpoints are still to come.
    pub fn expects(&self) -> bool {
        !self.expected.is_empty()
    }

    /// What was asked for has come, from wherever.
    pub fn expect_nothing(&mut self) {
        while let Some(backend) = self.expected.keys().next().cloned() {
            self.expect_no_longer(&backend);
        }
    }

    /// Where a backend is, and what is run for calls to it; `None` while nothing is known of it.
    pub fn outbound(&self, backend: &str) -> Option<(Destination, CompiledPolicy)> {
        if self.expected.contains_key(backend) {
            return None;
        }
        let destination = self.destinations.get(backend)?;
        let compile = || {
            self.capped(
                self.policies.outbound(&destination.policies, &destination.claims),
                backend,
            )
        };
        let compiled = self.outbound.get(backend)?.get_or_init(compile).clone();
        Some((destination, compiled))
    }

    /// The backends of which something is known.
    pub fn backends(&self) -> impl Iterator<Item = &str> {
        self.destinations.names()
    }

    /// Where this sidecar is to listen.
    pub fn listeners(&self) -> impl Iterator<Item = &Listening> {
        self.duties.listeners()
    }

    /// Caps on every policy, and what is to be logged.
    pub fn runtime(&self) -> RuntimeSpec {
        self.duties.spec()
    }

    /// Who may call this workload; `None`: everybody.
    pub fn access(&self) -> Option<&Access> {
        self.duties.access()
    }

    /// What is to be subscribed to for calls to a backend, as far as is known.
    pub fn wanted(&self, backend: &str) -> Vec<(Kind, String)> {
        let policies = self.destinations.policies(backend);
        let policies = policies.into_iter().flat_map(|policy| {
            [
                (Kind::Route, format!("{policy}/*")),
                (Kind::Policy, policy.to_owned()),
            ]
        });
        [
            (Kind::Backend, backend.to_owned()),
            (Kind::Endpoint, format!("{backend}/*")),
        ]
        .into_iter()
        .chain(policies)
        .collect()
    }

    /// Backends besides these that calls are sent to by a policy: those that come to this workload, or go
    /// to one of these backends or to one of those.
    pub fn led_to<'b>(
        &self,
        workload: &Workload,
        backends: impl IntoIterator<Item = &'b str>,
    ) -> BTreeSet<String> {
        let inbound = self.policies.inbound_names();
        let inbound = inbound.flat_map(|policy| self.policies.named(policy));
        let mut found: BTreeSet<String> = inbound.cloned().collect();
        found.remove(&workload.to_string());
        let mut from: Vec<String> = backends.into_iter().map(str::to_owned).collect();
        from.extend(found.iter().cloned());
        while let Some(backend) = from.pop() {
            let policies = self.destinations.policies(&backend).into_iter();
            let named = policies.flat_map(|policy| self.policies.named(policy));
            let more = named.filter(|name| **name != backend && found.insert((*name).clone()));
            from.extend(more.cloned());
        }
        found
    }

    /// Whether other backends may be [led to](Self::led_to) than at the mark, or other things be
    /// [wanted](Self::wanted) for one of these.
    pub fn leads_elsewhere(&self, is_one: impl Fn(&str) -> bool) -> bool {
        self.duties.is_changed()
            || self.policies.is_led_elsewhere()
            || self.destinations.changed_policies().any(is_one)
    }

    /// Whether there is a backend whose callers run this policy.
    pub fn is_for_callers(&self, policy: &str) -> bool {
        self.destinations.callers(policy).next().is_some()
    }

    /// Policies of which [that](Self::is_for_callers) may be another thing than at the mark.
    pub fn changed_for_callers(&self) -> impl Iterator<Item = &str> {
        self.destinations.changed_for_callers()
    }

    /// Whether there is no policy.
    pub fn is_idle(&self) -> bool {
        self.policies.is_empty()
    }

    /// Backends that a policy has calls be sent to besides its targets.
    pub fn named(&self, policy: &str) -> &[String] {
        self.policies.named(policy)
    }

    /// Every policy as a document.
    pub fn documents(&self) -> Documents {
        self.policies.documents()
    }

    /// As it is for the backend of this name.
    fn capped(&self, compiled: CompiledPolicy, own: &str) -> CompiledPolicy {
        let runtime = self.runtime();
        let mut policy = runtime.cap(&compiled.policy);
        policy.traffic.detours = policy.traffic.detours.beside(own);
        CompiledPolicy {
            policy: policy.into(),
            runtime,
            ..compiled
        }
    }
}

impl Taken {
    fn of(changed: bool) -> Self {
        Self {
            changed,
            again: Vec::new(),
        }
    }

    fn add(&mut self, other: Self) {
        self.changed |= other.changed;
        self.again.extend(other.again);
    }
}

impl From<Diagnostic> for Fault {
    fn from(found: Diagnostic) -> Self {
        Self {
            field: found.field,
            reason: found.message,
            missing: None,
            is_beyond: false,
        }
    }
}

impl Default for OwnLimits {
    fn default() -> Self {
        Self {
            max_queue_bytes: usize::MAX,
            max_size: usize::MAX,
        }
    }
}

impl OwnLimits {
    fn check(&self, policy: &Policy) -> Result<(), Fault> {
        for (index, route) in policy.routes().iter().enumerate() {
            let fault = |field: &str, found: usize, most: usize| {
                Err(Fault {
                    field: format!("spec.routes[{index}].batch.{field}"),
                    reason: format!("found {found}, this sidecar takes at most {most}"),
                    missing: None,
                    is_beyond: true,
                })
            };
            let limits = &route.limits;
            if limits.max_queue_bytes > self.max_queue_bytes {
                return fault("maxQueueBytes", limits.max_queue_bytes, self.max_queue_bytes);
            }
            if limits.max_size > self.max_size {
                return fault("maxSize", limits.max_size, self.max_size);
            }
        }
        Ok(())
    }
}

fn unreadable(error: &impl ToString) -> Fault {
    Fault {
        field: String::new(),
        reason: error.to_string(),
        missing: None,
        is_beyond: false,
    }
}

#[cfg(test)]
mod tests;
