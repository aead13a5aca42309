//! Policies and their routes. A policy comes as one resource and its routes as others; each is tried
//! when it comes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};

use super::claims::{Claim, divided, with_claimants};
use super::ports::{self, Ports};
use super::{Fault, OwnLimits, Taken, unreadable};
use crate::compile::named;
use crate::push::config;
use crate::push::reversible::Reversible;
use crate::{CompiledPolicy, Diagnostic, Documents, Placement, Traffic, compile_for_upstream};

/// The policies that a sidecar holds, each in its last good version.
#[derive(Debug, Default)]
pub(super) struct Policies {
    limits: OwnLimits,
    policies: Reversible<String, Policy>,
    /// Of those, the ones that callees run.
    inbound_names: Reversible<String, ()>,
    routes: Reversible<String, Value>,
    /// Invariant: each route of each of them, with its policy.
    used: Reversible<(String, String), ()>,
    /// Routes that have no good version, and what is wrong with the last: where and why.
    rejected: Reversible<String, (String, String)>,
    /// Policies that were rejected for want of a route, and which.
    waiting: Reversible<String, String>,
    /// Where this sidecar is told what it is beside, by the resource that says so.
    beside: Reversible<String, Ports>,
    /// What [`Policies::inbound`] gave last: most of what is pushed changes no policy.
    inbound: OnceLock<Inbound>,
}

/// What a callee's sidecar runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbound {
    /// For whatever comes in.
    pub(super) policy: CompiledPolicy,
    /// For what comes in on these ports, in the place of that.
    pub(super) by_port: Vec<InboundPort>,
}

/// What is run for what comes in on one port.
#[derive(Clone, Debug)]
pub struct InboundPort {
    /// The port.
    pub number: u16,
    /// Nobody looks at what is spoken there.
    pub is_opaque: bool,
    /// The policy.
    pub compiled: CompiledPolicy,
}

#[derive(Clone, Debug, PartialEq)]
struct Policy {
    spec: Value,
    routes: Vec<String>,
    placement: Placement,
    /// Full names of the backends that it has calls be sent to besides its targets.
    named: Vec<String>,
}

impl Policies {
    pub(super) fn new(limits: OwnLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    pub(super) fn mark(&mut self) {
        self.policies.mark();
        self.inbound_names.mark();
        self.routes.mark();
        self.used.mark();
        self.rejected.mark();
        self.waiting.mark();
        self.beside.mark();
    }

    pub(super) fn go_back(&mut self) {
        self.forget();
        self.policies.go_back();
        self.inbound_names.go_back();
        self.routes.go_back();
        self.used.go_back();
        self.rejected.go_back();
        self.waiting.go_back();
        self.beside.go_back();
    }

    pub(super) fn set(&mut self, name: &str, content: Bytes) -> Result<Taken, Fault> {
        self.forget();
        self.set_policy(name, content).map(Taken::of)
    }

    pub(super) fn remove(&mut self, name: &str) -> Taken {
        self.forget();
        self.waiting.remove(name);
        self.use_nothing(name);
        self.inbound_names.remove(name);
        Taken::of(self.policies.remove(name))
    }

    pub(super) fn set_route(&mut self, name: &str, content: Bytes) -> Result<Taken, Fault> {
        self.forget();
        let changed = self.try_route(name, content);
        let fault = changed.as_ref().err().filter(|_| !self.routes.contains_key(name));
        match fault.map(|fault| (fault.field.clone(), fault.reason.clone())) {
            Some(fault) => self.rejected.set(name.to_owned(), fault),
            None => self.rejected.remove(name),
        };
        let changed = changed?;
        let again = self.no_longer_missing(name);
        Ok(Taken { changed, again })
    }

    /// The policies that named it are gone, or came in a version that does not, before.
    pub(super) fn remove_route(&mut self, name: &str) -> Taken {
        self.forget();
        self.routes.remove(name);
        self.rejected.remove(name);
        Taken::default()
    }

    /// This sidecar is told what it is beside.
    pub(super) fn set_beside(&mut self, name: &str, content: Bytes) -> Result<Taken, Fault> {
        let ports = ports::read(content)?;
        self.forget();
        Ok(Taken::of(self.beside.set(name.to_owned(), ports)))
    }

    pub(super) fn remove_beside(&mut self, name: &str) -> Taken {
        self.forget();
        Taken::of(self.beside.remove(name))
    }

    /// What a callee's sidecar runs: every policy that it was sent unasked; where it is told what it is
    /// beside, each for those ports only.
    pub(super) fn inbound(&self) -> &Inbound {
        self.inbound.get_or_init(|| self.compile_inbound())
    }

    fn compile_inbound(&self) -> Inbound {
        let inbound: Vec<&str> = self.inbound_names().collect();
        if self.beside.is_empty() {
            return Inbound {
                policy: self.of(inbound),
                by_port: Vec::new(),
            };
        }
        let ports = self.beside.values().flatten();
        let by_port = ports.map(|(number, port)| {
            let names = port.policies.iter().map(String::as_str);
            InboundPort {
                number: *number,
                is_opaque: port.is_opaque,
                // Others are not known yet, or not for callees.
                compiled: self.of_divided(names.filter(|name| inbound.contains(name)), &port.claims),
            }
        });
        Inbound {
            policy: CompiledPolicy::default(),
            by_port: by_port.collect(),
        }
    }

    fn forget(&mut self) {
        self.inbound.take();
    }

    /// The names of those policies.
    pub(super) fn inbound_names(&self) -> impl Iterator<Item = &str> {
        self.inbound_names.keys().map(String::as_str)
    }

    /// Full names of the backends that a policy has calls be sent to besides its targets.
    pub(super) fn named(&self, policy: &str) -> &[String] {
        self.policies.get(policy).map_or(&[], |policy| &policy.named)
    }

    /// Whether policies lead to other backends than at the mark.
    pub(super) fn is_led_elsewhere(&self) -> bool {
        let leads = |policy: &&Policy| !policy.named.is_empty();
        let mut changed = self.policies.changed();
        changed.any(|(name, before)| {
            let [before, present] = [before, self.policies.get(name)].map(|one| one.filter(leads));
            let of = |policy: Option<&'_ Policy>| policy.map(|one| (one.placement, one.named.clone()));
            of(before) != of(present)
        })
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// What a caller's sidecar runs towards one backend: the policies of these names.
    pub(super) fn outbound(&self, names: &[String], claims: &[Claim]) -> CompiledPolicy {
        self.of_divided(names.iter().map(String::as_str), claims)
    }

    /// The policies of these names, but for the calls that belong to others.
    fn of_divided<'a>(&self, names: impl Iterator<Item = &'a str>, claims: &[Claim]) -> CompiledPolicy {
        let own: Vec<&str> = names.filter(|name| self.is_whole(name)).collect();
        if claims.is_empty() {
            return self.of(own);
        }
        let all = with_claimants(own.iter().copied(), claims).into_iter();
        let all: Vec<&str> = all.filter(|name| self.is_whole(name)).collect();
        let compiled = self.of(all.iter().copied());
        let routes = |name: &str| self.policies.get(name).map_or(0, |policy| policy.routes.len());
        let known: Vec<(&str, usize)> = all.iter().map(|name| (*name, routes(name))).collect();
        let policy = divided(&compiled.policy, claims, &known, own.len());
        CompiledPolicy {
            policy: policy.into(),
            // Of routes that are for one call, which these need not be.
            warnings: Vec::new(),
            ..compiled
        }
    }

    /// Whether a policy is known with all its routes.
    fn is_whole(&self, name: &str) -> bool {
        let policy = self.policies.get(name);
        policy.is_some_and(|policy| policy.routes.iter().all(|route| self.routes.contains_key(route)))
    }

    fn of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> CompiledPolicy {
        let named = names.into_iter();
        self.compile(named.filter_map(|name| self.policies.get_key_value(name)))
    }

    /// A document for each policy, in the order of their names.
    pub(super) fn documents(&self) -> Documents {
        self.documents_of(self.policies.iter())
    }

    fn documents_of<'a>(&'a self, policies: impl Iterator<Item = (&'a String, &'a Policy)>) -> Documents {
        let documents = policies.filter_map(|(name, policy)| {
            let document = self.document(name, policy).ok()?;
            Some((file(name), document))
        });
        Documents::of_json(documents)
    }

    /// Each was tried alone, and two that were tried stay good together.
    fn compile<'a>(&'a self, policies: impl Iterator<Item = (&'a String, &'a Policy)>) -> CompiledPolicy {
        compile_for_upstream(&self.documents_of(policies)).unwrap_or_else(|faults| {
            tracing::error!(
                ?faults,
                "policies that are good alone are not together: none is in force"
            );
            CompiledPolicy::default()
        })
    }

    fn set_policy(&mut self, name: &str, content: Bytes) -> Result<bool, Fault> {
        self.waiting.remove(name);
        let message = config::Policy::decode(content).map_err(|error| unreadable(&error))?;
        let spec = serde_json::from_slice(&message.spec).map_err(|error| unreadable(&error))?;
        let policy = Policy::new(name, spec, message.routes);
        if self.policies.get(name) == Some(&policy) {
            return Ok(false);
        }
        if let Err(fault) = self.check(name, &policy) {
            if let Some(route) = &fault.missing {
                self.waiting.set(name.to_owned(), route.clone());
            }
            return Err(fault);
        }
        self.use_nothing(name);
        for route in &policy.routes {
            self.used.set((route.clone(), name.to_owned()), ());
        }
        match policy.placement {
            Placement::Inbound => self.inbound_names.set(name.to_owned(), ()),
            Placement::Outbound => self.inbound_names.remove(name),
        };
        Ok(self.policies.set(name.to_owned(), policy))
    }

    fn try_route(&mut self, name: &str, content: Bytes) -> Result<bool, Fault> {
        let message = config::Route::decode(content).map_err(|error| unreadable(&error))?;
        let route: Value = serde_json::from_slice(&message.spec).map_err(|error| unreadable(&error))?;
        if self.routes.get(name) == Some(&route) {
            return Ok(false);
        }
        let last_good = self.routes.get(name).cloned();
        self.routes.set(name.to_owned(), route);
        let checked = self.check_route(name);
        if checked.is_err() {
            match last_good {
                Some(route) => self.routes.set(name.to_owned(), route),
                None => self.routes.remove(name),
            };
        }
        checked
    }

    /// A route is tried in each policy that has it. Where there is none, for it may have come before its policy, or
    /// where it fails, it is tried alone, so that what is wrong is told by its own field. True when there is one.
    fn check_route(&self, name: &str) -> Result<bool, Fault> {
        let mut policies = self
            .with(name)
            .filter_map(|policy| self.policies.get_key_value(policy));
        let is_used = policies.try_fold(false, |_, (policy, with)| {
            self.check(policy, with).map_err(|fault| Fault {
                reason: format!("in {policy}, {}: {}", fault.field, fault.reason),
                field: String::new(),
                ..fault
            })?;
            Ok(true)
        });
        if !matches!(is_used, Ok(true)) {
            self.check_alone(name)?;
        }
        is_used
    }

    /// The policies that have a route.
    pub(super) fn with(&self, route: &str) -> impl Iterator<Item = &str> {
        let first = (route.to_owned(), String::new());
        let used = self
            .used
            .range(first..)
            .take_while(move |((of, _), ())| of == route);
        used.map(|((_, policy), ())| policy.as_str())
    }

    fn check_alone(&self, name: &str) -> Result<(), Fault> {
        let alone = Policy::new("default/route", json!({}), vec![name.to_owned()]);
        self.check("default/route", &alone).map_err(|fault| Fault {
            field: fault
                .field
                .trim_start_matches("spec.routes[0]")
                .trim_start_matches('.')
                .into(),
            ..fault
        })
    }

    /// A policy has no routes.
    fn use_nothing(&mut self, name: &str) {
        let policy = self.policies.get(name);
        for route in policy.map_or_else(Vec::new, |policy| policy.routes.clone()) {
            self.used.remove(&(route, name.to_owned()));
        }
    }

    fn no_longer_missing(&mut self, route: &str) -> Vec<String> {
        let waiting = self.waiting.iter().filter(|(_, missing)| *missing == route);
        let again: Vec<String> = waiting.map(|(policy, _)| policy.clone()).collect();
        for policy in &again {
            self.waiting.remove(policy);
        }
        again
    }

    /// Whether a policy can run here.
    fn check(&self, name: &str, policy: &Policy) -> Result<(), Fault> {
        let document = self.document(name, policy)?;
        match compile_for_upstream(&Documents::of_json([(file(name), document)])) {
            Ok(compiled) => self.limits.check(&compiled.policy),
            Err(found) => {
                let first = found.into_iter().find(Diagnostic::is_error);
                first.map_or(Ok(()), |fault| Err(fault.into()))
            }
        }
    }
}

impl Policies {
    /// A policy's document as somebody would have written it; or what it lacks.
    fn document(&self, name: &str, policy: &Policy) -> Result<Value, Fault> {
        let rules = policy.routes.iter().enumerate();
        let rules = rules.map(|(index, route)| {
            let found = self.routes.get(route).cloned();
            found.ok_or_else(|| self.missing(index, route))
        });
        let rules = rules.collect::<Result<Vec<Value>, Fault>>()?;
        let mut spec = policy.spec.clone();
        let fields = spec.as_object_mut();
        let fields = fields.ok_or_else(|| unreadable(&"spec: found no map of fields"))?;
        fields.insert("routes".into(), Value::Array(rules));
        let (namespace, short) = name.split_once('/').unwrap_or(("", name));
        let metadata = json!({"name": short, "namespace": namespace});
        Ok(json!({"kind": "BatchPolicy", "metadata": metadata, "spec": spec}))
    }

    /// Why there is no such route: told of the policy, too, for that is where people look.
    fn missing(&self, index: usize, route: &str) -> Fault {
        let place = format!("spec.routes[{index}]");
        let (field, reason) = match self.rejected.get(route) {
            None => (place, format!("route {route:?} did not come")),
            Some((field, reason)) => {
                let dot = if field.is_empty() { "" } else { "." };
                let reason = format!("route {route:?} was rejected: {reason}");
                (format!("{place}{dot}{field}"), reason)
            }
        };
        Fault {
            field,
            reason,
            missing: Some(route.to_owned()),
            is_beyond: false,
        }
    }
}

impl Policy {
    fn new(name: &str, spec: Value, routes: Vec<String>) -> Self {
        let placement = spec.get("placement").cloned().unwrap_or_default();
        let traffic = spec.get("traffic").cloned().unwrap_or_default();
        let traffic = serde_json::from_value::<Option<Traffic>>(traffic).unwrap_or_default();
        let namespace = name.split_once('/').map_or("", |(namespace, _)| namespace);
        let named = traffic.iter().flat_map(named);
        Self {
            placement: serde_json::from_value(placement).unwrap_or_default(),
            named: named.map(|(_, name)| format!("{namespace}/{name}")).collect(),
            spec,
            routes,
        }
    }
}

/// What its faults are told by.
fn file(name: &str) -> Arc<str> {
    format!("Policy {name}").into()
}
